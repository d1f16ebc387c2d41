//! What comes by stdin because no argument may hold it: arguments are in every list of processes.

use std::io::{self, IsTerminal as _, Read};

use crate::CliError;

/// Reads a password or another secret from stdin. An editor or `echo` ends a file with a line break
/// that is no part of it. `what` is such as "password", and `example` shows how it is given.
pub(crate) fn read_secret(what: &'static str, example: &'static str) -> Result<String, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::InputFromTerminal { what, example });
    }
    read(what, &mut stdin.lock())
}

/// Reads all there is. Nothing is what a program leaves that failed, or a variable that is not set:
/// it must not take the place of what was.
fn read(what: &'static str, input: &mut impl Read) -> Result<String, CliError> {
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|source| CliError::Input { source })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if text.is_empty() {
        return Err(CliError::NoInput { what });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_no_part_of_it_and_nothing_is_refused() {
        for (input, expected) in
            [("hush", "hush"), ("hush\n", "hush"), ("a\nb\n\n", "a\nb\n"), ("\n\n", "\n")]
        {
            assert_eq!(read("password", &mut input.as_bytes()).expect(input), expected);
        }
        for input in ["", "\n"] {
            let refused = read("password", &mut input.as_bytes()).expect_err("nothing");
            assert!(matches!(refused, CliError::NoInput { what: "password" }), "{refused:?}");
            assert_eq!(refused.exit_code(), 4);
        }
        let binary = read("password", &mut &[0xff_u8][..]).expect_err("no text");
        assert!(matches!(binary, CliError::Input { .. }), "{binary:?}");
    }
}
