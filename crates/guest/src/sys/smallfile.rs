//! Reading configuration that a tenant may have replaced by anything.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

/// Reads a regular file of at most `limit` bytes.
///
/// A FIFO or a device in its place is an error, not a hang: tarnd has one thread.
pub(crate) fn read_small_file(path: &str, limit: usize) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // Most are small: one read for the content and one for its end.
    let mut content = Vec::with_capacity(1024.min(limit) + 1);
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(at("file"), "1234").expect("written");
        nix::unistd::mkfifo(at("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert_eq!(read_small_file(&at("file"), 4).expect("small"), b"1234");
        assert!(read_small_file(&at("file"), 3).is_err());
        assert!(read_small_file(&at("fifo"), 4).is_err());
        assert!(read_small_file("/dev/zero", 4).is_err());
        assert!(read_small_file(&at("none"), 4).is_err());
    }
}
