-- The names of pulled and imported images; `project` is empty for a name that counts in all.
CREATE TABLE image_name (
    project    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    source     TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (project, name)
) STRICT, WITHOUT ROWID;

-- What a project shows to registries; `sealed` with its data key.
CREATE TABLE registry_login (
    project    TEXT    NOT NULL,
    registry   TEXT    NOT NULL,
    username   TEXT    NOT NULL,
    updated_at INTEGER NOT NULL,
    sealed     BLOB    NOT NULL,
    PRIMARY KEY (project, registry)
) STRICT, WITHOUT ROWID;
