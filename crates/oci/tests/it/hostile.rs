//! Layers that nobody would make in good faith: each is refused for what it is, or made harmless,
//! and nothing beside the work directory is touched.

use std::{fs, os::unix::fs::MetadataExt as _};

use tarn_oci::{Bounds, OciError};
use tarn_types::ErrorClass;

use crate::{
    image::{By, Image, Place, compress},
    tar::{Header, Tar, record, seal},
};

/// What becomes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Hostile,
    Malformed,
    TooLarge,
    /// It unpacks, and what it tries has no effect outside the tree.
    Harmless,
}

use Fate::{Harmless, Hostile, Malformed, TooLarge};

/// Bounds that a test can reach.
fn bounds() -> Bounds {
    Bounds {
        unpacked_bytes: 8 << 20,
        entries: 200,
        ratio: 100,
        ratio_free_bytes: 1 << 20,
        path_bytes: 1000,
        depth: 20,
        header_bytes: 64 << 10,
        dir_bytes: 8 << 10,
        ..Bounds::default()
    }
}

fn fate(result: &Result<tarn_oci::Unpacked, OciError>) -> Option<Fate> {
    match result {
        Ok(_) => Some(Harmless),
        Err(OciError::Hostile { .. }) => Some(Hostile),
        Err(OciError::Malformed { .. }) => Some(Malformed),
        Err(OciError::TooLarge { .. }) => Some(TooLarge),
        Err(_) => None,
    }
}

