//! Who may ask.

use std::net::SocketAddr;

use trunkline::{Acms, AppServer};

use crate::cluster::Cluster;
use crate::http::request_with;

const TOKEN: &str = "0123456789abcdef-A.b_~+/=";

#[test]
fn with_a_token_nothing_but_health_is_told_without_it() {
    let cluster = Cluster::with(Some(TOKEN.parse().expect("a token")), std::time::Duration::ZERO);
    let ask = |path: &str, headers: &[(&str, &str)]| request_with(cluster.management, "GET", path, headers, None);
    let right = format!("Bearer {TOKEN}");
    for path in ["/v1/count", "/v1/openapi.json", "/metrics", "/nothing"] {
        let answer = ask(path, &[]);
        answer.problem(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        ask(path, &[("Authorization", "Bearer 0123456789abcdef")]).problem(401);
    }
    assert_eq!(ask("/healthz", &[]).status, 200);
    assert_eq!(ask("/v1/count", &[("Authorization", &right)]).status, 200);
    let from_a_page = [("Authorization", right.as_str()), ("Origin", "https://tool.example"), ("Host", "acms.example")];
    assert_eq!(ask("/v1/count", &from_a_page).status, 200, "who has the token may ask from anywhere");
    let body = Some(br#"{"user":"bob"}"#.to_vec());
    request_with(cluster.management, "POST", "/v1/assign", &[], body).problem(401);
}

/// Somebody's browser is on this machine, and does what pages say.
#[test]
fn without_a_token_no_web_page_may_ask() {
    let cluster = Cluster::of(1);
    let drain = |headers: &[(&str, &str)]| {
        request_with(cluster.management, "POST", "/v1/servers/0/drain", headers, None).problem(403)
    };
    drain(&[("Origin", "https://evil.example")]);
    drain(&[("Host", "evil.example")]);
    assert_eq!(cluster.state_of(0).as_deref(), Some("open"));
}

#[test]
fn without_a_token_operators_are_answered_at_loopback_alone() {
    for (management, is_refused) in [("0.0.0.0:0", true), ("[::]:0", true), ("127.0.0.2:0", false)] {
        let addr: SocketAddr = management.parse().expect("an address");
        let acms = Acms::builder().management(addr, None).bind("127.0.0.1:0").map(drop);
        let server = AppServer::builder().management(addr, None).bind("127.0.0.1:0").map(drop);
        let wanted = if is_refused {
            Err(format!("a token is needed where operators are answered at {management}, which is not loopback"))
        } else {
            Ok(())
        };
        for bound in [acms, server] {
            assert_eq!(bound.map_err(|error| error.to_string()), wanted);
        }
    }
    let token = Some(TOKEN.parse().expect("a token"));
    let acms = Acms::builder().management(SocketAddr::from(([0; 4], 0)), token).bind("127.0.0.1:0");
    assert!(acms.expect("it has a token").management_addr().is_some_and(|addr| addr.ip().is_unspecified()));
}
