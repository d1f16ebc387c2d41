//! The program `tarnd`; see the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tarn_guest::Memory = tarn_guest::Memory;

fn main() -> ExitCode {
    tarn_guest::main(std::env::args().skip(1))
}
