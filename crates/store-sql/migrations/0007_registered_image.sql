-- Registered images. One is its JSON in `record`; the other columns repeat what queries need of it
-- and are written together with it. `scope` is a project, or empty for a name that counts in all.
CREATE TABLE image (
    id             TEXT    NOT NULL PRIMARY KEY,
    scope          TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    project        TEXT    NOT NULL,
    snapshot       TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    record         TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX image_of_name ON image (scope, name);

-- Which snapshots stay although nobody is shown them.
CREATE INDEX image_of_snapshot ON image (snapshot);
