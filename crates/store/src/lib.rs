//! The [`Store`] trait in domain verbs: what control keeps, and how it may change.
//!
//! An answer leaves a verb only after its commit. Only control uses the store. [`MemoryStore`] is
//! the model that [`conformance`] compares every other store with.

pub mod conformance;
mod contract;
pub mod format;
pub mod log;
mod memory;
mod record;
pub mod rule;
mod unreliable;

pub use contract::{ListQuery, Order, Page, PageKey, Store, StoreError};
pub use memory::MemoryStore;
pub use record::{
    DataKeyRecord, KeyHash, KeyRecord, ProjectRecord, QuotaRecord, SealedLogin, SealedSecret,
};
pub use unreliable::{Loss, UnreliableStore};
