//! When and by how much the pool's image grows: pure rules.

use tarn_types::ByteSize;

/// How large the pool's image is and becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizing {
    /// What is allocated at first.
    pub initial: ByteSize,
    /// What it never outgrows; `None` = as far as the disk below allows.
    pub max: Option<ByteSize>,
    /// It grows when less than this is free in it.
    pub low_water: ByteSize,
    /// It grows by this at a time, or by half its size where that is more.
    pub step: ByteSize,
    /// What it always leaves free on the disk below.
    pub disk_reserve: ByteSize,
    /// Below this running sandboxes are frozen; `None` = 2 GiB, in a small pool a twentieth of it.
    /// It holds for pools of every kind; 0 = never.
    pub freeze_below: Option<ByteSize>,
}

/// What the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolFill {
    /// The size of the image.
    pub(crate) size: u64,
    /// What is free in the pool's file system.
    pub(crate) free: u64,
    /// What is free on the disk below.
    pub(crate) disk_free: u64,
    /// What the image has no blocks for on the disk below: none as it is made, but trimming the
    /// pool gives blocks back.
    pub(crate) holes: u64,
}

/// Sizes are multiples of this: whole blocks of either file system, and few odd numbers to read.
const GRAIN: u64 = 64 << 20;
/// New layers are refused when less than this is free, or in a small pool less than one part in
/// so many.
const RESERVE: ByteSize = ByteSize::from_mib(10 << 10);
const RESERVE_PART: u64 = 10;
/// When running sandboxes are frozen, unless that is configured: below this, or in a small pool
/// below one part in so many.
const FLOOR: ByteSize = ByteSize::from_mib(2 << 10);
const FLOOR_PART: u64 = 20;

// === impl PoolSizing ===

impl Default for PoolSizing {
    /// 8 GiB at first, growing by 8 GiB or a half when less than 4 GiB is free, to any size, and
    /// leaving 2 GiB to the disk.
    ///
    /// A full pool breaks the file systems of running sandboxes, so the low mark must outlast the
    /// fastest writer until the next look (500 ms): 4 GiB is 8 GB/s.
    fn default() -> Self {
        Self {
            initial: ByteSize::from_mib(8 << 10),
            max: None,
            low_water: ByteSize::from_mib(4 << 10),
            step: ByteSize::from_mib(8 << 10),
            disk_reserve: ByteSize::from_mib(2 << 10),
            freeze_below: None,
        }
    }
}

impl PoolSizing {
    /// Returns how much the image could still grow.
    pub(crate) fn room_to_grow(&self, fill: PoolFill) -> u64 {
        let spoken_for = self.disk_reserve.bytes().saturating_add(fill.holes);
        let below = fill.disk_free.saturating_sub(spoken_for);
        let allowed = self.max.map_or(u64::MAX, |max| max.bytes().saturating_sub(fill.size));
        below.min(allowed) / GRAIN * GRAIN
    }

    /// Returns the size the image should grow to now, if it should; `promised` bytes of what is
    /// free are spoken for.
    pub(crate) fn next_size(&self, fill: PoolFill, promised: u64) -> Option<u64> {
        let needed = self.low_water.bytes().saturating_add(promised);
        let missing = needed.checked_sub(fill.free).filter(|missing| *missing > 0)?;
        let wanted = missing.max(self.step.bytes()).max(fill.size / 2).div_ceil(GRAIN) * GRAIN;
        let growth = wanted.min(self.room_to_grow(fill));
        (growth > 0).then(|| fill.size + growth)
    }
}

impl PoolFill {
    /// Returns how much can be written to what is free: as much of it as has blocks, or can get
    /// some from the disk below.
    pub(crate) fn writable(self) -> u64 {
        let backed = self.free.saturating_sub(self.holes);
        self.free.min(backed.saturating_add(self.disk_free))
    }
}

/// Returns below how much free room in a pool of a size running sandboxes are frozen.
pub(crate) fn floor(total: ByteSize, configured: Option<ByteSize>) -> ByteSize {
    let part = ByteSize::from_bytes(total.bytes() / FLOOR_PART);
    configured.unwrap_or(part.min(FLOOR))
}

