-- Context: the messages and tasks of coding sessions, as devices push them and pull them.
--
-- Beside the rules at the head of 0001_identity.sql these hold here:
--
--   * Every row belongs to one user of the tenant, and the policies compare both: a user sees the rows of all of his
--     devices and of nobody else. (context_heads is the tenant's and has no user.)
--   * sync_cursor numbers the versions of all rows of a tenant in the order of their commits. It is drawn from the
--     tenant's row in context_heads, which stays locked until the commit: a reader who has passed a cursor never misses
--     a row at or below it (P3). A sequence would draw numbers before the commit, and has holes that fill up later.
--   * What is current stands in context_messages and context_task_tracking, one row for each identity. What was current
--     before, and what came too late to become current, stands in context_message_versions and task_events, to which
--     the serving role can add and from which it can take nothing away.
--   * user_id is text, and refers to no users row: what a user wrote stays with the tenant when he leaves it.

-- The tenant's highest cursor, and the lock under which pushes of the tenant queue.
CREATE TABLE context_heads (
    tenant_id      uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    head           bigint      NOT NULL DEFAULT 0 CHECK (head >= 0),
    -- One life of this database. A restore to the past starts a new one when the first client heals it.
    epoch          bigint      NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    -- synced_at of the newest row. Each push takes a later one, whatever the clock does, so that synced_at never falls
    -- along the cursor.
    last_synced_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_id)
);
ALTER TABLE context_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON context_heads
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE ON context_heads TO coditect_app;

-- The devices: how far each one has pushed and pulled. A device id alone proves nothing, hence the user in the key.
CREATE TABLE context_sync_cursors (
    tenant_id      uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id        varchar(63) NOT NULL,
    device_id      uuid        NOT NULL,
    -- Names the machine; only shown.
    hardware_id    varchar(255),
    -- The last batch that was committed, and the SHA-256 of its body: the same batch sent again gets the stored answer.
    push_seq       bigint      NOT NULL DEFAULT 0 CHECK (push_seq >= 0),
    push_digest    bytea       CHECK (octet_length(push_digest) = 32),
    -- The cursor from which the device last asked: it has everything up to there.
    pulled_cursor  bigint      NOT NULL DEFAULT 0,
    first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_pushed_at timestamptz,
    last_pulled_at timestamptz,
    PRIMARY KEY (tenant_id, user_id, device_id)
) WITH (fillfactor = 70); -- One update for each push: room for it on the same page spares the index.
ALTER TABLE context_sync_cursors ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_sync_cursors FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_sync_cursors
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE ON context_sync_cursors TO coditect_app;

-- One row for each push that was committed. It answers the same push when it comes again, tells which push brought a
-- row, and proves history: a client that shows a cursor with another mark than stands here has seen another past.
CREATE TABLE context_push_log (
    tenant_id   uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id     varchar(63) NOT NULL,
    device_id   uuid        NOT NULL,
    push_seq    bigint      NOT NULL,
    digest      bytea       NOT NULL CHECK (octet_length(digest) = 32),
    -- The user's head after this push; the first row at or above a cursor is the push that covers it.
    last_cursor bigint      NOT NULL,
    -- Random. Null for a push that stored nothing: last_cursor is then covered by an earlier row.
    mark        varchar(32),
    messages    integer     NOT NULL,
    tasks       integer     NOT NULL,
    links       integer     NOT NULL,
    skipped     integer     NOT NULL,
    rejected    integer     NOT NULL,
    -- Of the body before compression.
    bytes       bigint      NOT NULL,
    -- The answer, word for word. Only the newest of a device can be asked for again; older ones are pruned.
    answer      text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id, device_id, push_seq)
);
CREATE UNIQUE INDEX context_push_log_mark ON context_push_log (tenant_id, user_id, last_cursor)
    WHERE mark IS NOT NULL;
ALTER TABLE context_push_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_push_log FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_push_log
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT ON context_push_log TO coditect_app;
GRANT UPDATE (answer) ON context_push_log TO coditect_app;

