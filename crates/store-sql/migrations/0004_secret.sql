-- The key that a project's secrets are sealed with, itself sealed with the server's key; `wrapping`
-- tells which of those that was.
CREATE TABLE data_key (
    project  TEXT NOT NULL PRIMARY KEY,
    wrapping TEXT NOT NULL,
    wrapped  BLOB NOT NULL
) STRICT;

CREATE TABLE secret (
    id         TEXT    NOT NULL PRIMARY KEY,
    project    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    sealed     BLOB    NOT NULL,
    UNIQUE (project, name)
) STRICT;
