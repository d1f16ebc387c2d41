-- Builds of images: those under way, and the last one of each image.
CREATE TABLE build (
    id             TEXT    NOT NULL PRIMARY KEY,
    project        TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    record         TEXT    NOT NULL
) STRICT;

-- What steps of builds led to, by what was done.
CREATE TABLE kept_step (
    project  TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    snapshot TEXT    NOT NULL,
    used_at  INTEGER NOT NULL,
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;
