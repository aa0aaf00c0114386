//! What one seed is about: each kind of fault is on or off and has odds of its own, so that each seed is another kind of
//! bad day.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::role::appserver::{CutOff, Rates};

use crate::cluster::Settings;
use crate::friends::Friends;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Some connection is reset.
    Reset,
    /// One direction of some connection ends.
    HalfClose,
    /// The ACMS dies, and is started again.
    CrashAcms,
    /// A server dies, and is started again.
    CrashServer,
    /// Nothing passes between a server and the ACMS for a while, one way or both.
    CutUplink,
    /// Nothing passes between a client and its server for a while, one way or both.
    CutClient,
    /// A listener refuses for a while.
    Refuse,
    /// A process gets no turn for a while.
    Stop,
    /// A user's second program logs in while the first is still there.
    LoginTwice,
    /// A user leaves, and logs in elsewhere.
    Roam,
    /// An application takes nothing for a while, and somebody sends it much.
    Hold,
    /// Somebody sends far more than fits.
    Flood,
    /// Somebody who is no honest client or member speaks to a port.
    Stranger,
    /// A server sends its users to the others, ends, and is started again; or two do at once.
    Drain,
}

impl Fault {
    const ALL: [Fault; 14] = [
        Fault::Reset,
        Fault::HalfClose,
        Fault::CrashAcms,
        Fault::CrashServer,
        Fault::CutUplink,
        Fault::CutClient,
        Fault::Refuse,
        Fault::Stop,
        Fault::LoginTwice,
        Fault::Roam,
        Fault::Hold,
        Fault::Flood,
        Fault::Stranger,
        Fault::Drain,
    ];

    /// Whether it may end a session of an honest client.
    fn ends_sessions(self) -> bool {
        match self {
            Fault::Reset | Fault::HalfClose | Fault::CrashServer | Fault::CutClient | Fault::Stop => true,
            Fault::LoginTwice | Fault::Roam | Fault::Hold | Fault::Drain => true,
            // A client that is not read from for ten seconds, since its server has no room, takes it for dead.
            Fault::Flood => true,
            Fault::CrashAcms | Fault::CutUplink | Fault::Refuse | Fault::Stranger => false,
        }
    }

    /// Whether it may end a link between a server and the ACMS.
    fn ends_links(self) -> bool {
        match self {
            Fault::Reset | Fault::HalfClose | Fault::CrashAcms | Fault::CrashServer => true,
            Fault::CutUplink | Fault::Stop | Fault::Drain => true,
            Fault::CutClient | Fault::Refuse | Fault::LoginTwice | Fault::Roam => false,
            Fault::Hold | Fault::Flood | Fault::Stranger => false,
        }
    }
}

/// The seed's day.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) users: Vec<String>,
    /// World time at which users stop acting and everything heals.
    pub(crate) ends: u64,
    pub(crate) acts: usize,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// Bytes of a large message.
    pub(crate) large: usize,
    /// One act in so many goes to the first user.
    pub(crate) crowding: u8,
    /// One login in so many is looked at for a while.
    pub(crate) slow_verdict: u8,
    /// One query in so many is answered later.
    pub(crate) slow_answer: u8,
    /// Groups that users are in; none in some.
    pub(crate) groups: Vec<String>,
    /// Whether blobs are sent.
    pub(crate) has_blobs: bool,
    /// Whose comings and goings each user hears of.
    pub(crate) friends: BTreeMap<String, Friends>,
    /// Whether servers' own code sends and asks.
    pub(crate) servers_talk: bool,
    /// Whether the ACMS says where users log in; else they go anywhere.
    pub(crate) assigns: bool,
    pub(crate) settings: Settings,
    /// How far clocks are off, in parts per million.
    pub(crate) drift: u64,
    /// One death in so many is silent.
    pub(crate) silence: u8,
    /// One restart in so many is faster than anybody notices.
    pub(crate) haste: u8,
}

