-- Consent: rows of excluded projects stay here. As in 0002, SQL of SQLite 3.8.

-- The project of each session that was looked at in order to be sent, so that all of its rows are judged alike. It is
-- named once, by the first row that names one; project and folder may be NULL until then.
CREATE TABLE sync_sessions (
  session_id TEXT PRIMARY KEY NOT NULL,
  project    TEXT,
  folder     TEXT                               -- Claude Code's name of the working folder: -home-ada-code-harbour
);

-- Messages and tasks with a change that is not sent, since their project is excluded. An entry goes when the row is
-- judged again and may leave, equals what the cloud has, or is gone.
CREATE TABLE sync_excluded (
  id         INTEGER PRIMARY KEY,
  table_name TEXT NOT NULL,
  row_id,
  session_id TEXT,                              -- its rows are judged again once the session's project is named
  project    TEXT NOT NULL,                     -- as it was called when the row was judged
  at         TEXT NOT NULL
);
CREATE INDEX sync_excluded_row ON sync_excluded (table_name, row_id);
CREATE INDEX sync_excluded_session ON sync_excluded (session_id);
