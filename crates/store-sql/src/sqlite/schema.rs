//! The schema and its forward-only migrations.

use std::path::Path;

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::SqliteOpenError;

/// A kind of database: how its files are known, and how they came to be.
pub(super) struct Schema {
    /// Marks a file as of this kind: four letters in ASCII (`PRAGMA application_id`).
    application: i64,
    /// Number n brings schema n - 1 to schema n. Never change one that was released: add another.
    migrations: &'static [&'static str],
}

/// What control must not forget: "tarn".
pub(super) const STORE: Schema = Schema {
    application: 0x7461_726e,
    migrations: &[
        include_str!("../../migrations/0001_init.sql"),
        include_str!("../../migrations/0002_snapshot.sql"),
        include_str!("../../migrations/0003_pool.sql"),
        include_str!("../../migrations/0004_secret.sql"),
        include_str!("../../migrations/0005_quota.sql"),
        include_str!("../../migrations/0006_image.sql"),
        include_str!("../../migrations/0007_registered_image.sql"),
        include_str!("../../migrations/0008_build.sql"),
    ],
};

/// Persisted output: "tarl".
pub(super) const LOG: Schema = Schema {
    application: 0x7461_726c,
    migrations: &[include_str!("../../migrations/log_0001_init.sql")],
};

/// Brings a database to the present schema, one committed migration at a time.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
    schema: &Schema,
) -> Result<(), SqliteOpenError> {
    let open = |source| SqliteOpenError::Open { path: path.to_owned(), source };
    let found = number(connection, "PRAGMA user_version").await.map_err(open)?;
    let application = number(connection, "PRAGMA application_id").await.map_err(open)?;
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema").await.map_err(open)?;
    let fresh = application == 0 && found == 0 && tables == 0;
    if !fresh && application != schema.application {
        return Err(SqliteOpenError::Foreign { path: path.to_owned() });
    }
    for (version, migration) in (1_i64..).zip(schema.migrations) {
        if version <= found {
            continue;
        }
        let applied = apply(connection, schema.application, version, migration).await;
        applied.map_err(|source| SqliteOpenError::Migrate {
            path: path.to_owned(),
            version,
            source,
        })?;
        tracing::info!(schema.old = version - 1, schema.new = version, "database migrated");
    }
    let known = (1_i64..).zip(schema.migrations).last().map_or(0, |(version, _)| version);
    if found > known {
        return Err(SqliteOpenError::Newer { path: path.to_owned(), found, known });
    }
    Ok(())
}

async fn apply(
    connection: &mut SqliteConnection,
    application: i64,
    version: i64,
    migration: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let applied = async {
        sqlx::raw_sql(migration).execute(&mut *connection).await?;
        // A pragma takes no parameters; both values are numbers of this file.
        let mark = format!(
            "PRAGMA application_id = {application}; PRAGMA user_version = {version}; COMMIT"
        );
        sqlx::raw_sql(AssertSqlSafe(mark)).execute(&mut *connection).await
    };
    let applied = applied.await;
    if let Err(error) = applied {
        // It may be rolled back already; what counts is the first error.
        drop(sqlx::raw_sql("ROLLBACK").execute(connection).await);
        return Err(error);
    }
    Ok(())
}

async fn number(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(connection).await
}
