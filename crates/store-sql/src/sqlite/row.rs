//! A record as it is read: JSON, with the version of its format beside it.

use sqlx::{FromRow, Row as _, sqlite::SqliteRow};
use tarn_store::StoreError;

/// A row with a record.
pub(super) struct StoredRow {
    id: String,
    format_version: i64,
    record: String,
}

// === impl StoredRow ===

impl FromRow<'_, SqliteRow> for StoredRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            format_version: row.try_get("format_version")?,
            record: row.try_get("record")?,
        })
    }
}

impl StoredRow {
    /// Reads the record with the reader of its kind, which gets the version, the id and the text.
    pub(super) fn read<T>(
        &self,
        decode: impl FnOnce(u32, &str, &str) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let version = u32::try_from(self.format_version).unwrap_or(u32::MAX);
        decode(version, &self.id, &self.record)
    }
}
