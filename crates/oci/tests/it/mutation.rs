//! Layers with bytes changed at random, by fixed seeds: whatever they say then, nothing breaks and
//! nothing beside the work directory is touched.

use tarn_oci::{Bounds, OciError};
use tarn_task::{Entropy, SeededEntropy};

use crate::{
    image::Place,
    tar::{Header, Tar, seal},
};

const SEEDS: u64 = 250;

/// A layer that has something of everything.
fn layer() -> Vec<u8> {
    let mut sparse = Header { size: 512, magic: *b"ustar  \0", ..Header::new("s", b'S') }.block();
    sparse[386..410].copy_from_slice(b"00000001000 00000001000 ");
    sparse[483..494].copy_from_slice(b"00000002000");
    seal(&mut sparse);
    Tar::new()
        .dir("d")
        .file("d/f", &[3; 700])
        .symlink("l", "../../beside")
        .file("l/.wh.sentinel", b"")
        .pax(&[("path", b"d/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")])
        .file("x", b"long")
        .hard_link("h", "d/f")
        .header(&Header { size: 8, ..Header::new("././@LongLink", b'L') })
        .data(b"d/other\0")
        .file("x", b"other")
        .raw(&sparse)
        .data(&[4; 512])
        .file("d/.wh.f", b"")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"9"),
            ("GNU.sparse.name", b"m"),
        ])
        .file("x", &[&b"1\n0\n9\n"[..], &[0; 506], b"123456789"].concat())
        .file("d/.wh..wh..opq", b"")
        .end()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_bytes_break_nothing() {
    let whole = layer();
    let bounds = Bounds {
        unpacked_bytes: 4 << 20,
        ratio_free_bytes: 4 << 20,
        entries: 100,
        ..Bounds::default()
    };
    let place = Place::new();
    place.unpack(&[&whole], bounds.clone()).await.expect("it is right as it is");
    let mut refused = 0;
    for seed in 0..SEEDS {
        let entropy: &dyn Entropy = &SeededEntropy::new(seed);
        let mut layer = whole.clone();
        for _ in 0..=entropy.bytes::<1>()[0] % 4 {
            let [high, low, value, kind] = entropy.bytes::<4>();
            let at = usize::from(u16::from_be_bytes([high, low])) % layer.len();
            match kind % 4 {
                0 => layer[at] = value,
                1 => layer[at] ^= 1 << (value % 8),
                2 => layer[at] = b"./\0 09=7"[usize::from(value % 8)],
                _ => layer.truncate(at.max(512)),
            }
            // What changed in a header must get past its sum.
            if let Some(block) = layer.get_mut(at / 512 * 512..at / 512 * 512 + 512)
                && block[257..262] == *b"ustar"
            {
                let block: &mut [u8; 512] = block.try_into().expect("it has that length");
                seal(block);
            }
        }
        match place.unpack(&[&layer], bounds.clone()).await {
            Ok(_) => {}
            Err(
                OciError::Hostile { .. } | OciError::Malformed { .. } | OciError::TooLarge { .. },
            ) => refused += 1,
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
        std::fs::remove_dir_all(place.path().join("layout")).expect("the layout was written");
        place.check_sentinels(&format!("seed {seed}"));
    }
    assert!((1..SEEDS).contains(&refused), "{refused} of {SEEDS}");
}
