//! Those who keep no rule: raw bytes on the clients' and on the servers' port, and what must never come of them.

use std::collections::VecDeque;

use bytes::BytesMut;
use trunkline::id::ServerId;
use trunkline::wire::link::{Membership, Prover};

use crate::cluster::{ACMS, LIAR, NAME, PASSWORD, SECRET, SERVERS};
use crate::model::Forged;
use crate::network::{Network, NodeId, Port};
use crate::scenario::GHOST;

/// What a stranger is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Random bytes, on any port.
    Noise,
    /// HTTP, or a server's greeting, on a client's port.
    WrongPort,
    /// A message before any login.
    EarlyMessage,
    /// In, and then a length of four gigabytes.
    Oversized,
    /// In, and then messages in the name of others.
    Spoofer,
    /// In, and then acknowledgements and replies to what others sent to others.
    Forger,
    /// In, then half a frame and silence.
    HalfFrame,
    /// Not a byte.
    Silence,
    /// A login byte by byte, too slowly.
    Drip,
    /// Another's name with a wrong password, gone before the answer or not.
    Burglar,
    /// In, and then a frame of a kind that no client may send.
    WrongKind,
    /// A server that cannot prove that it is one.
    Impostor,
    /// In, and then messages for ever, faster than the rates allow.
    Flooder,
    /// A server of the cluster that passes on messages in the name of users who are not its own.
    Liar,
}

impl Intent {
    /// All but [`Intent::Flooder`], which nobody minds where there are no rates.
    pub(crate) const ALL: [Intent; 13] = [
        Intent::Noise,
        Intent::WrongPort,
        Intent::EarlyMessage,
        Intent::Oversized,
        Intent::Spoofer,
        Intent::Forger,
        Intent::HalfFrame,
        Intent::Silence,
        Intent::Drip,
        Intent::Burglar,
        Intent::WrongKind,
        Intent::Impostor,
        Intent::Liar,
    ];

    /// Whether it hangs up itself once all is said; the others wait to be thrown out.
    fn hangs_up(self) -> bool {
        matches!(self, Intent::Forger | Intent::Burglar | Intent::Liar)
    }
}

/// Microseconds between two floods of one flooder.
const REFRAIN_MICROS: u64 = 100_000;

/// A connection without a core.
pub(crate) struct Stranger {
    pub(crate) intent: Intent,
    target: NodeId,
    port: Option<Port>,
    is_open: bool,
    /// What to say, each after a pause in microseconds.
    script: VecDeque<(u64, Vec<u8>)>,
    /// What to say over and over once that is said; nothing for most.
    refrain: Vec<u8>,
    next_at: u64,
    heard: Vec<u8>,
    /// What a liar says once it is in.
    lies: Vec<Vec<u8>>,
    pub(crate) is_over: bool,
    /// World time at which it hangs up, whatever it waits for.
    pub(crate) gives_up_at: u64,
}

