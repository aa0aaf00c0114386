//! A whole cluster on this machine.

fn main() {}
