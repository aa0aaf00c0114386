use crate::time::Span;

/// What a reactor trades against what; the default is the least latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Under load, the least time from one turn's beginning to the next, so that each finds more to do: fewer wake-ups
    /// and calls a message, and up to that much more latency at each server on its way. Zero for none; more than 10 ms (`limits::REST_MAX`) is taken for that.
    ///
    /// Under load means that the last two turns began less than twice `rest` apart: what comes after a quieter time is
    /// handled at once. A turn that takes longer than `rest`, or leaves something to do, is followed by the next without
    /// any.
    pub rest: Span,
    /// When what clients and servers send is acknowledged by the kernel.
    pub acks: Acks,
}

/// When TCP acknowledges what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// As the kernel sees fit: mostly with each read.
    #[default]
    Prompt,
    /// From a connection's beginning as on one that is busy both ways (`TCP_QUICKACK` off): with every second segment,
    /// with data the other way, or after 40 ms. Saves an acknowledgement for about every second message of those who
    /// mostly send; a client that has not set TCP_NODELAY waits for them. A connection that lets 40 ms pass is back at
    /// `Prompt`.
    Delayed,
}
