//! What the fuzzer calls: each core, with an input's bytes as what others do to it. The same entry points run as
//! property tests (`cargo test --test properties`) and under libFuzzer (fuzz/README.md).

mod application_server;
mod blobs;
mod client_engine;
mod cluster_manager;
mod control_bodies;
mod frame;
mod script;
mod shell;

pub(crate) use application_server::{client_port, uplink_port};
pub(crate) use client_engine::client_engine;
pub(crate) use cluster_manager::transfer_port;
pub(crate) use control_bodies::control_json;
