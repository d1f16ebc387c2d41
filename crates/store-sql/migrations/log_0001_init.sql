-- Times are ms since 1970. Lines are kept as they came: one row a batch, a JSON array in `lines`.

CREATE TABLE log_sandbox (
    key         INTEGER NOT NULL PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    project     TEXT    NOT NULL,
    -- The last batch that was stored.
    boot        TEXT    NOT NULL,
    batch       INTEGER NOT NULL,
    appended_at INTEGER NOT NULL,
    -- The sequence of the next line.
    next        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    -- Lines that went because of a cap, and when the last of them was written.
    cut_lines   INTEGER NOT NULL,
    cut_at      INTEGER NOT NULL
) STRICT;

-- Who was silent longest: whose lines go first when all together are too many.
CREATE INDEX log_sandbox_silent ON log_sandbox (appended_at, id) WHERE bytes > 0;

-- What the expiry of whole sandboxes reads.
CREATE INDEX log_sandbox_empty ON log_sandbox (appended_at) WHERE bytes = 0;

CREATE TABLE log_chunk (
    key            INTEGER NOT NULL PRIMARY KEY,
    sandbox        INTEGER NOT NULL REFERENCES log_sandbox (key),
    -- The sequences of its first and last line.
    first          INTEGER NOT NULL,
    last           INTEGER NOT NULL,
    stored_at      INTEGER NOT NULL,
    last_at        INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    -- [[process, lines], …]
    counts         TEXT    NOT NULL,
    format_version INTEGER NOT NULL,
    -- Format 1: [[process, level, at, dropped, body], …]
    lines          TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX log_chunk_place ON log_chunk (sandbox, last);

CREATE INDEX log_chunk_age ON log_chunk (stored_at);

CREATE TABLE log_process (
    sandbox      INTEGER NOT NULL REFERENCES log_sandbox (key),
    process      INTEGER NOT NULL,
    pid          INTEGER NOT NULL,
    command      TEXT    NOT NULL,
    managed_id   TEXT,
    managed_name TEXT,
    first_seen   INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL,
    lines        INTEGER NOT NULL,
    PRIMARY KEY (sandbox, process)
) STRICT, WITHOUT ROWID;

-- The sum of all `bytes`, so that a cap is checked without adding them up.
CREATE TABLE log_total (
    bytes INTEGER NOT NULL
) STRICT;

INSERT INTO log_total (bytes) VALUES (0);
