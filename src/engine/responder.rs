//! Answers to queries: given at once or later, from any thread, exactly one each.

use std::sync::Arc;
use std::thread::ThreadId;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::failure;
use crate::limits;
use crate::net::Wake;
use crate::role::appserver::QuerySource;

/// What a query is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A REPLY with this body.
    Body(Vec<u8>),
    /// A REPLY with the flag ERROR and this text.
    Failure(String),
    /// BOUNCE(NO_HANDLER).
    Unknown,
    /// Nothing: other fragments of the query follow.
    Nothing,
}

/// Answers one query, now or later, from any thread. One that is dropped without an answer tells the asker that the
/// handler failed; of a fragment that others follow, it tells nothing.
///
/// A server owes 65,536 answers at most; past that, queries bounce BUSY. Who asks has a time limit of its own, so an
/// answer that comes too late is for nobody.
#[derive(Debug)]
pub struct Responder {
    /// Taken by the answer.
    query: Option<QuerySource>,
    more: bool,
    answers: Sender<(QuerySource, Answer)>,
    wake: Arc<Wake>,
    /// The engine's own thread looks for answers behind each call of the application's anyway.
    engine: ThreadId,
}

impl Responder {
    /// Answers the query.
    pub fn send(mut self, body: Vec<u8>) {
        self.answer(Answer::Body(body));
    }

    /// Tells the asker why there is no answer: [`QueryFailure::Failed`](crate::role::client::QueryFailure::Failed).
    pub fn fail(mut self, text: &str) {
        self.answer(Answer::Failure(failure(text)));
    }

    /// Tells the asker that nobody here answers such queries: BOUNCE(NO_HANDLER), as where there is no handler at all.
    pub fn decline(mut self) {
        self.answer(Answer::Unknown);
    }

    /// What it answers.
    pub(super) fn query(&self) -> &QuerySource {
        self.query.as_ref().expect("an answer takes the responder along")
    }

    /// Whether a program that has not logged in asks.
    pub(super) fn is_to_stranger(&self) -> bool {
        matches!(self.query(), QuerySource::Stranger { .. })
    }

    fn answer(&mut self, answer: Answer) {
        let Some(query) = self.query.take() else { return };
        let told = self.answers.send((query, answer)).is_ok();
        if told && std::thread::current().id() != self.engine {
            self.wake.wake();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.answer(match (self.more, std::thread::panicking()) {
            (true, _) => Answer::Nothing,
            (false, true) => Answer::Failure("the handler failed".to_owned()),
            (false, false) => Answer::Failure("the handler gave no answer".to_owned()),
        });
    }
}

/// The answers that an engine's application owes.
pub(super) struct Answers {
    sender: Sender<(QuerySource, Answer)>,
    receiver: Receiver<(QuerySource, Answer)>,
    wake: Arc<Wake>,
    /// Responders whose answer has not been taken: the channel holds no more than these.
    owed: usize,
}

impl Answers {
    pub(super) fn new(wake: Arc<Wake>) -> Answers {
        let (sender, receiver) = unbounded();
        Answers { sender, receiver, wake, owed: 0 }
    }

    /// What answers the query; called on the engine's thread. `Err` where too many answers are owed.
    pub(super) fn owe(&mut self, query: QuerySource, more: bool) -> Result<Responder, QuerySource> {
        if self.owed >= limits::ANSWERS_OWED_MAX {
            return Err(query);
        }
        self.owed += 1;
        Ok(Responder {
            query: Some(query),
            more,
            answers: self.sender.clone(),
            wake: Arc::clone(&self.wake),
            engine: std::thread::current().id(),
        })
    }

    /// Takes a responder back that nobody got, for the engine to answer the query itself.
    pub(super) fn withdraw(&mut self, mut responder: Responder) -> QuerySource {
        self.owed -= 1;
        responder.query.take().expect("nobody had it to answer with")
    }

    /// The next answer that was given.
    pub(super) fn poll(&mut self) -> Option<(QuerySource, Answer)> {
        let answered = self.receiver.try_recv().ok()?;
        self.owed -= 1;
        Some(answered)
    }
}
