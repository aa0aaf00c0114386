//! As little HTTP as it takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::PATIENCE;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails where the answer is not that problem; returns its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()));
        problem["detail"].as_str().expect("a text").to_owned()
    }
}

/// A connection that waits no longer than a test does.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// A request on a connection of its own.
#[track_caller]
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Answer {
    request_with(addr, method, path, &[], body.map(|body| body.to_string().into_bytes()))
}

#[track_caller]
pub(crate) fn request_with(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
) -> Answer {
    let mut stream = connect(addr);
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {addr}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &body {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let request = [head.as_bytes(), b"\r\n", body.as_deref().unwrap_or_default()].concat();
    // An answer may come, and the connection end, before all of a body is taken.
    drop(stream.write_all(&request));
    read_answer(&mut BufReader::new(stream))
}

/// The answer that comes next, whose body ends with its length, its chunks or the connection.
#[track_caller]
pub(crate) fn read_answer(stream: &mut impl BufRead) -> Answer {
    let mut answer = read_head(stream);
    match answer.header("content-length").map(|length| length.parse::<usize>().expect("a number")) {
        _ if answer.status == 204 => {}
        Some(length) => {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body).expect("a whole body");
        }
        None => _ = stream.read_to_end(&mut answer.body).expect("a body"),
    }
    answer
}

/// An answer without its body.
#[track_caller]
pub(crate) fn read_head(stream: &mut impl BufRead) -> Answer {
    let status = line(stream);
    let number = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = number.unwrap_or_else(|| panic!("no status line: {status:?}"));
    let mut headers = Vec::new();
    loop {
        let line = line(stream);
        if line.is_empty() {
            return Answer { status, headers, body: Vec::new() };
        }
        let (name, value) = line.split_once(':').expect("a header");
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

#[track_caller]
fn line(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    line.trim_end_matches(['\r', '\n']).to_owned()
}

/// A stream of events, as they come.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    #[track_caller]
    pub(crate) fn open(addr: SocketAddr, path: &str) -> Events {
        let mut stream = connect(addr);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("it reads");
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream);
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        Events(stream)
    }

    /// The next event's name and data.
    #[track_caller]
    pub(crate) fn next(&mut self) -> (String, Value) {
        let mut name = None;
        loop {
            assert!(!self.0.fill_buf().expect("an event in time").is_empty(), "the stream ended");
            let line = line(&mut self.0);
            if let Some(found) = line.strip_prefix("event: ") {
                name = Some(found.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name.expect("its name came first"), serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    /// Reads to the end, where one comes.
    pub(crate) fn drain(mut self) -> std::io::Result<usize> {
        self.0.read_to_end(&mut Vec::new())
    }
}
