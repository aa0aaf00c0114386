//! What the role binaries make of arguments, environment and files.
#![cfg(feature = "cli")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use trunkline::config::{
    AcmsArgs, AcmsSettings, AppServerArgs, AppServerSettings, Arguments, ChatArgs, ChatEntrance, ChatSettings,
    ConfigError, FriendsPolicy, HostPort, HostPortError, JoinPolicy, LoginCheck, Resolved, resolve_from,
};
use trunkline::id::ServerId;
use trunkline::limits;
use trunkline::role::acms::Policy;
use trunkline::time::Span;
use trunkline::wire::link::Relogin;
use trunkline::{CutOff, Tuning};

/// A directory of one test, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("trunkline-config-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Dir(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the temporary directory can be written");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the test's own directory can be removed");
    }
}

fn resolve<A: Arguments>(args: &[&str]) -> Result<Resolved<A::Settings>, ConfigError> {
    resolve_from::<A>(["trunkline"].iter().chain(args).map(OsString::from))
}

fn settings<A: Arguments>(args: &[&str]) -> A::Settings {
    match resolve::<A>(args) {
        Ok(Resolved::Run(settings)) => settings,
        Ok(Resolved::Check) => panic!("{args:?} only check"),
        Err(error) => panic!("{args:?}: {error}"),
    }
}

fn error<A: Arguments>(args: &[&str]) -> ConfigError {
    match resolve::<A>(args) {
        Ok(Resolved::Run(_) | Resolved::Check) => panic!("{args:?} are valid"),
        Err(error) => error,
    }
}

/// The error of a configuration file with this content, without the directory in front of the file's name.
fn file_error<A: Arguments>(test: &str, content: &str) -> String {
    let dir = Dir::new(test);
    let file = dir.file("a.toml", content);
    let text = error::<A>(&["--config", &file]).to_string();
    text.strip_prefix(&file.replace("a.toml", "")).expect("the file's name comes first").to_owned()
}

/// The server that a chat is to connect to.
fn server_of(chat: &ChatSettings) -> String {
    match &chat.entrance {
        ChatEntrance::Server(server) => server.to_string(),
        ChatEntrance::Acms { url, .. } => panic!("it asks {url}"),
    }
}

/// Runs a role's binary with `--check`, no environment but `variables`, and these arguments.
fn check(program: &str, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.env_clear().envs(variables.iter().copied()).args(args).arg("--check");
    command.output().expect("the binary was built with this test")
}

const ACMS: &str = env!("CARGO_BIN_EXE_trunkline-acms");
const APPSERVER: &str = env!("CARGO_BIN_EXE_trunkline-appserver");
const CHAT: &str = env!("CARGO_BIN_EXE_trunkline-chat");

#[track_caller]
fn assert_exit(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        (Some(code), stdout, stderr)
    );
}

#[test]
fn an_acms_needs_no_option() {
    let acms: AcmsSettings = settings::<AcmsArgs>(&[]);
    assert_eq!(acms.transfer.to_string(), "127.0.0.1:12000");
    assert_eq!((acms.management.to_string().as_str(), acms.management_token.is_some()), ("127.0.0.1:11000", false));
    assert_eq!(acms.server_assigned_policy, Policy::MinUserCount);
    assert_eq!(acms.directory_grace.as_millis(), 10_000);
    assert_eq!(acms.cluster, "trunkline");
    assert!(acms.cluster_secret.is_empty());
}

