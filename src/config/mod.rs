//! What the role binaries take from arguments, environment and a file, resolved once into plain values.
//!
//! Each option is declared once, as a clap argument of its role. A flag wins over the environment, that over the file,
//! that over the default: the file's values are handed to clap as the arguments' defaults, so that one parser checks an
//! option wherever its value came from.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Parser};
use toml::{Spanned, Value};

use crate::caller::{Caller, CallerError, check_token};
use crate::id::{IdError, check_id};
use crate::limits;
use crate::management::{Token, TokenError};
use crate::net::Tuning;
use crate::time::Span;

mod acms;
mod appserver;
mod chat;

pub use crate::caller::MANAGEMENT_PORT;
pub use acms::{AcmsArgs, AcmsSettings};
pub use appserver::{AppServerArgs, AppServerSettings, FriendsPolicy, JoinPolicy, LoginCheck, UserLineError};
pub use chat::{ChatArgs, ChatEntrance, ChatSettings};

/// The transfer port of an ACMS, where none is named.
pub const TRANSFER_PORT: u16 = 12_000;
/// The port that clients reach an application server at, where none is named.
pub const CLIENT_PORT: u16 = 6_000;
/// Bytes of a cluster secret, at least: as many as make guessing it hopeless where they are random.
pub const CLUSTER_SECRET_BYTES_MIN: usize = 16;

/// The options of one role.
pub trait Arguments: Parser {
    /// What they resolve to.
    type Settings;
    /// A command line that shows them in use, for `--help`.
    const EXAMPLE: &'static str;

    /// Checks what no option can check alone, and reads the files that options name.
    fn resolve(self) -> Result<Self::Settings, ConfigError>;
}

/// What is to be done with valid options.
pub enum Resolved<S> {
    /// Run with these settings.
    Run(S),
    /// `--check`: say that they are valid, and exit.
    Check,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The arguments or the environment are wrong, or `--help` or `--version` was asked for.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A file that an option names can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{place}: {message}")]
    NotToml {
        /// Where it stops being so.
        place: Place,
        /// What the parser expected.
        message: String,
    },
    /// The configuration file has a key that is no option of the program.
    #[error("{place}: unknown key {key:?}; {hint}")]
    UnknownKey {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// What may have been meant.
        hint: KeyHint,
    },
    /// A key of the configuration file has a value of another TOML type than its option.
    #[error("{place}: {key}: expected {expected}, found {found}")]
    WrongType {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// The type of the option.
        expected: &'static str,
        /// The type of the value.
        found: &'static str,
    },
    /// A key of the configuration file has a value that its option refuses.
    #[error("{place}: {key} = {}: {}", on_one_line(value), reason(refusal))]
    WrongValue {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// The value.
        value: Value,
        /// Why the option refuses it.
        refusal: clap::Error,
    },
    /// A management port that others can reach needs a token.
    #[error("--management-token-file is needed where operators are answered at {management}, which is not loopback")]
    TokenRequired {
        /// Where the port is bound.
        management: SocketAddr,
    },
    /// The management token is none.
    #[error("{}: {fault}", path.display())]
    BadToken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: TokenError,
    },
    /// The cluster secret is too short.
    #[error("{}: a cluster secret has at least {CLUSTER_SECRET_BYTES_MIN} bytes, this one has {bytes}", path.display())]
    ShortSecret {
        /// Its file.
        path: PathBuf,
        /// Bytes that it has.
        bytes: usize,
    },
    /// The transfer port would be open to a network, and anyone could join the cluster.
    #[error("bind = {bind} is not loopback: it needs a cluster_secret_file (or insecure, to let any server join)")]
    SecretRequired {
        /// The address.
        bind: IpAddr,
    },
    /// Two listeners on one port.
    #[error("transfer_port and management_port are both {port}")]
    SamePort {
        /// The port.
        port: u16,
    },
    /// The token of an ACMS breaks its rule.
    #[error("{}: {error}", path.display())]
    Token {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        error: CallerError,
    },
    /// A server is named, and an ACMS that is to name one.
    #[error("server and acms are both given: it is one or the other")]
    TwoEntrances,
    /// One lost PING would be taken for a lost client.
    #[error("heartbeat_timeout_ms = {timeout_ms} must be at least twice heartbeat_ms = {heartbeat_ms}")]
    HeartbeatTimeout {
        /// Milliseconds of silence until a PING.
        heartbeat_ms: u64,
        /// Milliseconds of silence until the close.
        timeout_ms: u64,
    },
    /// The cluster would be told of more room than there is.
    #[error("capacity = {capacity} must be at most max_connections = {max_connections}")]
    Capacity {
        /// Users.
        capacity: u32,
        /// Connections.
        max_connections: u32,
    },
    /// A line of the users file is not `user:password`.
    #[error("{place}: {fault}")]
    UserLine {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        fault: UserLineError,
    },
}

