-- A ledger as the program of version 3 left it when it was killed, by `.dump`: an export that grew twice, and a window whose grow
-- is not over.
PRAGMA application_id = 1851941991;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE changed (
    export  TEXT NOT NULL PRIMARY KEY, -- has changed data since it was opened, and was not closed in order yet
    backend TEXT NOT NULL,             -- where its server listens, and the export's name there
    server  TEXT                       -- the server's process: boot, number, start; null: not known
) STRICT;
CREATE TABLE event (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,   -- milliseconds since 1970
    kind     TEXT NOT NULL,
    tenant   TEXT,
    export   TEXT,
    detail   TEXT NOT NULL,
    old_size INTEGER,
    new_size INTEGER
) STRICT;
INSERT INTO "event" VALUES(1,1796080900545,'resized','blue','vm1','a client asks for 2 MiB',1048576,2097152);
INSERT INTO "event" VALUES(2,1796080900670,'resized','blue','vm1','a client asks for 3 MiB',2097152,3145728);
CREATE TABLE export (
    name       TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    size       INTEGER NOT NULL, -- bytes that count against the quota
    shown      INTEGER,          -- bytes that clients see: of a window, or where more is not published yet; null: all
    generation INTEGER NOT NULL,
    quarantine TEXT,             -- why; null: it is not in quarantine
    updated_at INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
INSERT INTO "export" VALUES('vm1','blue',3145728,NULL,1,NULL,1796080900620);
INSERT INTO "export" VALUES('w','blue',4096,4096,2,NULL,1700000000000);
CREATE TABLE quota_order (
    tenant          TEXT NOT NULL PRIMARY KEY,
    quota           INTEGER,          -- bytes that an operator ordered; null: no quota
    soft_quota      INTEGER,
    configured      INTEGER,          -- what the configuration said then; the order is void once it says something else
    configured_soft INTEGER,
    ordered_at      INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
CREATE TABLE reservation (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    export     TEXT NOT NULL REFERENCES export (name),
    tenant     TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    from_size  INTEGER NOT NULL,
    to_size    INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('reserved', 'unsettled')),
    created_at INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
INSERT INTO "reservation" VALUES(3,'w','blue',4096,4096,8192,'reserved',1700000000001);
CREATE TABLE tally (
    one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    commits INTEGER NOT NULL
) STRICT;
INSERT INTO "tally" VALUES(1,9);
CREATE TABLE zeroing (
    export      TEXT NOT NULL REFERENCES export (name),
    offset      INTEGER NOT NULL,
    length      INTEGER NOT NULL,
    reservation INTEGER NOT NULL, -- the grow that is not over; 0: it is, only the zeroing is owed
    PRIMARY KEY (export, offset, length, reservation)
) STRICT, WITHOUT ROWID;
INSERT INTO "zeroing" VALUES('w',4096,4096,0);
INSERT INTO "zeroing" VALUES('w',16384,512,0);
CREATE INDEX reservation_export ON reservation (export);
CREATE INDEX event_tenant ON event (tenant, id);
CREATE INDEX event_export ON event (export, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('reservation',3);
INSERT INTO "sqlite_sequence" VALUES('event',2);
COMMIT;
