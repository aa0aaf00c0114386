//! From a stranger to a member.

use super::{Acms, Config, Event, Interest, Peer, Server};
use crate::buf::{Frame, Inbound};
use crate::id::{ConnId, ServerId};
use crate::limits;
use crate::link::Stage;
use crate::memory::Health;
use crate::role::{Digest, Fault, Gone, Strained, Tenure};
use crate::time::{Span, Time};
use crate::wire::link::{Membership, Nonce, ProveBody, Prover, Register, ServerEntry, ServerState, Servers};
use crate::wire::{CloseCode, Envelope, Kind, Outgoing, Role, parse_object};

impl Acms {
    pub(super) fn take(&mut self, now: Time, conn: ConnId, inbound: &mut Inbound<'_>) -> Result<(), Fault> {
        if self.links.get(conn).is_some_and(|link| link.stage() == Stage::Preface) {
            match Fault::of_opening(inbound, Role::Server, &mut self.counters)? {
                Some(_version) => self.challenge(now, conn),
                None => return Ok(()),
            }
        }
        loop {
            let Some(link) = self.links.get(conn) else { return Ok(()) };
            match link.peer {
                Peer::Stranger(nonce) => {
                    let Some(frame) = inbound.next(limits::LOGIN_FRAME_BYTES_MAX)? else { return Ok(()) };
                    self.frame_from_stranger(now, conn, nonce, &frame)?;
                }
                Peer::Proven { .. } => {
                    let Some(frame) = inbound.next(limits::MAX_FRAME)? else { return Ok(()) };
                    self.frame_from_proven(now, conn, &frame)?;
                }
                Peer::Member(place) => {
                    let Some(mut frame) = inbound.next(limits::MAX_FRAME)? else { return Ok(()) };
                    self.frame_from_member(now, conn, place, &mut frame)?;
                }
                Peer::Left => return Ok(()),
            }
        }
    }

    fn challenge(&mut self, now: Time, conn: ConnId) {
        self.links.advance(now, conn, Stage::Greeting);
        if let Some(Peer::Stranger(nonce)) = self.links.get(conn).map(|link| &link.peer) {
            let nonce = *nonce;
            let challenge = Outgoing { id: self.config.epoch, body: &nonce, ..Outgoing::of(Kind::Challenge) };
            let sent = self.links.send_control(now, conn, &challenge);
            debug_assert_eq!(sent, Ok(()), "an empty queue takes a CHALLENGE");
        }
    }

    fn frame_from_stranger(
        &mut self,
        now: Time,
        conn: ConnId,
        acms_nonce: Nonce,
        frame: &Frame<'_>,
    ) -> Result<(), Fault> {
        let Envelope { header, to, .. } = frame.envelope;
        match header.kind {
            Kind::Prove => {}
            Kind::Ping => return self.pong(now, conn, header.id),
            Kind::Pong => return Ok(()),
            Kind::Close => return self.closed_by_peer(now, conn, frame),
            kind => return Err(Fault::unexpected(kind)),
        }
        // Every cause has the same text: a stranger learns nothing from it.
        let not_a_member = || Fault::new(CloseCode::NOT_A_MEMBER, "this server does not belong to the cluster");
        let body = ProveBody::parse(&frame.body()).ok_or_else(not_a_member)?;
        let server = ServerId(u16::try_from(header.info_type).map_err(|_| not_a_member())?);
        let membership = self.membership(server, header.id, acms_nonce, body.nonce);
        let proven =
            self.config.secret.is_empty() || membership.verify(&self.config.secret, Prover::Server, &body.proof);
        if !proven || to != self.config.cluster.as_bytes() {
            return Err(not_a_member());
        }
        let own_proof = (!self.config.secret.is_empty()).then(|| membership.prove(&self.config.secret, Prover::Acms));
        if let Some(link) = self.links.get_mut(conn) {
            link.peer = Peer::Proven { server, incarnation: header.id, own_proof };
        }
        Ok(())
    }