#[test]
fn an_appserver_needs_no_option() {
    let server: AppServerSettings = settings::<AppServerArgs>(&[]);
    assert_eq!(server.id, ServerId(0));
    assert_eq!(server.listen.to_string(), "127.0.0.1:6000");
    assert_eq!((server.acms, server.public_address, server.management), (None, None, None));
    assert_eq!(server.cluster, "trunkline");
    assert_eq!(server.relogin, Relogin::ReplaceOld);
    assert_eq!(server.when_cut_off, CutOff::ServeLocal);
    assert_eq!((server.groups, server.friends), (JoinPolicy::Everyone, FriendsPolicy::Nobody));
    assert_eq!(server.heartbeat.as_millis(), 10_000);
    assert_eq!(server.heartbeat_timeout.as_millis(), 30_000);
    assert_eq!(server.login_timeout.as_millis(), 10_000);
    assert_eq!(server.drain.as_millis(), 2_000);
    assert_eq!(server.max_frame, 1_048_576);
    assert_eq!((server.capacity, server.max_accepts_per_second), (server.max_connections, 10_000));
    assert_eq!((server.max_messages_per_second, server.max_bytes_per_second), (5_000, 16_777_216));
    assert_eq!((server.max_memory, settings::<AcmsArgs>(&[]).max_memory), (None, None));
    assert!(matches!(server.login_check, LoginCheck::AnyUser));
}

#[test]
fn every_key_of_an_appservers_file_is_taken() {
    let dir = Dir::new("every-key");
    let secret = dir.file("secret", "0123456789abcdef");
    let users = dir.file("users", "alice:wonder\n");
    let file = dir.file(
        "as.toml",
        format!(
            r#"
            id = 65534
            listen = "[::1]:0"
            acms = "acms.example"
            public_address = "192.0.2.7:443"
            cluster = "games"
            cluster_secret_file = "{secret}"
            relogin = "keep-old"
            when_cut_off = "refuse-new"
            heartbeat_ms = 50
            heartbeat_timeout_ms = 100
            login_timeout_ms = 200
            drain_seconds = 600
            max_frame = 0x2000
            max_connections = 10
            max_accepts_per_second = 30
            max_memory = 0x4000_0000
            max_messages_per_second = 100
            max_bytes_per_second = 0
            capacity = 9
            groups = "nobody"
            friends = "everyone"
            users_file = "{users}"
            management = "192.0.2.7:0"
            management_token_file = "{secret}"
            "#
        ),
    );
    let server = settings::<AppServerArgs>(&["--config", &file]);
    assert_eq!(server.id, ServerId(65_534));
    assert_eq!(server.listen.to_string(), "[::1]:0");
    assert_eq!(server.acms, Some(HostPort { host: "acms.example".to_owned(), port: 12_000 }));
    assert_eq!(server.public_address, Some("192.0.2.7:443".parse().expect("an address")));
    assert_eq!((server.cluster.as_str(), server.cluster_secret.as_slice()), ("games", &b"0123456789abcdef"[..]));
    assert_eq!((server.relogin, server.when_cut_off), (Relogin::KeepOld, CutOff::RefuseNew));
    assert_eq!(server.management, Some("192.0.2.7:0".parse().expect("an address")));
    assert!(server.management_token.is_some());
    assert_eq!((server.heartbeat.as_millis(), server.heartbeat_timeout.as_millis()), (50, 100));
    assert_eq!((server.login_timeout.as_millis(), server.max_frame), (200, 8_192));
    assert_eq!(server.drain.as_millis(), 600_000);
    assert_eq!((server.max_connections, server.max_accepts_per_second, server.capacity), (10, 30, 9));
    assert_eq!((server.max_messages_per_second, server.max_bytes_per_second), (100, 0));
    assert_eq!(server.max_memory, Some(1 << 30));
    assert_eq!((server.groups, server.friends), (JoinPolicy::Nobody, FriendsPolicy::Everyone));
    assert!(matches!(server.login_check, LoginCheck::Users(_)));
}

#[test]
fn a_flag_wins_over_the_file_and_that_over_the_default() {
    let dir = Dir::new("flag-file");
    let file = dir.file("acms.toml", "transfer_port = 1\nmanagement_port = 2\n");
    let acms = settings::<AcmsArgs>(&["--config", &file, "--transfer-port", "3"]);
    assert_eq!((acms.transfer.port(), acms.management.port()), (3, 2));
    assert_eq!(acms.cluster, "trunkline");
}