/// A line of a file, as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the option named it.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// What may have been meant by an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyHint {
    /// This key, which is spelt much like it.
    Nearest(String),
    /// One of these: none is spelt like it.
    Any(Vec<String>),
}

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyHint::Nearest(key) => write!(f, "did you mean \"{key}\"?"),
            KeyHint::Any(keys) => write!(f, "the keys are {}", keys.join(", ")),
        }
    }
}

/// The settings of a binary's process. Where it is not to run, exits: 0 after `--check`, `--help` and `--version`,
/// 2 after wrong usage, 1 after any other [`ConfigError`], with one line on stderr.
pub fn load<A: Arguments>() -> A::Settings {
    match resolve_from::<A>(std::env::args_os()) {
        Ok(Resolved::Run(settings)) => settings,
        Ok(Resolved::Check) => {
            println!("configuration ok");
            std::process::exit(0)
        }
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1)
        }
    }
}

/// Resolves `args`, of which the first is the program's name, with the process's environment and the file that
/// `--config` names.
pub fn resolve_from<A: Arguments>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Resolved<A::Settings>, ConfigError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = command_of::<A>();
    // What is required may yet come from the file, whose name only the arguments tell.
    let before_file = command.clone().mut_args(|arg| arg.required(false)).try_get_matches_from(&args)?;
    if let Some(path) = before_file.get_one::<PathBuf>(CONFIG) {
        command = with_file_defaults(command, path)?;
    }
    let mut matches = command.try_get_matches_from(&args)?;
    let check = matches.get_flag(CHECK);
    let settings = A::from_arg_matches_mut(&mut matches)?.resolve()?;
    Ok(if check { Resolved::Check } else { Resolved::Run(settings) })
}

const CONFIG: &str = "config";
const CHECK: &str = "check";

const SOURCES: &str = "\
A flag wins over its environment variable, that over the configuration file, that over the default. The file is TOML; \
its keys are the long option names with underscores, and an unknown key is an error. Paths are relative to \
the working directory. RUST_LOG sets what is logged to stderr: error, warn, info, debug, trace or off.";

/// The role's options, each with its environment variable, and those that say where options come from.
fn command_of<A: Arguments>() -> Command {
    let config = Arg::new(CONFIG)
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Read options from this TOML file");
    let check = Arg::new(CHECK)
        .long("check")
        .action(ArgAction::SetTrue)
        .help("Check the options and all files that they name, and exit");
    A::command()
        .mut_args(|arg| {
            let variable = format!("TRUNKLINE_{}", arg.get_id().as_str().to_uppercase());
            arg.env(variable).hide_env_values(true)
        })
        .args([config, check])
        .after_help(format!("Example:\n  {}\n\n{SOURCES}", A::EXAMPLE))
}

fn with_file_defaults(mut command: Command, path: &Path) -> Result<Command, ConfigError> {
    for FileEntry { place, key, value } in file_entries(path)? {
        let Some(arg) = command.get_arguments().find(|arg| is_key(arg) && arg.get_id() == key.as_str()) else {
            let hint = key_hint(&command, &key);
            return Err(ConfigError::UnknownKey { place, key, hint });
        };
        let text = match checked_text(arg, &value) {
            Ok(text) => text,
            Err(Misfit::Type { expected, found }) => {
                return Err(ConfigError::WrongType { place, key, expected, found });
            }
            Err(Misfit::Value(refusal)) => return Err(ConfigError::WrongValue { place, key, value, refusal }),
        };
        command = command.mut_arg(key, |arg| arg.required(false).default_value(text));
    }
    Ok(command)
}

struct FileEntry {
    place: Place,
    key: String,
    value: Value,
}

