//! What must be true of messages, told without any of the product's code: who sent what, and what became of it.

use std::collections::{BTreeMap, BTreeSet};

/// How a message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Plain,
    /// Plain, and not missed where its receiver reads slowly.
    Droppable,
    Acked,
    Query,
}

/// One client engine's session: its first, its second, and so on; 0 while it has none. A server's are its starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session {
    pub(crate) engine: usize,
    pub(crate) number: u32,
}

/// What the receiver of a query made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply,
    /// Its handler failed, and says so.
    Failure,
    /// It has no handler for it.
    None,
    /// A server's handler said no.
    Denial,
}

/// What a sender was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Taken,
    Answered(Answer),
    Bounced(String),
    Failed(String),
}

/// One message, from its send on.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) manner: Manner,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) sender: Session,
    /// The node of the server that the sender is on.
    pub(crate) via: usize,
    /// World time.
    pub(crate) at: u64,
    pub(crate) deliveries: Vec<Session>,
    /// What its receiver answered.
    pub(crate) answer: Option<Answer>,
    pub(crate) endings: Vec<Ending>,
}

impl Sent {
    pub(crate) fn new(manner: Manner, from: String, to: &str, sender: Session, via: usize, at: u64) -> Sent {
        Sent {
            manner,
            from,
            to: to.to_owned(),
            sender,
            via,
            at,
            deliveries: Vec::new(),
            answer: None,
            endings: Vec::new(),
        }
    }

    /// Whether its sender is told how it ended, whatever happens. A server sends once, and may hear nothing.
    fn is_resolved(&self) -> bool {
        match self.manner {
            Manner::Plain | Manner::Droppable => false,
            Manner::Acked => self.is_sent_again(),
            Manner::Query => true,
        }
    }

    /// Whether its sender's engine sends it until it arrives or no one is there to take it.
    fn is_sent_again(&self) -> bool {
        self.manner == Manner::Acked && !self.from.starts_with('@')
    }
}

/// What somebody says in the names of others; none of it may ever be handed over, nor end anything.
pub(crate) struct Forged {
    pub(crate) messages: Vec<ForgedMessage>,
    /// Users who wait for an answer, and the id that it would have.
    pub(crate) answers: Vec<(String, u64)>,
}

pub(crate) struct ForgedMessage {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u64,
    pub(crate) to: String,
    pub(crate) from: String,
    pub(crate) body: Vec<u8>,
}

/// Everything sent so far. A check that fails panics with what it saw.
#[derive(Default)]
pub(crate) struct Model {
    sent: BTreeMap<u64, Sent>,
    /// Serial numbers by the sender's engine and the id that the engine gave.
    ids: BTreeMap<(usize, u64), u64>,
    /// Ids of processes that are gone: an answer to one may come to the next process at that place.
    former: BTreeSet<(usize, u64)>,
    serials: u64,
    /// The last serial number that went between two sessions in order.
    ordered: BTreeMap<(Session, Session), u64>,
    pub(crate) delivered: u64,
}

const MARK: &[u8; 5] = b"TLSIM";

/// FNV-1a, by words of eight bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64, |hash, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        (hash ^ u64::from_be_bytes(word)).wrapping_mul(0x100_0000_01b3).rotate_left(23)
    })
}

/// A payload that says whose it is: mark, serial, length and bytes of both users, filler, checksum.
fn compose(serial: u64, from: &str, to: &str, filler: usize) -> Vec<u8> {
    let mut body = MARK.to_vec();
    body.extend(serial.to_be_bytes());
    for user in [from, to] {
        body.push(user.len() as u8);
        body.extend(user.as_bytes());
    }
    let start = body.len();
    for at in 0..filler.div_ceil(8) as u64 {
        body.extend_from_slice(&at.wrapping_mul(serial | 1).to_be_bytes());
    }
    body.truncate(start + filler);
    body.extend(checksum(&body).to_be_bytes());
    body
}

pub(crate) fn parse(body: &[u8]) -> Option<(u64, String, String)> {
    let (told, sum) = body.split_last_chunk::<8>()?;
    let (mark, rest) = told.split_first_chunk::<5>()?;
    let (serial, rest) = rest.split_first_chunk::<8>()?;
    let (from, rest) = split_user(rest)?;
    let (to, _) = split_user(rest)?;
    let whole = mark == MARK && checksum(told) == u64::from_be_bytes(*sum);
    whole.then_some((u64::from_be_bytes(*serial), from, to))
}

fn split_user(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (user, rest) = rest.split_at_checked(usize::from(*len))?;
    Some((String::from_utf8(user.to_vec()).ok()?, rest))
}

/// Sends.
impl Model {
    /// The serial number and payload of a message that is about to be sent.
    pub(crate) fn compose(&mut self, from: &str, to: &str, filler: usize) -> (u64, Vec<u8>) {
        self.serials += 1;
        (self.serials, compose(self.serials, from, to, filler))
    }