/// Returns what must stay free in a pool of a size for a new layer to be made.
pub(crate) fn reserve(total: ByteSize) -> ByteSize {
    ByteSize::from_bytes(total.bytes() / RESERVE_PART).min(RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn sizing(max_gib: Option<u64>) -> PoolSizing {
        PoolSizing { max: max_gib.map(|max| ByteSize::from_bytes(max * GIB)), ..Default::default() }
    }

    #[test]
    fn it_grows_below_the_mark_within_the_disk_and_the_maximum() {
        let size = 8 * GIB;
        // (maximum in GiB, size, free, free below) -> the new size
        let table = [
            (None, size, 4 * GIB, 100 * GIB, None),
            (None, size, 4 * GIB - 1, 100 * GIB, Some(16 * GIB)),
            (None, 40 * GIB, GIB, 100 * GIB, Some(60 * GIB)),
            (None, size, GIB, 5 * GIB, Some(11 * GIB)),
            (None, size, GIB, 2 * GIB, None),
            (None, size, GIB, GIB, None),
            (Some(12), size, GIB, 100 * GIB, Some(12 * GIB)),
            (Some(8), size, GIB, 100 * GIB, None),
            (Some(4), size, GIB, 100 * GIB, None),
        ];
        for (max, size, free, disk_free, expected) in table {
            let fill = PoolFill { size, free, disk_free, holes: 0 };
            assert_eq!(sizing(max).next_size(fill, 0), expected, "{max:?} {fill:?}");
        }
    }

    #[test]
    fn what_is_promised_counts_as_taken() {
        let fill = PoolFill { size: 8 * GIB, free: 6 * GIB, disk_free: 100 * GIB, holes: 0 };
        // (promised in GiB) -> the new size in GiB
        for (promised, expected) in [(0, None), (2, None), (3, Some(16)), (20, Some(26))] {
            let expected = expected.map(|gib| gib * GIB);
            assert_eq!(sizing(None).next_size(fill, promised * GIB), expected, "{promised}");
        }
        assert_eq!(sizing(Some(12)).next_size(fill, 20 * GIB), Some(12 * GIB));
    }

    #[test]
    fn growth_comes_in_whole_grains() {
        let disk_free = 2 * GIB + GRAIN * 2 - 1;
        let fill = PoolFill { size: 8 * GIB, free: 0, disk_free, holes: 0 };
        assert_eq!(sizing(None).next_size(fill, 0), Some(8 * GIB + GRAIN));
    }

    #[test]
    fn holes_in_the_image_are_no_room_unless_the_disk_has_it() {
        // (free, holes, free below) in GiB -> (writable, room to grow)
        for (free, holes, disk_free, writable, growth) in [
            (6, 0, 100, 6, 98),
            (6, 4, 100, 6, 94),
            (6, 4, 1, 3, 0),
            (6, 6, 0, 0, 0),
            (6, 8, 1, 1, 0),
            (0, 0, 0, 0, 0),
        ] {
            let [free, holes, disk_free] = [free, holes, disk_free].map(|gib| gib * GIB);
            let fill = PoolFill { size: 8 * GIB, free, disk_free, holes };
            assert_eq!(fill.writable(), writable * GIB, "{fill:?}");
            assert_eq!(sizing(None).room_to_grow(fill), growth * GIB, "{fill:?}");
        }
    }

    #[test]
    fn the_reserve_is_a_tenth_or_ten_gib() {
        for (total, expected) in [(0, 0), (2000, 200), (100 << 10, 10 << 10), (8 << 20, 10 << 10)] {
            assert_eq!(reserve(ByteSize::from_mib(total)), ByteSize::from_mib(expected), "{total}");
        }
    }

    #[test]
    fn the_floor_is_two_gib_or_a_twentieth_or_what_is_configured() {
        let mib = ByteSize::from_mib;
        for (total, configured, expected) in [
            (100 << 10, None, 2 << 10),
            (40 << 10, None, 2 << 10),
            (20 << 10, None, 1 << 10),
            (2000, None, 100),
            (2000, Some(512), 512),
            (100 << 10, Some(0), 0),
        ] {
            let found = floor(mib(total), configured.map(mib));
            assert_eq!(found, mib(expected), "{total} {configured:?}");
        }
    }
}
