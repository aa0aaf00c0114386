//! What somebody would never have heard, or have heard wrongly, as the simulator found it.

use trunkline::role::Core;
use trunkline::role::appserver::Event;
use trunkline::wire::{Bounce, Flags};

use crate::acms;
use crate::appserver::{dialling_with, events, joined, register};
use crate::groups::{LEFT, MISSED, chess, event, forget, member_through, three};
use crate::wire_peer::{CHALLENGE, GROUP_EVENT, RESYNC, Raw};

#[test]
fn members_on_a_server_that_comes_back_are_told_that_they_missed_others() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    forget(&mut server);
    server.reset(up);
    server.pass_ms(200);
    server.silent(alice);
    let up = register(&mut server);
    assert_eq!(server.frame(alice), Raw::of(GROUP_EVENT).info(MISSED).to("chess"));
    // The ACMS passes nothing on between a burst's beginning and the group's place in it.
    server.put(up, Raw::of(RESYNC));
    assert_eq!(server.frame(alice), Raw::of(GROUP_EVENT).info(MISSED).to("chess"));
}

#[test]
fn server_code_hears_of_each_member_that_its_message_did_not_reach() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    server.wire(alice).room = Some(0);
    server.reset(up);
    events(&mut server);
    let mut bounces = Vec::new();
    for _ in 1..=3 {
        let body = vec![b'x'; 500_000];
        let id = server.core.broadcast(server.now, &chess(), Flags::NONE, 7, &body).expect("it is not too big");
        server.turn();
        let bounced = events(&mut server).into_iter().filter_map(|event| match event {
            Event::Bounced { id: at, to, cause } if at == id => Some((to, cause)),
            _ => None,
        });
        bounces.push(bounced.collect::<Vec<_>>());
    }
    let elsewhere = (b"chess".to_vec(), Bounce::Unreachable);
    let alice = (b"alice".to_vec(), Bounce::Busy);
    assert_eq!(bounces, [vec![elsewhere.clone()], vec![elsewhere.clone()], vec![alice, elsewhere]]);
}

#[test]
fn who_left_a_group_before_its_newer_session_turned_it_out_is_no_member() {
    let mut hub = acms::hub();
    let [one, two, three] = three(&mut hub);
    hub.pass_ms(1);
    acms::log_in(&mut hub, three, "bob", 2);
    acms::drain(&mut hub);
    hub.put(two, event(LEFT, "bob"));
    assert_eq!(hub.frame(one), event(LEFT, "bob"));
}

#[test]
fn a_registration_that_is_not_answered_is_given_up_before_the_directory_is_complete_without_it() {
    let mut server = dialling_with(|_| {});
    let up = server.answer_dial();
    server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
    let dials = server.dials.len();
    server.pass_ms(5_500);
    assert!(server.core.links().get(up).is_none_or(|link| !link.is_live()));
    assert_eq!(server.dials.len(), dials + 1, "it is dialled again");
}
