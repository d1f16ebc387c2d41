//! The allocator: a heap, but blocks of output are mappings of their own.
//!
//! Output is most of the memory and goes all at once, and in a heap something small beside it lives
//! on and keeps all of it from the system: after a flood tarnd held 95 MB for nothing. A mapping
//! goes back as it was got. But to map, to fault pages in and to unmap is what gVisor is slowest
//! at, so a few mappings are kept for the next who wants their size, until whoever had much has
//! ended ([`GiveBack`]). Larger things, such as the buffers of streams, come in many sizes and live
//! briefly: the heap finds them the same pages again and again.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
};

use dlmalloc::GlobalDlmalloc;

/// From this size on, memory is mapped, up to the size of a block of output.
const LARGE_BYTES: usize = 16 << 10;
const LARGEST_BYTES: usize = 64 << 10;

const PAGE_BYTES: usize = 4096;

/// Unused mappings that are kept, and the bytes of them all.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 4 << 20;

static SHELF: Shelf = Shelf::new();

/// Allocates for the whole program.
#[derive(Debug)]
pub struct Memory;

/// Unused mappings.
///
/// The first word of each is its size. A place is emptied and filled by one exchange, so whoever
/// takes a mapping out owns it, and nobody waits.
struct Shelf {
    places: [AtomicPtr<usize>; KEPT],
    bytes: AtomicUsize,
}

/// Has what is kept returned to the system when it is dropped: for the owner of much, after it.
#[derive(Debug, Default)]
pub(crate) struct GiveBack;

// === impl GiveBack ===

impl Drop for GiveBack {
    fn drop(&mut self) {
        SHELF.clear();
    }
}

// === impl Memory ===

// SAFETY: what is large lies in a private mapping of at least its size, aligned to a page, that
// nobody else has; all else is the heap's. Which of the two depends on the layout alone.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_small(layout) {
            // SAFETY: the caller's promises are those that it wants.
            return unsafe { GlobalDlmalloc.alloc(layout) };
        }
        let size = mapping_bytes(layout.size());
        let kept = SHELF.take(size);
        if kept.is_null() { map(size) } else { kept.cast() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if is_small(layout) {
            // SAFETY: as above, and it was allocated there.
            return unsafe { GlobalDlmalloc.dealloc(pointer, layout) };
        }
        // SAFETY: it is a mapping of this size, and nobody uses it any more.
        unsafe { SHELF.put(pointer.cast(), mapping_bytes(layout.size())) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_small(layout) {
            // SAFETY: as above.
            return unsafe { GlobalDlmalloc.alloc_zeroed(layout) };
        }
        // A new mapping is zero, and its pages are none until they are touched.
        map(mapping_bytes(layout.size()))
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size fits a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_small(layout), is_small(wanted)) {
            // SAFETY: it was allocated there, and stays there.
            (true, true) => return unsafe { GlobalDlmalloc.realloc(pointer, layout, size) },
            (false, false) if mapping_bytes(layout.size()) == mapping_bytes(size) => {
                return pointer;
            }
            _ => {}
        }
        // SAFETY: the new size is not zero, which the caller promises.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have room for the smaller of the two, and are not the same; the old one
            // was allocated with this layout and is not used any more.
            unsafe {
                ptr::copy_nonoverlapping(pointer, new, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
        }
        new
    }
}

// === impl Shelf ===

impl Shelf {
    const fn new() -> Self {
        Self {
            places: [const { AtomicPtr::new(ptr::null_mut()) }; KEPT],
            bytes: AtomicUsize::new(0),
        }
    }

    /// Takes a mapping of exactly this size; null if there is none.
    fn take(&self, size: usize) -> *mut usize {
        if self.bytes.load(SeqCst) < size {
            return ptr::null_mut();
        }
        for place in &self.places {
            let Some((mapping, found)) = self.empty(place) else { continue };
            if found == size {
                return mapping;
            }
            // SAFETY: it was taken out here.
            unsafe { self.put(mapping, found) };
        }
        ptr::null_mut()
    }

    /// Keeps a mapping, or unmaps it.
    ///
    /// # Safety
    /// It must be a mapping of this size that nobody uses any more.
    unsafe fn put(&self, mapping: *mut usize, size: usize) {
        if self.bytes.fetch_add(size, SeqCst) + size <= KEPT_BYTES {
            // SAFETY: a mapping has room for a word, aligned to it.
            unsafe { mapping.write(size) };
            let free = |place: &&AtomicPtr<usize>| {
                place.compare_exchange(ptr::null_mut(), mapping, SeqCst, SeqCst).is_ok()
            };
            if self.places.iter().any(|place| free(&place)) {
                return;
            }
        }
        self.bytes.fetch_sub(size, SeqCst);
        // SAFETY: passed on from the caller.
        unsafe { unmap(mapping.cast(), size) };
    }

    /// Unmaps all.
    fn clear(&self) {
        if self.bytes.load(SeqCst) == 0 {
            return;
        }
        for place in &self.places {
            if let Some((mapping, size)) = self.empty(place) {
                // SAFETY: it was taken out here.
                unsafe { unmap(mapping.cast(), size) };
            }
        }
    }

