//! Registered images: the record as JSON, and the columns that queries need.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{StoreError, format};
use tarn_types::{ImageId, ImageRecord};

use super::{error::failed, image::scope, row::StoredRow, writer::Verb};

/// Registers an image, in the place of one of its name.
pub(super) struct Put(pub(super) ImageRecord);

/// Removes an image.
pub(super) struct Delete(pub(super) ImageId);

// === impl Put ===

impl Verb for Put {
    type Output = ImageRecord;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<ImageRecord, StoreError> {
        let mut record = self.0.clone();
        let known: Option<StoredRow> = sqlx::query_as(
            "SELECT id, format_version, record FROM image WHERE scope = ? AND name = ?",
        )
        .bind(scope(record.scope()))
        .bind(record.name.as_str())
        .fetch_optional(&mut *connection)
        .await
        .map_err(|error| failed("read an image", &error))?;
        if let Some(known) = known {
            let known = known.read(format::decode_image)?;
            if known.project != record.project {
                return Err(StoreError::Exists { what: "image" });
            }
            (record.id, record.created_at) = (known.id, known.created_at);
        }
        write(connection, &record).await?;
        let unnamed = sqlx::query("DELETE FROM image_name WHERE project = ? AND name = ?")
            .bind(scope(record.scope()))
            .bind(record.name.as_str())
            .execute(connection)
            .await;
        unnamed.map_err(|error| failed("take an image's name away", &error))?;
        Ok(record)
    }
}

/// Writes a row; one that is there must have the same name.
async fn write(connection: &mut SqliteConnection, record: &ImageRecord) -> Result<(), StoreError> {
    let written = sqlx::query(
        "INSERT INTO image (id, scope, name, project, snapshot, created_at, format_version,
                            record)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE
         SET snapshot = excluded.snapshot, format_version = excluded.format_version,
             record = excluded.record
         WHERE scope = excluded.scope AND name = excluded.name",
    )
    .bind(record.id.as_str())
    .bind(scope(record.scope()))
    .bind(record.name.as_str())
    .bind(record.project.as_str())
    .bind(record.snapshot.as_str())
    .bind(record.created_at.0)
    .bind(i64::from(format::IMAGE_FORMAT))
    .bind(format::encode_image(record)?)
    .execute(connection)
    .await
    .map_err(|error| failed("register an image", &error))?;
    match written.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Exists { what: "image" }),
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM image WHERE id = ?")
            .bind(self.0.as_str())
            .execute(connection)
            .await
            .map_err(|error| failed("delete an image", &error))?;
        match deleted.rows_affected() {
            0 => Err(StoreError::NotFound { what: "image" }),
            _ => Ok(()),
        }
    }
}

/// Reads every image, oldest first.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<ImageRecord>, StoreError> {
    let stored: Vec<StoredRow> =
        sqlx::query_as("SELECT id, format_version, record FROM image ORDER BY created_at, id")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list images", &error))?;
    stored.into_iter().map(|row| row.read(format::decode_image)).collect()
}
