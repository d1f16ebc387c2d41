//! The small table of server facts.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::StoreError;

use super::{error::failed, writer::Verb};

/// Sets a fact.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) value: String,
}

// === impl Set ===

impl Verb for Set {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let set = sqlx::query(
            "INSERT INTO fact (name, value) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(&self.name)
        .bind(&self.value)
        .execute(connection)
        .await;
        set.map(drop).map_err(|error| failed("set a fact", &error))
    }
}

/// Reads a fact.
pub(super) async fn fetch(readers: &SqlitePool, name: &str) -> Result<Option<String>, StoreError> {
    let value = sqlx::query_scalar("SELECT value FROM fact WHERE name = ?").bind(name);
    value.fetch_optional(readers).await.map_err(|error| failed("read a fact", &error))
}
