use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::time::{Span, Time};

/// Between two lines about connections from one address that came to nothing.
const PAUSE: Span = Span::from_secs(60);
/// Addresses remembered, at most; what comes from others meanwhile is one address.
const ADDRESSES_MAX: usize = 1024;

/// Which connections that ended before their greeting did are worth a line in the log: one an address and minute, so that
/// strangers don't write it.
#[derive(Default)]
pub(super) struct Newcomers {
    told: BTreeMap<IpAddr, Told>,
    /// All addresses that there is no room for.
    others: Told,
    /// When those whose minute is over may be looked for again.
    sweeps: Time,
}

#[derive(Default)]
struct Told {
    /// When the next line may be written.
    again: Time,
    /// Connections since the last.
    untold: u64,
}

/// How many connections were not worth one, as the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// From the same address.
    There(u64),
    /// From many addresses, the same perhaps among them.
    Elsewhere(u64),
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untold::There(0) | Untold::Elsewhere(0) => Ok(()),
            Untold::There(count) => write!(f, "; {count} more from there since the last line"),
            Untold::Elsewhere(count) => write!(f, "; {count} more from many addresses"),
        }
    }
}

impl Newcomers {
    /// One from `addr` came to nothing. How many did since its last line, where it is time for another.
    pub(super) fn ended(&mut self, now: Time, addr: IpAddr) -> Option<Untold> {
        let addr = network(addr);
        if self.told.len() >= ADDRESSES_MAX && now >= self.sweeps {
            self.sweeps = now + Span::from_secs(1);
            let quiet = self.told.extract_if(.., |_, told| now >= told.again);
            self.others.untold += quiet.map(|(_, told)| told.untold).sum::<u64>();
        }
        if self.told.len() < ADDRESSES_MAX || self.told.contains_key(&addr) {
            return self.told.entry(addr).or_default().tell(now).map(Untold::There);
        }
        self.others.tell(now).map(Untold::Elsewhere)
    }
}

impl Told {
    /// One more. How many there were since the last line, where it is time for another.
    fn tell(&mut self, now: Time) -> Option<u64> {
        if now < self.again {
            self.untold += 1;
            return None;
        }
        self.again = now + PAUSE;
        Some(std::mem::take(&mut self.untold))
    }
}

/// What one stranger has at least: an IPv4 address, or the 2^64 addresses of an IPv6 network.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => IpAddr::V4(addr),
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Span::from_secs(seconds)
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_a_line_a_minute_that_counts_the_others() {
        let mut newcomers = Newcomers::default();
        assert_eq!(newcomers.ended(at(0), addr("10.0.0.1")), Some(Untold::There(0)));
        assert_eq!(newcomers.ended(at(1), addr("10.0.0.1")), None);
        assert_eq!(newcomers.ended(at(59), addr("::ffff:10.0.0.1")), None);
        assert_eq!(newcomers.ended(at(59), addr("10.0.0.2")), Some(Untold::There(0)));
        assert_eq!(newcomers.ended(at(60), addr("10.0.0.1")), Some(Untold::There(2)));
        assert_eq!(newcomers.ended(at(130), addr("10.0.0.1")), Some(Untold::There(0)));
        assert_eq!(newcomers.ended(at(131), addr("2001:db8::1")), Some(Untold::There(0)));
        assert_eq!(newcomers.ended(at(131), addr("2001:db8::ffff:2")), None);
    }

    #[test]
    fn the_addresses_of_the_whole_world_are_few_lines_and_little_memory() {
        let mut newcomers = Newcomers::default();
        let lines = (0..100_000u32).filter(|number| newcomers.ended(at(5), IpAddr::V4((*number).into())).is_some());
        assert_eq!(lines.count(), ADDRESSES_MAX + 1);
        assert_eq!(newcomers.told.len(), ADDRESSES_MAX);
        assert_eq!(newcomers.ended(at(6), addr("10.0.0.1")), None);
        assert_eq!(newcomers.others.untold, 100_000 - ADDRESSES_MAX as u64);
        assert_eq!(newcomers.ended(at(70), addr("10.0.0.1")), Some(Untold::There(0)));
        assert_eq!(newcomers.told.len(), 1);
    }
}
