use tarn_build::CopyFrom;
use tokio::io::AsyncReadExt as _;

use super::*;

/// When all files of these contexts last changed.
const MODIFIED: u64 = 1_700_000_000;

/// Writes an archive and reads it as a context.
fn context(write: impl FnOnce(&mut Builder<File>)) -> (tempfile::TempDir, Result<Context, String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("context.tar");
    let mut archive = Builder::new(File::create(&path).expect("a file"));
    write(&mut archive);
    archive.into_inner().expect("the archive is whole");
    let context = Context::read(&path, &AtomicBool::new(false));
    (dir, context)
}

fn add(archive: &mut Builder<File>, path: &str, mode: u32, content: &str) {
    let mut header = header(EntryType::Regular, mode, MODIFIED);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content.as_bytes()).expect("it is added");
}

#[test]
fn an_archive_is_read_through() {
    let (_dir, context) = context(|archive| {
        add(archive, "Dockerfile", 0o644, "FROM x\n");
        add(archive, "src/run.sh", 0o755, "echo\n");
        let mut link = header(EntryType::Link, 0o644, MODIFIED);
        archive.append_link(&mut link, "same", "src/run.sh").expect("it is added");
        let mut device = header(EntryType::Char, 0o644, MODIFIED);
        archive.append_data(&mut device, "tty", io::empty()).expect("it is added");
    });
    let context = context.expect("it is good");
    assert_eq!(context.dockerfile("Dockerfile").as_deref(), Ok("FROM x\n"));
    assert!(context.dockerfile("src").is_err());
    let going = AtomicBool::new(false);
    let key =
        |source: &str| context.index.select(&[source.to_owned()], &going).map(|picked| picked.key);
    assert!(key("same").is_ok());
    assert!(key("tty").is_err());
    assert_ne!(key("Dockerfile"), key("src/run.sh"));
    assert_ne!(key("."), Ok(CacheKey::of(&[])));
}

