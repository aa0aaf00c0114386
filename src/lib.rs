//! Trunkline: cross-server messaging for TCP client/server applications.

#![cfg_attr(not(feature = "net"), allow(dead_code))]

pub mod buf;
#[cfg(feature = "cli")]
pub mod config;
pub mod id;
pub mod limits;
pub mod link;
pub mod role;
pub mod time;
pub mod wire;
