//! Blobs between users of different servers, and between users and servers, over real sockets.

use crossbeam_channel::{Sender, unbounded};
use trunkline::{
    AppServer, Blob, BlobFailure, Client, ClusterState, Event, Handler, IncomingBlob, ServerHandle, UserId,
};

use crate::PATIENCE;
use crate::engines::{Engine, event, id, member, start_acms};

const MIB: usize = 1 << 20;

struct Joined(Sender<()>);

impl Handler for Joined {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) {
            self.0.send(()).expect("the test waits for it");
        }
    }
}

/// A cluster manager and two servers that have registered, which slow no client.
struct Two {
    addrs: [String; 2],
    _servers: [Engine; 2],
    _acms: Engine,
}

impl Two {
    fn start() -> Two {
        let (acms, transfer) = start_acms("127.0.0.1:0");
        let (joined, is_in) = unbounded();
        let server = |number| {
            let builder = AppServer::builder().max_bytes_per_second(0).handler(Joined(joined.clone()));
            let server = builder.cluster(member(number, &transfer)).bind("127.0.0.1:0").expect("the port is free");
            let (addr, handle) = (server.local_addr().to_string(), server.handle());
            let stop = Box::new(move || handle.stop());
            (addr, Engine { stop, running: Some(server.spawn().expect("a thread")) })
        };
        let [(first, one), (second, two)] = [server(0), server(1)];
        for _ in 0..2 {
            is_in.recv_timeout(PATIENCE).expect("a server joins");
        }
        Two { addrs: [first, second], _servers: [one, two], _acms: acms }
    }

    fn connect(&self, place: usize, user: &str) -> Client {
        let builder = Client::builder(user).takes_blobs().patience(PATIENCE);
        builder.connect(&self.addrs[place]).expect("the server lets it in")
    }
}

/// Bytes of which no part is like another.
fn body(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(bytes as u64);
    let mut body = vec![0; bytes];
    rng.fill(&mut body);
    body
}

/// Takes the next blob that is offered; returns it, and how often it was told how far it is.
#[track_caller]
fn receive(client: &Client) -> (Blob, usize) {
    let mut told = 0;
    loop {
        match event(client) {
            Event::Blob(IncomingBlob::Offered(offer)) => offer.accept(),
            Event::Blob(IncomingBlob::Progress { received, size, .. }) => {
                assert!(received <= size);
                told += 1;
            }
            Event::Blob(IncomingBlob::Whole(blob)) => return (blob, told),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn sixty_four_mib_go_to_a_user_of_another_server() {
    let cluster = Two::start();
    let [alice, bob] = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    let sent = body(64 * MIB);
    let handle = alice.send_blob(Some(&id("bob")), 7, "holiday.mp4", sent.clone()).expect("sent");
    let (blob, told) = receive(&bob);
    assert_eq!(
        (blob.from.as_ref().map(UserId::as_str), blob.info_type, &blob.name[..]),
        (Some("alice"), 7, "holiday.mp4")
    );
    assert!(blob.body == sent, "what came is what was sent");
    assert!((32..=64).contains(&told), "told {told} times");
    let progress = handle.receiver().recv_timeout(PATIENCE).map(|outcome| (outcome, handle.progress()));
    assert_eq!(progress, Ok((Ok(Ok(())), 64 << 20)));
}

#[test]
fn a_blob_that_is_not_wanted_is_refused_in_words() {
    let cluster = Two::start();
    let [alice, bob] = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    let handle = alice.send_blob(Some(&id("bob")), 7, "", body(10)).expect("sent");
    let Event::Blob(IncomingBlob::Offered(offer)) = event(&bob) else { panic!("no offer") };
    offer.refuse("not today");
    let refused = Ok(Ok(Err(BlobFailure::Denied("not today".to_owned()))));
    assert_eq!(handle.receiver().recv_timeout(PATIENCE), refused);
}
