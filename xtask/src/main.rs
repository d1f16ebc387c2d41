//! The gates of this repository: `cargo xtask tidy | deps | openapi [--check]`.
//!
//! They check what the compiler and clippy do not: sizes, names, arrows between crates, and that
//! committed documents are those the code makes. Each finding names a place and the remedy.

use std::{env, io::Write as _, process::ExitCode};

use anyhow::{Context as _, bail};

use crate::{checkout::Checkout, finding::Finding};

mod checkout;
mod deps;
mod finding;
mod openapi;
mod tidy;

const USAGE: &str = "usage: cargo xtask tidy | deps | openapi [--check]";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let checkout = Checkout::locate()?;
    let findings = match words[..] {
        ["tidy"] => tidy::check(&checkout)?,
        ["deps"] => deps::check(&checkout)?,
        ["openapi"] => openapi::write(&checkout)?,
        ["openapi", "--check"] => openapi::check(&checkout)?,
        _ => bail!("{USAGE}"),
    };
    report(words[0], &findings)
}

fn report(gate: &str, findings: &[Finding]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for finding in findings {
        writeln!(out, "{finding}").context("print a finding")?;
    }
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "error: {gate}: {} finding(s)", findings.len()).context("print the sum")?;
    Ok(ExitCode::FAILURE)
}