    /// An engine took the message and gave it `id`.
    pub(crate) fn sent(&mut self, serial: u64, id: u64, sent: Sent) {
        let before = self.ids.insert((sent.sender.engine, id), serial);
        assert_eq!(before, None, "an engine gave the id {id} twice");
        self.sent.insert(serial, sent);
    }

    /// The engine's process is gone: what it sent may stay unresolved.
    pub(crate) fn engine_gone(&mut self, engine: usize) {
        let ids = self.ids.extract_if(.., |(at, _), _| *at == engine);
        for (id, serial) in ids.collect::<Vec<_>>() {
            self.former.insert(id);
            if let Some(sent) = self.sent.get_mut(&serial).filter(|sent| sent.endings.is_empty()) {
                sent.endings.push(Ending::Failed("its engine is gone".into()));
            }
        }
    }

    /// Messages from some users to all of them that nobody sent, and answers to what is unanswered.
    pub(crate) fn forge(&mut self, users: &[String], from: &str) -> Forged {
        let mut messages = Vec::new();
        for (number, to) in users.iter().enumerate() {
            let (serial, body) = self.compose(from, to, 20);
            let (kind, flags) = [(0x10, 0), (0x10, 0x01), (0x13, 0), (0x10, 0x04)][number % 4];
            messages.push(ForgedMessage { kind, flags, id: serial, to: to.clone(), from: from.to_owned(), body });
        }
        let open = self.ids.iter().filter_map(|((_, id), serial)| {
            let sent = self.sent.get(serial).filter(|sent| sent.endings.is_empty() && sent.is_resolved())?;
            Some((sent.from.clone(), *id))
        });
        let answers: Vec<(String, u64)> = open.filter(|(from, _)| !from.starts_with('@')).take(40).collect();
        // An acknowledgement in the name of a receiver, from where that receiver is not.
        for (to, id) in &answers {
            let (to, from, body) = (to.clone(), from.to_owned(), Vec::new());
            messages.push(ForgedMessage { kind: 0x11, flags: 0, id: *id, to, from, body });
        }
        Forged { messages, answers }
    }

    /// Whether an earlier process at that place gave the id.
    pub(crate) fn is_of_former(&self, engine: usize, id: u64) -> bool {
        !self.ids.contains_key(&(engine, id)) && self.former.contains(&(engine, id))
    }
}

/// What happens to them.
impl Model {
    /// `user`'s application was handed a message or a query; returns its serial number.
    pub(crate) fn handed(
        &mut self,
        manner: Manner,
        resent: bool,
        from: &str,
        user: &str,
        at: Session,
        body: &[u8],
    ) -> u64 {
        let (serial, wrote, meant) =
            parse(body).unwrap_or_else(|| panic!("{user} was handed {} bytes that nobody sent", body.len()));
        assert_eq!((wrote.as_str(), meant.as_str()), (from, user), "#{serial} went astray");
        let sent = self.sent.get_mut(&serial).unwrap_or_else(|| panic!("#{serial} was never sent"));
        assert_eq!((sent.manner, &*sent.from, &*sent.to), (manner, from, user), "#{serial} was sent otherwise");
        let repeated = match manner {
            Manner::Acked => sent.deliveries.iter().any(|before| before.engine == at.engine),
            Manner::Plain | Manner::Droppable | Manner::Query => !sent.deliveries.is_empty(),
        };
        assert!(!repeated, "#{serial} was handed over twice: {sent:?}, now to {at:?}");
        let bounced = sent.endings.iter().any(|ending| matches!(ending, Ending::Bounced(_)));
        assert!(manner == Manner::Acked || !bounced, "#{serial} is handed over after it bounced: {sent:?}");
        sent.deliveries.push(at);
        self.delivered += 1;
        let sender = sent.sender;
        if !resent && sender.number > 0 {
            self.keep_order(sender, at, serial);
        }
        serial
    }

    pub(crate) fn keep_order(&mut self, sender: Session, receiver: Session, serial: u64) {
        let last = self.ordered.insert((sender, receiver), serial).unwrap_or(0);
        assert!(last < serial, "#{serial} overtaken by #{last} from {sender:?} to {receiver:?}");
    }

