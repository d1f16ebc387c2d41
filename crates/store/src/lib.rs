//! The [`Store`] trait in domain verbs: what control keeps, and how it may change.
//!
//! An answer leaves a verb only after its commit. Only control uses the store. [`MemoryStore`] is
//! the model that [`conformance`] compares every other store with.

pub mod conformance;
mod contract;
pub mod format;
pub mod log;
mod memory;
pub mod rule;
mod unreliable;

pub use contract::{
    DataKeyRecord, KeyHash, KeyRecord, ListQuery, Order, Page, PageKey, ProjectRecord, QuotaRecord,
    SealedLogin, SealedSecret, Store, StoreError,
};
pub use memory::MemoryStore;
pub use unreliable::{Loss, UnreliableStore};
