//! What layers mean together: whiteouts, links to what is below, owners, times, attributes.

use std::os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _};

use tarn_oci::Bounds;

use crate::{
    image::Place,
    tar::{Header, Tar, seal},
};

async fn unpack(layers: &[Tar]) -> Place {
    let place = Place::new();
    let layers: Vec<_> = layers.iter().map(|layer| layer.clone().end()).collect();
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    place.unpack(&layers, Bounds::default()).await.unwrap();
    place
}

fn xattr(path: &std::path::Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let count = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..count].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_take_away_what_is_below_and_nothing_else() {
    let lower = Tar::new()
        .file("keep", b"")
        .file("gone", b"")
        .file("dir/a", b"")
        .file("dir/sub/b", b"")
        .file("opaque/old", b"old")
        .file("opaque/both", b"old")
        .file("opaque/sub/old", b"old")
        .file("swap/old", b"old")
        .file("again", b"old");
    let upper = Tar::new()
        .file(".wh.gone", b"")
        .file(".wh.dir", b"")
        .file("opaque/both", b"new")
        .file("opaque/sub/new", b"new")
        // After what it must not take away, as some tools write it.
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        // A directory that is gone and made again.
        .file("swap/new", b"new")
        .file(".wh.swap", b"")
        .file("again", b"new")
        .file(".wh.again", b"")
        .file(".wh.never-was", b"")
        .file("nowhere/.wh.at-all", b"");
    let place = unpack(&[lower, upper]).await;
    for path in ["gone", "dir", "opaque/old", "opaque/sub/old", "swap/old", "nowhere", ".wh.gone"] {
        assert!(!place.exists(path), "{path}");
    }
    for path in ["opaque/both", "opaque/new", "opaque/sub/new", "swap/new", "again"] {
        assert_eq!(place.read(path), "new", "{path}");
    }
    assert!(place.exists("keep"));
}

