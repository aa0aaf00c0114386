//! Blobs to the server and of its own: the way of their frames, and the application's part in them.

use bytes::Bytes;

use super::{AppServer, Inbox};
use crate::buf::Frame;
use crate::id::UserId;
use crate::role::Drop;
use crate::role::blob::{BlobKey, Carried, Receiving, Unsendable, Way};
use crate::time::Time;
use crate::wire::{BlobCause, Bounce, Envelope, Flags, Kind};

impl AppServer {
    /// Begins to send a blob to a user on any server. Settled once, as a blob event with the id.
    pub fn send_blob(
        &mut self,
        now: Time,
        to: UserId,
        info_type: u32,
        name: &str,
        body: Bytes,
    ) -> Result<u64, Unsendable> {
        let id = self.next_message();
        self.blobs.sending.offer(now, id, Some(to), info_type, name, body)?;
        self.carry_blobs(now);
        Ok(id)
    }

    /// Gives up a blob that is being sent; its receiver is told.
    pub fn cancel_blob(&mut self, now: Time, id: u64) {
        self.blobs.sending.cancel(id);
        self.carry_blobs(now);
    }

    /// Takes a blob that a user offered.
    pub fn accept_blob(&mut self, now: Time, key: &BlobKey) {
        self.blobs.receiving.accept(now, key);
        self.carry_blobs(now);
    }

    /// Wants nothing, or no more, of a blob.
    pub fn refuse_blob(&mut self, now: Time, key: &BlobKey, cause: BlobCause, text: String) {
        self.blobs.receiving.refuse(key, cause, text);
        self.carry_blobs(now);
    }

    /// Has a blob that was received: its sender is told.
    pub fn take_blob(&mut self, now: Time, key: &BlobKey) {
        self.blobs.receiving.taken(key);
        self.carry_blobs(now);
    }

    /// Has let go of a received blob of this size.
    pub fn release_blob(&mut self, bytes: usize) {
        self.blobs.receiving.release(bytes);
    }

    /// What is received, for whoever checks its bounds.
    pub fn blobs_received(&self) -> &Receiving {
        &self.blobs.receiving
    }

    /// Blobs of its own that are under way.
    pub fn open_blobs(&self) -> usize {
        self.blobs.sending.count()
    }

    pub(super) fn blob_part(&mut self, now: Time, inbox: Inbox) {
        let Inbox { user, info_type, id, flags, body, .. } = inbox;
        let key = BlobKey { from: Some(user), id };
        self.blobs.receiving.part(now, key, info_type, flags.has(Flags::MORE), &body);
        self.carry_blobs(now);
    }

    /// What came back of a blob of this server's own.
    pub(super) fn blob_returned(&mut self, now: Time, frame: &Frame<'_>) {
        let Envelope { header, from, .. } = frame.envelope;
        match header.kind {
            Kind::Reply => self.blobs.sending.replied(now, header.id, from, header.flags, &frame.body()),
            Kind::Bounce => self.blobs.sending.bounced(now, header.id, Bounce::from_wire(header.info_type)),
            _ => return self.counters.count_drop(Drop::Unroutable),
        }
        self.carry_blobs(now);
    }

    /// Queues what there is to say of blobs, for each user where its messages go.
    pub(super) fn carry_blobs(&mut self, now: Time) {
        let (users, claims, max_frame) = (&self.users, &self.claims, self.config.max_frame);
        let up = self.uplink_conn();
        let way = |kind, to: Option<&UserId>| {
            let to = to.ok_or(Bounce::NoHandler)?;
            let conn = match users.get(to.as_bytes()) {
                Some(conn) => *conn,
                // Who sends to this server and is gone hears no more of it.
                None if kind == Kind::Reply => return Err(Bounce::Offline),
                None if claims.is_claimed(to.as_bytes()) => return Err(Bounce::Retry),
                None => up?,
            };
            Ok(Way { conn, max_frame })
        };
        let Carried { unsent, filled } = self.blobs.carry(now, &mut self.links, &[], way);
        for conn in filled {
            self.pause_if_congested(conn);
        }
        for _ in 0..unsent {
            self.counters.count_drop(Drop::BounceFull);
        }
    }
}