-- The current version of each message.
--
-- A message is one by its origin: session, hash and occurrence at its first sending, never changed. content_hash and
-- occurrence are of the present content, and serve as the dedupe key that other clients know: occurrence is the lowest
-- number that was free when this content came.
CREATE TABLE context_messages (
    tenant_id         uuid         NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id                uuid         NOT NULL,
    user_id           varchar(63)  NOT NULL,
    -- '' where the sender had NULL (NULLs never collide in a unique key); session_null tells which it was.
    session_id        varchar(255) NOT NULL DEFAULT '',
    session_null      boolean      NOT NULL DEFAULT false,
    message_type      varchar(50)  NOT NULL,
    content           text         NOT NULL,
    content_hash      varchar(64)  NOT NULL,
    occurrence        integer      NOT NULL CHECK (occurrence >= 0),
    origin_hash       varchar(64)  NOT NULL,
    origin_occurrence integer      NOT NULL CHECK (origin_occurrence >= 0),
    -- Digest of content, role, time and metadata: tells an edit from a repetition without reading them.
    version           bigint       NOT NULL,
    metadata          jsonb        NOT NULL DEFAULT '{}',
    -- The first sender's own hash of the row, by which other writers of his may recognise it.
    writer_hash       varchar(255),
    hardware_id       varchar(255),
    -- Who pushed the present version; that device gets it back as a stub.
    device_id         uuid         NOT NULL,
    -- Bytes of content and metadata, so that a pulled page can be measured without reading them.
    size_bytes        integer      NOT NULL,
    -- The sender's text, given back as it came, and the same as a time where it is one.
    created_at_text   varchar(100),
    created_at        timestamptz,
    sync_cursor       bigint       NOT NULL,
    -- (epoch, cursor) under which this version was first acknowledged. Differs from sync_cursor only in rows by which a
    -- client healed a restored database; of two versions the one with the higher stamp is current.
    stamp_epoch       bigint       NOT NULL,
    stamp_cursor      bigint       NOT NULL,
    synced_at         timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT context_messages_origin UNIQUE (tenant_id, user_id, session_id, origin_hash, origin_occurrence),
    CONSTRAINT context_messages_content UNIQUE (tenant_id, user_id, session_id, content_hash, occurrence),
    CONSTRAINT context_messages_cursor UNIQUE (tenant_id, sync_cursor)
);
CREATE INDEX context_messages_pull ON context_messages (tenant_id, user_id, sync_cursor);
CREATE INDEX context_messages_hash ON context_messages (tenant_id, user_id, content_hash);
ALTER TABLE context_messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_messages FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_messages
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE ON context_messages TO coditect_app;

-- Versions of messages that are not current: replaced by a later one, or superseded before they could become current.
CREATE TABLE context_message_versions (
    tenant_id       uuid         NOT NULL,
    id              uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id         varchar(63)  NOT NULL,
    message_id      uuid         NOT NULL,
    kind            varchar(20)  NOT NULL CHECK (kind IN ('replaced', 'superseded')),
    message_type    varchar(50)  NOT NULL,
    content         text         NOT NULL,
    content_hash    varchar(64)  NOT NULL,
    version         bigint       NOT NULL,
    metadata        jsonb        NOT NULL DEFAULT '{}',
    hardware_id     varchar(255),
    device_id       uuid         NOT NULL,
    created_at_text varchar(100),
    created_at      timestamptz,
    -- Of the version itself; null where it never was current.
    sync_cursor     bigint,
    synced_at       timestamptz,
    filed_at        timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, message_id) REFERENCES context_messages (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX context_message_versions_message ON context_message_versions (tenant_id, message_id, version);
ALTER TABLE context_message_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_message_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_message_versions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT ON context_message_versions TO coditect_app;

-- The current version of each task: the one with the latest synced_at (P6). id is the task's key on every device,
-- task_id the number that the coding tool gave it.
CREATE TABLE context_task_tracking (
    tenant_id          uuid         NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id            varchar(63)  NOT NULL,
    id                 uuid         NOT NULL,
    task_id            varchar(50)  NOT NULL,
    description        text         NOT NULL,
    active_form        varchar(255),
    session_id         varchar(255),
    project_id         varchar(255),
    status             varchar(20)  NOT NULL,
    outcome            varchar(20),
    outcome_score      double precision CHECK (outcome_score BETWEEN 0 AND 1),
    tool_success_count integer,
    tool_error_count   integer,
    user_corrections   integer,
    started_at         timestamptz,
    completed_at       timestamptz,
    updated_at         timestamptz,
    client_version     varchar(50),
    hardware_id        varchar(255),
    content_hash       varchar(64)  NOT NULL,
    -- The fields as the client sent them. Times and numbers above are for people; given back in another spelling they
    -- would change the hash, and the device would push the task again.
    record             text         NOT NULL,
    device_id          uuid         NOT NULL,
    size_bytes         integer      NOT NULL,
    sync_cursor        bigint       NOT NULL,
    stamp_epoch        bigint       NOT NULL,
    stamp_cursor       bigint       NOT NULL,
    synced_at          timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, user_id, id),
    CONSTRAINT context_task_tracking_cursor UNIQUE (tenant_id, sync_cursor)
);
CREATE INDEX context_task_tracking_pull ON context_task_tracking (tenant_id, user_id, sync_cursor);
CREATE INDEX context_task_tracking_status ON context_task_tracking (tenant_id, user_id, status);
CREATE INDEX context_task_tracking_project ON context_task_tracking (tenant_id, project_id, status);
CREATE INDEX context_task_tracking_session ON context_task_tracking (tenant_id, session_id, synced_at);
CREATE INDEX context_task_tracking_task ON context_task_tracking (tenant_id, task_id, status);
ALTER TABLE context_task_tracking ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_task_tracking FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_task_tracking
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE ON context_task_tracking TO coditect_app;

