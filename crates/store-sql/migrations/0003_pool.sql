-- A pool is its JSON in `record`; the other columns repeat what updates need of it and are written
-- together with it.

CREATE TABLE pool (
    id             TEXT    NOT NULL PRIMARY KEY,
    project        TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    sequence       INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    record         TEXT    NOT NULL
) STRICT;

-- A container of a pool is a row of `sandbox` that is in no list until somebody claims it.
ALTER TABLE sandbox ADD COLUMN unclaimed INTEGER NOT NULL DEFAULT 0;

DROP INDEX sandbox_page;
CREATE INDEX sandbox_page ON sandbox (project, created_at, id, terminated_at, status)
    WHERE unclaimed = 0;
