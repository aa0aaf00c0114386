use crate::wire::Bounce;

/// Why a frame went nowhere without its sender being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// DROPPABLE, behind a slow receiver.
    Droppable,
    /// An ACK, REPLY or BOUNCE whose receiver is gone.
    Unroutable,
    /// A BOUNCE, ACK, PONG or ANSWER of the platform's own that did not fit its receiver's queue.
    BounceFull,
    /// From a server, `from` is not one of its users, or it is a message of a server's own with another's number in its id.
    Spoofed,
}

/// The causes of [`Counters::bounced`], in its order.
const BOUNCE_NAMES: [&str; 8] =
    ["offline", "unreachable", "retry", "busy", "denied", "too_big", "no_handler", "not_in_group"];

/// What a role did with frames since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames passed on to a connection, byte for byte.
    pub forwarded: u64,
    /// Bytes of those.
    pub forwarded_bytes: u64,
    /// Frames bounced, by cause: OFFLINE, UNREACHABLE, RETRY, BUSY, DENIED, TOO_BIG, NO_HANDLER, NOT_IN_GROUP.
    pub bounced: [u64; 8],
    /// [`Drop::Droppable`].
    pub dropped_droppable: u64,
    /// [`Drop::Unroutable`].
    pub dropped_unroutable: u64,
    /// [`Drop::BounceFull`].
    pub dropped_bounces: u64,
    /// [`Drop::Spoofed`].
    pub dropped_spoofed: u64,
    /// Times that a client was not read from because it sent faster than its rates.
    pub slowed: u64,
    /// Clients closed RATE.
    pub closed_rate: u64,
    /// Connections closed SLOW because memory was short.
    pub shed: u64,
    /// Bytes that waited for them or had come of them, and were dropped.
    pub shed_bytes: u64,
    /// Bytes that came on a connection after its CLOSE was queued: not looked at.
    pub late_bytes: u64,
    /// Connections whose first bytes were of another protocol or of the wrong role.
    pub wrong_port: u64,
    /// Connections whose first bytes were garbage.
    pub bad_magic: u64,
    /// Connections that came too many at once and were told to come again.
    pub sent_away: u64,
    /// Users that somebody would watch and does not, since a bound on that was reached.
    pub watches_refused: u64,
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frames forwarded {}", self.forwarded)?;
        for (number, count) in self.bounced.iter().enumerate().filter(|(_, count)| **count > 0) {
            write!(f, ", bounced {} {count}", Bounce::from_wire(number as u32 + 1))?;
        }
        let rest = [
            ("dropped droppable", self.dropped_droppable),
            ("dropped unroutable", self.dropped_unroutable),
            ("dropped bounces", self.dropped_bounces),
            ("dropped spoofed", self.dropped_spoofed),
            ("slowed", self.slowed),
            ("closed RATE", self.closed_rate),
            ("shed", self.shed),
            ("shed bytes", self.shed_bytes),
            ("late bytes", self.late_bytes),
            ("wrong port", self.wrong_port),
            ("bad magic", self.bad_magic),
            ("sent away", self.sent_away),
            ("watches refused", self.watches_refused),
        ];
        rest.into_iter().filter(|(_, count)| *count > 0).try_for_each(|(name, count)| write!(f, ", {name} {count}"))
    }
}

impl Counters {
    /// Counts a frame that was passed on.
    pub fn count_forwarded(&mut self, bytes: usize) {
        self.forwarded += 1;
        self.forwarded_bytes += bytes as u64;
    }

    /// Frames bounced, by the cause's name.
    pub fn bounces(&self) -> impl Iterator<Item = (&'static str, u64)> {
        BOUNCE_NAMES.into_iter().zip(self.bounced)
    }

    /// Frames dropped, by the reason's name.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("droppable", self.dropped_droppable),
            ("unroutable", self.dropped_unroutable),
            ("bounce_full", self.dropped_bounces),
            ("spoofed", self.dropped_spoofed),
        ]
        .into_iter()
    }

    /// Counts a bounced frame.
    pub fn count_bounce(&mut self, cause: Bounce) {
        let slot = usize::try_from(cause.to_wire()).ok().and_then(|number| number.checked_sub(1));
        if let Some(count) = slot.and_then(|slot| self.bounced.get_mut(slot)) {
            *count += 1;
        }
    }

    /// Counts a dropped frame.
    pub fn count_drop(&mut self, cause: Drop) {
        match cause {
            Drop::Droppable => self.dropped_droppable += 1,
            Drop::Unroutable => self.dropped_unroutable += 1,
            Drop::BounceFull => self.dropped_bounces += 1,
            Drop::Spoofed => self.dropped_spoofed += 1,
        }
    }
}
