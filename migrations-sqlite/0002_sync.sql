-- Our own tables in context.db. The file belongs to other programs, so all of this is SQL of SQLite 3.8: one newer
-- word in sqlite_master, and an older SQLite of the owner could not open the file at all.
--
-- What must change in one transaction with the owner's rows stands here: outbox, identities with their
-- acknowledgements, cursor, held bodies. Everything else (the batch in flight, counters) is in our own state file.

-- Single values: schema_version, device_id, binding, epoch, cursor, mark, push_seq, batch_nonce and so on.
CREATE TABLE sync_state (
  key   TEXT PRIMARY KEY NOT NULL,
  value
);

-- The outbox. Triggers write table, key and kind of change; no content, which is read when it is sent.
-- seq is AUTOINCREMENT, so that a number is never given twice, and no other column is UNIQUE: the conflict clause of
-- an outer INSERT OR REPLACE overrides that of statements inside a trigger. row_id2 is the message of a link.
CREATE TABLE sync_queue (
  seq        INTEGER PRIMARY KEY AUTOINCREMENT,
  table_name TEXT NOT NULL,
  row_id,
  row_id2,
  op         TEXT NOT NULL,
  queued_at  TEXT DEFAULT CURRENT_TIMESTAMP
);
-- "Is a change of this row pending?" is asked for every row that is pulled. One task may have thousands of links.
CREATE INDEX sync_queue_row ON sync_queue (table_name, row_id, row_id2);

-- A row stands here only inside the transaction that applies pulled rows: the triggers then queue nothing. Other
-- connections never see it, and a crash rolls it back.
CREATE TABLE sync_applying (
  on_behalf_of TEXT
);

-- What makes a local message the same row everywhere: its origin (session, hash, occurrence at its first sending),
-- kept through edits. A row whose row_id is NULL is the tombstone of a message that was deleted here.
CREATE TABLE sync_messages (
  ident             INTEGER PRIMARY KEY,
  row_id            INTEGER,
  session_id        TEXT NOT NULL,
  origin_hash       BLOB NOT NULL,
  origin_occurrence INTEGER NOT NULL,
  writer_hash       TEXT,                       -- the owner's own hash, by which a re-import is recognised
  sent              INTEGER NOT NULL DEFAULT 0, -- was in a batch; a number that was never sent may be given again
  acked_hash        BLOB,                       -- hash of the version that the server has acknowledged
  acked_version     INTEGER,                    -- what the local row looked like then; NULL: unknown
  acked_epoch       INTEGER NOT NULL DEFAULT 0,
  acked_cursor      INTEGER NOT NULL DEFAULT 0,
  seen_seq          INTEGER NOT NULL DEFAULT 0  -- newest outbox row taken into account
);
CREATE INDEX sync_messages_row ON sync_messages (row_id);
CREATE INDEX sync_messages_origin ON sync_messages (origin_hash, origin_occurrence);
CREATE INDEX sync_messages_writer ON sync_messages (writer_hash);

-- A task's key in the cloud is a UUID; a local id that is none is mapped here, both ways.
CREATE TABLE sync_tasks (
  ident         INTEGER PRIMARY KEY,
  local_id,
  cloud_id      TEXT NOT NULL,
  gone          INTEGER NOT NULL DEFAULT 0,     -- deleted here: a pulled version is noted, not written
  acked_hash    BLOB,
  acked_version INTEGER,
  acked_epoch   INTEGER NOT NULL DEFAULT 0,
  acked_cursor  INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sync_tasks_local ON sync_tasks (local_id);
CREATE INDEX sync_tasks_cloud ON sync_tasks (cloud_id);

-- Links by the identities of their two ends.
CREATE TABLE sync_links (
  ident          INTEGER PRIMARY KEY,
  task           INTEGER NOT NULL,              -- sync_tasks.ident
  message        INTEGER NOT NULL,              -- sync_messages.ident
  gone           INTEGER NOT NULL DEFAULT 0,    -- deleted here
  acked          INTEGER NOT NULL DEFAULT 0,
  acked_sequence INTEGER,
  acked_epoch    INTEGER NOT NULL DEFAULT 0,
  acked_cursor   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sync_links_ends ON sync_links (task, message);
CREATE INDEX sync_links_message ON sync_links (message);

-- Outgoing links one end of which is not in this file yet, by local keys. Queued again when it appears.
CREATE TABLE sync_links_parked (
  task_id,
  message_id,
  PRIMARY KEY (task_id, message_id)
);
CREATE INDEX sync_links_parked_message ON sync_links_parked (message_id);

-- Incoming links one end of which has not been pulled yet. Drained in the transaction that brings it.
CREATE TABLE sync_links_waiting (
  id                INTEGER PRIMARY KEY,
  task_id           TEXT NOT NULL,
  session_id        TEXT NOT NULL,
  origin_hash       BLOB NOT NULL,
  origin_occurrence INTEGER NOT NULL,
  sequence          INTEGER,
  epoch             INTEGER NOT NULL,
  cursor            INTEGER NOT NULL
);
CREATE INDEX sync_links_waiting_task ON sync_links_waiting (task_id);
CREATE INDEX sync_links_waiting_message ON sync_links_waiting (origin_hash, origin_occurrence);

-- Pulled versions of rows with a local change under way, kept until that change has ended.
CREATE TABLE sync_held (
  table_name TEXT NOT NULL,
  ident      INTEGER NOT NULL,                  -- of sync_messages, sync_tasks or sync_links
  body       TEXT NOT NULL,                     -- the record as it came, as JSON
  epoch      INTEGER NOT NULL,
  cursor     INTEGER NOT NULL,
  PRIMARY KEY (table_name, ident)
);

-- Rows that would stall the rest: refused by the server or unfit to be sent ('up'), refused by the owner's own
-- constraints ('down', with the body). An entry belongs to a content: once that changes, the row is tried anew.
CREATE TABLE sync_quarantine (
  id          INTEGER PRIMARY KEY,
  direction   TEXT NOT NULL,
  table_name  TEXT NOT NULL,
  row_id,
  row_id2,
  fingerprint BLOB,
  code        TEXT NOT NULL,
  message     TEXT NOT NULL,
  body        TEXT,
  epoch       INTEGER,
  cursor      INTEGER,
  at          TEXT NOT NULL
);
CREATE INDEX sync_quarantine_row ON sync_quarantine (table_name, row_id);
