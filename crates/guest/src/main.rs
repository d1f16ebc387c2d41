//! The program `tarnd`; see the library.

use std::process::ExitCode;

/// The C library's allocator maps and unmaps every large buffer, and page faults are what gVisor is
/// slowest at; this one keeps some.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    tarn_guest::main(std::env::args().skip(1))
}
