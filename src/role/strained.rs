use crate::id::ConnId;
use crate::memory::Strain;
use crate::role::{Core, Counters, Gone};
use crate::time::Time;
use crate::wire::CloseCode;

/// Why a connection was shed, in words.
const SHED: &str = "memory is short";

/// A role whose links may run short of memory.
pub(super) trait Strained: Core {
    fn counters_mut(&mut self) -> &mut Counters;

    /// The state has changed.
    fn note_strain(&mut self, strain: Strain);

    /// Takes a connection out of everything that refers to it.
    fn let_go(&mut self, now: Time, conn: ConnId, gone: Gone, text: &str);

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
        self.let_go(now, conn, Gone::Closed(CloseCode::SLOW), SHED);
        self.links().shed(now, conn, CloseCode::SLOW, SHED);
    }
}