/// Unpacks each layer by itself and checks what becomes of it.
async fn check(cases: Vec<(&str, Fate, Vec<u8>)>) {
    for (case, expected, layer) in cases {
        let place = Place::new();
        let result = place.unpack(&[&layer], bounds()).await;
        assert_eq!(fate(&result), Some(expected), "{case}: {result:?}");
        if let Err(error) = &result {
            assert_eq!(error.class(), ErrorClass::Invalid, "{case}");
            assert!(!place.exists(""), "{case}: no half tree is left");
            assert!(!error.to_string().contains('\0'), "{case}");
        }
        place.check_sentinels(case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out_of_the_tree() {
    let tar = Tar::new;
    let out = "../../beside";
    check(vec![
        ("dots", Hostile, tar().file("../x", b"x").end()),
        ("dots to the sentinel", Hostile, tar().file("../../sentinel", b"x").end()),
        ("dots in the middle", Hostile, tar().file("a/../../x", b"x").end()),
        ("dots at the end", Hostile, tar().dir("a/..").end()),
        ("dots that would stay within", Hostile, tar().file("a/../b", b"x").end()),
        ("dots after the root", Hostile, tar().file("/../x", b"x").end()),
        ("dots alone", Hostile, tar().dir("..").end()),
        ("dots of a pax header", Hostile, tar().pax(&[("path", b"../x")]).file("x", b"x").end()),
        (
            "dots of a long name",
            Hostile,
            tar()
                .header(&Header { size: 5, ..Header::new("././@LongLink", b'L') })
                .data(b"../x\0")
                .file("x", b"x")
                .end(),
        ),
        ("dots of a prefix", Hostile, {
            let mut block = Header::new("x", b'0').block();
            block[345..353].copy_from_slice(b"../../be");
            seal(&mut block);
            tar().raw(&block).end()
        }),
        (
            "dots of a sparse name",
            Hostile,
            tar()
                .pax(&[("GNU.sparse.name", b"../x"), ("GNU.sparse.size", b"0")])
                .file("x", b"")
                .end(),
        ),
        ("an absolute path", Harmless, tar().file("/beside/x", b"x").end()),
        ("a file through a link out", Hostile, tar().symlink("l", out).file("l/x", b"x").end()),
        (
            "a file through an absolute link",
            Harmless,
            tar().symlink("l", "/").file("l/sentinel", b"x").end(),
        ),
        (
            "a file through many dots to what is there",
            Harmless,
            tar().dir("beside").symlink("l", "../../../../beside").file("l/sentinel", b"x").end(),
        ),
        (
            "a directory through a link",
            Harmless,
            tar().symlink("l", "/../..").dir("l/beside").file("l/beside/sentinel", b"x").end(),
        ),
        (
            "a file over a link out",
            Harmless,
            tar().symlink("l", "../../sentinel").file("l", b"x").end(),
        ),
        (
            "a directory over a link out",
            Harmless,
            tar().symlink("l", out).dir("l").file("l/sentinel", b"x").end(),
        ),
        (
            "links that lead to each other",
            Hostile,
            tar().symlink("a", "b").symlink("b", "a").file("a/x", b"x").end(),
        ),
        ("a link to itself", Hostile, tar().symlink("a", "a").file("a/b", b"x").end()),
        (
            "a link of the host's processes",
            Hostile,
            tar().symlink("l", "/proc/self/cwd").file("l/x", b"x").end(),
        ),
        ("a file below a file", Hostile, tar().file("a", b"x").file("a/b", b"x").end()),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_reaches_what_the_image_did_not_make() {
    let tar = Tar::new;
    check(vec![
        ("a hard link out", Hostile, tar().hard_link("a", "../../sentinel").end()),
        ("a hard link to the host", Hostile, tar().hard_link("a", "/etc/passwd").end()),
        (
            "a hard link through a link out",
            Hostile,
            tar().symlink("l", "../..").hard_link("a", "l/sentinel").end(),
        ),
        (
            "a hard link through an absolute link",
            Hostile,
            tar().symlink("l", "/etc").hard_link("a", "l/passwd").file("a", b"x").end(),
        ),
        (
            "a file over a hard link to a link out",
            Harmless,
            tar().symlink("l", "../../sentinel").hard_link("a", "l").file("a", b"x").end(),
        ),
        ("a hard link to itself", Hostile, tar().file("a", b"x").hard_link("a", "a").end()),
        ("a hard link to a directory", Hostile, tar().dir("d").hard_link("a", "d").end()),
        ("a hard link to the root", Hostile, tar().hard_link("a", "/").end()),
        ("a hard link to nothing", Hostile, tar().hard_link("a", "nothing").end()),
        ("a hard link without a target", Hostile, tar().hard_link("a", "").end()),
        (
            "a hard link below what it takes the place of",
            Hostile,
            tar().file("d/f", b"x").hard_link("d", "d/f").end(),
        ),
        ("a link to nowhere", Hostile, tar().symlink("a", "").end()),
        ("a link with a NUL", Hostile, {
            tar().pax(&[("linkpath", b"a\0b")]).symlink("a", "x").end()
        }),
        ("a whiteout out", Hostile, tar().file(".wh...", b"").end()),
        ("a whiteout of the directory itself", Hostile, tar().file("a/.wh..", b"").end()),
        ("a whiteout of nothing", Hostile, tar().file(".wh.", b"").end()),
        ("a whiteout with a child", Hostile, tar().file(".wh.a/b", b"").end()),
        (
            "a whiteout through a link out",
            Harmless,
            tar().symlink("l", "../..").file("l/.wh.sentinel", b"").end(),
        ),
        (
            "an opaque directory through a link out",
            Harmless,
            tar().symlink("l", "../../beside").file("l/.wh..wh..opq", b"").end(),
        ),
        (
            "a whiteout of a link out",
            Harmless,
            tar().symlink("l", "../../beside").file(".wh.l", b"").end(),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_files_directories_and_links_is_made() {
    let tar = Tar::new;
    check(vec![
        ("a character device", Hostile, tar().other("null", b'3').end()),
        ("a block device", Hostile, tar().other("sda", b'4').end()),
        ("a device that only begins with dev", Hostile, tar().other("devices/x", b'3').end()),
        (
            "devices below /dev",
            Harmless,
            tar().other("dev/mem", b'3').other("./dev/a/b", b'4').end(),
        ),
        ("a pipe", Hostile, tar().other("pipe", b'6').end()),
        ("a pipe below /dev", Hostile, tar().other("dev/pipe", b'6').end()),
        ("a type that is none", Malformed, tar().other("x", b'Z').end()),
        ("a volume that goes on elsewhere", Malformed, tar().other("x", b'M').end()),
        ("a file in the place of the root", Hostile, tar().file(".", b"").end()),
        ("a link in the place of the root", Hostile, tar().symlink("/", "/etc").end()),
        ("no name", Hostile, tar().header(&Header::new("", b'0')).end()),
        ("a name with a NUL", Hostile, tar().pax(&[("path", b"a\0b")]).file("x", b"").end()),
        ("an owner that means nobody", Malformed, {
            tar().pax(&[("uid", b"4294967295")]).file("x", b"").end()
        }),
        (
            "an owner beyond all",
            Malformed,
            tar().pax(&[("gid", b"99999999999")]).file("x", b"").end(),
        ),
        ("a bad capability", Hostile, {
            tar().pax(&[("SCHILY.xattr.security.capability", b"\x01\x02")]).file("x", b"").end()
        }),
        ("a time beyond all", Harmless, {
            tar().pax(&[("mtime", b"9223372036854775807")]).file("x", b"").dir("d").end()
        }),
        ("attributes that steer an overlay", Harmless, {
            let records: [(&str, &[u8]); 3] = [
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/../../.."),
                ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ];
            tar().pax(&records).dir("x").end()
        }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_without_a_bound() {
    let tar = Tar::new;
    let many = (0..201).fold(tar(), |tar, number| tar.file(&format!("f{number}"), b""));
    let deep = "d/".repeat(21);
    // Each path is short; together they are deep.
    let mut stairs = tar();
    for step in 0..8 {
        let way = "d/".repeat(8);
        let from = if step == 0 { String::new() } else { format!("s{}/", step - 1) };
        stairs = stairs.file(&format!("{from}{way}x"), b"");
        let target = "d/".repeat(8 * (step + 1));
        stairs = stairs.symlink(&format!("s{step}"), target.trim_end_matches('/'));
    }
    let dirs = |name: &dyn Fn(usize) -> String| {
        (0..100).fold(tar(), |tar, number| tar.dir(&name(number))).end()
    };
    let wordy = "w".repeat(90);
    let name = "n".repeat(256);
    let long = "long/".repeat(300);
    let wide = record("comment", &vec![b'c'; 70_000]);
    let claims = |size| Header { size, ..Header::new("a", b'0') };
    check(vec![
        ("whiteouts over the same files for ever", TooLarge, {
            let files = (0..60).fold(tar(), |tar, number| tar.file(&format!("d/f{number}"), b""));
            (0..60).fold(files, |tar, _| tar.file("d/.wh..wh..opq", b"")).end()
        }),
        ("a file larger than all may be", TooLarge, tar().header(&claims(9 << 20)).end()),
        (
            "a size beyond all",
            TooLarge,
            tar().pax(&[("size", b"9223372036854775807")]).file("a", b"").end(),
        ),
        ("zeros without end", TooLarge, tar().file("a", &vec![0; 4 << 20]).end()),
        ("zeros after the end", TooLarge, tar().file("a", b"").raw(&vec![0; 4 << 20]).end()),
        ("entries without end", TooLarge, many.end()),
        ("directories without end", TooLarge, tar().dir(&deep).end()),
        ("directories of long paths, many of them", TooLarge, dirs(&|n| format!("{wordy}{n}"))),
        ("one of them again and again", Harmless, dirs(&|_| wordy.clone())),
        ("directories without end by way of links", TooLarge, stairs.end()),
        (
            "a name that is too long",
            Hostile,
            tar().pax(&[("path", name.as_bytes())]).file("a", b"").end(),
        ),
        (
            "a path that is too long",
            TooLarge,
            tar().pax(&[("path", long.as_bytes())]).file("a", b"").end(),
        ),
        ("a target that is too long", TooLarge, {
            tar().pax(&[("linkpath", long.as_bytes())]).symlink("a", "b").end()
        }),
        ("a header that is too long", TooLarge, {
            let size = wide.len() as u64;
            tar()
                .header(&Header { size, ..Header::new("p", b'x') })
                .data(&wide)
                .file("a", b"")
                .end()
        }),
        ("a name that claims to be endless", TooLarge, {
            tar().header(&Header { size: 0o77777777777, ..Header::new("l", b'L') }).end()
        }),
        ("headers without an entry", TooLarge, {
            (0..200).fold(tar(), |tar, _| tar.pax(&[("comment", b"c")])).end()
        }),
        ("a sparse file larger than all may be", TooLarge, {
            let records: [(&str, &[u8]); 2] =
                [("GNU.sparse.size", b"99999999999"), ("GNU.sparse.map", b"0,0")];
            tar().pax(&records).file("a", b"").end()
        }),
        ("a map of a sparse file without end", TooLarge, {
            let records: [(&str, &[u8]); 2] =
                [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")];
            tar().pax(&records).file("a", b"9999999\n").end()
        }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_refused() {
    let tar = Tar::new;
    let bad = |change: fn(&mut [u8; 512])| {
        let mut block = Header { size: 5, ..Header::new("a", b'0') }.block();
        change(&mut block);
        seal(&mut block);
        tar().raw(&block).data(b"hello").end()
    };
    let records = |bytes: &[u8]| {
        let size = bytes.len() as u64;
        tar().header(&Header { size, ..Header::new("p", b'x') }).data(bytes).file("a", b"").end()
    };
    let sparse = |map: &[u8], size: &[u8]| {
        tar().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]).file("a", b"hello").end()
    };
    check(vec![
        ("noise", Malformed, vec![0x55; 2048]),
        ("less than a block", Malformed, b"short".to_vec()),
        ("a cut header", Malformed, tar().file("a", b"").cut()[..300].to_vec()),
        ("a cut file", Malformed, tar().file("a", &[1; 600]).cut()[..1024].to_vec()),
        ("a wrong sum", Malformed, {
            let mut block = Header::new("a", b'0').block();
            block[0] = b'b';
            tar().raw(&block).end()
        }),
        ("a size that is no number", Malformed, bad(|block| block[124..136].fill(b'z'))),
        ("a size with a gap", Malformed, bad(|block| block[126] = b' ')),
        ("a negative size", Malformed, bad(|block| block[124..136].fill(0xff))),
        (
            "a size of 95 bits",
            Malformed,
            bad(|block| {
                block[124..136].fill(0x7f);
                block[124] = 0x80 | 0x3f;
            }),
        ),
        ("a mode that is no number", Malformed, bad(|block| block[100..108].fill(b'9'))),
        ("a negative owner", Malformed, bad(|block| block[108..116].fill(0xff))),
        ("a record without a length", Malformed, records(b"path=x\n")),
        ("a record longer than all", Malformed, records(b"999 path=x\n")),
        ("a record of length nothing", Malformed, records(b"0 path=x\n")),
        ("a record that ends in another", Malformed, records(b"5 a=b\n")),
        ("a record without a value", Malformed, records(b"5 ab\n")),
        ("a record with a bad number", Malformed, records(b"11 size=-1\n")),
        ("a map that overlaps", Malformed, sparse(b"0,3,2,2", b"9")),
        ("a map beyond the end", Malformed, sparse(b"0,3,8,2", b"9")),
        ("a map of other bytes", Malformed, sparse(b"0,3", b"9")),
        ("a map without its size", Malformed, {
            tar().pax(&[("GNU.sparse.map", b"0,5")]).file("a", b"hello").end()
        }),
        ("a map that wraps around", Malformed, sparse(b"18446744073709551615,5", b"9")),
        ("a header of old sparse files", Malformed, {
            let header = Header { size: 5, magic: *b"ustar  \0", ..Header::new("a", b'S') };
            let mut block = header.block();
            block[386..397].copy_from_slice(b"00000000010");
            block[398..409].copy_from_slice(b"00000000005");
            block[483..494].copy_from_slice(b"00000000003");
            seal(&mut block);
            tar().raw(&block).data(b"hello").end()
        }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_compression_is_refused() {
    let layer = Tar::new().file("a", &[9; 9000]).end();
    for by in [By::Gzip, By::Zstd] {
        let whole = compress(&layer, by);
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0xff;
        let half = whole[..middle].to_vec();
        let more = [whole.clone(), b"garbage".to_vec()].concat();
        // A window of two gigabytes.
        let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0; 64]].concat();
        for (case, bytes) in
            [("changed", changed), ("half", half), ("followed by more", more), ("wide", window)]
        {
            // The layer's own digest is right, only what it holds is not.
            let mut image = Image::new(&[(&layer, by)]);
            let digest = tarn_oci::Digest::of(&bytes);
            let mut manifest: serde_json::Value =
                serde_json::from_slice(&image.blobs[&image.manifest]).unwrap();
            manifest["layers"][0]["digest"] = digest.as_str().into();
            manifest["layers"][0]["size"] = bytes.len().into();
            let manifest = serde_json::to_vec(&manifest).unwrap();
            image.manifest = tarn_oci::Digest::of(&manifest);
            image.blobs.insert(image.manifest.clone(), manifest);
            image.blobs.insert(digest, bytes);
            let place = Place::new();
            let error = place.import(&image, bounds()).await.unwrap_err();
            let refused = matches!(error, OciError::Malformed { .. } | OciError::BadDigest { .. });
            assert!(refused, "{case} by {by:?}: {error:?}");
            place.check_sentinels(case);
        }
    }
}

/// Layers that use what the ones below them made.
#[tokio::test(flavor = "multi_thread")]
async fn lower_layers_open_no_way_out() {
    let tar = Tar::new;
    let link = tar().symlink("l", "../../beside").symlink("f", "../../sentinel").end();
    let cases = [
        ("a file through", tar().file("l/sentinel", b"x").end(), Hostile),
        ("a directory through", tar().dir("l/d").end(), Hostile),
        ("a whiteout through", tar().file("l/.wh.sentinel", b"").end(), Harmless),
        ("all through", tar().file("l/.wh..wh..opq", b"").end(), Harmless),
        ("a whiteout of the link", tar().file(".wh.l", b"").file(".wh.f", b"").end(), Harmless),
        ("a file over the link", tar().file("f", b"x").file("l", b"x").end(), Harmless),
        ("the root opaque", tar().file(".wh..wh..opq", b"").end(), Harmless),
        ("a hard link through", tar().hard_link("a", "l/sentinel").end(), Hostile),
        ("the owner through", tar().dir_as("l", 0o777, (1, 1)).end(), Harmless),
    ];
    for (case, layer, expected) in cases {
        let place = Place::new();
        let owner = fs::metadata(place.path().join("beside")).unwrap();
        let result = place.unpack(&[&link, &layer], bounds()).await;
        assert_eq!(fate(&result), Some(expected), "{case}: {result:?}");
        place.check_sentinels(case);
        let now = fs::metadata(place.path().join("beside")).unwrap();
        assert_eq!((now.uid(), now.mode()), (owner.uid(), owner.mode()), "{case}");
    }
}