    fn membership(&self, server: ServerId, incarnation: u64, acms_nonce: Nonce, server_nonce: Nonce) -> Membership<'_> {
        let Config { cluster, epoch, .. } = &self.config;
        Membership { cluster, server, incarnation, epoch: *epoch, acms_nonce, server_nonce }
    }

    fn frame_from_proven(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Register => {
                let register: Register = parse_object(&frame.body())
                    .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of REGISTER is its JSON"))?;
                // Every SERVERS repeats it, which has to fit a frame.
                if register.address.len() > limits::SERVER_ADDRESS_BYTES_MAX {
                    return Err(Fault::new(CloseCode::BAD_FIELD, "the address of REGISTER is too long"));
                }
                self.register(now, conn, register)
            }
            Kind::Ping => self.pong(now, conn, frame.envelope.header.id),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    fn register(&mut self, now: Time, conn: ConnId, register: Register) -> Result<(), Fault> {
        let Some(Peer::Proven { server: id, incarnation, own_proof }) = self.links.get(conn).map(|link| &link.peer)
        else {
            return Ok(());
        };
        let (id, incarnation, own_proof) = (*id, *incarnation, *own_proof);
        if self.links.memory().health() >= Health::NoNewLogins {
            let retry_after = self.entropy.retry_after();
            return Err(Fault::for_now(CloseCode::FULL, "the cluster manager is short of memory", retry_after));
        }
        if id == ServerId::ACMS {
            return Err(Fault::new(
                CloseCode::DUPLICATE_SERVER,
                format!("server id {id} is the cluster manager's own"),
            ));
        }
        if let Some(place) = self.places.get(&id) {
            let older = &self.servers[*place as usize];
            // The same server on a new connection, or started again before its old connection was known to be lost.
            if older.address != register.address || older.incarnation > incarnation {
                let text = format!("server id {id} is in use by {}; {} asked for it", older.address, register.address);
                return Err(Fault::new(CloseCode::DUPLICATE_SERVER, text));
            }
            let old_conn = older.conn;
            self.depart(now, old_conn, Gone::Closed(CloseCode::DUPLICATE_SERVER), "the server came back");
            self.links.end(old_conn);
        }
        self.tenures += 1;
        let server = Server {
            conn,
            id,
            incarnation,
            address: register.address.clone(),
            capacity: register.capacity,
            registered: now,
            state: ServerState::default(),
            reported: now,
            pace: super::Pace::default(),
            tenure: Tenure(self.tenures),
            synced: false,
            asked: Some(now),
            lateness: Span::default(),
            draining: register.draining,
            digest: Digest::default(),
            mismatches: 0,
            interest: Interest::new(&mut self.entropy),
        };
        let place = u32::try_from(self.servers.insert(server)).expect("server ids have 16 bits");
        self.places.insert(id, place);
        if let Some(link) = self.links.get_mut(conn) {
            link.peer = Peer::Member(place);
        }
        self.links.advance(now, conn, Stage::Open);
        if register.previous_epoch != 0 && register.previous_epoch != self.config.epoch {
            self.await_peers(&register.peers);
        }
        let body = own_proof.as_ref().map_or(&[][..], |proof| &proof[..]);
        self.control(now, conn, &Outgoing { id: self.config.epoch, body, ..Outgoing::of(Kind::Registered) });
        self.events.push_back(Event::Registered { conn, server: id, address: register.address, incarnation });
        self.tell_servers(now, None);
        Ok(())
    }

    /// A server was in the cluster with an earlier ACMS: those it knew there have users that are not known here yet.
    fn await_peers(&mut self, peers: &[ServerId]) {
        for peer in peers {
            let synced = self.places.get(peer).is_some_and(|place| self.servers[*place as usize].synced);
            if !synced {
                self.awaited.insert(*peer);
            }
        }
    }

    pub(super) fn tell_servers(&mut self, now: Time, except: Option<ConnId>) {
        let entries = self.servers.iter();
        let entries = entries.map(|(_, server)| ServerEntry {
            server: server.id,
            address: server.address.clone(),
            draining: server.draining || self.frozen.contains(&server.id),
        });
        let awaited = self.awaited.iter().copied().filter(|_| now < self.grace_ends).collect();
        let servers = Servers { servers: entries.collect(), awaited };
        let body = serde_json::to_vec(&servers).expect("numbers and plain text");
        let conns: Vec<ConnId> = self.servers.iter().map(|(_, server)| server.conn).collect();
        for conn in conns.into_iter().filter(|conn| Some(*conn) != except) {
            self.control(now, conn, &Outgoing { body: &body, ..Outgoing::of(Kind::Servers) });
        }
    }

    /// Sends control to a server. One that has no room even for control is closed: its burst repairs what it missed.
    pub(super) fn control(&mut self, now: Time, conn: ConnId, frame: &Outgoing<'_>) {
        if self.links.send_control(now, conn, frame).is_err() {
            self.overwhelmed.push(conn);
        }
    }

    pub(super) fn pong(&mut self, now: Time, conn: ConnId, id: u64) -> Result<(), Fault> {
        self.links.pong(now, conn, id).map_err(|_| Fault::new(CloseCode::SLOW, "takes no PONG"))
    }

    pub(super) fn closed_by_peer(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let (code, told) = Fault::read_close(frame);
        self.depart(now, conn, Gone::ClosedByPeer(code), &told.text);
        self.links.end(conn);
        Ok(())
    }
}