#[tokio::test(flavor = "multi_thread")]
async fn upper_layers_take_the_place_of_lower_ones() {
    let lower = Tar::new()
        .file("file", b"old")
        .dir_as("dir", 0o700, (0, 0))
        .file("dir/kept", b"kept")
        .file("becomes-file/x", b"")
        .file("becomes-dir", b"")
        .file("becomes-link/x", b"")
        .symlink("was-link", "file")
        .file("linked", b"shared")
        .hard_link("linked-too", "linked");
    let upper = Tar::new()
        .file("file", b"new")
        .dir_as("dir", 0o1777, (5, 6))
        .file("becomes-file", b"file")
        .file("becomes-dir/y", b"y")
        .symlink("becomes-link", "dir")
        .file("becomes-link/through", b"through")
        .file("was-link", b"own")
        .file("linked", b"changed")
        .hard_link("from-below", "dir/kept");
    let result = {
        let place = Place::new();
        let (lower, upper) = (lower.clone().end(), upper.end());
        place.unpack(&[&lower, &upper], Bounds::default()).await
    };
    // A file that becomes a directory must say so.
    assert!(result.is_err());
    let upper = Tar::new()
        .file("file", b"new")
        .dir_as("dir", 0o1777, (5, 6))
        .file("becomes-file", b"file")
        .dir("becomes-dir")
        .file("becomes-dir/y", b"y")
        .symlink("becomes-link", "dir")
        .file("becomes-link/through", b"through")
        .file("was-link", b"own")
        .file("linked", b"changed")
        .hard_link("from-below", "dir/kept");
    let place = unpack(&[lower, upper]).await;
    assert_eq!(place.read("file"), "new");
    assert_eq!(place.read("becomes-file"), "file");
    assert_eq!(place.read("becomes-dir/y"), "y");
    assert_eq!(place.read("dir/through"), "through");
    assert_eq!(place.read("was-link"), "own");
    assert_eq!(
        (place.read("linked"), place.read("linked-too")),
        ("changed".into(), "shared".into())
    );
    assert_eq!(place.read("from-below"), "kept");
    let inode = |path: &str| place.root(path).metadata().unwrap().ino();
    assert_eq!(inode("from-below"), inode("dir/kept"));
    let dir = place.root("dir").metadata().unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o1777, 5, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_modes_times_and_attributes_are_kept() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    // A value with a line end and a NUL in it, as that of a capability may be.
    let note = b"a\nb\0c=d 7\n";
    let layer = Tar::new()
        .dir_as("./", 0o711, (7, 8))
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.user.note", note),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("comment", b"passed over"),
        ])
        .file_as("bin/tool", b"tool", 0o6755, (0, 50))
        .pax(&[("mtime", b"7")])
        .dir_as("dir", 0o2750, (1, 2))
        .file("dir/later", b"")
        .dir_as("dir", 0o2750, (1, 2))
        .header(&Header {
            uid: 4,
            gid: 5,
            link: b"/anywhere/at/all".to_vec(),
            ..Header::new("link", b'2')
        });
    let place = unpack(&[layer]).await;
    let root = place.root("").metadata().unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o711, 7, 8));
    let tool = place.root("bin/tool").metadata().unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o6755, 3_000_000_000, 50));
    assert_eq!((tool.mtime(), tool.mtime_nsec()), (1_234_567_890, 123_456_789));
    let tool = place.root("bin/tool");
    assert_eq!(xattr(&tool, "user.note").as_deref(), Some(&note[..]));
    assert_eq!(xattr(&tool, "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr(&tool, "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&tool, "user.overlay.opaque"), None);
    let dir = place.root("dir").metadata().unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o2750, 1, 2));
    assert_eq!(dir.mtime(), 1_000_000_000, "the last one, and not when a file was made in it");
    let link = place.root("link").symlink_metadata().unwrap();
    assert_eq!((link.uid(), link.gid(), link.mtime()), (4, 5, 1_000_000_000));
    let target = std::fs::read_link(place.root("link")).unwrap();
    assert_eq!(target.as_os_str().as_bytes(), b"/anywhere/at/all");
    assert_eq!(place.root("bin").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_of_every_kind_are_whole() {
    let long = |letter: char| format!("{}/{}", "d".repeat(120), letter.to_string().repeat(200));
    let gnu = |flag, text: &str| {
        let bytes = format!("{text}\0");
        let size = bytes.len() as u64;
        Tar::new()
            .header(&Header { size, ..Header::new("././@LongLink", flag) })
            .data(bytes.as_bytes())
    };
    let by_prefix = {
        let mut block = Header::new("name", b'0').block();
        block[345..355].copy_from_slice(b"the/prefix");
        seal(&mut block);
        block
    };
    let layer = gnu(b'L', &long('a'))
        .file("short", b"gnu")
        .pax(&[("path", long('b').as_bytes())])
        .file("short", b"pax")
        .raw(&gnu(b'K', &long('t')).cut())
        .raw(&gnu(b'L', &long('c')).cut())
        .symlink("short", "short")
        .pax(&[("linkpath", long('a').as_bytes())])
        .hard_link("hard", "short")
        .raw(&by_prefix)
        // Comments for the whole archive are no entry's.
        .header(&Header { size: 16, ..Header::new("g", b'g') })
        .data(b"16 path=ignored\n")
        .file("plain", b"plain")
        // As they were before there were types.
        .header(&Header { magic: [0; 8], ..Header::new("old-dir/", 0) })
        .header(&Header { magic: [0; 8], ..Header::new("old-file", 0) });
    let place = unpack(&[layer]).await;
    assert_eq!(place.read(&long('a')), "gnu");
    assert_eq!(place.read(&long('b')), "pax");
    assert_eq!(std::fs::read_link(place.root(&long('c'))).unwrap().to_str(), Some(&*long('t')));
    assert_eq!(place.read("hard"), "gnu");
    assert!(place.exists("the/prefix/name"));
    assert_eq!(place.read("plain"), "plain");
    assert!(place.root("old-dir").is_dir() && place.root("old-file").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_files_keep_their_holes() {
    let data: Vec<u8> = (0..8192_u32).map(|number| number.to_le_bytes()[0] | 1).collect();
    let size = 1 << 24;
    let mut expected = vec![0; size];
    expected[4096..8192].copy_from_slice(&data[..4096]);
    expected[1 << 20..(1 << 20) + 4096].copy_from_slice(&data[4096..]);
    let real = size.to_string();
    let map = "4096,4096,1048576,4096,16777216,0";
    let mut old = Header { size: 8192, magic: *b"ustar  \0", ..Header::new("gnu", b'S') }.block();
    let pairs = [(4096, 4096), (1 << 20, 4096), (size, 0)];
    for (index, (offset, length)) in pairs.iter().enumerate() {
        let pair = format!("{offset:011o}\0{length:011o}\0");
        old[386 + 24 * index..410 + 24 * index].copy_from_slice(pair.as_bytes());
    }
    old[483..494].copy_from_slice(format!("{size:011o}").as_bytes());
    seal(&mut old);
    let before_data = format!("3\n{}\n", map.replace(',', "\n"));
    let mut with_map = before_data.into_bytes();
    with_map.resize(512, 0);
    with_map.extend_from_slice(&data);
    let pairs: Vec<_> = map.split(',').map(str::as_bytes).collect();
    let keys = ["GNU.sparse.offset", "GNU.sparse.numbytes"];
    let mut oldest: Vec<(&str, &[u8])> = vec![("GNU.sparse.size", real.as_bytes())];
    oldest.extend(pairs.iter().enumerate().map(|(index, value)| (keys[index % 2], *value)));
    let layer = Tar::new()
        .raw(&old)
        .data(&data)
        .pax(&oldest)
        .file("pax-0.0", &data)
        .pax(&[
            ("GNU.sparse.name", b"pax-0.1"),
            ("GNU.sparse.size", real.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file("GNUSparseFile.0/x", &data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax-1.0"),
            ("GNU.sparse.realsize", real.as_bytes()),
        ])
        .file("GNUSparseFile.0/y", &with_map)
        .file("after", b"in step");
    let place = unpack(&[layer]).await;
    for name in ["gnu", "pax-0.0", "pax-0.1", "pax-1.0"] {
        assert!(std::fs::read(place.root(name)).unwrap() == expected, "{name}");
        let blocks = place.root(name).metadata().unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{name} has no holes");
    }
    assert_eq!(place.read("after"), "in step");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_no_layers_is_an_empty_tree() {
    let place = unpack(&[]).await;
    assert_eq!(std::fs::read_dir(place.root("")).unwrap().count(), 0);
    assert_eq!(place.root("").metadata().unwrap().mode() & 0o7777, 0o755);
}
