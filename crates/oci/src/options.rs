//! How registries are reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use url::Url;

use crate::Reach;

/// How registries are reached. The default is right for public ones.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Per registry, as [`crate::Reference::registry`] names it, the base URLs that are asked
    /// first, in order. A mirror is asked without credentials; what it lacks, refuses or serves
    /// wrongly comes from the next one, at last from the registry.
    pub mirrors: BTreeMap<String, Vec<Url>>,
    /// The registries, `host` or `host:port`, that are spoken to in plain HTTP. Those on a loopback
    /// address are, too.
    pub plain_http: BTreeSet<String>,
    /// Where requests may go, mirrors apart.
    pub reach: Reach,
    /// Files of PEM certificates that are trusted beside the system's.
    pub extra_roots: Vec<PathBuf>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a registry may be silent in the middle of an answer.
    pub idle_timeout: Duration,
    /// How often a transfer is tried again without a byte having come.
    pub retries: u32,
    /// How long the first retry waits; each further one waits twice as long, at most 10 s.
    pub backoff: Duration,
    /// How many layers are fetched at the same time.
    pub parallel: usize,
}

// === impl RegistryOptions ===

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            plain_http: BTreeSet::new(),
            reach: Reach::default(),
            extra_roots: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            retries: 5,
            backoff: Duration::from_millis(300),
            parallel: 3,
        }
    }
}
