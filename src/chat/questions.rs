//! Questions in the conversation: /ask puts one to a user, /answer answers the one that has waited longest.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::{Chat, milliseconds, now, printable};
use crate::engine::{Pending, Query};
use crate::id::UserId;
use crate::role::client::{QueryFailure, SendError};

/// How long an answer is waited for, on both sides: a person has to type it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Questions of others that wait to be answered, at most.
const OPEN_MAX: usize = 16;

/// A question whose answer is awaited.
pub(super) struct Asked {
    to: UserId,
    since: Instant,
    pub(super) outcome: Pending<Result<Result<Vec<u8>, QueryFailure>, SendError>>,
}

/// Questions that others wait for an answer to, and since when.
#[derive(Default)]
pub(super) struct Open(VecDeque<(Query, Instant)>);

impl Chat {
    /// `/ask NAME TEXT`.
    pub(super) fn ask_user(&mut self, rest: &str, output: &mut impl Write) -> io::Result<()> {
        let (name, text) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        let to: UserId = match name.parse() {
            Ok(to) => to,
            Err(error) => return writeln!(output, "/ask NAME TEXT: {error}"),
        };
        match self.client.query(Some(&to), 0, text.as_bytes().to_vec(), PATIENCE) {
            Ok(outcome) => self.questions.push(Asked { to, since: now(), outcome }),
            Err(error) => {
                self.all_delivered = false;
                writeln!(output, "not asked: {error}")?;
            }
        }
        Ok(())
    }

    pub(super) fn show_reply(&mut self, place: usize, output: &mut impl Write) -> io::Result<()> {
        let Asked { to, since, outcome } = self.questions.remove(place);
        let failure = match outcome.wait() {
            Ok(Ok(Ok(body))) => {
                let took = milliseconds(since.elapsed());
                return writeln!(output, "{to} answers: {}   (after {took})", printable(&body));
            }
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(stopped) => stopped.to_string(),
        };
        self.all_delivered = false;
        writeln!(output, "no answer from {to}: {}", printable(failure.as_bytes()))
    }

    /// Somebody asks.
    pub(super) fn show_question(&mut self, query: Query, output: &mut impl Write) -> io::Result<()> {
        let text = printable(&query.message.body);
        let from = asker(&query);
        self.open.forget_late(output)?;
        if self.open.0.len() >= OPEN_MAX {
            query.fail("too many questions wait already");
            return writeln!(output, "{from} asks: {text}   (refused: answer those before first)");
        }
        self.open.0.push_back((query, now()));
        writeln!(output, "{from} asks: {text}   (/answer TEXT)")
    }

    /// `/answer TEXT`.
    pub(super) fn answer(&mut self, text: &str, output: &mut impl Write) -> io::Result<()> {
        self.open.forget_late(output)?;
        let Some((query, _)) = self.open.0.pop_front() else {
            return writeln!(output, "nobody asks anything");
        };
        let from = asker(&query);
        query.reply(text.as_bytes().to_vec());
        writeln!(output, "answered {from}")
    }

    /// Tells those who asked that nobody is there to answer any more.
    pub(super) fn refuse_open(&mut self) {
        if self.open.0.is_empty() {
            return;
        }
        self.open.0.drain(..).for_each(|(query, _)| query.fail("the chat was left"));
        // What is answered behind it shows that the server has it, where there is one.
        if let Ok(behind) = self.client.locate(&[]) {
            drop(behind.wait());
        }
    }
}

impl Open {
    /// Whoever asked that long ago does not wait any more.
    fn forget_late(&mut self, output: &mut impl Write) -> io::Result<()> {
        while let Some((query, _)) = self.0.pop_front_if(|(_, since)| since.elapsed() >= PATIENCE) {
            writeln!(output, "{} waits for an answer no longer", asker(&query))?;
        }
        Ok(())
    }
}

fn asker(query: &Query) -> String {
    query.message.from.as_ref().map_or("the server".to_owned(), UserId::to_string)
}
