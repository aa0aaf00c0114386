//! What the receivers of queries make of them: an answer of one kind or another, at once or later, once.

use trunkline::id::UserId;
use trunkline::role::appserver::QuerySource;
use trunkline::wire::{Bounce, Flags};

use crate::model::{Answer, Model};
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{SERVER_ITSELF, Step, server_name};
use crate::world::World;

/// World time, in microseconds, within which a query is answered that is answered later.
const LATER_MICROS: u64 = 3_000_000;

/// A query that an application has and has not answered.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Where, at its start number `boot`.
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) serial: u64,
    pub(crate) asker: Asker,
}

/// What the answer needs.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// A user asked its server, or a server's application another's.
    OfServer(QuerySource),
    /// A user, or a server, asked a user.
    OfUser { from: Option<UserId>, id: u64 },
}

impl World {
    /// An application was asked.
    pub(crate) fn asked(&mut self, node: NodeId, serial: u64, asker: Asker) {
        let question = Question { node, boot: self.nodes[node].boot, serial, asker };
        if self.rng.u8(0..self.plan.slow_answer) == 0 {
            let later = self.clock + self.rng.u64(1..LATER_MICROS);
            return self.schedule(later, Step::Answer(question));
        }
        self.answer(question);
    }

    /// The application answers, unless it is gone.
    pub(crate) fn answer(&mut self, question: Question) {
        let Question { node, boot, serial, asker } = question;
        let place = &mut self.nodes[node];
        if place.boot != boot || place.is_down() {
            return;
        }
        let answers = [Answer::Reply, Answer::Failure, Answer::None, Answer::Denial];
        let kinds = if matches!(asker, Asker::OfServer(_)) { 4 } else { 3 };
        let answer = if self.rng.u8(0..4) > 0 { Answer::Reply } else { answers[self.rng.usize(0..kinds)] };
        let now = place.now(self.clock);
        self.model.answers(serial, answer);
        let (flags, body) = match (answer, &asker) {
            (Answer::Reply, Asker::OfServer(QuerySource::User(_) | QuerySource::Stranger { .. })) => {
                (Flags::NONE, Model::reply_body(serial, SERVER_ITSELF))
            }
            (Answer::Reply, Asker::OfServer(QuerySource::Server { .. })) => {
                (Flags::NONE, Model::reply_body(serial, &server_name(node)))
            }
            (Answer::Reply, Asker::OfUser { .. }) => {
                (Flags::NONE, Model::reply_body(serial, &self.engines[&node].user))
            }
            (Answer::Failure, _) => (Flags::ERROR, Model::failure_text(serial).into_bytes()),
            (Answer::None | Answer::Denial, _) => (Flags::ERROR, Vec::new()),
        };
        let told = match (&mut place.role, asker) {
            (Role::Server(server), Asker::OfServer(query)) if answer == Answer::Denial => {
                server.refuse_query(now, &query, Bounce::Denied);
                Ok(())
            }
            (Role::Server(server), Asker::OfServer(query)) => {
                server.answer_query(now, &query, flags, &body);
                Ok(())
            }
            (Role::Client(client), Asker::OfUser { from, id }) => client.reply(now, from.as_ref(), id, flags, 0, &body),
            (Role::Acms(_) | Role::Server(_) | Role::Client(_) | Role::Stranger(_) | Role::Down, _) => {
                panic!("n{node} is not who was asked")
            }
        };
        self.note(|| format!("n{node} answers #{serial}: {answer:?} {told:?}"));
        self.touch(node);
    }
}