/// The file's keys and values, in its order.
fn file_entries(path: &Path) -> Result<Vec<FileEntry>, ConfigError> {
    let text = read_text(path)?;
    let place = |offset| Place { path: path.to_owned(), line: line_at(&text, offset) };
    let table: BTreeMap<Spanned<String>, Value> = toml::from_str(&text).map_err(|error| ConfigError::NotToml {
        place: place(error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    let entry = |(key, value): (Spanned<String>, Value)| FileEntry {
        place: place(key.span().start),
        key: key.into_inner(),
        value,
    };
    let mut entries: Vec<FileEntry> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.place.line);
    Ok(entries)
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Whether the option may stand in a file.
fn is_key(arg: &Arg) -> bool {
    arg.get_id() != CONFIG && arg.get_id() != CHECK
}

fn key_hint(command: &Command, unknown: &str) -> KeyHint {
    /// Jaro-Winkler similarity from which one word is taken for a misspelling of another.
    const SIMILAR: f64 = 0.75;
    let keys = || command.get_arguments().filter(|arg| is_key(arg)).map(|arg| arg.get_id().as_str());
    let similarity = |key: &str| strsim::jaro_winkler(&unknown.replace('-', "_"), key);
    match keys().max_by(|a, b| similarity(a).total_cmp(&similarity(b))) {
        Some(nearest) if similarity(nearest) >= SIMILAR => KeyHint::Nearest(nearest.to_owned()),
        Some(_) | None => KeyHint::Any(keys().map(str::to_owned).collect()),
    }
}

enum Misfit {
    Type { expected: &'static str, found: &'static str },
    Value(clap::Error),
}

/// The value as it would stand on the command line, where the option takes it.
fn checked_text(arg: &Arg, value: &Value) -> Result<String, Misfit> {
    let (expected, found) = (toml_type(arg), value.type_str());
    if expected != found {
        return Err(Misfit::Type { expected, found });
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // A flag takes no value on the command line, and its type says all.
    if !value.is_bool() {
        let word = format!("--{}={text}", arg.get_long().unwrap_or_default());
        let alone = Command::new("file").no_binary_name(true).arg(arg.clone().required(false));
        alone.try_get_matches_from([word]).map_err(Misfit::Value)?;
    }
    Ok(text)
}

/// The TOML type of the option's values.
fn toml_type(arg: &Arg) -> &'static str {
    let parsed = arg.get_value_parser().type_id();
    let integers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
    if integers.iter().any(|integer| parsed == *integer) {
        "integer"
    } else if parsed == TypeId::of::<bool>() {
        "boolean"
    } else {
        "string"
    }
}

/// The value as it stands in a file, line breaks escaped.
fn on_one_line(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"))
}

/// Why clap refuses a value, without the option that it names: in a file the option is the key.
fn reason(refusal: &clap::Error) -> String {
    if let Some(cause) = std::error::Error::source(refusal) {
        return cause.to_string();
    }
    match refusal.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => format!("expected one of {}", valid.join(", ")),
        Some(_) | None => refusal.kind().to_string(),
    }
}

/// The token that opens an ACMS's management interface, where a file has one.
pub(crate) fn read_token(path: Option<&Path>) -> Result<Option<String>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let text = read_text(path)?;
    let token = text.trim_end_matches(['\r', '\n']);
    check_token(token).map_err(|error| ConfigError::Token { path: path.to_owned(), error })?;
    Ok(Some(token.to_owned()))
}

/// The URL of an ACMS's management interface, its port written out.
pub(crate) fn parse_url(text: &str) -> Result<String, CallerError> {
    Caller::new(text, None).map(|acms| acms.origin().to_owned())
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

// No doc comment: clap would take it for the text about the whole program.
#[derive(clap::Args)]
struct ClusterArgs {
    /// Name of the cluster, 1 to 64 bytes; the ACMS and all its servers have the same
    #[arg(long, value_name = "NAME", default_value = "trunkline", value_parser = parse_cluster)]
    cluster: String,
    /// File with the secret that members of the cluster prove to each other: at least 16 bytes, a newline at its end
    /// does not count [default: no secret]
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
}

impl ClusterArgs {
    /// The secret; empty where the cluster has none.
    fn read_secret(&self) -> Result<Vec<u8>, ConfigError> {
        let Some(path) = &self.cluster_secret_file else { return Ok(Vec::new()) };
        let mut secret =
            std::fs::read(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        if secret.last() == Some(&b'\n') {
            secret.pop();
            secret.pop_if(|last| *last == b'\r');
        }
        if secret.len() < CLUSTER_SECRET_BYTES_MIN {
            return Err(ConfigError::ShortSecret { path: path.clone(), bytes: secret.len() });
        }
        Ok(secret)
    }
}

/// Who may ask at a management port.
#[derive(clap::Args)]
struct TokenArgs {
    /// File with the token that operators send as `Authorization: Bearer TOKEN`: at least 16 of letters, digits and
    /// -._~+/= alone, a newline at its end does not count [default: no token]
    #[arg(long, value_name = "FILE")]
    management_token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token; none only where the port is reached from this machine alone.
    fn read(&self, management: Option<SocketAddr>) -> Result<Option<Token>, ConfigError> {
        let Some(path) = &self.management_token_file else {
            return match management.filter(|addr| !addr.ip().to_canonical().is_loopback()) {
                Some(management) => Err(ConfigError::TokenRequired { management }),
                None => Ok(None),
            };
        };
        let text = read_text(path)?;
        let token = text.strip_suffix('\n').unwrap_or(&text);
        let token = token.strip_suffix('\r').unwrap_or(token).parse();
        token.map(Some).map_err(|fault| ConfigError::BadToken { path: path.clone(), fault })
    }
}

/// Microseconds that a rest may take.
const REST_US: std::ops::RangeInclusive<u64> = 0..=limits::REST_MAX.as_micros();

/// What a server's reactor trades.
#[derive(clap::Args)]
struct TuningArgs {
    /// Microseconds from one turn of the loop to the next under load, at least: less CPU, more latency; in 0..=10000
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = RangedU64ValueParser::<u64>::new().range(REST_US))]
    rest_us: u64,
}

impl TuningArgs {
    fn tuning(&self) -> Tuning {
        Tuning { rest: Span::from_micros(self.rest_us) }
    }
}

/// Bytes that connections may hold.
const MEMORY: std::ops::RangeFrom<u64> = limits::MEMORY_MAX_FLOOR as u64..;

/// What a server's connections may hold.
#[derive(clap::Args)]
struct MemoryArgs {
    /// Bytes that wait in this process for all its connections together, at most; 8388608 or more [default: an eighth of
    /// the memory that the process may use]
    #[arg(long, value_name = "BYTES", value_parser = RangedU64ValueParser::<usize>::new().range(MEMORY))]
    max_memory: Option<usize>,
}

fn parse_cluster(text: &str) -> Result<String, IdError> {
    check_id(text.as_bytes()).map(|()| text.to_owned())
}

/// A host and a port as an operator writes them: `as01.example:6000`, `127.0.0.1:6000`, `[::1]:6000`. Not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

/// Why text is no host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// The host is empty, or has a character that none has.
    #[error("a host is a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// More than one colon outside brackets, or no IPv6 address in them.
    #[error("an IPv6 address stands in brackets: [::1]:6000")]
    Brackets,
    /// The port is missing, and there is none to assume.
    #[error("a port must follow the host: HOST:PORT")]
    NoPort,
    /// The port is no number, or out of range.
    #[error("a port is in 1..=65535")]
    Port,
}

