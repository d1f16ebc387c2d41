//! Memory images: their files, what they depend on, and how long they take.

use std::{fs, io, path::Path, time::Duration};

use tarn_runtime::{ImageFacts, RuntimeKind};

use crate::{command::FLAGS, limits::MemoryBounds, pressure::LOAN};

/// Kernel and processes, where each page goes, and the pages; in the order of the sentry's call.
pub(crate) const FILES: [&str; 3] = ["checkpoint.img", "pages_meta.img", PAGES];

const PAGES: &str = "pages.img";

/// What a disk does at the worst, so that only what hangs is given up.
const SLOWEST_BYTES_PER_SEC: u64 = 16 << 20;

/// One part in this many of the pages is needed besides, for their page tables: 8 bytes for each
/// 4 KiB, in the sentry and in the process.
const PAGE_TABLES: u64 = 256;

const MIB: u64 = 1 << 20;

/// Returns how long something may take with so many bytes of memory.
pub(crate) fn deadline(least: Duration, bytes: u64) -> Duration {
    least.saturating_add(Duration::from_secs(bytes / SLOWEST_BYTES_PER_SEC))
}

/// Returns how many bytes of memory an image holds.
///
/// # Errors
/// Fails when one of its files is missing.
pub(crate) fn memory(dir: &Path) -> io::Result<u64> {
    let mut last = 0;
    for name in FILES {
        let path = dir.join(name);
        let length = fs::metadata(&path).map(|file| file.len());
        last = length.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
    }
    Ok(last)
}

/// Says why an image cannot be restored under a limit: everything would stand still at it.
///
/// It may have been written under pressure, so it is the hard bound that counts. What the sentry
/// itself and the reading need is lent at the restore, and the watch that follows relieves what
/// lies above the soft bound.
pub(crate) fn too_large(memory: u64, bounds: MemoryBounds) -> Option<String> {
    let needed = memory.saturating_add(memory / PAGE_TABLES);
    (needed > bounds.hard).then(|| {
        format!(
            "the image needs {} MiB of memory, and this sandbox may have {}; give it more memory",
            needed.div_ceil(MIB),
            bounds.hard / MIB,
        )
    })
}

/// Returns the limit of a sandbox that is written down while so much of it cannot be pushed out:
/// room for the image's pages. It may take new memory up to there after the resume, until the
/// loan is back; so one image after the other must not add up.
pub(crate) fn lent(bounds: MemoryBounds, demand: u64) -> u64 {
    let room = bounds.hard.saturating_add(demand.min(bounds.hard));
    room.max(demand).saturating_add(LOAN)
}

/// Collects what an image made by this backend on this machine depends on.
pub(crate) fn facts(version: String) -> io::Result<ImageFacts> {
    Ok(ImageFacts {
        runtime: RuntimeKind::Gvisor,
        version,
        flags: FLAGS.map(str::to_owned).into(),
        cpu_features: cpu_features(&fs::read_to_string("/proc/cpuinfo")?),
    })
}

/// Finds the features of the first CPU, sorted.
fn cpu_features(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == "flags").then_some(value)
    });
    let mut features: Vec<String> =
        line.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    features.sort_unstable();
    features.dedup();
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_first_cpu_sorted() {
        let text = "processor\t: 0\nflags\t\t: sse fpu avx\nbugs\t: flags\n\nflags\t: other\n";
        assert_eq!(cpu_features(text), ["avx", "fpu", "sse"]);
        assert_eq!(cpu_features(""), Vec::<String>::new());
    }

    #[test]
    fn an_image_fits_what_it_was_made_under() {
        let bounds = MemoryBounds { soft: 284 * MIB, hard: 348 * MIB };
        // All that it could have had without a loan, less what is not in the image.
        for mib in [284, 285, 330, 346] {
            assert_eq!(too_large(mib * MIB, bounds), None, "{mib}");
        }
        let text = too_large(347 * MIB, bounds).unwrap();
        assert!(text.contains("349 MiB") && text.contains("have 348;"), "{text}");
        assert!(too_large(u64::MAX, bounds).is_some());
    }

    #[test]
    fn room_is_lent_for_the_image_but_no_more_than_the_limit_again() {
        let bounds = MemoryBounds { soft: 284 * MIB, hard: 348 * MIB };
        for (demand, expected) in [(0, 412), (100, 512), (348, 760), (600, 760), (800, 864)] {
            assert_eq!(lent(bounds, demand * MIB), expected * MIB, "{demand}");
        }
    }

    #[test]
    fn more_memory_may_take_longer() {
        let least = Duration::from_secs(30);
        assert_eq!(deadline(least, 0), least);
        assert_eq!(deadline(least, 1 << 30), Duration::from_secs(94));
    }

    #[test]
    fn an_image_is_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in FILES {
            let error = memory(dir.path()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(memory(dir.path()).unwrap(), PAGES.len() as u64);
    }
}
