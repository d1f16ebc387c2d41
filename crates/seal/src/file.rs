//! Keys in files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tarn_task::{Entropy as _, OsEntropy};
use zeroize::Zeroizing;

use crate::{KEY_LENGTH, Key};

/// Reads a key from a file, which is made first if it is not there: 32 random bytes that only
/// their owner can read.
///
/// # Errors
/// Fails when the file cannot be read or made, others may read it, or it is of another length.
pub fn open_or_create(path: &Path) -> io::Result<Key> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    create(path)?;
    read(path)
}

fn read(path: &Path) -> io::Result<Key> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let text = format!("others than its owner may use it (mode {mode:o}); chmod 600 it");
        return Err(invalid(text));
    }
    if !meta.is_file() || meta.len() != KEY_LENGTH as u64 {
        let length = meta.len();
        return Err(invalid(format!("it must be a file of {KEY_LENGTH} bytes, not {length}")));
    }
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    file.read_exact(&mut *key)?;
    Ok(Key::new(key))
}

/// Makes the file, durably; leaves one that somebody else made meanwhile.
fn create(path: &Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    OsEntropy.fill(&mut *key);
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(&*key)?;
    file.sync_all()?;
    match renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => fs::remove_file(&draft)?,
        outcome => outcome?,
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) -> anyhow::Result<()> {
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    }

    #[test]
    fn a_key_is_made_once_and_stays() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.key");
        let made = open_or_create(&path)?;
        assert_eq!(made.bytes(), open_or_create(&path)?.bytes());
        assert_eq!(fs::read(&path)?, made.bytes());
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o7777, 0o600);
        // Somebody else was faster: theirs stays.
        create(&path)?;
        assert_eq!(made.bytes(), read(&path)?.bytes());
        assert_eq!(fs::read_dir(dir.path())?.count(), 1, "no draft is left");
        let other = open_or_create(&dir.path().join("other"))?;
        assert_ne!(made.bytes(), other.bytes());
        Ok(())
    }

    #[test]
    fn a_key_that_is_open_to_others_or_odd_is_refused() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.key");
        for (length, bits, expected) in [
            (KEY_LENGTH, 0o640, "others than its owner may use it (mode 640)"),
            (KEY_LENGTH, 0o604, "others than its owner may use it (mode 604)"),
            (KEY_LENGTH - 1, 0o600, "it must be a file of 32 bytes, not 31"),
            (0, 0o600, "it must be a file of 32 bytes, not 0"),
            (KEY_LENGTH + 1, 0o600, "it must be a file of 32 bytes, not 33"),
        ] {
            fs::write(&path, vec![1; length])?;
            mode(&path, bits)?;
            let refused = open_or_create(&path).expect_err("odd").to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        fs::write(&path, [1; KEY_LENGTH])?;
        mode(&path, 0o400)?;
        open_or_create(&path)?;
        open_or_create(&dir.path().join("absent/key")).expect_err("no directory");
        Ok(())
    }
}
