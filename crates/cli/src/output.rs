//! stdout, which is data.

use std::io::{self, Write as _};

use crate::CliError;

/// Writes all that a command says to stdout. Where nobody reads on, such as behind `head`, that is
/// its end and no error.
///
/// # Errors
/// Fails when stdout cannot be written for another reason.
pub fn print(text: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    unless_unread(written).map_err(|source| CliError::Output { source })
}

fn unless_unread(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(unread) if unread.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_no_further_is_no_error() {
        let written = |kind: io::ErrorKind| unless_unread(Err(kind.into()));
        assert!(written(io::ErrorKind::BrokenPipe).is_ok());
        assert!(written(io::ErrorKind::StorageFull).is_err());
    }
}