    fn empty(&self, place: &AtomicPtr<usize>) -> Option<(*mut usize, usize)> {
        if place.load(SeqCst).is_null() {
            return None;
        }
        let mapping = place.swap(ptr::null_mut(), SeqCst);
        if mapping.is_null() {
            return None;
        }
        // SAFETY: it is ours now, and whoever kept it wrote its size there.
        let size = unsafe { mapping.read() };
        self.bytes.fetch_sub(size, SeqCst);
        Some((mapping, size))
    }
}

/// Nothing of these sizes wants to be aligned to more than a page.
fn is_small(layout: Layout) -> bool {
    !(LARGE_BYTES..=LARGEST_BYTES).contains(&layout.size()) || layout.align() > PAGE_BYTES
}

/// Eight sizes between one power of two and the next, so that a kept mapping finds its next user.
fn mapping_bytes(size: usize) -> usize {
    let step = (1 << size.ilog2() >> 3).max(PAGE_BYTES);
    size.next_multiple_of(step)
}

/// Maps memory that is zero; null if there is none.
fn map(size: usize) -> *mut u8 {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel wants it touches nothing that is there.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
    if mapping == libc::MAP_FAILED { ptr::null_mut() } else { mapping.cast() }
}

/// # Safety
/// It must be a mapping of this size that nobody uses any more.
unsafe fn unmap(mapping: *mut u8, size: usize) {
    // SAFETY: passed on from the caller. It fails if the kernel is out of memory for a split; then
    // the memory is lost, which nobody can do anything about.
    _ = unsafe { libc::munmap(mapping.cast(), size) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_pages_and_waste_little() {
        for size in (LARGE_BYTES..4 << 20).step_by(1000) {
            let mapped = mapping_bytes(size);
            assert_eq!(mapped % PAGE_BYTES, 0, "{size}");
            assert!(mapped >= size && mapped - size <= (size / 8).max(PAGE_BYTES), "{size}");
            assert_eq!(mapping_bytes(mapped), mapped, "{size}");
        }
    }

    #[test]
    fn a_mapping_is_kept_for_its_size_and_given_back() {
        let shelf = Shelf::new();
        let (small, large) = (map(64 << 10).cast(), map(1 << 20).cast());
        // SAFETY: both were just mapped.
        unsafe {
            shelf.put(small, 64 << 10);
            shelf.put(large, 1 << 20);
        }
        assert!(shelf.take(128 << 10).is_null());
        assert_eq!((shelf.take(1 << 20), shelf.take(64 << 10)), (large, small));
        assert!(shelf.take(64 << 10).is_null(), "it was taken");
        assert_eq!(shelf.bytes.load(SeqCst), 0);
        // SAFETY: both were just taken.
        unsafe {
            shelf.put(small, 64 << 10);
            shelf.put(large, 1 << 20);
        }
        shelf.clear();
        assert!(shelf.take(64 << 10).is_null());
        assert_eq!(shelf.bytes.load(SeqCst), 0);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let shelf = Shelf::new();
        for size in [16 << 10, 1 << 20] {
            for _ in 0..2 * KEPT {
                // SAFETY: it is mapped here.
                unsafe { shelf.put(map(size).cast(), size) };
            }
            assert!(shelf.bytes.load(SeqCst) <= KEPT_BYTES.min(KEPT * size), "{size}");
            shelf.clear();
        }
    }

    #[test]
    fn content_survives_every_change_of_size() {
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let sizes = [100, 20_000, 20_400, 300_000, 5 << 20, 17_000, 16_384, 16_383, 50, 70_000];
        // SAFETY: each is freed or changed with the layout that it has then, and only the bytes
        // that it has are touched.
        unsafe {
            let (mut size, mut kept) = (10, 10);
            let mut pointer = Memory.alloc_zeroed(layout(size));
            ptr::write_bytes(pointer, 7, size);
            for next in sizes {
                pointer = Memory.realloc(pointer, layout(size), next);
                (size, kept) = (next, kept.min(next));
                let bytes = std::slice::from_raw_parts(pointer, kept);
                assert!(bytes.iter().all(|byte| *byte == 7), "{next}");
                ptr::write_bytes(pointer, 7, size);
                kept = size;
            }
            Memory.dealloc(pointer, layout(size));
        }
    }

    #[test]
    fn zeroed_is_zero_also_where_something_was() {
        let layout = Layout::from_size_align(50 << 10, 8).unwrap();
        // SAFETY: each is freed once, and read while it is allocated.
        unsafe {
            let dirty = Memory.alloc(layout);
            ptr::write_bytes(dirty, 7, layout.size());
            Memory.dealloc(dirty, layout);
            let clean = Memory.alloc_zeroed(layout);
            assert!(std::slice::from_raw_parts(clean, layout.size()).iter().all(|byte| *byte == 0));
            Memory.dealloc(clean, layout);
        }
    }

    #[test]
    fn many_threads_never_share_a_mapping() {
        let layout = Layout::from_size_align(32 << 10, 8).unwrap();
        let work = |mark: u8| {
            for _ in 0..2000 {
                // SAFETY: allocated, used and freed here alone.
                unsafe {
                    let pointer = Memory.alloc(layout);
                    ptr::write_bytes(pointer, mark, layout.size());
                    let bytes = std::slice::from_raw_parts(pointer, layout.size());
                    assert!(bytes.iter().all(|byte| *byte == mark));
                    Memory.dealloc(pointer, layout);
                }
            }
        };
        std::thread::scope(|scope| {
            for mark in 1..=4 {
                scope.spawn(move || work(mark));
            }
        });
    }
}
