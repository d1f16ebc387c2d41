//! What SQLite's errors mean for a caller.

use tarn_store::StoreError;

/// Sorts an error of SQLite's that the verb itself did not expect.
///
/// `doing` says what failed, in the words of an operator.
pub(super) fn failed(doing: &str, error: &sqlx::Error) -> StoreError {
    let sqlx::Error::Database(database) = error else {
        let away = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        );
        let detail = format!("{doing}: {error}");
        return if away {
            StoreError::Unavailable { detail }
        } else {
            StoreError::Internal { detail }
        };
    };
    // Extended codes carry the primary one in their low byte (sqlite.org/rescode.html).
    let code = database.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(1) & 0xff;
    let (away, meaning) = match code {
        3 | 14 => (true, "the file cannot be accessed"),
        5 | 6 => (true, "another program holds the database"),
        7 => (true, "memory has run out"),
        8 => (true, "the file or its file system is read-only"),
        10 => (true, "the disk failed"),
        13 => (true, "the disk is full"),
        11 | 26 => (false, "the file is damaged; restore a backup"),
        _ => (false, "an unexpected error"),
    };
    let detail = format!("{doing}: {meaning} ({database}, code {code})");
    if away { StoreError::Unavailable { detail } } else { StoreError::Internal { detail } }
}

/// Says whether an error is of a row that is there already.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
