//! Who needs which image, between the moment it is chosen and the moment a record says so.
//!
//! A collector marks a moment, then reads the records, then removes what is in none of them. What
//! was chosen before its record could be read is held at the mark or after it, and so stays.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tarn_types::ImageDigest;

/// Counts who needs which image. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ImageHolds(Arc<Mutex<Book>>);

/// Keeps an image until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct ImageHold {
    book: Arc<Mutex<Book>>,
    digest: ImageDigest,
}

#[derive(Debug, Default)]
struct Book {
    moment: u64,
    pages: HashMap<ImageDigest, Page>,
}

#[derive(Debug, Default)]
struct Page {
    held: usize,
    /// The moment at which it was last held, or a template of it handed out.
    last: u64,
}

// === impl ImageHolds ===

impl ImageHolds {
    /// Keeps an image from now on.
    pub fn hold(&self, digest: &ImageDigest) -> ImageHold {
        let mut book = self.0.lock();
        book.page(digest).held += 1;
        drop(book);
        ImageHold { book: Arc::clone(&self.0), digest: digest.clone() }
    }

    /// Notes that an image was handed out.
    pub fn note(&self, digest: &ImageDigest) {
        self.0.lock().page(digest);
    }

    /// Marks this moment. What is held now, or later, was held since.
    #[must_use]
    pub fn mark(&self) -> u64 {
        let mut book = self.0.lock();
        book.moment += 1;
        book.moment
    }

    /// Does something to an image that nobody has held since a mark, and that nobody can hold
    /// before it is done; `None` if somebody has.
    pub fn if_free<T>(
        &self,
        digest: &ImageDigest,
        mark: u64,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut book = self.0.lock();
        let free = book.pages.get(digest).is_none_or(|page| page.held == 0 && page.last < mark);
        if !free {
            return None;
        }
        book.pages.remove(digest);
        Some(work())
    }
}

// === impl ImageHold ===

impl Drop for ImageHold {
    fn drop(&mut self) {
        let mut book = self.book.lock();
        let page = book.page(&self.digest);
        page.held = page.held.saturating_sub(1);
    }
}

// === impl Book ===

impl Book {
    /// Returns the page of an image, noting that it was held now.
    fn page(&mut self, digest: &ImageDigest) -> &mut Page {
        let moment = self.moment;
        let page = self.pages.entry(digest.clone()).or_default();
        page.last = moment;
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_since_a_mark_is_not_free() {
        let digest: ImageDigest =
            format!("sha256:{}", "a".repeat(64)).parse().expect("a good digest");
        let holds = ImageHolds::default();
        let free = |mark| holds.if_free(&digest, mark, || ()).is_some();
        assert!(free(holds.mark()));
        let hold = holds.hold(&digest);
        assert!(!free(holds.mark()), "it is held");
        let mark = holds.mark();
        drop(hold);
        assert!(!free(mark), "it was held at the mark");
        assert!(free(holds.mark()));
        let mark = holds.mark();
        holds.note(&digest);
        assert!(!free(mark), "it was handed out since");
        assert!(free(holds.mark()));
    }
}
