//! Pages of lines, as pure functions: every store finds the lines its own way and builds the page
//! here.

use tarn_types::LogLine;

use super::{LogFilter, LogPage, LogPlace, LogQuery, LogRecord, PAGE_BYTES, PAGE_LINES};

/// Takes lines in order until the page is full.
#[derive(Debug)]
pub struct PageBuilder<'a> {
    filter: &'a LogFilter,
    most: Option<u64>,
    records: Vec<LogRecord>,
    bytes: usize,
    next: Option<LogPlace>,
}

/// Whether a page takes more lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Go on.
    More,
    /// It is complete.
    Full,
}

// === impl PageBuilder ===

impl<'a> PageBuilder<'a> {
    /// Begins a page of a query, at most `most` lines of which are still to come.
    #[must_use]
    pub fn new(query: &'a LogQuery, most: Option<u64>) -> Self {
        Self { filter: &query.filter, most, records: Vec::new(), bytes: 0, next: None }
    }

    /// Takes the note on lines that the store let go; it comes before every line.
    pub fn push_cut(&mut self, sequence: u64, note: LogLine) -> Progress {
        if self.filter.matches_cut(&note) { self.take(sequence, note) } else { Progress::More }
    }

    /// Takes the next line, if it is meant.
    pub fn push(&mut self, sequence: u64, line: LogLine) -> Progress {
        if self.filter.matches(&line) { self.take(sequence, line) } else { Progress::More }
    }

    /// Returns the page; its processes are for the store to fill in.
    #[must_use]
    pub fn finish(self) -> LogPage {
        LogPage { records: self.records, next: self.next }
    }

    fn take(&mut self, sequence: u64, line: LogLine) -> Progress {
        let taken = self.records.len() as u64;
        if self.most.is_some_and(|most| taken >= most) {
            return Progress::Full;
        }
        let fits = self.bytes + line.body.len() <= PAGE_BYTES && self.records.len() < PAGE_LINES;
        if let Some(last) = self.records.last().filter(|_| !fits) {
            let most = self.most.map(|most| most - taken);
            self.next = Some(LogPlace { after: last.sequence, most });
            return Progress::Full;
        }
        self.bytes += line.body.len();
        self.records.push(LogRecord { sequence, line, process: None });
        Progress::More
    }
}

/// Returns behind which line the last `wanted` meant ones begin, given the lines newest first; 0
/// when there are not so many.
pub fn start_of_last<'a>(
    filter: &LogFilter,
    wanted: &mut u64,
    newest_first: impl IntoIterator<Item = (u64, &'a LogLine)>,
) -> Option<u64> {
    for (sequence, line) in newest_first {
        if *wanted == 0 {
            return Some(sequence);
        }
        if filter.matches(line) {
            *wanted -= 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tarn_types::{LogLevel, SandboxId, UnixMillis};

    use super::*;
    use crate::log::LogStart;

    fn line(body: &str) -> LogLine {
        let (level, at) = (LogLevel::Info, UnixMillis(1));
        LogLine { process: 1, level, at, dropped: 0, body: body.to_owned() }
    }

    fn query(body: Option<&str>) -> LogQuery {
        LogQuery {
            sandbox: SandboxId::from_random([1; 21]),
            filter: LogFilter { body: body.map(str::to_owned), ..LogFilter::default() },
            start: LogStart::After(0),
            most: None,
        }
    }

    #[test]
    fn a_page_ends_by_lines_by_bytes_or_by_what_was_asked() {
        let mib = 1 << 20;
        let table = [
            (10, 1, None, 10, None),
            (1000, 1, None, 1000, None),
            (1001, 1, None, 1000, Some(LogPlace { after: 1000, most: None })),
            (5000, 1, Some(7), 7, None),
            (5000, 1, Some(1200), 1000, Some(LogPlace { after: 1000, most: Some(200) })),
            (9, mib, None, 4, Some(LogPlace { after: 4, most: None })),
            (9, mib, Some(5), 4, Some(LogPlace { after: 4, most: Some(1) })),
        ];
        for (lines, bytes, most, expected, next) in table {
            let query = query(None);
            let mut page = PageBuilder::new(&query, most);
            for sequence in 1..=lines {
                if page.push(sequence, line(&"x".repeat(bytes))) == Progress::Full {
                    break;
                }
            }
            let page = page.finish();
            assert_eq!((page.records.len(), page.next), (expected, next), "{lines} {most:?}");
        }
    }

    #[test]
    fn one_line_is_a_page_whatever_its_size() {
        let query = query(None);
        let mut page = PageBuilder::new(&query, None);
        assert_eq!(page.push(1, line(&"x".repeat(PAGE_BYTES + 1))), Progress::More);
        assert_eq!(page.push(2, line("x")), Progress::Full);
        assert_eq!(page.finish().next, Some(LogPlace { after: 1, most: None }));
    }

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let lines = ["a", "b", "a", "c", "a"].map(line);
        let table = [
            (None, 1, Some(4)),
            (None, 2, Some(3)),
            (None, 5, None),
            (Some("a"), 1, Some(4)),
            (Some("a"), 2, Some(2)),
            (Some("a"), 3, None),
            (Some("z"), 1, None),
        ];
        for (body, wanted, expected) in table {
            let newest_first = (1..).zip(&lines).collect::<Vec<_>>().into_iter().rev();
            let found = start_of_last(&query(body).filter, &mut { wanted }, newest_first);
            assert_eq!(found, expected, "{body:?} {wanted}");
        }
    }
}
