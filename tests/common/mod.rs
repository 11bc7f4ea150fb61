//! What several tests share. Each test binary uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod check;
pub mod fault_disk;
pub mod memory_net;
pub mod one;
pub mod process;
pub mod served;
pub mod three;
