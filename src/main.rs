//! The `tertulia` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Each request allocates and frees some hundred times, often on another thread than it began on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(tertulia::cli::run())
}
