//! The operator's commands of `trunkline`: each asks the management interface of an ACMS, and prints the answer.

mod args;
mod events;
mod report;
mod screen;
mod table;
mod top;

pub use args::{Acms, Recipient, Request};

use std::io::{self, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::caller::{CallError, Caller, CallerError, escaped};
use crate::config::ConfigError;
use crate::limits;
use report::{Count, Group, Place, Reaction, Server, Servers, Users};

/// Why a command came to nothing: one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The options.
    #[error(transparent)]
    Options(#[from] ConfigError),
    /// The way to the ACMS.
    #[error(transparent)]
    Way(#[from] CallerError),
    /// The ACMS, which is not there or says no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer is not the one to this question.
    #[error("the answer of the ACMS cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A message came back.
    #[error("not delivered: {0}")]
    Bounced(String),
    /// The ACMS ended a stream of events.
    #[error("the ACMS tells no more")]
    NoMoreEvents,
    /// The terminal, or whatever the output is.
    #[error("output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Whether only the reader of the output has gone, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Does what was asked for, and prints what there is to say.
pub fn run(request: Request, output: &mut impl Write) -> Result<(), Failure> {
    match request {
        Request::Servers { acms, server: None } => Operator::new(acms)?.servers(output),
        Request::Servers { acms, server: Some(server) } => Operator::new(acms)?.server(server, output),
        Request::Users { acms, server, limit, after } => Operator::new(acms)?.users(server, limit, after, output),
        Request::Where { acms, user } => Operator::new(acms)?.place(user.as_str(), output),
        Request::Kick { acms, user, text } => Operator::new(acms)?.kick(user.as_str(), text.as_deref(), output),
        Request::Freeze { acms, server } => Operator::new(acms)?.steer(server, "freeze", "is frozen", output),
        Request::Unfreeze { acms, server } => Operator::new(acms)?.steer(server, "unfreeze", "takes new users", output),
        Request::Drain { acms, server } => Operator::new(acms)?.steer(server, "drain", "drains", output),
        Request::Remove { acms, server } => Operator::new(acms)?.steer(server, "remove", "is removed", output),
        Request::Send { acms, to, info_type, answer, timeout_ms, text } => {
            let patience = Duration::from_millis(timeout_ms);
            Operator::new(acms)?.send(&to, info_type, answer, patience, &text, output)
        }
        Request::Count { acms } => Operator::new(acms)?.count(output),
        Request::Group { acms, group } => Operator::new(acms)?.group(&group, output),
        Request::Events { acms, no_users } => Operator::new(acms)?.events(no_users, output),
        Request::Top { acms } => Operator::new(acms)?.top(output),
    }
}

/// Who asks, and how the answers are to look.
struct Operator {
    caller: Caller,
    /// As the ACMS wrote it.
    json: bool,
}

impl Operator {
    fn new(acms: Acms) -> Result<Operator, Failure> {
        let Acms { acms, token_file, json } = acms;
        let token = crate::config::read_token(token_file.as_deref())?;
        Ok(Operator { caller: Caller::new(&acms, token.as_deref())?, json })
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.caller.call("GET", path, None, limits::MANAGEMENT_TIMEOUT.to_duration())
    }

    fn command(&self, method: &'static str, path: &str) -> Result<Value, CallError> {
        self.caller.call(method, path, None, limits::MANAGEMENT_TIMEOUT.to_duration())
    }

    /// Prints an answer as it came, or as `show` does.
    fn print<T: DeserializeOwned>(
        &self,
        answer: Value,
        output: &mut impl Write,
        show: impl FnOnce(T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            writeln!(output, "{answer}")?;
        } else {
            write!(output, "{}", show(serde_json::from_value(answer)?))?;
        }
        Ok(())
    }

    fn servers(&self, output: &mut impl Write) -> Result<(), Failure> {
        self.print(self.get("/v1/servers")?, output, |servers: Servers| report::servers(&servers))
    }

    fn server(&self, server: u16, output: &mut impl Write) -> Result<(), Failure> {
        self.print(self.get(&format!("/v1/servers/{server}"))?, output, |server: Server| report::server(&server))
    }

    fn count(&self, output: &mut impl Write) -> Result<(), Failure> {
        self.print(self.get("/v1/count")?, output, |count: Count| report::count(&count))
    }

    fn place(&self, user: &str, output: &mut impl Write) -> Result<(), Failure> {
        let answer = self.get(&format!("/v1/users/{}", escaped(user)))?;
        self.print(answer, output, |place: Place| report::place(&place))
    }

    fn group(&self, group: &str, output: &mut impl Write) -> Result<(), Failure> {
        let answer = self.get(&format!("/v1/groups/{}", escaped(group)))?;
        self.print(answer, output, |group: Group| report::group(&group))
    }

    /// As many as asked for, in as many pages as that takes.
    fn users(
        &self,
        server: Option<u16>,
        limit: usize,
        after: Option<String>,
        output: &mut impl Write,
    ) -> Result<(), Failure> {
        let mut users = Users { next: after, ..Users::default() };
        loop {
            let page = (limit - users.users.len()).min(limits::MANAGEMENT_PAGE_MAX);
            let mut path = format!("/v1/users?limit={page}");
            if let Some(server) = server {
                path += &format!("&server={server}");
            }
            if let Some(after) = &users.next {
                path += &format!("&after={}", escaped(after));
            }
            let page: Users = self.get(&path)?;
            (users.next, users.total) = (page.next, page.total);
            users.users.extend(page.users);
            if users.next.is_none() || users.users.len() >= limit {
                break;
            }
        }
        self.print(serde_json::to_value(&users)?, output, |users: Users| report::users(&users, server))
    }

    fn kick(&self, user: &str, text: Option<&str>, output: &mut impl Write) -> Result<(), Failure> {
        let text = text.map_or(String::new(), |text| format!("?text={}", escaped(text)));
        let answer = self.command("DELETE", &format!("/v1/users/{}{text}", escaped(user)))?;
        self.print(answer, output, |_: Value| format!("{user} is kicked\n"))
    }

    fn steer(&self, server: u16, verb: &str, done: &str, output: &mut impl Write) -> Result<(), Failure> {
        let answer = self.command("POST", &format!("/v1/servers/{server}/{verb}"))?;
        self.print(answer, output, |_: Value| format!("server {server} {done}\n"))
    }

    fn send(
        &self,
        to: &Recipient,
        info_type: u32,
        answer: bool,
        patience: Duration,
        text: &str,
        output: &mut impl Write,
    ) -> Result<(), Failure> {
        let mut message = json!({ "to": to.in_json(), "info_type": info_type, "body": text });
        if answer {
            message["answer"] = true.into();
            message["timeout_ms"] = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).into();
        }
        // The ACMS waits for the receiver as long as that; its own answer takes some more.
        let patience = patience + limits::MANAGEMENT_TIMEOUT.to_duration();
        let reaction: Value = self.caller.call("POST", "/v1/messages", Some(&message), patience)?;
        if self.json {
            writeln!(output, "{reaction}")?;
        }
        let reaction: Option<Reaction> = serde_json::from_value(reaction)?;
        let said = report::reaction(&reaction.unwrap_or_default(), to)?;
        if !self.json {
            writeln!(output, "{said}")?;
        }
        Ok(())
    }
}
