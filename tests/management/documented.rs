//! What is written of the port against the servers that have one: the OpenAPI document, and the series of
//! docs/OPERATIONS.md.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::http::{Answer, Events, request, request_with};
use crate::schema::{check, resolve};

const METHODS: [&str; 7] = ["get", "post", "put", "delete", "patch", "trace", "options"];

struct Document(Value);

impl Document {
    fn of(cluster: &Cluster) -> Document {
        Document(cluster.get("/v1/openapi.json").json())
    }

    /// Fails where no answer like this one is described.
    #[track_caller]
    fn expect(&self, method: &str, path: &str, answer: &Answer) {
        let operation = &self.0["paths"][path][method.to_ascii_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not described");
        let described = &operation["responses"][answer.status.to_string()];
        let described = described.get("$ref").map_or(described, |reference| resolve(&self.0, reference));
        assert!(described.is_object(), "{method} {path}: {} is not described", answer.status);
        self.check(&format!("{method} {path}"), described, answer);
    }

    /// Fails where the answer is not as described under that name.
    #[track_caller]
    fn expect_as(&self, name: &str, answer: &Answer) {
        let described = &self.0["components"]["responses"][name];
        assert!(described.is_object(), "{name} is not described");
        self.check(name, described, answer);
    }

    #[track_caller]
    fn check(&self, what: &str, described: &Value, answer: &Answer) {
        let Some(content) = described["content"].as_object() else {
            assert!(answer.body.is_empty(), "{what}: a body where none is described: {answer:?}");
            return;
        };
        let kind = answer.header("content-type").expect("a content type");
        let (kind, _) = kind.split_once(';').unwrap_or((kind, ""));
        let schema = &content.get(kind).unwrap_or_else(|| panic!("{what}: {kind} is not described"))["schema"];
        let value = if kind.ends_with("json") { answer.json() } else { answer.text().into() };
        check(&self.0, schema, &value).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    }
}

/// The path with something in place of its parameters.
fn filled(path: &str, id: &str) -> String {
    path.replace("{id}", id)
}

#[test]
fn each_path_is_described_and_answers_to_the_methods_described_alone() {
    let cluster = Cluster::of(0);
    let document = Document::of(&cluster);
    let described: BTreeSet<&str> =
        document.0["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert_eq!(described, trunkline::management::paths().collect());
    for path in described {
        for method in METHODS {
            let (asked, name) = (filled(path, "7"), method.to_ascii_uppercase());
            if path == "/v1/events" && method == "get" {
                continue;
            }
            let answer = request(cluster.management, &name, &asked, None);
            if document.0["paths"][path][method].is_object() {
                document.expect(method, path, &answer);
            } else {
                assert_eq!(answer.status, 405, "{name} {path}");
                document.expect_as("MethodNotAllowed", &answer);
            }
        }
    }
}

#[test]
fn each_answer_is_as_described() {
    let cluster = Cluster::of(2);
    let document = Document::of(&cluster);
    let (alice, bob) = (cluster.server(0).client("alice"), cluster.server(1).client("bob"));
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    for path in ["/v1/servers", "/v1/users", "/v1/count", "/v1/openapi.json", "/metrics", "/healthz"] {
        let answer = cluster.get(path);
        assert_eq!(answer.status, 200, "{path}");
        document.expect("get", path, &answer);
    }
    let cases: [(&str, &str, &str, Option<Value>, u16); 19] = [
        ("get", "/v1/servers/{id}", "1", None, 200),
        ("get", "/v1/servers/{id}", "x", None, 400),
        ("get", "/v1/servers/{id}", "9", None, 404),
        ("post", "/v1/servers/{id}/freeze", "1", None, 204),
        ("post", "/v1/servers/{id}/unfreeze", "1", None, 204),
        ("get", "/v1/users/{id}", "alice", None, 200),
        ("get", "/v1/groups/{id}", "chess", None, 404),
        ("post", "/v1/messages", "", Some(json!({"to": {"user": "alice"}, "body": "hi"})), 200),
        ("post", "/v1/messages", "", Some(json!({"to": {"user": "zoe"}, "body_base64": "aGk="})), 200),
        ("post", "/v1/messages", "", Some(json!({"to": {"server": 1}, "answer": true, "info_type": 1})), 200),
        ("post", "/v1/messages", "", Some(json!({"to": {"server": 1}, "answer": true, "info_type": 3})), 502),
        ("post", "/v1/messages", "", Some(json!({"to": "everyone"})), 202),
        ("delete", "/v1/users/{id}", "alice", None, 204),
        ("delete", "/v1/users/{id}", "nobody", None, 404),
        ("post", "/v1/assign", "", None, 200),
        ("post", "/v1/assign", "", Some(json!({"user": "carol"})), 200),
        ("post", "/v1/assign", "", Some(json!({"user": 1})), 400),
        ("post", "/v1/servers/{id}/remove", "1", None, 204),
        ("post", "/v1/servers/{id}/drain", "9", None, 404),
    ];
    for (method, path, id, body, status) in cases {
        let answer = request(cluster.management, &method.to_ascii_uppercase(), &filled(path, id), body.as_ref());
        assert_eq!(answer.status, status, "{method} {path} {id} {body:?}");
        document.expect(method, path, &answer);
    }
    drop((alice, bob));
}

#[test]
fn headers_too_large_are_described_at_each_path() {
    let cluster = Cluster::of(0);
    let document = Document::of(&cluster);
    let long = [("X-Long", "x".repeat(16 << 10))];
    let long = long.each_ref().map(|(name, value)| (*name, value.as_str()));
    for (path, methods) in document.0["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let name = method.to_ascii_uppercase();
            let answer = request_with(cluster.management, &name, &filled(path, "7"), &long, None);
            assert_eq!(answer.status, 431, "{name} {path}");
            document.expect(method, path, &answer);
        }
    }
}

/// The place where a page ends is told and taken as the same sort of thing.
#[test]
fn a_place_is_a_text_both_ways() {
    let cluster = Cluster::of(0);
    let document = Document::of(&cluster);
    let parameters = document.0["paths"]["/v1/users"]["get"]["parameters"].as_array().expect("parameters");
    let after = parameters.iter().find(|parameter| parameter["name"] == "after").expect("it is there");
    assert_eq!(after["schema"]["type"], "string");
    let next = &document.0["components"]["schemas"]["Users"]["properties"]["next"];
    assert_eq!(next["type"], json!(["string", "null"]));
    assert_eq!(after["schema"]["pattern"], next["pattern"]);
}

#[test]
fn each_event_is_as_described() {
    let mut cluster = Cluster::of(1);
    let document = Document::of(&cluster);
    let mut events = Events::open(cluster.management, "/v1/events");
    let schemas = &document.0["components"]["schemas"];
    let mut next = |name: &str, schema: &str| {
        let (found, data) = events.next();
        assert_eq!(found, name);
        check(&document.0, &schemas[schema], &data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    };
    drop(cluster.server(0).client("alice"));
    next("user_online", "UserOnline");
    next("user_offline", "UserOffline");
    cluster.add(1);
    next("server_registered", "ServerRegistered");
    next("server_synced", "ServerSynced");
    cluster.post("/v1/servers/1/remove", None);
    next("server_lost", "ServerLost");
}

/// Name and type of each series, and the names of its labels.
type Series = BTreeMap<String, (String, Option<String>)>;

/// What is scraped; labels are known where there is a value.
fn scraped(addr: std::net::SocketAddr) -> Series {
    let answer = request(addr, "GET", "/metrics", None);
    let mut series = Series::new();
    for line in answer.text().lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            series.insert(name.to_owned(), (kind.to_owned(), None));
        } else if !line.starts_with('#') {
            let (sample, _) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| Some(label.split_once('=')?.0));
            let (_, known) = series.get_mut(name).expect("its type comes first");
            *known = Some(labels.collect::<Vec<_>>().join(","));
        }
    }
    series
}

/// The rows of the table in docs/OPERATIONS.md.
fn written() -> Series {
    let (_, rest) = include_str!("../../docs/OPERATIONS.md").split_once("### Series").expect("a table of series");
    let (table, _) = rest.split_once("\n## ").expect("a section behind it");
    let mut series = Series::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let mut columns = row.split('|').skip(1).map(str::trim);
        let (names, kind) = (columns.next().expect("a name"), columns.next().expect("a type"));
        for name in names.split('`').skip(1).step_by(2) {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels.trim_end_matches('}').to_owned();
            let before = series.insert(name.to_owned(), (kind.to_owned(), Some(labels)));
            assert_eq!(before, None, "{name} has two rows");
        }
    }
    series
}

#[test]
fn each_series_has_a_row_and_each_row_a_series() {
    let cluster = Cluster::of(1);
    let written = written();
    let mut found = scraped(cluster.management);
    found.extend(scraped(cluster.server(0).management));
    assert_eq!(found.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
    for (name, (kind, labels)) in &found {
        let (written_kind, written_labels) = &written[name];
        assert_eq!(kind, written_kind, "{name}");
        assert!(labels.is_none() || labels == written_labels, "{name}: {labels:?} is written as {written_labels:?}");
    }
}
