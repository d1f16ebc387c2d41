//! What contexts take on disk: whole ones until their build has ended, and those on their way.

use std::collections::HashMap;

use tarn_types::{BuildId, ProjectId};

use super::BuilderError;

/// The contexts that are there. Plain: it only decides.
#[derive(Debug, Default)]
pub(super) struct Stock(HashMap<BuildId, Stocked>);

/// The contexts of a build.
#[derive(Debug)]
struct Stocked {
    project: ProjectId,
    whole: u64,
    /// What is set aside for the one on its way.
    part: Option<u64>,
}

// === impl Stock ===

impl Stock {
    /// Begins to take a context of a build: one at a time.
    pub(super) fn begin(&mut self, id: &BuildId, project: &ProjectId) -> Result<(), BuilderError> {
        let empty = || Stocked { project: project.clone(), whole: 0, part: None };
        let stocked = self.0.entry(id.clone()).or_insert_with(empty);
        if stocked.part.is_some() {
            return Err(BuilderError::Uploading(id.clone()));
        }
        stocked.part = Some(0);
        Ok(())
    }

    /// Sets more aside for the context on its way; all of a project may have `most`.
    pub(super) fn grow(&mut self, id: &BuildId, more: u64, most: u64) -> Result<(), BuilderError> {
        let Some(project) = self.0.get(id).map(|stocked| &stocked.project) else {
            return Err(BuilderError::NotFound(id.to_string()));
        };
        let theirs = self.0.values().filter(|stocked| stocked.project == *project);
        let taken: u64 = theirs.map(Stocked::bytes).sum();
        if taken.saturating_add(more) > most {
            return Err(BuilderError::Crowded(most));
        }
        if let Some(stocked) = self.0.get_mut(id) {
            stocked.part = Some(stocked.part.unwrap_or(0) + more);
        }
        Ok(())
    }

    /// Takes the context on its way as whole, in the place of the one before.
    pub(super) fn keep(&mut self, id: &BuildId, bytes: u64) {
        if let Some(stocked) = self.0.get_mut(id) {
            (stocked.whole, stocked.part) = (bytes, None);
        }
    }

    /// Forgets the context on its way.
    pub(super) fn give_up(&mut self, id: &BuildId) {
        if let Some(stocked) = self.0.get_mut(id) {
            stocked.part = None;
        }
        self.forget_empty(id);
    }

    /// Forgets the whole one.
    pub(super) fn remove(&mut self, id: &BuildId) {
        if let Some(stocked) = self.0.get_mut(id) {
            stocked.whole = 0;
        }
        self.forget_empty(id);
    }

    fn forget_empty(&mut self, id: &BuildId) {
        if self.0.get(id).is_some_and(|stocked| stocked.whole == 0 && stocked.part.is_none()) {
            self.0.remove(id);
        }
    }
}

// === impl Stocked ===

impl Stocked {
    fn bytes(&self) -> u64 {
        self.whole + self.part.unwrap_or(0)
    }
}

/// Says whether so much may be written where so much is free. What is not known stops nobody.
pub(super) fn has_room(free: Option<u64>, more: u64, reserve: u64) -> bool {
    free.is_none_or(|free| free >= more.saturating_add(reserve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_contexts_of_a_project_count() {
        let id = |number: u8| BuildId::from_random([number; 16]);
        let (one, other) = (ProjectId::from_random([1; 16]), ProjectId::from_random([2; 16]));
        let mut stock = Stock::default();
        let crowded = |result| matches!(result, Err(BuilderError::Crowded(10)));
        stock.begin(&id(1), &one).expect("nothing is there");
        assert!(matches!(stock.begin(&id(1), &one), Err(BuilderError::Uploading(_))));
        stock.grow(&id(1), 6, 10).expect("there is room");
        stock.keep(&id(1), 5);
        stock.begin(&id(1), &one).expect("that one is whole");
        stock.begin(&id(2), &one).expect("of another build");
        stock.grow(&id(2), 5, 10).expect("all of it");
        assert!(crowded(stock.grow(&id(1), 1, 10)));
        stock.begin(&id(3), &other).expect("of another project");
        stock.grow(&id(3), 10, 10).expect("it has its own");
        stock.give_up(&id(2));
        stock.grow(&id(1), 5, 10).expect("there is room again");
        assert!(crowded(stock.grow(&id(1), u64::MAX, 10)));
        stock.keep(&id(1), 5);
        stock.remove(&id(1));
        stock.give_up(&id(3));
        assert!(stock.0.is_empty());
        assert!(stock.grow(&id(1), 1, 10).is_err());
    }

    #[test]
    fn the_reserve_stays_free() {
        for (free, more, reserve, expected) in [
            (Some(30), 10, 20, true),
            (Some(29), 10, 20, false),
            (Some(0), 0, 0, true),
            (Some(u64::MAX - 1), 10, u64::MAX, false),
            (None, 10, u64::MAX, true),
        ] {
            assert_eq!(has_room(free, more, reserve), expected, "{free:?} {more} {reserve}");
        }
    }
}
