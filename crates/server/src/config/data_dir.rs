//! What lies where in the data directory.

use std::path::PathBuf;

/// Where the server keeps its things, below the data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    pub(crate) root: PathBuf,
}

// === impl DataDir ===

impl DataDir {
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn default_key(&self) -> PathBuf {
        self.root.join("default.key")
    }

    pub(crate) fn master_key(&self) -> PathBuf {
        self.root.join("master.key")
    }

    /// Which object store answered at a start, and whether it has our mark.
    pub(crate) fn object_store_used(&self) -> PathBuf {
        self.root.join("object_store.used")
    }

    pub(crate) fn secrets_key(&self) -> PathBuf {
        self.root.join("secrets.key")
    }

    /// Account, certificate and state of ACME.
    pub(crate) fn acme(&self) -> PathBuf {
        self.root.join("acme")
    }

    pub(crate) fn node_id(&self) -> PathBuf {
        self.root.join("node.id")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store").join("tarn.sqlite")
    }

    pub(crate) fn log_store(&self) -> PathBuf {
        self.root.join("store").join("logs.sqlite")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.root.join("ledger")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn netns(&self) -> PathBuf {
        self.run().join("netns")
    }

    pub(crate) fn runsc(&self) -> PathBuf {
        self.root.join("runsc")
    }

    pub(crate) fn addresses(&self) -> PathBuf {
        self.run().join("addresses.json")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }
}