impl HostPort {
    /// Parses `HOST` or `HOST:PORT`, with `port` where none is named.
    pub fn parse_or_port(text: &str, port: u16) -> Result<HostPort, HostPortError> {
        HostPort::split(text).and_then(|(host, named)| Ok(HostPort { host, port: parse_port(named)?.unwrap_or(port) }))
    }

    fn split(text: &str) -> Result<(String, Option<&str>), HostPortError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => split_bracketed(rest)?,
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if port.is_some_and(|port| port.contains(':')) {
            return Err(HostPortError::Brackets);
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !(host.contains(':') || host.bytes().all(is_name)) {
            return Err(HostPortError::Host);
        }
        Ok((host.to_owned(), port))
    }
}

/// Takes `host]` or `host]:port` apart.
fn split_bracketed(text: &str) -> Result<(&str, Option<&str>), HostPortError> {
    let (host, rest) = text.split_once(']').ok_or(HostPortError::Brackets)?;
    host.parse::<Ipv6Addr>().map_err(|_| HostPortError::Brackets)?;
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(HostPortError::Brackets),
    }
}

fn parse_port(port: Option<&str>) -> Result<Option<u16>, HostPortError> {
    match port.map(str::parse) {
        None => Ok(None),
        Some(Ok(0) | Err(_)) => Err(HostPortError::Port),
        Some(Ok(port)) => Ok(Some(port)),
    }
}

/// Parses `HOST:PORT`.
impl FromStr for HostPort {
    type Err = HostPortError;
    fn from_str(text: &str) -> Result<HostPort, HostPortError> {
        let (host, port) = HostPort::split(text)?;
        Ok(HostPort { host, port: parse_port(port)?.ok_or(HostPortError::NoPort)? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
