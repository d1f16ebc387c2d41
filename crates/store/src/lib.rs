//! The [`Store`] trait in domain verbs: what control keeps, and how it may change.
//!
//! An answer leaves a verb only after its commit. Only control uses the store.

mod contract;

pub use contract::{
    KeyHash, KeyRecord, ListQuery, Order, Page, PageKey, ProjectRecord, Store, StoreError,
};
