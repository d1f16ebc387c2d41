//! The [`Store`](tarn_store::Store) on SQL. SQLite for now; another database gets the same verbs
//! under the same file names beside it.

mod sqlite;

pub use sqlite::{SqliteLogStore, SqliteOpenError, SqliteStore, WriteCounts};
// What a caller must give to open one.
pub use tarn_store::log::LogLimits;