/// A frame by the protocol's table, not by the product's encoder.
pub(crate) fn frame(kind: u8, flags: u8, info_type: u32, id: u64, ids: [&str; 2], body: &[u8]) -> Vec<u8> {
    let [to, from] = ids;
    let length = 16 + to.len() + from.len() + body.len();
    let mut bytes = (length as u32).to_be_bytes().to_vec();
    bytes.extend([kind, flags, to.len() as u8, from.len() as u8]);
    bytes.extend(info_type.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    [to.as_bytes(), from.as_bytes(), body].iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

const CLIENT: &[u8] = b"TRNK\x00\x01\x01\x00";
const SERVER: &[u8] = b"TRNK\x01\x01\x01\x00";

fn login(user: &str, password: &str) -> Vec<u8> {
    frame(0x01, 0, 0, 0, ["", user], format!("{{\"password\":\"{password}\"}}").as_bytes())
}

/// Forty messages to nobody: four hundred a second.
fn flood(name: &str) -> Vec<u8> {
    frame(0x10, 0, 0, 1, [GHOST, name], b"more").repeat(40)
}

impl Stranger {
    /// `name` is a user id of its own; `forged` what it will say in the name of others.
    pub(crate) fn new(
        intent: Intent,
        name: &str,
        users: &[String],
        forged: &Forged,
        rng: &mut fastrand::Rng,
    ) -> Stranger {
        let target = match intent {
            Intent::Impostor | Intent::Liar => ACMS,
            Intent::Noise => rng.usize(0..=SERVERS.len()),
            _ => rng.choice(SERVERS).expect("not empty"),
        };
        let entered = || (0, [CLIENT, &login(name, PASSWORD)].concat());
        let in_others_names = || {
            forged.messages.iter().map(|message| {
                let [to, from] = [&message.to, &message.from];
                (1_000, frame(message.kind, message.flags, 0, message.id, [to, from], &message.body))
            })
        };
        let garbage: Vec<u8> = (0..rng.usize(1..300)).map(|_| rng.u8(..)).collect();
        let victim = &users[rng.usize(0..users.len())];
        let script: Vec<(u64, Vec<u8>)> = match intent {
            Intent::Noise => vec![(0, garbage)],
            Intent::WrongPort if rng.bool() => vec![(0, b"GET / HTTP/1.1\r\n\r\n".to_vec())],
            Intent::WrongPort => vec![(0, SERVER.to_vec())],
            Intent::EarlyMessage => std::iter::once((0, CLIENT.to_vec())).chain(in_others_names()).collect(),
            Intent::Oversized => vec![entered(), (700_000, vec![0xff; 9])],
            Intent::Spoofer => {
                std::iter::once(entered()).chain([(700_000, Vec::new())]).chain(in_others_names()).collect()
            }
            Intent::Forger => {
                let answers = forged.answers.iter().flat_map(|(to, id)| {
                    let [ack, reply] = [0x11, 0x14].map(|kind| frame(kind, 0, 0, *id, [to, name], b"forged"));
                    [(1_000, ack), (1_000, reply)]
                });
                std::iter::once(entered()).chain([(700_000, Vec::new())]).chain(answers).collect()
            }
            Intent::HalfFrame => {
                let mut half = frame(0x10, 0, 0, 7, [victim, name], &garbage);
                half.truncate(rng.usize(1..half.len()));
                vec![entered(), (700_000, half)]
            }
            Intent::Silence => Vec::new(),
            Intent::Flooder => vec![entered(), (700_000, flood(name))],
            Intent::Drip => entered().1.into_iter().map(|byte| (900_000, vec![byte])).collect(),
            Intent::Burglar => {
                vec![(0, [CLIENT, &login(victim, "let me in")].concat()), (rng.u64(0..1_000_000), vec![])]
            }
            Intent::WrongKind => {
                let kind = *rng.choice(&[0x01, 0x02, 0x12, 0x30, 0x84, 0x88, 0x8a, 0xff]).expect("not empty");
                vec![entered(), (700_000, frame(kind, 0, 0, 7, ["", name], b""))]
            }
            Intent::Impostor => {
                let proof = [garbage.as_slice(), &[0; 64]].concat();
                let prove = frame(0x81, 0, 1, u64::MAX, [NAME, ""], &proof[..64]);
                let mut said =
                    vec![(0, [SERVER, &prove, &register()].concat()), (100_000, frame(0x87, 0, 0, 0, ["", ""], b""))];
                said.push((1_000, frame(0x84, 0, 0, 99, ["", victim], b"")));
                said.extend(in_others_names());
                said
            }
            Intent::Liar => vec![(0, SERVER.to_vec())],
        };
        let lies = in_others_names().map(|(_, lie)| lie).collect();
        let (port, heard) = (None, Vec::new());
        Stranger {
            intent,
            target,
            port,
            is_open: false,
            script: script.into(),
            refrain: if intent == Intent::Flooder { flood(name) } else { Vec::new() },
            next_at: 0,
            heard,
            lies,
            is_over: false,
            gives_up_at: u64::MAX,
        }
    }

    pub(crate) fn turn(&mut self, world: u64, id: NodeId, network: &mut Network) {
        if self.is_over {
            return;
        }
        let Some(port) = self.port else {
            self.port = Some(network.dial(world, id, self.target));
            return;
        };
        network.advance(world, port);
        if !self.is_open && network.is_open(port) {
            self.is_open = true;
            self.next_at = world + self.script.front().map_or(0, |(pause, _)| *pause);
        }
        self.listen(world, port, network);
        let has_ended = network.ended(port).is_some() && network.unread(port) == 0;
        if has_ended || world >= self.gives_up_at {
            return self.hang_up(world, port, network);
        }
        if self.is_open {
            self.speak(world, id, port, network);
        }
    }

    fn listen(&mut self, world: u64, port: Port, network: &mut Network) {
        let mut bytes = BytesMut::new();
        network.read(world, port, usize::MAX, &mut bytes);
        self.heard.extend_from_slice(&bytes);
        while let Some((length, rest)) = self.heard.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) else { break };
            self.heard.drain(..4 + length);
            self.hear(&frame);
        }
    }

    /// A frame came, without its length.
    fn hear(&mut self, frame: &[u8]) {
        let kind = frame[0];
        let is_in = kind == 0x02 || kind == 0x83;
        let may_be_in = !matches!(
            self.intent,
            Intent::Noise
                | Intent::WrongPort
                | Intent::EarlyMessage
                | Intent::Burglar
                | Intent::Impostor
                | Intent::Silence
        );
        assert!(!is_in || may_be_in, "a stranger was let in: {:?}", self.intent);
        if self.intent == Intent::Liar {
            match kind {
                0x80 => self.script.push_back((0, self.proof(frame))),
                0x83 => {
                    let [begin, synced] = [0x87, 0x89].map(|kind| crate::stranger::frame(kind, 0, 0, 0, ["", ""], b""));
                    let lies = std::mem::take(&mut self.lies).concat();
                    self.script.extend([(0, [begin, synced].concat()), (50_000, lies), (500_000, Vec::new())]);
                }
                _ => {}
            }
        }
    }

    /// The answer to a CHALLENGE.
    fn proof(&self, challenge: &[u8]) -> Vec<u8> {
        let epoch = u64::from_be_bytes(challenge[8..16].try_into().expect("eight bytes"));
        let acms_nonce = challenge[16..48].try_into().expect("32 bytes");
        let (server, incarnation, server_nonce) = (ServerId(LIAR), self.next_at, [7; 32]);
        let membership = Membership { cluster: NAME, server, incarnation, epoch, acms_nonce, server_nonce };
        let body = [server_nonce, membership.prove(SECRET, Prover::Server)].concat();
        [frame(0x81, 0, LIAR.into(), incarnation, [NAME, ""], &body), register()].concat()
    }

    fn speak(&mut self, world: u64, id: NodeId, port: Port, network: &mut Network) {
        while let Some((_, bytes)) = self.script.front() {
            if self.next_at > world {
                network.wakes.insert((self.next_at, id));
                return;
            }
            if network.room(port) < bytes.len() {
                return network.await_room(port);
            }
            let bytes = self.script.pop_front().map(|(_, bytes)| bytes).unwrap_or_default();
            if !bytes.is_empty() && network.write(world, port, &bytes).is_err() {
                return self.hang_up(world, port, network);
            }
            if self.script.is_empty() && !self.refrain.is_empty() {
                self.script.push_back((REFRAIN_MICROS, self.refrain.clone()));
            }
            self.next_at = world + self.script.front().map_or(0, |(pause, _)| *pause);
        }
        if self.intent.hangs_up() && (self.intent != Intent::Liar || self.lies.is_empty()) {
            self.hang_up(world, port, network);
        }
    }

    fn hang_up(&mut self, world: u64, port: Port, network: &mut Network) {
        network.drop_port(world, port);
        self.is_over = true;
    }
}

/// Who believes it sends users to where nobody listens: to the first user's program.
fn register() -> Vec<u8> {
    frame(0x82, 0, 0, 0, ["", ""], br#"{"address":"10.0.0.4:7000","capacity":1}"#)
}
