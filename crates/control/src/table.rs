//! Every live sandbox, in memory: what the ingress and waiting callers read.
//!
//! The store is the truth; this is its live part, kept current by `transition`, plus the
//! endpoints, which are never stored.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use tarn_node_api::Endpoint;
use tarn_types::{
    Observed, ObservedPhase, PoolId, ProjectId, SandboxId, SandboxName, SandboxRecord,
};
use tokio::sync::watch;

use crate::usage::{Usage, Usages};

/// What is known of one live sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// The stored record.
    pub(crate) record: Arc<SandboxRecord>,
    /// How to reach it, once its node has said so; there exactly while it runs.
    pub(crate) endpoint: Option<Endpoint>,
}

/// One live sandbox: its watchers, and the lock under which it changes.
#[derive(Debug)]
pub(crate) struct Entry {
    watch: watch::Sender<Live>,
    /// Held while an event is decided, stored and published.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// All live sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    maps: Arc<RwLock<Maps>>,
}

/// A place in a project's quota that was promised to a sandbox. Unless that takes it, it is given
/// back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    maps: Arc<RwLock<Maps>>,
    project: Option<ProjectId>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<SandboxId, Arc<Entry>>,
    by_name: HashMap<(ProjectId, SandboxName), SandboxId>,
    by_pool: HashMap<PoolId, HashSet<SandboxId>>,
    usages: Usages,
}

// === impl Entry ===

impl Entry {
    /// Returns what is known now.
    pub(crate) fn now(&self) -> Live {
        self.watch.borrow().clone()
    }

    /// Watches for changes; the last one may be the end.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Live> {
        self.watch.subscribe()
    }
}

// === impl Table ===

impl Table {
    /// Adds a sandbox that was just stored and takes its place, or was read at start.
    pub(crate) fn insert(&self, record: SandboxRecord, place: Option<Place>) -> Arc<Entry> {
        let record = Arc::new(record);
        let (watch, _) = watch::channel(Live { record: Arc::clone(&record), endpoint: None });
        let entry = Arc::new(Entry { watch, turn: tokio::sync::Mutex::new(()) });
        let mut maps = self.maps.write();
        maps.usages.change(None, &record);
        take(place, &mut maps);
        maps.by_id.insert(record.id.clone(), Arc::clone(&entry));
        if let Some(name) = record.asked.name.clone() {
            maps.by_name.insert((record.project.clone(), name), record.id.clone());
        }
        if let Some(member) = &record.member {
            maps.by_pool.entry(member.pool.clone()).or_default().insert(record.id.clone());
        }
        entry
    }

    /// Finds a live sandbox.
    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.maps.read().by_id.get(id).cloned()
    }

    /// Finds a live sandbox by its name.
    pub(crate) fn get_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Option<Arc<Entry>> {
        let maps = self.maps.read();
        let id = maps.by_name.get(&(project.clone(), name.clone()))?;
        maps.by_id.get(id).cloned()
    }

    /// Publishes a stored record, which takes its place. One that has ended leaves the table; its
    /// watchers see it still.
    pub(crate) fn publish(&self, entry: &Entry, record: SandboxRecord, place: Option<Place>) {
        let before = entry.now().record;
        let ended = record.end.is_some();
        let runs = matches!(record.observed, Some(Observed { phase: ObservedPhase::Running, .. }));
        let (id, project) = (record.id.clone(), record.project.clone());
        let (old_name, new_name) = (before.asked.name.clone(), record.asked.name.clone());
        {
            let mut maps = self.maps.write();
            maps.usages.change(Some(&before), &record);
            take(place, &mut maps);
            if let Some(old) = old_name.filter(|_| ended || before.asked.name != new_name) {
                // The free name may be another's already: who comes next is not behind this one.
                let key = (project.clone(), old);
                if maps.by_name.get(&key) == Some(&id) {
                    maps.by_name.remove(&key);
                }
            }
            if ended {
                maps.by_id.remove(&id);
                maps.leave_pool(&before);
            } else if let Some(name) = new_name {
                maps.by_name.insert((project, name), id);
            }
        }
        entry.watch.send_modify(|live| {
            live.record = Arc::new(record);
            if ended || !runs {
                live.endpoint = None;
            }
        });
    }

    /// Publishes how to reach a sandbox.
    pub(crate) fn set_endpoint(entry: &Entry, endpoint: Option<Endpoint>) {
        entry.watch.send_if_modified(|live| {
            let changed = live.endpoint != endpoint;
            live.endpoint = endpoint;
            changed
        });
    }

    /// Returns every live sandbox, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.maps.read().by_id.values().cloned().collect();
        sort(&mut all);
        all
    }

    /// Returns every live sandbox of a pool, claimed or not, oldest first.
    pub(crate) fn of_pool(&self, pool: &PoolId) -> Vec<Arc<Entry>> {
        let maps = self.maps.read();
        let ids = maps.by_pool.get(pool);
        let found = ids.into_iter().flatten().filter_map(|id| maps.by_id.get(id).cloned());
        let mut found: Vec<_> = found.collect();
        drop(maps);
        sort(&mut found);
        found
    }

    /// Promises places in a project's quota, all or none.
    ///
    /// # Errors
    /// Returns how many are taken when fewer are left.
    pub(crate) fn promise(
        &self,
        project: &ProjectId,
        places: u32,
        most: u32,
    ) -> Result<Vec<Place>, u64> {
        self.maps.write().usages.promise(project, places, most)?;
        let place = || Place { maps: Arc::clone(&self.maps), project: Some(project.clone()) };
        Ok((0..places).map(|_| place()).collect())
    }

    /// Returns what a project uses of its quota.
    pub(crate) fn usage(&self, project: &ProjectId) -> Usage {
        self.maps.read().usages.of(project)
    }

    /// Returns the pools that live sandboxes are of.
    pub(crate) fn pools(&self) -> Vec<PoolId> {
        self.maps.read().by_pool.keys().cloned().collect()
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(project) = self.project.take() {
            self.maps.write().usages.end_promise(&project);
        }
    }
}