#[test]
fn hostile_archives_are_refused() {
    let raw = |path: &[u8], kind: EntryType| {
        let (_dir, context) = context(|archive| {
            let mut header = header(kind, 0o644, MODIFIED);
            if let Some(gnu) = header.as_gnu_mut() {
                gnu.name[..path.len()].copy_from_slice(path);
            }
            header.set_cksum();
            archive.append(&header, io::empty()).expect("it is added");
        });
        context.map(|_context| ()).expect_err("it is refused")
    };
    for (path, kind, said) in [
        (&b"../x"[..], EntryType::Regular, "leads out"),
        (b"a/../../x", EntryType::Directory, "leads out"),
        (b"a\xff", EntryType::Regular, "UTF-8"),
        (b"a", EntryType::Link, "not there"),
    ] {
        let refused = raw(path, kind);
        assert!(refused.contains(said), "{refused}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("context.tar");
    std::fs::write(&path, b"this is no archive, and it is long enough to be looked at".repeat(20))
        .expect("written");
    assert!(Context::read(&path, &AtomicBool::new(false)).is_err());
}

#[tokio::test]
async fn what_is_sent_can_be_read() {
    let (_dir, context) = context(|archive| {
        add(archive, "d/a", 0o640, "one");
        add(archive, "d/b/c", 0o755, "two");
    });
    let Parcel { mut stream, done } = Arc::new(context.expect("it is good"))
        .parcel(&["d".to_owned()], &Tasks::new())
        .await
        .expect("it is there");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("it comes");
    done.await.expect("it is told").expect("it was sent");
    let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let head: CopyHead = serde_json::from_slice(&bytes[..end]).expect("a head");
    assert_eq!(head, CopyHead { is_one_file: false });
    let mut seen = Vec::new();
    for entry in Archive::new(&bytes[end..]).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        let path = entry.path().expect("a path").display().to_string();
        assert_eq!(entry.header().mtime().ok(), Some(MODIFIED), "{path}");
        seen.push((path, entry.header().mode().expect("a mode"), text));
    }
    let entry = |path: &str, mode, text: &str| (path.to_owned(), mode, text.to_owned());
    assert_eq!(seen, [entry("a", 0o640, "one"), entry("b", 0o755, ""), entry("b/c", 0o755, "two")]);
}

#[test]
fn only_times_that_make_sense_are_kept() {
    let kept = |set: &dyn Fn(&mut Header)| {
        let mut header = header(EntryType::Regular, 0o644, MODIFIED);
        set(&mut header);
        modified_secs(&header)
    };
    let field = |bytes: [u8; 12]| kept(&|header| header.as_old_mut().mtime = bytes);
    assert_eq!(kept(&|_as_it_is| {}), MODIFIED);
    assert_eq!(kept(&|header| header.set_mtime(LATEST_SECS)), LATEST_SECS);
    assert_eq!(kept(&|header| header.set_mtime(LATEST_SECS + 1)), 0);
    assert_eq!(field([0xff; 12]), 0, "a second before 1970");
    assert_eq!(field(*b"no number\0\0\0"), 0);
}

#[tokio::test]
async fn what_stands_in_a_dockerfile_is_as_old_as_the_build() {
    let file = Inline { name: "a".to_owned(), text: "x".to_owned() };
    let Parcel { mut stream, .. } = Context::inline(&[file], UnixMillis(7999));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("it comes");
    let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let mut archive = Archive::new(&bytes[end..]);
    let entry = archive.entries().expect("an archive").next().expect("a file").expect("an entry");
    assert_eq!(entry.header().mtime().ok(), Some(7));
}

#[tokio::test]
async fn archives_are_not_added() {
    let (_dir, context) = context(|archive| {
        add(archive, "a.tar.gz", 0o644, "\u{1f}\u{8b}x");
        add(archive, "d/b.bz2", 0o644, "BZh9");
        add(archive, "plain", 0o644, "x");
    });
    let context = Arc::new(context.expect("it is good"));
    for (source, adds, refused) in
        [("plain", true, false), ("d/b.bz2", true, true), ("d/b.bz2", false, false)]
    {
        let copy = Copy {
            from: CopyFrom::Context,
            sources: vec![source.to_owned()],
            inline: Vec::new(),
            dest: "/x".to_owned(),
            chown: None,
            chmod: None,
            adds,
        };
        let content = context.content(&copy, &Tasks::new()).await;
        assert_eq!(content.is_err(), refused, "{source}");
    }
    assert!(is_archive(b"\x1f\x8b\x08"));
}

/// An entry of GNU tar that holds a long name for the one after it.
fn long(archive: &mut Builder<File>, kind: EntryType, bytes: u64) {
    let mut header = header(kind, 0o644, MODIFIED);
    header.set_path("././@LongLink").expect("a good path");
    header.set_size(bytes);
    header.set_cksum();
    archive.append(&header, io::repeat(b'a').take(bytes)).expect("it is added");
}

#[test]
fn names_are_bounded() {
    let refused = |kind: EntryType, bytes: u64| {
        let (_dir, context) = context(|archive| {
            long(archive, kind, bytes);
            let mut link = header(EntryType::Symlink, 0o777, MODIFIED);
            archive.append_link(&mut link, "a", "b").expect("it is added");
        });
        context.map(drop).err()
    };
    for kind in [EntryType::GNULongName, EntryType::GNULongLink] {
        assert_eq!(refused(kind, 4096), None);
        let said = refused(kind, 4097).expect("it is too long");
        assert!(said.contains("4097 bytes") && said.len() < 200, "{said}");
    }
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let said = refused(kind, 2 << 20).expect("it is never read as a whole");
        assert!(said.contains("headers of more than 1048576 bytes"), "{said}");
    }
}

#[test]
fn a_reading_ends_when_nobody_waits_for_it() {
    let (dir, _context) = context(|archive| add(archive, "a", 0o644, "x"));
    let stopped = Context::read(&dir.path().join("context.tar"), &AtomicBool::new(true));
    assert!(stopped.is_err());
}
