//! When files are read again.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// What a file looks like from outside. Any change of a file moves its ctime; a file put in its
/// place has another inode. None: it is not there, or not to be seen.
pub(crate) type Stamp = Vec<Option<FileStamp>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Decides when to read, from one look after the other.
#[derive(Debug)]
pub(crate) struct Watch {
    read: Stamp,
    seen: Stamp,
    /// What was read last is to be read again, although it is the same.
    again: bool,
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing new, or still changing.
    Rest,
    /// The files have changed and then stood still: read them, once.
    Read,
    /// They are those that were read last, and are to be read again.
    Again,
}

// === impl Watch ===

impl Watch {
    /// Begins with what was seen before the files were read for the first time.
    pub(crate) fn new(read: Stamp) -> Self {
        Self { seen: read.clone(), read, again: false }
    }

    /// Takes a look into account.
    ///
    /// Files are read when two looks in a row show the same: whoever replaces two files does so one
    /// after the other. Those that turn out bad are not read again before they change, unless
    /// [`Self::again`] says so.
    pub(crate) fn look(&mut self, now: Stamp) -> Look {
        let stood_still = now == self.seen;
        self.seen = now;
        if !stood_still {
            return Look::Rest;
        }
        let again = std::mem::take(&mut self.again);
        if self.seen == self.read {
            return if again { Look::Again } else { Look::Rest };
        }
        self.read.clone_from(&self.seen);
        Look::Read
    }

    /// Has the files that were just read be read once more as they are: what was wrong may pass.
    pub(crate) fn again(&mut self) {
        self.again = true;
    }
}

/// Looks at files; symbolic links are followed.
pub(crate) fn stamp<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Stamp {
    let of = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some(FileStamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    };
    paths.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> Option<FileStamp> {
        Some(FileStamp { device: 1, inode, size: 10, changed: (0, 0) })
    }

    #[test]
    fn files_are_read_once_when_they_have_changed_and_stand_still() {
        use Look::{Read, Rest};
        let both = |certificate, key| vec![file(certificate), file(key)];
        let table = [
            ("as before", both(1, 2), Rest),
            ("one of two replaced", both(3, 2), Rest),
            ("the other as well", both(3, 4), Rest),
            ("they stand still", both(3, 4), Read),
            ("read already", both(3, 4), Rest),
            ("one is gone", vec![None, file(4)], Rest),
            ("and back before anybody cared", both(3, 4), Rest),
            ("as it was read", both(3, 4), Rest),
            ("both are gone", vec![None, None], Rest),
            ("for good: say so once", vec![None, None], Read),
            ("and no more", vec![None, None], Rest),
        ];
        let mut watch = Watch::new(both(1, 2));
        for (what, now, expected) in table {
            assert_eq!(watch.look(now), expected, "{what}");
        }
    }

    #[test]
    fn what_may_turn_good_by_itself_is_read_at_each_look() {
        let (old, new) = (vec![file(1)], vec![file(2)]);
        let mut watch = Watch::new(old.clone());
        assert_eq!(watch.look(new.clone()), Look::Rest);
        assert_eq!(watch.look(new.clone()), Look::Read);
        for _ in 0..2 {
            watch.again();
            assert_eq!(watch.look(new.clone()), Look::Again);
        }
        assert_eq!(watch.look(new.clone()), Look::Rest, "it was good this time");
        watch.again();
        assert_eq!(watch.look(old.clone()), Look::Rest, "it changes");
        assert_eq!(watch.look(old.clone()), Look::Read);
        assert_eq!(watch.look(old), Look::Rest, "that is another matter");
    }

    #[test]
    fn every_kind_of_change_shows() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        let look = || stamp([path.as_path()]);
        assert_eq!(look(), [None]);
        fs::write(&path, "one").expect("written");
        let first = look();
        assert_eq!(first, look());
        fs::write(&path, "longer").expect("written");
        let second = look();
        assert_ne!(first, second);
        fs::write(&other, "rename").expect("written");
        fs::rename(&other, &path).expect("renamed");
        assert_ne!(look(), second);
        fs::rename(&path, &other).expect("renamed");
        std::os::unix::fs::symlink(&other, &path).expect("linked");
        assert_eq!(look(), stamp([other.as_path()]), "links are followed");
    }
}
