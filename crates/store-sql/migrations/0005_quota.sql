-- Where a project's quota is not the server's default; 0 = without limit.
CREATE TABLE quota (
    project   TEXT    NOT NULL PRIMARY KEY,
    sandboxes INTEGER NOT NULL
) STRICT;

-- Public keys, looked up by the fingerprint within the project of a sandbox.
CREATE TABLE ssh_key (
    id           TEXT    NOT NULL PRIMARY KEY,
    project      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    algorithm    TEXT    NOT NULL,
    fingerprint  TEXT    NOT NULL,
    line         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    UNIQUE (project, fingerprint)
) STRICT;
