//! A management interface that a test answers for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crossbeam_channel::{Receiver, unbounded};

/// Takes one request a connection.
pub(crate) struct Responder {
    pub(crate) addr: SocketAddr,
    /// What it was asked, in order.
    pub(crate) asked: Receiver<Asked>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET /v1/servers`.
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

/// Status, content type and body.
pub(crate) type Answer = (u16, &'static str, String);

pub(crate) fn json(body: impl Into<String>) -> Answer {
    (200, "application/json", body.into())
}

pub(crate) fn problem(status: u16, detail: &str) -> Answer {
    let body = format!(r#"{{"type":"about:blank","title":"No","status":{status},"detail":"{detail}"}}"#);
    (status, "application/problem+json", body)
}

impl Responder {
    /// Answers each request as `answer` says, until the test's process ends.
    pub(crate) fn start(mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Responder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let (sender, asked) = unbounded();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = read(&stream) else { continue };
                let (status, content_type, body) = answer(&request);
                // A test that has ended asks no more.
                drop(sender.send(request));
                drop(write(&stream, status, content_type, &body));
            }
        });
        Responder { addr, asked }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (mut authorization, mut body_bytes) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => body_bytes = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; body_bytes];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim().strip_suffix(" HTTP/1.1")?.to_owned();
    Some(Asked { line, authorization, body: String::from_utf8(body).ok()? })
}

fn write(mut stream: &TcpStream, status: u16, content_type: &str, body: &str) -> std::io::Result<()> {
    let length =
        if content_type == "text/event-stream" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    write!(stream, "HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\n{length}connection: close\r\n\r\n{body}")
}