#[test]
fn the_grace_of_an_acms_goes_from_none_to_an_hour() {
    let dir = Dir::new("grace");
    let file = dir.file("acms.toml", "directory_grace_ms = 3_600_000\n");
    let grace = |args: &[&str]| settings::<AcmsArgs>(args).directory_grace.as_millis();
    assert_eq!(grace(&["--config", &file]), 3_600_000);
    assert_eq!(grace(&["--config", &file, "--directory-grace-ms", "0"]), 0);
    assert_eq!(
        file_error::<AcmsArgs>("grace-high", "directory_grace_ms = 3600001"),
        "a.toml:1: directory_grace_ms = 3600001: 3600001 is not in 0..=3600000"
    );
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let dir = Dir::new("environment");
    let file = dir.file("acms.toml", "bind = \"0.0.0.1\"\n");
    let refused = |ip: &str| {
        format!(
            "error: bind = {ip} is not loopback: it needs a cluster_secret_file (or insecure, to let any server join)\n"
        )
    };
    let from_file = check(ACMS, &[], &["--config", &file]);
    assert_exit(&from_file, 1, "", &refused("0.0.0.1"));
    let variable = [("TRUNKLINE_BIND", "0.0.0.2")];
    assert_exit(&check(ACMS, &variable, &["--config", &file]), 1, "", &refused("0.0.0.2"));
    assert_exit(&check(ACMS, &variable, &["--config", &file, "--bind", "0.0.0.3"]), 1, "", &refused("0.0.0.3"));
    assert_exit(&check(ACMS, &variable, &["--config", &file, "--bind", "127.0.0.1"]), 0, "configuration ok\n", "");
    let insecure = [variable[0], ("TRUNKLINE_INSECURE", "1")];
    assert_exit(&check(ACMS, &insecure, &["--config", &file]), 0, "configuration ok\n", "");
}

#[test]
fn a_variable_of_another_role_is_ignored() {
    let variables = [("TRUNKLINE_LISTEN", "nonsense"), ("TRUNKLINE_NO_OPTION", "1")];
    assert_exit(&check(ACMS, &variables, &[]), 0, "configuration ok\n", "");
    assert_eq!(check(APPSERVER, &variables, &[]).status.code(), Some(2));
}

#[test]
fn exit_codes_tell_usage_from_configuration() {
    let output = |args: &[&str]| Command::new(ACMS).args(args).output().expect("the binary was built with this test");
    let usage = output(&["--transfer-prt", "1"]);
    assert_eq!((usage.status.code(), usage.stdout.is_empty(), usage.stderr.is_empty()), (Some(2), true, false));
    let help = output(&["--help"]);
    assert_eq!((help.status.code(), help.stderr.is_empty()), (Some(0), true));
    assert!(String::from_utf8_lossy(&help.stdout).contains("[env: TRUNKLINE_TRANSFER_PORT]"));
    assert_exit(&output(&["--version"]), 0, concat!("trunkline-acms ", env!("CARGO_PKG_VERSION"), "\n"), "");
    let missing = output(&["--config", "/nonexistent/acms.toml"]);
    let reason = "error: cannot read /nonexistent/acms.toml: No such file or directory (os error 2)\n";
    assert_exit(&missing, 1, "", reason);
}

