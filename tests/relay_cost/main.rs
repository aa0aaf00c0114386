//! What relaying costs in memory: AS01 => ACMS => AS02 without sockets, under an allocator that counts.

mod counting;
mod harness;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use trunkline::id::ConnId;
use trunkline::limits::{CHUNK_BYTES, ENVELOPE_BYTES_MAX, PIN_BYTES_MIN};
use trunkline::role::Core;
use trunkline::time::Span;

use crate::counting::{counted, live_bytes};
use crate::harness::{Cluster, Node, frame, server, small};

#[test]
fn a_frame_that_came_whole_costs_no_allocation_anywhere() {
    // What the harness asserts of each cluster with traffic: nothing copied, nothing allocated.
    for pairs in [1, 64] {
        Cluster::with_traffic(pairs, pairs, 400);
    }
}

/// Strangers cost little, whatever they say they are about to send.
#[test]
fn a_connection_before_its_login_costs_what_it_has_sent_and_little_more() {
    const STRANGERS: usize = 1_000;
    let preface = b"TRNK\0\x01\x01\0";
    let login = |length: u32, sent: usize| [&preface[..], &length.to_be_bytes(), &[1; 4_096][..sent]].concat();
    for (said, bytes_max) in [
        (Vec::new(), 512),
        (preface[..5].to_vec(), 1_536),
        (login(4_096, 10), 1_536),
        (login(4_096, 4_000), 4_000 + 1_536),
        (login(4_097, 0), 1_536),
        (login(u32::MAX, 0), 1_536),
    ] {
        let mut node = server(1);
        let before = live_bytes();
        let conns: Vec<ConnId> =
            (0..STRANGERS).map(|_| node.core.accepted(node.now, SocketAddr::from(([10, 0, 0, 9], 9)))).collect();
        for conn in &conns {
            node.turn([(*conn, &said[..])]);
        }
        let each = (live_bytes() - before) / STRANGERS as i64;
        assert!(each <= bytes_max, "{each} bytes for {} that were sent", said.len());
    }
}

/// Frames that alternate between two receivers are a slice each; the room for these goes from turn to turn.
#[test]
fn alternating_receivers_cost_no_allocation() {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let receivers = [cluster.log_in(2, "bob"), cluster.log_in(2, "carol")];
    let reads = [(alice, [small("bob", "alice"), small("carol", "alice")].concat().repeat(400))];
    for turn in 0..54 {
        if turn == 4 {
            cluster.forget_counts();
        }
        cluster.relay(&reads);
        for receiver in receivers {
            assert_eq!(cluster.as02.written_to(receiver).len(), 150 * 400);
        }
    }
    assert_eq!(cluster.allocations(), [0; 3], "50 turns of 800 frames");
}

/// What is said to a group is in memory once on each machine, however many members have it in their queues.
#[test]
fn a_message_to_a_group_is_copied_for_no_member() {
    const MEMBERS: usize = 50;
    let mut cluster = Cluster::new();
    let alice = cluster.log_in_to_group(1, "alice", "chess");
    let here: Vec<ConnId> = (0..MEMBERS).map(|n| cluster.log_in_to_group(1, &format!("bob{n}"), "chess")).collect();
    let there: Vec<ConnId> = (0..MEMBERS).map(|n| cluster.log_in_to_group(2, &format!("zoe{n}"), "chess")).collect();
    for (body_bytes, count) in [(100, 200), (40_000, 1)] {
        let bytes = frame(0x22, "chess", "alice", &vec![b'x'; body_bytes]).repeat(count);
        let reads = [(alice, bytes)];
        for turn in 0..24 {
            if turn == 4 {
                cluster.forget_counts();
            }
            cluster.relay(&reads);
            let Cluster { as01, acms, as02, .. } = &cluster;
            assert!(here.iter().all(|member| as01.written_to(*member) == &reads[0].1[..]), "everyone here has it");
            assert!(there.iter().all(|member| as02.written_to(*member) == &reads[0].1[..]), "everyone there has it");
            assert_eq!([as01.copied_bytes(), acms.copied_bytes(), as02.copied_bytes()], [0; 3], "bytes copied");
        }
        assert_eq!(cluster.allocations(), [0; 3], "20 turns of {count} frames to {} members", 2 * MEMBERS);
    }
}

