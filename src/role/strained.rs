use crate::id::ConnId;
use crate::memory::Strain;
use crate::role::{Core, Counters, Fault, Gone};
use crate::time::Time;
use crate::wire::CloseCode;

/// Why a connection was shed, in words.
const SHED: &str = "memory is short";

/// A role that ends connections: in one way, whether a peer is at fault, or has no room for control, or memory is short.
pub(super) trait Strained: Core {
    fn counters_mut(&mut self) -> &mut Counters;

    /// The state has changed.
    fn note_strain(&mut self, strain: Strain);

    /// Connections whose queue had no room for control that must come, to be closed before the call ends that found it so.
    fn overwhelmed_mut(&mut self) -> &mut Vec<ConnId>;

    /// Takes a connection out of everything that refers to it, whoever ended it.
    fn depart(&mut self, now: Time, conn: ConnId, gone: Gone, text: &str);

    /// The one way in which this side ends a connection.
    fn close(&mut self, now: Time, conn: ConnId, fault: &Fault) {
        self.depart(now, conn, Gone::Closed(fault.code), &fault.text);
        if fault.told {
            self.links().close(now, conn, fault.code, &fault.body());
        } else {
            self.links().end(conn);
        }
    }

    /// Closes a connection that was hardly begun.
    fn send_away(&mut self, now: Time, conn: ConnId, fault: &Fault) {
        self.counters_mut().sent_away += 1;
        self.depart(now, conn, Gone::Closed(fault.code), &fault.text);
        self.links().refuse(now, conn, fault.code, &fault.body());
    }

    /// Closes the connections that have no room for control. Not where that is found: an end may open sessions, and whoever
    /// found it may be about to open or to end one of the same user.
    fn close_overwhelmed(&mut self, now: Time) {
        while let Some(conn) = self.overwhelmed_mut().pop() {
            self.close(now, conn, &Fault::new(CloseCode::SLOW, "no room for control frames"));
        }
    }

    /// Meets what the memory held asks for. What the farewells themselves hold is met by the next call, which
    /// [`Links::deadline`](crate::link::Links::deadline) asks for at once.
    fn ease(&mut self, now: Time) {
        if self.links().memory().deadline() > now {
            return;
        }
        self.tell_strain(now);
        for conn in self.links().victims(now) {
            self.shed(now, conn);
        }
        self.tell_strain(now);
    }

    fn tell_strain(&mut self, now: Time) {
        if let Some(strain) = self.links().take_strain(now) {
            self.note_strain(strain);
        }
    }

    fn shed(&mut self, now: Time, conn: ConnId) {
        let Some(link) = self.links().get(conn) else { return };
        let (is_live, held) = (link.is_live(), link.held());
        self.counters_mut().shed += u64::from(is_live);
        self.counters_mut().shed_bytes += held as u64;
        self.depart(now, conn, Gone::Closed(CloseCode::SLOW), SHED);
        self.links().shed(now, conn, CloseCode::SLOW, SHED);
    }
}
