use crate::time::Span;

/// What a reactor trades against what; the default is the least latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Under load, the least time from one turn's beginning to the next, so that each finds more to do: fewer wake-ups
    /// and calls a message, and up to that much more latency at each server on its way. Zero for none; more than
    /// [`REST_MAX`](crate::limits::REST_MAX), 10 ms, is taken for that.
    ///
    /// Under load means that the last two turns began less than twice `rest` apart: what comes after a quieter time is
    /// handled at once. A turn that takes longer than `rest`, or leaves something to do, is followed by the next without
    /// any.
    pub rest: Span,
}
