use crate::limits::{REFUSED_MAX, SPARE_DESCRIPTORS};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit on descriptors to its hard limit; returns how many connections that allows.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        log::warn!("descriptor limit stays at {:?}: {error}", limit.current);
    }
    // Of those that are refused as many again are cut in a turn, and closed at its end.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors.saturating_sub((SPARE_DESCRIPTORS + 2 * REFUSED_MAX) as u64))
        .unwrap_or(usize::MAX)
        .max(1)
}