-- Every version of every task that was ever stored or superseded (P6): two devices that edited one task offline agree
-- on one version, and the other can be read here.
CREATE TABLE task_events (
    tenant_id          uuid         NOT NULL,
    event_id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id            varchar(63)  NOT NULL,
    id                 uuid         NOT NULL,
    kind               varchar(20)  NOT NULL CHECK (kind IN ('stored', 'superseded')),
    task_id            varchar(50)  NOT NULL,
    description        text         NOT NULL,
    active_form        varchar(255),
    session_id         varchar(255),
    project_id         varchar(255),
    status             varchar(20)  NOT NULL,
    outcome            varchar(20),
    outcome_score      double precision,
    tool_success_count integer,
    tool_error_count   integer,
    user_corrections   integer,
    started_at         timestamptz,
    completed_at       timestamptz,
    updated_at         timestamptz,
    client_version     varchar(50),
    hardware_id        varchar(255),
    content_hash       varchar(64)  NOT NULL,
    record             text         NOT NULL,
    device_id          uuid         NOT NULL,
    -- Of this version; null where it was superseded.
    sync_cursor        bigint,
    -- When this version was stored, or filed.
    synced_at          timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, event_id),
    FOREIGN KEY (tenant_id, user_id, id) REFERENCES context_task_tracking (tenant_id, user_id, id) ON DELETE CASCADE
);
CREATE INDEX task_events_task ON task_events (tenant_id, user_id, id, content_hash);
ALTER TABLE task_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE task_events FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON task_events
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT ON task_events TO coditect_app;

-- Which messages belong to a task's span. It refers to the message's row, whose origin is what devices know it by.
CREATE TABLE context_task_messages (
    tenant_id    uuid        NOT NULL,
    user_id      varchar(63) NOT NULL,
    task_id      uuid        NOT NULL,
    message_id   uuid        NOT NULL,
    sequence     bigint,
    device_id    uuid        NOT NULL,
    sync_cursor  bigint      NOT NULL,
    stamp_epoch  bigint      NOT NULL,
    stamp_cursor bigint      NOT NULL,
    synced_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, task_id, message_id),
    CONSTRAINT context_task_messages_cursor UNIQUE (tenant_id, sync_cursor),
    FOREIGN KEY (tenant_id, user_id, task_id) REFERENCES context_task_tracking (tenant_id, user_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, message_id) REFERENCES context_messages (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX context_task_messages_pull ON context_task_messages (tenant_id, user_id, sync_cursor);
CREATE INDEX context_task_messages_message ON context_task_messages (tenant_id, message_id);
ALTER TABLE context_task_messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_task_messages FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_task_messages
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE ON context_task_messages TO coditect_app;

-- A user's totals, kept by each push in its own transaction, so that asking for them costs one row however much is
-- stored.
CREATE TABLE context_sync_stats (
    tenant_id      uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id        varchar(63) NOT NULL,
    -- Rows that are current, and the bytes of their texts.
    messages       bigint      NOT NULL DEFAULT 0,
    tasks          bigint      NOT NULL DEFAULT 0,
    task_messages  bigint      NOT NULL DEFAULT 0,
    bytes          bigint      NOT NULL DEFAULT 0,
    -- What pushes brought, ever.
    pushes         bigint      NOT NULL DEFAULT 0,
    records_stored bigint      NOT NULL DEFAULT 0,
    records_skipped  bigint    NOT NULL DEFAULT 0,
    records_rejected bigint    NOT NULL DEFAULT 0,
    bytes_received bigint      NOT NULL DEFAULT 0,
    -- synced_at of the user's newest row.
    last_synced_at timestamptz,
    PRIMARY KEY (tenant_id, user_id)
) WITH (fillfactor = 70);
ALTER TABLE context_sync_stats ENABLE ROW LEVEL SECURITY;
ALTER TABLE context_sync_stats FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON context_sync_stats
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE ON context_sync_stats TO coditect_app;