/// One that came in several reads is gathered once, not once a member.
#[test]
fn a_message_to_a_group_that_came_in_parts_is_copied_once() {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in_to_group(1, "alice", "chess");
    let members: Vec<ConnId> = (0..50).map(|n| cluster.log_in_to_group(1, &format!("bob{n}"), "chess")).collect();
    let said = frame(0x22, "chess", "alice", &[b'x'; 20_000]);
    for _ in 0..4 {
        let before = live_bytes();
        for part in said.chunks(5_000) {
            cluster.as01.turn([(alice, part)]);
        }
        let places: BTreeSet<*const u8> = cluster
            .as01
            .written
            .iter()
            .filter(|slice| members.contains(&slice.conn))
            .map(|slice| slice.at.start)
            .collect();
        assert_eq!(places.len(), 1, "each member has the same bytes");
        assert!(members.iter().all(|member| cluster.as01.written_to(*member) == said));
        assert!(live_bytes() - before < 1_500_000, "the harness's own record of what was written");
    }
}

/// A read that ends inside a frame keeps that frame's start: memory for it, and a place in a row.
#[test]
fn a_read_that_ends_inside_a_frame_costs_a_bounded_number_of_allocations() {
    const READ_BYTES: usize = 60_000 + 70;
    const PER_READ_MAX: u64 = 2;
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let bob = cluster.log_in(2, "bob");
    let stream = small("bob", "alice").repeat(50_000);
    let reads: Vec<&[u8]> = stream.chunks_exact(READ_BYTES).collect();
    let mut delivered = Vec::new();
    for (turn, read) in reads.iter().enumerate() {
        if turn == 4 {
            cluster.forget_counts();
        }
        let Cluster { as01, acms, as02, up, down } = &mut cluster;
        as01.turn([(alice, *read)]);
        // The link's reads are cut elsewhere than the client's.
        let mut relayed = Vec::new();
        for part in as01.written_to(up[0]).chunks(READ_BYTES / 2 + 11) {
            acms.turn([(down[0], part)]);
            relayed.extend_from_slice(acms.written_to(down[1]));
        }
        for part in relayed.chunks(READ_BYTES / 2 + 17) {
            as02.turn([(up[1], part)]);
            delivered.extend_from_slice(as02.written_to(bob));
        }
    }
    assert!(delivered == stream[..delivered.len()]);
    let counted = (reads.len() - 4) as u64;
    for (allocations, reads) in cluster.allocations().into_iter().zip([1, 2, 2]) {
        let most = PER_READ_MAX * reads * counted;
        assert!(allocations <= most, "{:?} allocations in {counted} turns", cluster.allocations());
    }
}

#[test]
fn what_the_acms_writes_lies_in_the_chunk_that_it_read() {
    let mut cluster = Cluster::new();
    cluster.log_in(1, "alice");
    cluster.log_in(2, "bob");
    let read = small("bob", "alice").repeat(800);
    for _ in 0..10 {
        cluster.acms.turn([(cluster.down[0], &read[..])]);
        let written = &cluster.acms.written;
        let [slice] = &written[..] else { panic!("{} slices for neighbours", written.len()) };
        let chunk = &cluster.acms.chunks.at[0];
        assert_eq!((slice.at.start, slice.at.end), (chunk.start, chunk.start.wrapping_add(read.len())));
        assert!(cluster.acms.written_to(cluster.down[1]) == read);
    }
    assert_eq!(cluster.acms.chunks.at.len(), 1, "one chunk is used again and again");
}

#[test]
fn neighbours_from_several_connections_are_one_slice() {
    let mut cluster = Cluster::new();
    let senders: Vec<ConnId> = (0..8).map(|number| cluster.log_in(1, &format!("alice{number}"))).collect();
    cluster.log_in(2, "bob");
    let parts: Vec<Vec<u8>> = (0..8).map(|number| small("bob", &format!("alice{number}")).repeat(10)).collect();
    cluster.as01.turn(senders.iter().copied().zip(parts.iter().map(|part| &part[..])));
    assert_eq!(cluster.as01.written.len(), 1);
    assert_eq!(cluster.as01.written_to(cluster.up[0]).len(), 8 * 10 * 150);
}

