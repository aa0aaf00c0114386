//! A user of one server that reads nothing, as those on the other see it: what may be dropped is, and what may not comes
//! back.

use std::net::SocketAddr;

use crossbeam_channel::unbounded;
use trunkline::role::client::QueryFailure;
use trunkline::{AppServer, Bounce, Client, Event, GroupId, Nobody, ServerHandle, Undelivered};

use crate::PATIENCE;
use crate::engines::{Engine, Registration, event, id, member, outcome, start_acms};
use crate::raw::{DATA, GROUP_DATA, GROUP_EVENT, GROUP_JOIN, Raw};

/// Bytes of each message that is to fill what waits for the one who does not read.
const LARGE: usize = 100_000;
/// The flag, as docs/PROTOCOL.md has it.
const DROPPABLE: u8 = 0x04;
/// What is said that may be dropped, and what may not.
const MAY_BE_DROPPED: u32 = 1;
const MAY_NOT: u32 = 2;

struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    _engine: Engine,
}

impl Server {
    fn start(number: u16, transfer: &str) -> Server {
        let (sender, up) = unbounded();
        let builder =
            AppServer::builder().friends(Nobody).handler(Registration(sender)).cluster(member(number, transfer));
        let server = builder.bind("127.0.0.1:0").expect("a port is free");
        let (addr, handle, stop) = (server.local_addr(), server.handle(), server.handle());
        let running = Some(server.spawn().expect("a thread"));
        up.recv_timeout(PATIENCE).expect("it registers");
        Server { addr, handle, _engine: Engine { stop: Box::new(move || stop.stop()), running } }
    }

    /// A user that is in the group.
    fn connect(&self, user: &str) -> Client {
        let client = Client::builder(user).patience(PATIENCE).connect(self.addr).expect("the server lets it in");
        assert_eq!(outcome(client.join(&chess()).expect("it runs")), Ok(Ok(())), "{user} joins");
        client
    }

    /// What it dropped because it may be.
    fn dropped(&self) -> u64 {
        outcome(self.handle.counters().expect("it runs")).dropped_droppable
    }
}

fn chess() -> GroupId {
    "chess".parse().expect("an id")
}

/// Alice on the one server; carol, who reads, and bob, who does not, on the other: all in a group.
struct Scene {
    // Clients go before servers, and those before the ACMS.
    alice: Client,
    carol: Client,
    bob: Raw,
    near: Server,
    far: Server,
    _acms: Engine,
}

impl Scene {
    /// Bob's queue has no room for another large message.
    fn set() -> Scene {
        let (acms, transfer) = start_acms("127.0.0.1:0");
        let (near, far) = (Server::start(0, &transfer), Server::start(1, &transfer));
        let (alice, carol) = (near.connect("alice"), far.connect("carol"));
        let mut bob = Raw::login(far.addr, "bob");
        bob.write(&bob.frame(GROUP_JOIN, "chess", 1, "").encode());
        assert_eq!(bob.next().map(|frame| frame.kind), Some(GROUP_EVENT), "he joins");
        let scene = Scene { alice, carol, bob, near, far, _acms: acms };
        while scene.send_to_bob().is_none() {}
        scene
    }

    /// A large message of alice's to bob, and why it came back.
    fn send_to_bob(&self) -> Option<Undelivered> {
        let sent = self.alice.send(Some(&id("bob")), MAY_NOT, vec![0; LARGE]).expect("it runs");
        // Whatever comes back comes before the acknowledgement of what took the same way behind it.
        let behind = self.alice.send_acked(&id("carol"), MAY_NOT, Vec::new()).expect("it runs");
        assert_eq!(outcome(behind), Ok(Ok(())));
        assert!(matches!(self.carol_hears(), Event::Message(_)));
        let events: Vec<Event> = self.alice.events().try_iter().collect();
        events.into_iter().find_map(|event| match event {
            Event::Undelivered { id, cause, .. } if id == sent => Some(cause),
            _ => None,
        })
    }

    fn carol_hears(&self) -> Event {
        loop {
            match event(&self.carol) {
                Event::Member { .. } => {}
                event => return event,
            }
        }
    }

