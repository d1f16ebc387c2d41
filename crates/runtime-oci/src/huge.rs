//! Which parts of a program may lie in huge pages.
//!
//! A huge page that is mapped in small ones is looked at small page by small page, in every process
//! that maps it, by a kernel that samples which memory is in use. That befalls what a segment has
//! only a part of, and what is written: its first change takes the mapping apart. See decision 46.

use std::{fs::File, io, ops::Range};

use elf::{
    ElfStream,
    abi::{PF_W, PT_LOAD},
    endian::AnyEndian,
    segment::ProgramHeader,
};

/// What a huge page holds, in bytes, where a page is 4 KiB.
const HUGE_PAGE: u64 = 2 << 20;

/// Returns the byte ranges of a program that a process maps in huge pages and leaves so, in order.
/// What is no program has none.
///
/// # Errors
/// Fails when the file cannot be read.
pub(crate) fn ranges(program: &File) -> io::Result<Vec<Range<u64>>> {
    match ElfStream::<AnyEndian, _>::open_stream(program) {
        Ok(elf) => Ok(within(elf.segments())),
        Err(elf::ParseError::IOError(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(error)
        }
        Err(_no_program) => Ok(Vec::new()),
    }
}

fn within(segments: &[ProgramHeader]) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = segments.iter().filter_map(inner).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The whole huge pages of a segment that is only read.
fn inner(segment: &ProgramHeader) -> Option<Range<u64>> {
    let is_read = segment.p_type == PT_LOAD && segment.p_flags & PF_W == 0;
    // Only then do its pages lie in memory as they do in the file.
    let lies_alike = segment.p_vaddr.wrapping_sub(segment.p_offset).is_multiple_of(HUGE_PAGE);
    if !is_read || !lies_alike {
        return None;
    }
    let end = segment.p_offset.checked_add(segment.p_filesz)?;
    let range = segment.p_offset.checked_next_multiple_of(HUGE_PAGE)?..end - end % HUGE_PAGE;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use elf::abi::{PF_R, PF_X, PT_NOTE};

    use super::*;

    const MIB: u64 = 1 << 20;
    const CODE: u32 = PF_R | PF_X;
    const DATA: u32 = PF_R | PF_W;

    fn segment(p_type: u32, p_flags: u32, offset: u64, length: u64, at: u64) -> ProgramHeader {
        ProgramHeader {
            p_type,
            p_offset: offset,
            p_vaddr: at,
            p_paddr: at,
            p_filesz: length,
            p_memsz: length,
            p_flags,
            p_align: 4096,
        }
    }

    #[test]
    fn whole_huge_pages_of_what_is_only_read() {
        let table = [
            ("from its start", segment(PT_LOAD, CODE, 0, 5 * MIB, 4 * MIB), Some(0..4 * MIB)),
            ("to its end", segment(PT_LOAD, CODE, 0, 4 * MIB, 4 * MIB), Some(0..4 * MIB)),
            ("inside", segment(PT_LOAD, PF_R, 3 * MIB, 6 * MIB, 7 * MIB), Some(4 * MIB..8 * MIB)),
            ("less than one", segment(PT_LOAD, CODE, MIB, 2 * MIB, 5 * MIB), None),
            ("nothing", segment(PT_LOAD, CODE, 0, 0, 4 * MIB), None),
            ("written", segment(PT_LOAD, DATA, 0, 8 * MIB, 4 * MIB), None),
            ("not loaded", segment(PT_NOTE, PF_R, 0, 8 * MIB, 4 * MIB), None),
            ("elsewhere in memory", segment(PT_LOAD, CODE, 0, 8 * MIB, 5 * MIB), None),
            ("no end", segment(PT_LOAD, CODE, 2 * MIB, u64::MAX, 6 * MIB), None),
            ("no start", segment(PT_LOAD, CODE, u64::MAX, 0, u64::MAX), None),
        ];
        for (what, segment, expected) in table {
            assert_eq!(inner(&segment), expected, "{what}");
        }
    }

    #[test]
    fn in_order() {
        let segments = [
            segment(PT_LOAD, PF_R, 8 * MIB, 4 * MIB, 12 * MIB),
            segment(PT_LOAD, DATA, 12 * MIB, 4 * MIB, 16 * MIB),
            segment(PT_LOAD, CODE, 0, 8 * MIB, 4 * MIB),
        ];
        assert_eq!(within(&segments), [0..8 * MIB, 8 * MIB..12 * MIB]);
    }

    #[test]
    fn what_is_no_program_has_none() -> io::Result<()> {
        for content in [&b""[..], b"short", &[7; 5000]] {
            let mut file = tempfile::tempfile()?;
            file.write_all(content)?;
            assert_eq!(ranges(&file)?, Vec::<Range<u64>>::new());
        }
        let own = File::open(std::env::current_exe()?)?;
        let end = own.metadata()?.len();
        assert!(ranges(&own)?.iter().all(|range| range.end <= end));
        Ok(())
    }
}