/// A frame of a mebibyte comes in many reads. Its large parts stay where they were read; its beginning, so that the
/// envelope is in one piece, and a small rest at its end are copied.
#[test]
fn of_a_large_frame_only_small_parts_are_copied() {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let bob = cluster.log_in(2, "bob");
    let body: Vec<u8> = (0..(1 << 20) - 24).map(|place: u32| (place % 251) as u8).collect();
    let large = frame(0x10, "bob", "alice", &body);
    for first in [1, 19, 100, 40_000, 65_536] {
        let (head, rest) = large.split_at(first);
        let Cluster { as01, acms, as02, up, down } = &mut cluster;
        let parts: Vec<&[u8]> = std::iter::once(head).chain(rest.chunks(CHUNK_BYTES / 2)).collect();
        let (bytes, copied) = read_in_parts(as01, alice, up[0], &parts);
        assert!(bytes == large);
        assert!(copied < ENVELOPE_BYTES_MAX + PIN_BYTES_MIN, "{copied} bytes copied at AS01, first part {first}");
        let parts: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
        let (relayed, copied) = read_in_parts(acms, down[0], down[1], &parts);
        assert!(relayed == large);
        assert!(copied < ENVELOPE_BYTES_MAX + PIN_BYTES_MIN, "{copied} bytes copied at the ACMS");
        let parts: Vec<&[u8]> = relayed.chunks(CHUNK_BYTES).collect();
        assert!(read_in_parts(as02, up[1], bob, &parts).0 == large);
    }
}

/// Brings `parts` from one connection in a turn each; what was written to the other, and how much of it was copied.
fn read_in_parts<C: Core>(node: &mut Node<C>, from: ConnId, to: ConnId, parts: &[&[u8]]) -> (Vec<u8>, usize) {
    let (mut bytes, mut copied) = (Vec::new(), 0);
    for part in parts {
        node.turn([(from, *part)]);
        bytes.extend_from_slice(node.written_to(to));
        copied += node.copied_bytes();
    }
    (bytes, copied)
}

/// Bytes that a queue of AS02 holds for one that takes nothing, and the memory that this costs.
fn held_for_a_stalled_receiver(frame: &[u8], parts: usize) -> (usize, i64) {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(2, "alice");
    let bob = cluster.log_in(2, "bob");
    cluster.as02.turn([]);
    cluster.as02.stalled = Some(bob);
    let before = live_bytes();
    let queued = |cluster: &mut Cluster| cluster.as02.core.links().get(bob).map_or(0, |link| link.queue().len());
    while queued(&mut cluster) < 200_000 {
        for part in frame.chunks(frame.len().div_ceil(parts)) {
            cluster.as02.turn([(alice, part)]);
        }
    }
    cluster.as02.chunks.clear();
    let held = live_bytes() - before;
    (queued(&mut cluster), held)
}

#[test]
fn a_stalled_receiver_holds_about_twice_what_waits_for_it() {
    for (size, parts) in [(0, 1), (130, 1), (4_000, 1), (60_000, 1), (0, 2), (130, 2), (4_000, 2), (90_000, 2)] {
        let frame = frame(0x10, "bob", "alice", &vec![0; size]);
        let (queued, held) = held_for_a_stalled_receiver(&frame, parts);
        // A pinned part of a chunk may be a quarter of it (see PIN_BYTES_MIN).
        let factor = if frame.len() / parts >= PIN_BYTES_MIN { 4.5 } else { 2.5 };
        let times = held as f64 / queued as f64;
        assert!(times <= factor, "frames of {} bytes in {parts} parts: {held} bytes held for {queued}", frame.len());
    }
}

#[test]
fn deadlines_cost_a_bounded_number_of_allocations() {
    let mut cluster = Cluster::new();
    for number in 0..100 {
        cluster.log_in(1, &format!("alice{number}"));
    }
    let server = &mut cluster.as01;
    let end = server.now + Span::from_secs(60);
    let (mut calls, mut tally, mut pings) = (0, 0, 0);
    while let Some(at) = server.core.deadline().filter(|at| *at <= end) {
        server.now = at;
        let before = tally;
        counted(&mut tally, || server.core.expire(at));
        calls += 1;
        server.turn([]);
        pings += server.written.len();
        // For each of 100 connections a PING's block, its row, and a place in the wheel; then the lists of what is due.
        assert!(tally - before <= 3 * 100 + 32, "{} allocations in one call", tally - before);
        if pings > 200 {
            break;
        }
    }
    assert!(calls > 3 && pings > 0);
}
