//! Trunkline: cross-server messaging for TCP client/server applications.

#![cfg_attr(not(feature = "net"), allow(dead_code))]

pub mod id;
pub mod limits;
pub mod time;
pub mod wire;
