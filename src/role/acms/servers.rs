//! What one server's application says to another's.

use super::Acms;
use crate::buf::Frame;
use crate::id::ServerId;
use crate::role::Fault;
use crate::time::Time;
use crate::wire::{Bounce, CloseCode};

impl Acms {
    pub(super) fn relay_to_server(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let to = <[u8; 2]>::try_from(frame.envelope.to)
            .map_err(|_| Fault::new(CloseCode::BAD_FIELD, "`to` of what goes to a server is its number"))?;
        let receiver = self.places.get(&ServerId(u16::from_be_bytes(to)));
        let forwarded = match receiver.map(|place| self.servers[*place as usize].conn) {
            Some(conn) if self.is_held_back(now, conn) => Err(Bounce::Busy),
            Some(conn) => self.links.forward(now, conn, frame).map(drop).map_err(|_| Bounce::Busy),
            // It may have been there before this start.
            None if now < self.grace_ends => Err(Bounce::Retry),
            None => Err(Bounce::Offline),
        };
        match forwarded {
            Ok(()) => self.counters.count_forwarded(frame.wire_bytes()),
            Err(cause) => self.bounce(now, place, &frame.envelope, cause),
        }
        Ok(())
    }
}
