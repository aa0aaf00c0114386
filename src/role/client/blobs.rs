//! A client's blobs: the way of their frames, and the application's part in them.

use bytes::Bytes;

use super::{Client, Event, Message, Phase, SendError, TRACKED};
use crate::buf::Frame;
use crate::id::UserId;
use crate::role::blob::{BlobKey, Receiving, Way};
use crate::time::Time;
use crate::wire::{BlobCause, Flags};

impl Client {
    /// Begins to send a blob to a user; to no user: to the server. Settled once, as a blob event with the id. It waits for
    /// a connection where there is none, and goes on over a lost one.
    pub fn send_blob(
        &mut self,
        now: Time,
        to: Option<UserId>,
        info_type: u32,
        name: &str,
        body: Bytes,
    ) -> Result<u64, SendError> {
        if matches!(self.phase, Phase::Stopped) {
            return Err(SendError::Stopped);
        }
        let id = self.take_id() | TRACKED;
        self.blobs.sending.offer(now, id, to, info_type, name, body)?;
        self.carry_blobs(now);
        Ok(id)
    }

    /// Gives up a blob that is being sent; its receiver is told.
    pub fn cancel_blob(&mut self, now: Time, id: u64) {
        self.blobs.sending.cancel(id);
        self.carry_blobs(now);
    }

    /// Takes a blob that was offered.
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

    pub(super) fn blob_part(&mut self, now: Time, query: Message) {
        let key = BlobKey { from: query.from, id: query.id };
        let more = query.flags.has(Flags::MORE);
        self.blobs.receiving.part(now, key, query.info_type, more, &query.body);
        self.carry_blobs(now);
    }

    pub(super) fn blob_answered(&mut self, now: Time, frame: &Frame<'_>) {
        let header = frame.envelope.header;
        self.blobs.sending.replied(now, header.id, frame.envelope.from, header.flags, &frame.body());
        self.carry_blobs(now);
    }

    pub(super) fn stop_blobs(&mut self) {
        self.blobs.sending.stop();
        self.blobs.receiving.stop();
        while let Some(event) = self.blobs.poll_event() {
            self.events.push_back(Event::Blob(event));
        }
    }

    /// Queues what there is to say of blobs. What finds no room is said again when it is asked for.
    pub(super) fn carry_blobs(&mut self, now: Time) {
        if let Phase::Online { conn, max_frame } = self.phase {
            let user = self.config.user.as_bytes();
            self.blobs.carry(now, &mut self.links, user, |_, _| Ok(Way { conn, max_frame }));
        }
    }
}