#[test]
fn check_reads_the_files_too() {
    let dir = Dir::new("check");
    let users = dir.file("users", "alice:wonder\nbob\n");
    assert!(matches!(resolve::<AcmsArgs>(&["--check"]), Ok(Resolved::Check)));
    let refused = error::<AppServerArgs>(&["--check", "--users-file", &users]).to_string();
    assert_eq!(refused, format!("{users}:2: expected user:password"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest() {
    assert_eq!(
        file_error::<AcmsArgs>("unknown", "# ports\n\ntransfer_prt = 12000\n"),
        r#"a.toml:3: unknown key "transfer_prt"; did you mean "transfer_port"?"#
    );
    assert_eq!(
        file_error::<AppServerArgs>("unknown-hyphen", "max-frame = 4096"),
        r#"a.toml:1: unknown key "max-frame"; did you mean "max_frame"?"#
    );
    assert_eq!(
        file_error::<ChatArgs>("unknown-far", "xyzzy = 1"),
        r#"a.toml:1: unknown key "xyzzy"; the keys are server, acms, token_file, user, password, to, blob_dir"#
    );
}

#[test]
fn a_file_names_no_file_and_no_section() {
    assert!(
        file_error::<AcmsArgs>("config-key", "config = \"b.toml\"").starts_with("a.toml:1: unknown key \"config\"")
    );
    assert!(file_error::<AcmsArgs>("check-key", "check = true").starts_with("a.toml:1: unknown key \"check\""));
    assert!(
        file_error::<AcmsArgs>("section", "\n[acms]\nbind = \"::1\"").starts_with("a.toml:2: unknown key \"acms\"")
    );
}

#[test]
fn the_first_wrong_line_of_a_file_is_reported() {
    let text = file_error::<AcmsArgs>("first", "cluster = \"a\"\nzzz = 1\nbind = 1\naaa = 1\n");
    assert!(text.starts_with("a.toml:2: unknown key \"zzz\""), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    for (test, content, wanted) in [
        ("type-string", "transfer_port = \"12000\"", "transfer_port: expected integer, found string"),
        ("type-integer", "cluster = 5", "cluster: expected string, found integer"),
        ("type-boolean", "insecure = \"yes\"", "insecure: expected boolean, found string"),
        ("type-float", "management_port = 1.5", "management_port: expected integer, found float"),
        ("type-array", "bind = []", "bind: expected string, found array"),
    ] {
        assert_eq!(file_error::<AcmsArgs>(test, &format!("\n{content}\n")), format!("a.toml:2: {wanted}"));
    }
}

#[test]
fn a_value_that_its_option_refuses_is_named() {
    for (test, content, wanted) in [
        ("value-id", "id = 65535", "65535 is not in 0..=65534"),
        ("value-negative", "id = -1", "-1 is not in 0..=65534"),
        ("value-relogin", "relogin = \"both\"", "expected one of replace-old, keep-old"),
        ("value-frame-low", "max_frame = 4095", "4095 is not in 4096..=1048576"),
        ("value-frame-high", "max_frame = 1048577", "1048577 is not in 4096..=1048576"),
        ("value-heartbeat", "heartbeat_ms = 0", "0 is not in 20..=3600000"),
        ("value-rest", "rest_us = 10001", "10001 is not in 0..=10000"),
        ("value-connections", "max_connections = 0", "0 is not in 1..=1048576"),
        ("value-accept", "max_accepts_per_second = 1000001", "1000001 is not in 0..=1000000"),
        ("value-memory", "max_memory = 8388607", "8388607 is not in 8388608..18446744073709551615"),
        ("value-rate", "max_messages_per_second = 1000000000001", "1000000000001 is not in 0..=1000000000000"),
        ("value-listen", "listen = \"localhost\"", "invalid socket address syntax"),
        ("value-acms", "acms = \"::1\"", "an IPv6 address stands in brackets: [::1]:6000"),
        (
            "value-address",
            "public_address = \"as01:443\"",
            "clients are sent there by number, without a look-up: IP:PORT",
        ),
        ("value-lines", "cluster = \"a\\nb\"", "an id has no control characters"),
        ("value-none", "relogin = \"\"", "expected one of replace-old, keep-old"),
        ("value-empty", "cluster = \"\"", "an id has at least 1 byte"),
    ] {
        assert_eq!(file_error::<AppServerArgs>(test, content), format!("a.toml:1: {content}: {wanted}"));
    }
}

#[test]
fn a_file_that_is_not_toml_is_named_with_the_line() {
    let text = file_error::<AcmsArgs>("not-toml", "cluster = \"a\"\ntransfer_port 12000\n");
    assert!(text.starts_with("a.toml:2: "), "{text}");
    assert!(!text.contains('\n'), "{text}");
    let text = file_error::<AcmsArgs>("twice", "cluster = \"a\"\ncluster = \"b\"\n");
    assert!(text.starts_with("a.toml:2: "), "{text}");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let long = "x".repeat(65);
    for args in [["--cluster", ""], ["--cluster", &long], ["--cluster", "a\tb"], ["--transfer-port", "65536"]] {
        assert!(matches!(error::<AcmsArgs>(&args), ConfigError::Usage(_)), "{args:?}");
    }
    assert_eq!(settings::<AcmsArgs>(&["--cluster", &long[1..]]).cluster, long[1..]);
}

#[test]
fn a_port_of_zero_is_the_systems_choice() {
    let acms = settings::<AcmsArgs>(&["--transfer-port", "0", "--management-port", "0"]);
    assert_eq!((acms.transfer.port(), acms.management.port()), (0, 0));
    let same = error::<AcmsArgs>(&["--transfer-port", "7", "--management-port", "7"]).to_string();
    assert_eq!(same, "transfer_port and management_port are both 7");
}

#[test]
fn a_management_token_is_required_beyond_loopback() {
    let dir = Dir::new("management-token");
    let token = dir.file("token", "0123456789abcdef\r\n");
    let text = error::<AcmsArgs>(&["--management-bind", "0.0.0.0"]).to_string();
    let wanted =
        "--management-token-file is needed where operators are answered at 0.0.0.0:11000, which is not loopback";
    assert_eq!(text, wanted);
    let server = error::<AppServerArgs>(&["--management", "192.0.2.1:9"]).to_string();
    assert_eq!(server, wanted.replace("0.0.0.0:11000", "192.0.2.1:9"));
    let acms = settings::<AcmsArgs>(&["--management-bind", "0.0.0.0", "--management-token-file", &token]);
    assert_eq!((acms.management.to_string().as_str(), acms.management_token.is_some()), ("0.0.0.0:11000", true));
    assert!(settings::<AppServerArgs>(&["--management", "[::1]:9"]).management_token.is_none());
    for (name, content, wanted) in [
        ("short", "0123456789abcde\n", "a management token has at least 16 bytes, this one has 15"),
        ("words", "twelve little words", "a management token is of letters, digits and -._~+/= alone"),
        ("lines", "0123456789abcdef\n\n", "a management token is of letters, digits and -._~+/= alone"),
    ] {
        let token = dir.file(name, content);
        let text = error::<AcmsArgs>(&["--management-token-file", &token]).to_string();
        assert_eq!(text, format!("{token}: {wanted}"));
    }
}

#[test]
fn a_secret_is_required_beyond_loopback() {
    let dir = Dir::new("beyond-loopback");
    let secret = dir.file("secret", "0123456789abcdef\n");
    for ip in ["0.0.0.0", "::", "192.0.2.1"] {
        assert_eq!(
            error::<AcmsArgs>(&["--bind", ip]).to_string(),
            format!(
                "bind = {ip} is not loopback: it needs a cluster_secret_file (or insecure, to let any server join)"
            )
        );
        assert!(settings::<AcmsArgs>(&["--bind", ip, "--insecure"]).cluster_secret.is_empty());
        let acms = settings::<AcmsArgs>(&["--bind", ip, "--cluster-secret-file", &secret]);
        assert_eq!(acms.cluster_secret, b"0123456789abcdef");
    }
    for ip in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(settings::<AcmsArgs>(&["--bind", ip]).transfer.ip().to_string(), ip);
    }
    let file = dir.file("acms.toml", "bind = \"0.0.0.0\"\ninsecure = true\n");
    assert_eq!(settings::<AcmsArgs>(&["--config", &file]).transfer.to_string(), "0.0.0.0:12000");
}

#[test]
fn a_secret_loses_one_newline_and_has_16_bytes() {
    let dir = Dir::new("secret");
    let read = |content: &[u8]| {
        let file = dir.file("secret", content);
        resolve::<AcmsArgs>(&["--cluster-secret-file", &file]).map(|resolved| match resolved {
            Resolved::Run(acms) => acms.cluster_secret,
            Resolved::Check => panic!("nothing asks for a check"),
        })
    };
    assert_eq!(read(b"0123456789abcde\xff\r\n").expect("16 bytes"), b"0123456789abcde\xff");
    assert_eq!(read(b"0123456789abcde\n\n").expect("16 bytes"), b"0123456789abcde\n");
    for (content, bytes) in [(&b"0123456789abcde\n"[..], 15), (b"", 0), (b"\r\n", 0)] {
        let text = read(content).expect_err("too short").to_string();
        assert!(text.ends_with(&format!(": a cluster secret has at least 16 bytes, this one has {bytes}")), "{text}");
    }
    let missing = dir.0.join("none");
    let missing = error::<AcmsArgs>(&["--cluster-secret-file", path_str(&missing)]);
    assert!(matches!(missing, ConfigError::Unreadable { .. }));
}

fn path_str(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn a_heartbeat_may_be_lost_once() {
    let text = error::<AppServerArgs>(&["--heartbeat-ms", "100", "--heartbeat-timeout-ms", "199"]).to_string();
    assert_eq!(text, "heartbeat_timeout_ms = 199 must be at least twice heartbeat_ms = 100");
    let server = settings::<AppServerArgs>(&["--heartbeat-ms", "100", "--heartbeat-timeout-ms", "200"]);
    assert_eq!((server.heartbeat.as_micros(), server.heartbeat_timeout.as_micros()), (100_000, 200_000));
}

#[test]
fn a_server_is_tuned_for_latency_unless_told_otherwise() {
    assert_eq!(settings::<AppServerArgs>(&[]).tuning, Tuning::default());
    let wanted = Tuning { rest: Span::from_millis(10) };
    let args = ["--rest-us", "10000"];
    assert_eq!(settings::<AppServerArgs>(&args).tuning, wanted);
    assert_eq!(settings::<AcmsArgs>(&args).tuning, wanted);
}

#[test]
fn the_cluster_is_told_of_no_more_room_than_there_is() {
    assert_eq!(settings::<AppServerArgs>(&["--max-connections", "5"]).capacity, 5);
    let text = error::<AppServerArgs>(&["--max-connections", "5", "--capacity", "6"]).to_string();
    assert_eq!(text, "capacity = 6 must be at most max_connections = 5");
}

#[test]
fn the_largest_and_least_frame_may_be_configured() {
    for bytes in [limits::MAX_FRAME_FLOOR, limits::MAX_FRAME] {
        assert_eq!(settings::<AppServerArgs>(&["--max-frame", &bytes.to_string()]).max_frame, bytes);
    }
}

#[test]
fn hosts_and_ports_are_read_as_they_are_written() {
    for (text, host, port) in [
        ("acms", "acms", None),
        ("as01.example:6000", "as01.example", Some(6000)),
        ("127.0.0.1:1", "127.0.0.1", Some(1)),
        ("[::1]", "::1", None),
        ("[2001:db8::1]:65535", "2001:db8::1", Some(65_535)),
    ] {
        let named = |port| HostPort { host: host.to_owned(), port };
        assert_eq!(HostPort::parse_or_port(text, 12_000), Ok(named(port.unwrap_or(12_000))));
        assert_eq!(text.parse(), port.map(named).ok_or(HostPortError::NoPort));
        if let Some(port) = port {
            assert_eq!(named(port).to_string(), text);
        }
    }
    for (text, wanted) in [
        ("", HostPortError::Host),
        (":6000", HostPortError::Host),
        ("a b:6000", HostPortError::Host),
        ("user@host:6000", HostPortError::Host),
        ("::1", HostPortError::Brackets),
        ("::1:6000", HostPortError::Brackets),
        ("[::1", HostPortError::Brackets),
        ("[::1]6000", HostPortError::Brackets),
        ("[acms]:6000", HostPortError::Brackets),
        ("acms:", HostPortError::Port),
        ("acms:0", HostPortError::Port),
        ("acms:65536", HostPortError::Port),
        ("http://acms", HostPortError::Port),
    ] {
        assert_eq!(HostPort::parse_or_port(text, 12_000), Err(wanted), "{text:?}");
    }
}

#[test]
fn the_users_file_lists_who_may_log_in() {
    let dir = Dir::new("users");
    let file = dir.file("users", "# staff\n\nbob:b:c \r\nalice:wonder\n  # end\n");
    let LoginCheck::Users(users) = settings::<AppServerArgs>(&["--users-file", &file]).login_check else {
        panic!("the file is not used");
    };
    let listed: Vec<(&str, &str)> = users.iter().map(|(user, password)| (user.as_str(), password.as_str())).collect();
    assert_eq!(listed, [("alice", "wonder"), ("bob", "b:c ")]);
    for (line, wanted) in [
        ("bob", "expected user:password"),
        (":secret", "not a user id: an id has at least 1 byte"),
        ("bob:", "user \"bob\" has no password"),
        ("alice:again", "user \"alice\" is listed twice"),
    ] {
        let file = dir.file("users", format!("# staff\nalice:wonder\n{line}\n"));
        let text = error::<AppServerArgs>(&["--users-file", &file]).to_string();
        assert_eq!(text, format!("{file}:3: {wanted}"));
    }
}

#[test]
fn a_chat_needs_a_user_from_anywhere() {
    let chat: ChatSettings = settings::<ChatArgs>(&["--user", "alice"]);
    assert_eq!((server_of(&chat).as_str(), chat.user.as_str()), ("127.0.0.1:6000", "alice"));
    assert_eq!((chat.password, chat.to, chat.blob_dir), (None, None, None));
    let dir = Dir::new("chat");
    let file = dir.file("chat.toml", "user = \"alice\"\nserver = \"as01\"\nto = \"bob\"\npassword = \"wonder\"\n");
    let chat = settings::<ChatArgs>(&["--config", &file, "--to", "carol"]);
    assert_eq!((server_of(&chat).as_str(), chat.user.as_str()), ("as01:6000", "alice"));
    assert_eq!((chat.password.as_deref(), chat.to.expect("a flag").as_str()), (Some("wonder"), "carol"));
    let here = dir.file("here", "");
    let folder = std::path::Path::new(&here).parent().expect("a file is in a folder").to_string_lossy().into_owned();
    let chat = settings::<ChatArgs>(&["--user", "alice", "--blob-dir", &folder]);
    assert_eq!(chat.blob_dir.as_deref(), Some(std::path::Path::new(&folder)));
    let refused = error::<ChatArgs>(&["--user", "alice", "--blob-dir", &here]).to_string();
    assert_eq!(refused, format!("cannot read {here}: Not a directory (os error 20)"));
    assert_eq!(check(CHAT, &[], &[]).status.code(), Some(2));
    assert_exit(&check(CHAT, &[("TRUNKLINE_USER", "alice")], &[]), 0, "configuration ok\n", "");
}

#[test]
fn a_chat_asks_an_acms_or_is_told_a_server() {
    let entrance = |args: &[&str]| match settings::<ChatArgs>(&[&["--user", "alice"], args].concat()).entrance {
        ChatEntrance::Acms { url, token } => (url, token),
        ChatEntrance::Server(server) => panic!("it connects to {server}"),
    };
    assert_eq!(entrance(&["--acms", "http://acms.example"]), ("http://acms.example:11000".to_owned(), None));
    let dir = Dir::new("chat-acms");
    let token = dir.file("token", "s3cret\n");
    let with_token = entrance(&["--acms", "http://[::1]:11001/", "--token-file", &token]);
    assert_eq!(with_token, ("http://[::1]:11001".to_owned(), Some("s3cret".to_owned())));
    let bad = dir.file("bad", "two words\n");
    let refused = error::<ChatArgs>(&["--user", "alice", "--acms", "http://a", "--token-file", &bad]);
    assert_eq!(refused.to_string(), format!("{bad}: a token is printable ASCII without spaces"));
    let file = dir.file("chat.toml", "user = \"alice\"\nserver = \"as01\"\n");
    let both = error::<ChatArgs>(&["--config", &file, "--acms", "http://a"]);
    assert_eq!(both.to_string(), "server and acms are both given: it is one or the other");
    let no_url = error::<ChatArgs>(&["--user", "alice", "--acms", "127.0.0.1:11000"]).to_string();
    assert!(no_url.contains("the management interface of an ACMS is at http://HOST[:PORT]"), "{no_url}");
}
