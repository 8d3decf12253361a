-- The owner's tables of context.db: what the programs that write it share with the sync.
--
-- They are made where they are missing. A file that another program made keeps its own form of them: columns
-- may be missing there, or more than here. Every statement is SQL of SQLite 3.8 (no STRICT, no generated columns,
-- no upsert, no JSON): one newer word in sqlite_master, and an older SQLite of the owner cannot open the file at all.

-- What was said in a session: a row for each text, thought, tool call and tool result.
CREATE TABLE IF NOT EXISTS messages (
    -- An alias of the rowid, which other tables refer to. SQLite gives the highest id out again after a deletion,
    -- so the id names a row only on this device; what travels is the row's origin.
    id INTEGER PRIMARY KEY,
    -- The writer's own key, by which it recognises what it has stored already. Nothing but uniqueness is assumed.
    hash TEXT UNIQUE NOT NULL,
    session_id TEXT,
    -- user, assistant, tool or system.
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    -- What kind of text it is: user, assistant, thinking, tool_use, tool_result, summary, system …
    source_type TEXT,
    -- The file it came from, relative to the folder of all projects: PROJECT/SESSION.jsonl.
    source_file TEXT,
    checkpoint TEXT,
    -- When it was said (RFC 3339, as the source spells it), and when it was read from the source.
    timestamp TEXT,
    extracted_at TEXT,
    -- In characters, not in bytes.
    content_length INTEGER,
    has_code INTEGER,
    has_markdown INTEGER,
    -- Who said it and for which project, as JSON: {"agent": …, "sidechain": true, "project": …}, each where there is one.
    agent_context TEXT
);

-- The items of task lists, one row each, which follows the item through its life.
CREATE TABLE IF NOT EXISTS task_tracking (
    -- A UUID. It is the task's key on every device, unlike task_id, which only counts inside one list.
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    description TEXT NOT NULL,
    active_form TEXT,
    session_id TEXT,
    -- The repository the session worked in, by a name that is the same on every machine.
    project_id TEXT,
    -- pending, in_progress or completed.
    status TEXT NOT NULL DEFAULT 'pending',
    -- success, error, partial or skipped; NULL while nothing is decided.
    outcome TEXT,
    -- From 0.0 to 1.0; NULL where nothing was counted.
    outcome_score REAL,
    tool_success_count INTEGER,
    tool_error_count INTEGER,
    user_corrections INTEGER,
    started_at TEXT,
    completed_at TEXT,
    updated_at TEXT
);

-- Which messages belong to the work on which task.
CREATE TABLE IF NOT EXISTS task_messages (
    -- task_tracking.id and messages.id. They are no foreign keys: a link may arrive before the row that it names.
    task_id TEXT,
    message_id INTEGER,
    -- The message's place in the work on the task, from 1.
    sequence INTEGER,
    PRIMARY KEY (task_id, message_id)
);