impl Plan {
    /// `steps`: how much happens, where that is given.
    pub(crate) fn draw(rng: &mut fastrand::Rng, mut large: usize, steps: Option<usize>) -> Plan {
        let acts = steps.unwrap_or_else(|| rng.usize(20..65));
        let ends = rng.u64(3_500_000..7_500_000).max(acts as u64 * 20_000);
        let (is_short_of_memory, has_rates) = (rng.u8(0..6) == 0, rng.u8(0..6) == 0);
        let mut kinds: Vec<Fault> = match rng.u8(0..20) {
            0..=1 => Vec::new(),
            2 => vec![Fault::Drain],
            3..=8 => vec![rng.choice(Fault::ALL).expect("not empty")],
            9..=12 => (0..2).filter_map(|_| rng.choice(Fault::ALL)).collect(),
            _ => Fault::ALL.into_iter().filter(|_| rng.u8(0..5) < 2).collect(),
        };
        let mut memory_max = usize::MAX;
        if is_short_of_memory {
            kinds.extend([Fault::Hold, Fault::Flood]);
            // As in production, several of the largest messages fit below the first mark.
            large = large.min(10_000);
            memory_max = rng.usize(80_000..250_000);
        }
        let mut faults = Vec::new();
        for fault in kinds {
            let count = rng.usize(1..=4) * (1 + acts / 300);
            faults.extend((0..count).map(|_| (rng.u64(300_000..ends), fault)));
        }
        let users: Vec<String> = (0..20).map(|number| format!("user{number}")).collect();
        let friends = draw_friends(rng, &users);
        Plan {
            users,
            friends,
            ends,
            acts,
            faults,
            large,
            crowding: rng.u8(1..20),
            slow_verdict: rng.u8(2..20),
            slow_answer: rng.u8(2..8),
            groups: (0..*rng.choice(&[0, 0, 1, 2, 3]).expect("not empty"))
                .map(|number| format!("group{number}"))
                .collect(),
            has_blobs: rng.u8(0..3) == 0,
            servers_talk: rng.bool(),
            assigns: rng.bool(),
            settings: Settings {
                memory_max,
                rates: Rates {
                    messages_per_second: if has_rates { rng.u64(50..200) } else { 0 },
                    bytes_per_second: if has_rates { rng.u64(50_000..500_000) } else { 0 },
                },
                cut_off: if rng.u8(0..5) == 0 { CutOff::RefuseNew } else { CutOff::ServeLocal },
            },
            drift: *rng.choice(&[0, 1_000, 30_000]).expect("not empty"),
            silence: rng.u8(1..5),
            haste: rng.u8(1..5),
        }
    }

    fn has(&self, kind: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| kind(*fault))
    }

    /// Whether anybody hears of anybody.
    pub(crate) fn has_friends(&self) -> bool {
        self.friends.values().any(|friends| *friends != Friends::These(Vec::new()))
    }

    /// Whether what connections hold may be too much: then some are closed, and logins are refused for a while.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.settings.memory_max != usize::MAX
    }

    /// Whether clients are slowed.
    pub(crate) fn has_rates(&self) -> bool {
        self.settings.rates != Rates::NONE
    }

    /// Whether nothing breaks and nobody is unreasonable.
    pub(crate) fn is_calm(&self) -> bool {
        !self.has(|fault| fault != Fault::Stranger) && !self.is_short_of_memory()
    }

    /// Whether a session of an honest client may end before its time.
    pub(crate) fn ends_sessions(&self) -> bool {
        self.has(Fault::ends_sessions) || self.is_short_of_memory()
    }

    /// Whether a link between a server and the ACMS may end.
    pub(crate) fn ends_links(&self) -> bool {
        self.has(Fault::ends_links) || self.is_short_of_memory()
    }

    /// Whether a connection may be dead without its dialler's knowing.
    pub(crate) fn leaves_half_open(&self) -> bool {
        self.has(|fault| matches!(fault, Fault::CrashServer | Fault::CrashAcms))
    }

    /// Whether processes may get no turn for a while.
    pub(crate) fn stops(&self) -> bool {
        self.has(|fault| fault == Fault::Stop)
    }

    /// Whether users come and go and nothing else happens: then the ACMS always knows whose session is the newest.
    pub(crate) fn only_logins(&self) -> bool {
        !self.has(|fault| !matches!(fault, Fault::LoginTwice | Fault::Roam | Fault::Stranger))
    }

    /// Whether servers drain, at least one going on, and nothing else happens: then nobody is called offline for it.
    pub(crate) fn only_drains(&self) -> bool {
        !self.has(|fault| !matches!(fault, Fault::Drain | Fault::Stranger)) && !self.is_short_of_memory()
    }

    /// Whether links and sessions end with processes that come and go, and for no other cause: then nobody is ever to be
    /// called offline who is not.
    pub(crate) fn only_crashes(&self) -> bool {
        let is_crash = |fault| matches!(fault, Fault::CrashAcms | Fault::CrashServer);
        !self.has(|fault| (fault.ends_links() || fault.ends_sessions()) && !is_crash(fault))
    }
}

/// On some days nobody has friends, on others some users hear of a few, and some of everyone.
fn draw_friends(rng: &mut fastrand::Rng, users: &[String]) -> BTreeMap<String, Friends> {
    let (share_of_lonely, share_of_curious) =
        *rng.choice(&[(8, 0), (8, 0), (3, 0), (3, 1), (0, 4)]).expect("not empty");
    let mut friends_of = |user: &String| {
        let kind = rng.u8(0..8);
        if kind < share_of_lonely {
            return Friends::These(Vec::new());
        }
        if kind < share_of_lonely + share_of_curious {
            return Friends::Everyone;
        }
        let friends = (0..4).filter_map(|_| rng.choice(users)).filter(|friend| *friend != user);
        Friends::These(friends.cloned().collect::<BTreeSet<String>>().into_iter().collect())
    };
    users.iter().map(|user| (user.clone(), friends_of(user))).collect()
}