    /// A sender was told what became of its message; returns serial number, receiver and time of the send.
    pub(crate) fn ended(&mut self, engine: usize, id: u64, ending: Ending) -> (u64, String, u64) {
        let serial = *self.ids.get(&(engine, id)).unwrap_or_else(|| panic!("{ending:?} of {id}, which was never sent"));
        let sent = self.sent.get_mut(&serial).expect("an id has its message");
        assert!(sent.endings.is_empty(), "#{serial} ends again, with {ending:?}: {sent:?}");
        match (&ending, sent.manner) {
            (Ending::Taken, Manner::Acked) => {
                assert!(!sent.deliveries.is_empty(), "#{serial} acknowledged, not taken: {sent:?}");
            }
            (Ending::Answered(answer), Manner::Query) => {
                assert_eq!(sent.answer, Some(*answer), "#{serial} was answered otherwise: {sent:?}");
            }
            (Ending::Bounced(_), Manner::Plain | Manner::Droppable | Manner::Query) => {
                assert!(sent.deliveries.is_empty(), "#{serial} bounced and was handed over: {sent:?}");
            }
            (Ending::Bounced(_) | Ending::Failed(_), Manner::Acked) | (Ending::Failed(_), Manner::Query) => {}
            (ending, manner) => panic!("a {manner:?} message cannot end {ending:?}"),
        }
        sent.endings.push(ending);
        (serial, sent.to.clone(), sent.at)
    }

    /// Whether its sender was told that no answer came.
    pub(crate) fn has_failed(&self, engine: usize, id: u64) -> bool {
        let sent = self.ids.get(&(engine, id)).and_then(|serial| self.sent.get(serial));
        sent.is_some_and(|sent| sent.endings.iter().any(|ending| matches!(ending, Ending::Failed(_))))
    }

    /// Who sent it, and when.
    pub(crate) fn origin(&self, serial: u64) -> (Session, u64) {
        let sent = &self.sent[&serial];
        (sent.sender, sent.at)
    }

    /// The receiver of a query answers it.
    pub(crate) fn answers(&mut self, serial: u64, answer: Answer) {
        let sent = self.sent.get_mut(&serial).expect("it was handed over");
        assert_eq!(sent.answer.replace(answer), None, "#{serial} is answered again");
    }

    /// What a receiver says whose handler failed.
    pub(crate) fn failure_text(serial: u64) -> String {
        format!("no, #{serial}")
    }

    /// The reply to the query with this serial number.
    pub(crate) fn reply_body(serial: u64, replier: &str) -> Vec<u8> {
        compose(serial, replier, "reply", 5)
    }

    /// A reply came for the query with `id`.
    pub(crate) fn replied(&mut self, engine: usize, id: u64, body: &[u8]) {
        let (serial, to, _) = self.ended(engine, id, Ending::Answered(Answer::Reply));
        let (told, replier, _) = parse(body).expect("a reply is as it was written");
        assert_eq!((told, replier), (serial, to), "a reply to another query");
    }

    /// The query with `id` failed at its receiver, in these words.
    pub(crate) fn failed(&mut self, engine: usize, id: u64, text: &str) {
        let (serial, _, _) = self.ended(engine, id, Ending::Answered(Answer::Failure));
        assert_eq!(text, Model::failure_text(serial), "the failure of another query");
    }
}

/// At the end.
impl Model {
    pub(crate) fn count(&self) -> usize {
        self.sent.len()
    }

    /// Messages whose sender waits for an ending.
    pub(crate) fn unresolved(&self) -> Vec<u64> {
        let open = self.sent.iter().filter(|(_, sent)| sent.is_resolved() && sent.endings.is_empty());
        open.map(|(serial, _)| *serial).collect()
    }

    /// Messages that were neither handed over nor came back, and of which nobody was told.
    pub(crate) fn vanished(&self) -> impl Iterator<Item = (u64, &Sent)> {
        let is_gone = |sent: &Sent| !sent.is_resolved() && sent.deliveries.is_empty() && sent.endings.is_empty();
        self.sent.iter().map(|(serial, sent)| (*serial, sent)).filter(move |(_, sent)| is_gone(sent))
    }

    /// Where nothing broke and everyone reads, everything sent after `start` arrived, or came back from `nobody`, and
    /// its sender knows.
    pub(crate) fn check_all_arrived(&self, start: u64, nobody: &str) {
        let counts = |sent: &Sent| sent.at >= start && sent.manner != Manner::Droppable;
        for (serial, sent) in self.sent.iter().filter(|(_, sent)| counts(sent)) {
            // RETRY has been judged when it came: only then is it known whether all servers had told of their users.
            let bounced = |cause: &str| vec![Ending::Bounced(cause.to_owned())];
            let wanted = match sent.manner {
                _ if sent.to == nobody && !sent.is_sent_again() && sent.endings == bounced("Retry") => continue,
                _ if sent.to == nobody => bounced("Offline"),
                Manner::Plain | Manner::Droppable => vec![],
                Manner::Acked => vec![Ending::Taken],
                Manner::Query => sent.answer.map(Ending::Answered).into_iter().collect(),
            };
            let deliveries = usize::from(sent.to != nobody);
            assert_eq!((sent.deliveries.len(), &sent.endings), (deliveries, &wanted), "#{serial}: {sent:?}");
        }
    }
}