/// Ends the promise of a place, now that what it was promised to counts.
fn take(place: Option<Place>, maps: &mut Maps) {
    let project = place.and_then(|mut place| place.project.take());
    if let Some(project) = project {
        maps.usages.end_promise(&project);
    }
}

// === impl Maps ===

impl Maps {
    fn leave_pool(&mut self, record: &SandboxRecord) {
        let Some(member) = &record.member else { return };
        let Some(members) = self.by_pool.get_mut(&member.pool) else { return };
        members.remove(&record.id);
        if members.is_empty() {
            self.by_pool.remove(&member.pool);
        }
    }
}

fn sort(entries: &mut [Arc<Entry>]) {
    entries.sort_by_key(|entry| {
        let record = entry.now().record;
        (record.created_at, record.id.clone())
    });
}

#[cfg(test)]
mod tests {
    use tarn_types::{
        BootImage, EndCause, Generation, Intent, PortAccess, Resources, SandboxSpec, Target,
        UnixMillis,
    };

    use super::*;

    fn named(number: u8, name: &str) -> SandboxRecord {
        SandboxRecord {
            id: SandboxId::from_random([number; SandboxId::LENGTH]),
            project: ProjectId::from_random([1; 16]),
            created_at: UnixMillis(0),
            asked: SandboxSpec {
                name: name.parse().ok(),
                image: BootImage {
                    name: "image".parse().expect("a name"),
                    pin: None,
                    registered: None,
                },
                resources: Resources::default(),
                entrypoint: None,
                secret_names: Vec::new(),
                timeout_secs: 0,
                network: None,
                ports: PortAccess::default(),
                auto_resume: true,
                max_pending_secs: None,
                template_id: None,
                restore: None,
            },
            intent: Intent {
                generation: Generation::FIRST,
                target: Target::Running,
                node: None,
                pending_reason: None,
            },
            observed: None,
            sequence: 1,
            running_at: None,
            terminated_at: None,
            end: None,
            capturing: None,
            member: None,
            resize: None,
        }
    }

    #[test]
    fn a_name_that_another_has_by_now_stays_the_other_s() {
        let table = Table::default();
        let (old, new, renamed) = (named(1, "box"), named(2, "box"), named(3, "other"));
        let by_name = |name: &str| {
            let found = table.get_by_name(&old.project, &name.parse().expect("a name"));
            found.map(|entry| entry.now().record.id.clone())
        };
        let entry = table.insert(old.clone(), None);
        // The store has freed the name and given it away before this is told of the end.
        table.insert(new.clone(), None);
        let cause = EndCause::RuntimeDied { reason: "gone".to_owned() };
        let ended = SandboxRecord { sequence: 2, end: Some(cause), ..old.clone() };
        table.publish(&entry, ended, None);
        assert_eq!(by_name("box"), Some(new.id.clone()));

        let entry = table.insert(renamed.clone(), None);
        let freed = SandboxRecord { sequence: 2, ..named(3, "third") };
        table.publish(&entry, freed, None);
        assert_eq!((by_name("other"), by_name("third")), (None, Some(renamed.id)));
    }
}