    /// Carol has what was said to the group, and so it is known what bob has.
    #[track_caller]
    fn carol_hears_in_group(&self, wanted: u32) {
        match self.carol_hears() {
            Event::GroupMessage { message, .. } => assert_eq!(message.info_type, wanted),
            other => panic!("{other:?} is nothing said"),
        }
    }
}

#[test]
fn what_may_be_dropped_is_dropped_before_a_reader_of_another_server_that_does_not_read() {
    let mut scene = Scene::set();
    let Scene { alice, near, far, .. } = &scene;
    let bob = id("bob");
    assert_eq!(far.dropped(), 0);
    let dropped = alice.send_droppable(Some(&bob), MAY_BE_DROPPED, b"frame 1".to_vec()).expect("it runs");
    assert_eq!(scene.send_to_bob(), Some(Undelivered::Bounced(Bounce::Busy)), "undroppable, it comes back");
    assert_eq!(far.dropped(), 1, "client code to a user");

    let said = alice.broadcast_droppable(&chess(), MAY_BE_DROPPED, b"frame 2".to_vec()).expect("it runs");
    scene.carol_hears_in_group(MAY_BE_DROPPED);
    assert_eq!(far.dropped(), 2, "client code to a group");

    near.handle.send_droppable(&bob, MAY_BE_DROPPED, b"frame 3".to_vec()).expect("it runs");
    let busy = near.handle.send_acked(&bob, MAY_NOT, vec![0; LARGE], PATIENCE).expect("it runs");
    assert_eq!(outcome(busy), Err(QueryFailure::Bounced(Bounce::Busy)));
    assert_eq!(far.dropped(), 3, "server code to a user");

    near.handle.broadcast_droppable(&chess(), MAY_BE_DROPPED, b"frame 4".to_vec()).expect("it runs");
    scene.carol_hears_in_group(MAY_BE_DROPPED);
    assert_eq!((far.dropped(), near.dropped()), (4, 0), "server code to a group");
    let bounced: Vec<u64> = alice.events().try_iter().filter_map(undelivered).collect();
    assert!(!bounced.contains(&dropped) && !bounced.contains(&said), "{bounced:?}");

    // What was not to be dropped is all there, in order, and nothing else is.
    alice.send(Some(&bob), MAY_NOT, b"the last".to_vec()).expect("it runs");
    let mut last = 0;
    loop {
        let frame = scene.bob.next().expect("he is in");
        if frame.kind == GROUP_EVENT {
            continue;
        }
        assert_eq!((frame.kind, frame.flags & DROPPABLE, frame.info_type), (DATA, 0, MAY_NOT), "{frame:?}");
        assert!(last < frame.id, "{} behind {last}", frame.id);
        last = frame.id;
        if frame.body == b"the last" {
            break;
        }
    }
    // And once he reads, he gets what may be dropped too.
    scene.alice.broadcast_droppable(&chess(), MAY_BE_DROPPED, b"frame 5".to_vec()).expect("it runs");
    let frame = scene.bob.next().expect("he is in");
    assert_eq!((frame.kind, frame.flags & DROPPABLE, &frame.body[..]), (GROUP_DATA, DROPPABLE, &b"frame 5"[..]));
}

fn undelivered(event: Event) -> Option<u64> {
    match event {
        Event::Undelivered { id, .. } => Some(id),
        _ => None,
    }
}

#[test]
fn a_member_on_another_server_that_does_not_read_is_bounced_to_the_speaker_in_its_name() {
    let scene = Scene::set();
    let said = scene.alice.broadcast(&chess(), MAY_NOT, vec![0; LARGE]).expect("it runs");
    scene.carol_hears_in_group(MAY_NOT);
    match event(&scene.alice) {
        Event::Undelivered { to, id: bounced, cause } => {
            assert_eq!((to, bounced, cause), (Some(id("bob")), said, Undelivered::Bounced(Bounce::Busy)));
        }
        other => panic!("{other:?} is no bounce"),
    }
}
