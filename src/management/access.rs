//! Who may ask.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::{Lease, Problem};

/// Bytes of a token, at least: as many as make guessing it hopeless where they are random.
const TOKEN_BYTES_MIN: usize = 16;

/// What an operator sends to prove to be one.
#[derive(Clone)]
pub struct Token(String);

/// Why text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too short.
    #[error("a management token has at least {TOKEN_BYTES_MIN} bytes, this one has {0}")]
    Short(usize),
    /// Not of those characters that may stand in a header.
    #[error("a management token is of letters, digits and -._~+/= alone")]
    Character,
}

impl std::str::FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Token, TokenError> {
        if text.len() < TOKEN_BYTES_MIN {
            return Err(TokenError::Short(text.len()));
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.bytes().all(is_allowed) { Ok(Token(text.to_owned())) } else { Err(TokenError::Character) }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Who may ask.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Whoever reaches the port, but no web page in somebody's browser.
    Anyone,
    /// Whoever sends the token that has this hash.
    Bearer([u8; 32]),
}

impl From<Option<Token>> for Access {
    fn from(token: Option<Token>) -> Access {
        token.map_or(Access::Anyone, |Token(token)| Access::Bearer(Sha256::digest(token).into()))
    }
}

impl Access {
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let forbidden = |detail| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        match self {
            // How long the comparison of hashes takes tells nothing of the token.
            Access::Bearer(expected) => match bearer(headers) {
                Some(token) if Sha256::digest(token)[..] == expected[..] => Ok(()),
                Some(_) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is another one")),
                None => Err(Problem::new(StatusCode::UNAUTHORIZED, "Authorization: Bearer TOKEN is needed")),
            },
            // A page may have its browser send requests to this machine: it says so in `Origin`, or it has given this
            // machine's address a name of its own.
            Access::Anyone if headers.contains_key(header::ORIGIN) => forbidden("web pages may not ask"),
            Access::Anyone if !is_direct(uri, headers) => {
                forbidden("without a token this port is asked by its address or as localhost")
            }
            Access::Anyone => Ok(()),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

/// Whether the request names this machine by an address, or as itself.
fn is_direct(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = uri.authority().map(|authority| authority.as_str()).or(named) else { return true };
    let Ok(authority) = authority.parse::<axum::http::uri::Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Lets a request through, holding its connection's lease until its answer is there.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    if let Err(problem) = access.check(request.uri(), request.headers()) {
        let challenge = matches!(access, Access::Bearer(_)).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
        return (challenge, problem).into_response();
    }
    let lease = request.extensions().get::<Lease>().cloned();
    let response = next.run(request).await;
    drop(lease);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a header's value"))).collect()
    }

    fn status(access: &Access, pairs: &[(header::HeaderName, &str)]) -> Option<u16> {
        access.check(&Uri::from_static("/v1/count"), &headers(pairs)).err().map(|problem| problem.status_code())
    }

    #[test]
    fn a_token_is_long_and_fits_a_header() {
        assert_eq!("0123456789abcde".parse::<Token>().expect_err("15 bytes"), TokenError::Short(15));
        assert_eq!("0123456789abcde f".parse::<Token>().expect_err("a space"), TokenError::Character);
        assert!("0123456789abcdef".parse::<Token>().is_ok());
    }

    #[test]
    fn only_the_token_opens() {
        let access = Access::from(Some("0123456789abcdef".parse().expect("a token")));
        assert_eq!(status(&access, &[(header::AUTHORIZATION, "Bearer 0123456789abcdef")]), None);
        assert_eq!(status(&access, &[(header::AUTHORIZATION, "bearer  0123456789abcdef")]), None);
        for wrong in ["Bearer 0123456789abcdeg", "Bearer", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(status(&access, &[(header::AUTHORIZATION, wrong)]), Some(401), "{wrong}");
        }
        assert_eq!(status(&access, &[]), Some(401));
    }

    #[test]
    fn without_a_token_no_web_page_may_ask() {
        for host in ["127.0.0.1:11000", "localhost:11000", "LOCALHOST", "[::1]:11000", "10.0.0.1"] {
            assert_eq!(status(&Access::Anyone, &[(header::HOST, host)]), None, "{host}");
        }
        for host in ["evil.example:11000", "127.0.0.1.evil.example", "localhost.evil.example", "a b"] {
            assert_eq!(status(&Access::Anyone, &[(header::HOST, host)]), Some(403), "{host}");
        }
        let page = [(header::HOST, "127.0.0.1:11000"), (header::ORIGIN, "https://evil.example")];
        assert_eq!(status(&Access::Anyone, &page), Some(403));
    }
}
