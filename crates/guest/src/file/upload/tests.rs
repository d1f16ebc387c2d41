//! What is in the target, whatever happens on the way.

use std::os::unix::fs::symlink;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn put(path: &Path, content: &str) -> Result<(), FileError> {
    let mut upload = Upload::begin(path)?;
    upload.write(content.as_bytes())?;
    upload.commit()
}

#[test]
fn parents_are_made_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a/b/c.txt");
    put(&path, "x").expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), "x");
    assert_eq!(names(&dir.path().join("a/b")), ["c.txt"]);
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o644);
}

#[test]
fn an_interrupted_upload_leaves_the_old_content() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    fs::write(&path, "old").expect("written");
    let mut upload = Upload::begin(&path).expect("begun");
    upload.write(b"new").expect("written");
    drop(upload);
    assert_eq!(fs::read_to_string(&path).expect("there"), "old");
    assert_eq!(names(dir.path()), ["f"]);
}

#[test]
fn what_an_upload_of_an_earlier_life_left_is_in_nobody_s_way() {
    let dir = tempfile::tempdir().expect("a directory");
    // Whatever number comes next, from here or from a test beside.
    let next = COUNTER.load(Ordering::Relaxed);
    let pid = std::process::id();
    for number in next..next + 500 {
        fs::write(dir.path().join(format!(".tarn-upload-{pid}-{number}")), "left").expect("left");
    }
    put(&dir.path().join("f"), "new").expect("written");
    assert_eq!(fs::read_to_string(dir.path().join("f")).expect("there"), "new");
}

#[test]
fn an_existing_file_keeps_its_mode() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("script");
    fs::write(&path, "old").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o750)).expect("set");
    put(&path, "new").expect("written");
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o750);
}

#[test]
fn links_are_followed_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("target"), "old").expect("written");
    symlink("target", at("link")).expect("linked");
    put(&at("link"), "new").expect("written");
    assert_eq!(fs::read_to_string(at("target")).expect("there"), "new");
    assert!(fs::symlink_metadata(at("link")).expect("there").is_symlink());

    symlink("not-yet", at("dangling")).expect("linked");
    put(&at("dangling"), "made").expect("written");
    assert_eq!(fs::read_to_string(at("not-yet")).expect("there"), "made");

    symlink("loop", at("loop")).expect("linked");
    assert!(matches!(put(&at("loop"), ""), Err(FileError::Invalid(_))));
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "").expect("written");
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    assert!(matches!(put(dir.path(), ""), Err(FileError::IsDirectory(_))));
    assert!(matches!(put(&at("new/"), ""), Err(FileError::IsDirectory(_))));
    assert!(matches!(put(Path::new("/"), ""), Err(FileError::IsDirectory(_))));
    assert!(matches!(put(&at("fifo"), ""), Err(FileError::Invalid(_))));
    assert!(matches!(put(Path::new("/dev/null"), ""), Err(FileError::Invalid(_))));
    assert!(matches!(put(&at("file/x"), ""), Err(FileError::NotADirectory(_))));
    assert_eq!(names(dir.path()), ["fifo", "file"]);
}

#[test]
fn spooled_content_is_copied_into_the_target() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    fs::write(&path, "a longer old text").expect("written");
    let mut upload = Upload {
        target: path.clone(),
        existing: check_target(&path).expect("a file"),
        content: Content::create(Path::new(SPOOL_DIR), Place::Spool).expect("made"),
    };
    let spool = upload.content.path.clone();
    upload.write(b"new").expect("written");
    upload.commit().expect("copied");
    assert_eq!(fs::read_to_string(&path).expect("there"), "new");
    assert!(!spool.exists());
}
