-- A snapshot is its JSON in `record`; the other columns repeat what queries need of it and are
-- written together with it.

CREATE TABLE snapshot (
    id             TEXT    NOT NULL PRIMARY KEY,
    project        TEXT    NOT NULL,
    sandbox        TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    hidden         INTEGER NOT NULL,
    unsettled      INTEGER NOT NULL,
    sequence       INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    record         TEXT    NOT NULL
) STRICT;

-- Lists, of a project and of one sandbox.
CREATE INDEX snapshot_list ON snapshot (project, created_at, id) WHERE hidden = 0;
CREATE INDEX snapshot_sandbox ON snapshot (project, sandbox, created_at, id) WHERE hidden = 0;

-- What the reconciler reads.
CREATE INDEX snapshot_unsettled ON snapshot (created_at, id) WHERE unsettled = 1;
