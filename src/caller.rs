//! Requests to the management interface of an ACMS.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::uri::Authority;
use ureq::http::{Request, Response, request};
use ureq::{Agent, Body};

use crate::limits;

/// The management port of an ACMS, where none is named.
pub const MANAGEMENT_PORT: u16 = 11_000;

/// Where the management interface of an ACMS is, and what opens it. Not `Debug`: it holds the token.
#[derive(Clone)]
pub struct Caller {
    /// `http://HOST:PORT`.
    origin: String,
    bearer: Option<String>,
}

/// Why text is no way to an ACMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// The URL.
    #[error("the management interface of an ACMS is at http://HOST[:PORT]")]
    Url,
    /// The token.
    #[error("a token is printable ASCII without spaces")]
    Token,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The ACMS could not be asked, or did not answer.
    #[error("{origin}: {cause}")]
    Unreachable {
        /// Who was asked.
        origin: String,
        /// What went wrong.
        cause: String,
    },
    /// It says no.
    #[error("{text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// In its words.
        text: String,
    },
    /// It answers with something else than an ACMS would.
    #[error("{origin} does not answer as an ACMS does: {cause}")]
    Unreadable {
        /// Who was asked.
        origin: String,
        /// What is wrong with the answer.
        cause: String,
    },
}

/// How an ACMS says no.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

impl Caller {
    /// At `http://HOST[:PORT]`, port 11000 where none is named; with the token that the ACMS was given, if it was.
    pub fn new(url: &str, token: Option<&str>) -> Result<Caller, CallerError> {
        let authority = url.strip_prefix("http://").ok_or(CallerError::Url)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let authority: Authority = authority.parse().map_err(|_| CallerError::Url)?;
        let names_port = authority.as_str().len() > authority.host().len();
        let port = if names_port { authority.port_u16() } else { Some(MANAGEMENT_PORT) };
        let port = port.filter(|_| !authority.as_str().contains('@')).ok_or(CallerError::Url)?;
        token.map_or(Ok(()), check_token)?;
        let bearer = token.map(|token| format!("Bearer {token}"));
        Ok(Caller { origin: format!("http://{}:{port}", authority.host()), bearer })
    }

    /// `http://HOST:PORT`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Asks, and waits for the whole answer, `patience` at most. No answer (204) is `null`.
    pub fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&serde_json::Value>,
        patience: Duration,
    ) -> Result<T, CallError> {
        let agent = agent(patience, Some(patience));
        let request = self.request(method, path);
        let response = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string())
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        };
        let bytes = self.body_of(response)?;
        let json = if bytes.is_empty() { b"null" } else { &bytes[..] };
        serde_json::from_slice(json).map_err(|error| self.unreadable(&error))
    }

    /// Asks for what has no end: lines, as they come.
    pub fn follow(&self, path: &str) -> Result<impl BufRead + Send + use<>, CallError> {
        let agent = agent(limits::MANAGEMENT_TIMEOUT.to_duration(), None);
        let request = self.request("GET", path).body(()).map_err(ureq::Error::from);
        let response = request.and_then(|request| agent.run(request)).map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(BufReader::new(response.into_body().into_reader()));
        }
        Err(self.body_of(Ok(response)).err().unwrap_or_else(|| self.unreadable(&"an empty answer")))
    }

    fn request(&self, method: &'static str, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        match &self.bearer {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }

    /// The body of what is no refusal.
    fn body_of(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, CallError> {
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let limit = limits::MANAGEMENT_ANSWER_BYTES_MAX;
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(body);
        }
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let text = problem.and_then(|problem| problem.detail.or(problem.title)).unwrap_or_else(|| status.to_string());
        Err(CallError::Refused { status: status.as_u16(), text })
    }

    fn unreachable(&self, error: &ureq::Error) -> CallError {
        let cause = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            error => error.to_string(),
        };
        CallError::Unreachable { origin: self.origin.clone(), cause }
    }

    fn unreadable(&self, error: &impl ToString) -> CallError {
        CallError::Unreadable { origin: self.origin.clone(), cause: error.to_string() }
    }
}

/// Waits for `first` until an answer begins, and for `whole` until it ends. It asks the ACMS itself, never a proxy.
fn agent(first: Duration, whole: Option<Duration>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(first))
        .timeout_recv_response(Some(first))
        .timeout_global(whole);
    config.build().new_agent()
}

/// Whether it can stand in a header.
pub fn check_token(token: &str) -> Result<(), CallerError> {
    let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then_some(()).ok_or(CallerError::Token)
}

/// A name as a part of a path or a query.
pub fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            write!(text, "%{byte:02X}").expect("a string takes all");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_perhaps_a_port() {
        let origin = |url: &str| Caller::new(url, None).map(|acms| acms.origin);
        assert_eq!(origin("http://127.0.0.1:11001"), Ok("http://127.0.0.1:11001".to_owned()));
        assert_eq!(origin("http://acms.example/"), Ok("http://acms.example:11000".to_owned()));
        assert_eq!(origin("http://[::1]"), Ok("http://[::1]:11000".to_owned()));
        for url in [
            "127.0.0.1:11000",
            "https://127.0.0.1",
            "http://",
            "http://a b",
            "http://a/v1",
            "http://a:b",
            "http://a:70000",
            "http://me:secret@a",
        ] {
            assert_eq!(origin(url), Err(CallerError::Url), "{url}");
        }
    }

    #[test]
    fn a_token_is_one_printable_word() {
        for token in ["", "two words", "a\nb", "schön"] {
            assert_eq!(Caller::new("http://a", Some(token)).err(), Some(CallerError::Token), "{token:?}");
        }
        assert!(Caller::new("http://a", Some("s3cret-_.~+/=")).is_ok());
    }

    #[test]
    fn a_name_is_escaped_byte_by_byte() {
        assert_eq!(escaped("al-1_.~"), "al-1_.~");
        assert_eq!(escaped("a/b?c=d e%é"), "a%2Fb%3Fc%3Dd%20e%25%C3%A9");
    }
}
