-- Times are ms since 1970. A sandbox is its JSON in `record`; the other columns repeat what
-- queries need of it and are written together with it.

CREATE TABLE project (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
    id         TEXT    NOT NULL PRIMARY KEY,
    project    TEXT    NOT NULL REFERENCES project (id),
    hash       BLOB    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE fact (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE sandbox (
    id             TEXT    NOT NULL PRIMARY KEY,
    project        TEXT    NOT NULL,
    name           TEXT,
    status         TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    terminated_at  INTEGER,
    sequence       INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    record         TEXT    NOT NULL
) STRICT;

-- A name belongs to one live sandbox of a project; the end gives it back.
CREATE UNIQUE INDEX sandbox_live_name ON sandbox (project, name)
    WHERE terminated_at IS NULL AND name IS NOT NULL;

-- Lists. The last two columns let a page step over the archive without reading records.
CREATE INDEX sandbox_page ON sandbox (project, created_at, id, terminated_at, status);

-- What reconcilers read at start.
CREATE INDEX sandbox_live ON sandbox (created_at, id) WHERE terminated_at IS NULL;

-- What the purge reads.
CREATE INDEX sandbox_ended ON sandbox (terminated_at, id) WHERE terminated_at IS NOT NULL;
