-- What PostgreSQL's planner believes of the context tables before it has statistics of its own.
--
-- In a new database every table starts with none, and the first sync of a workstation fills them faster than autovacuum
-- looks (once a minute). Meanwhile the planner takes any tenant and any user to be rare, so that all indexes seem to
-- lead to one row, and it picks a small one: the rows of a push were then each found by reading all rows of the user
-- (measured: 5 s for a push that takes 0.1 s). So we tell it what holds from the first row on: all rows of a table may be
-- of one tenant, half of them of one user (the half makes an index with the user in it better than one without), all
-- of a user's messages of one session; an origin or an id has one row.
--
-- n_distinct stays, and later ANALYZEs keep to it; what they find out about the largest tenants and users by name they
-- add to it. sync_cursor gets no statistics at all: they would always say that the newest rows do not exist yet.

ALTER TABLE context_sync_cursors
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2);
ALTER TABLE context_push_log
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2), ALTER last_cursor SET STATISTICS 0;
ALTER TABLE context_messages
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2), ALTER session_id SET (n_distinct = 1),
    ALTER sync_cursor SET STATISTICS 0;
ALTER TABLE context_message_versions
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2);
ALTER TABLE context_task_tracking
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2), ALTER sync_cursor SET STATISTICS 0;
ALTER TABLE task_events
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2);
ALTER TABLE context_task_messages
    ALTER tenant_id SET (n_distinct = 1), ALTER user_id SET (n_distinct = 2), ALTER sync_cursor SET STATISTICS 0;

-- ANALYZE stores nothing about an empty table, so it is shown one row of each, of a tenant that exists for this
-- moment only.
SET LOCAL app.tenant_id = '00000000-0000-0000-0000-000000000000';
SET LOCAL app.user_id = 'nobody';
INSERT INTO tenants (tenant_id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'nobody');
INSERT INTO context_sync_cursors (tenant_id, user_id, device_id)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000');
INSERT INTO context_push_log
       (tenant_id, user_id, device_id, push_seq, digest, last_cursor, mark, messages, tasks, links, skipped, rejected, bytes)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000', 1,
        decode(repeat('00', 32), 'hex'), 1, 'mark', 1, 1, 1, 0, 0, 1);
INSERT INTO context_messages
       (tenant_id, id, user_id, session_id, message_type, content, content_hash, occurrence, origin_hash,
        origin_occurrence, version, device_id, size_bytes, sync_cursor, stamp_epoch, stamp_cursor, synced_at)
VALUES ('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'nobody', 'session', 'user',
        repeat('x', 1000), repeat('0', 64), 0, repeat('0', 64), 0, 0, '00000000-0000-0000-0000-000000000000', 1000, 1,
        1, 1, now());
INSERT INTO context_message_versions
       (tenant_id, user_id, message_id, kind, message_type, content, content_hash, version, device_id)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000', 'superseded', 'user',
        repeat('x', 1000), repeat('0', 64), 0, '00000000-0000-0000-0000-000000000000');
INSERT INTO context_task_tracking
       (tenant_id, user_id, id, task_id, description, status, content_hash, record, device_id, size_bytes, sync_cursor,
        stamp_epoch, stamp_cursor, synced_at)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000', '1',
        repeat('x', 100), 'pending', repeat('0', 64), repeat('x', 400), '00000000-0000-0000-0000-000000000000', 400, 2,
        1, 2, now());
INSERT INTO task_events
       (tenant_id, user_id, id, kind, task_id, description, status, content_hash, record, device_id, synced_at)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000', 'stored', '1',
        repeat('x', 100), 'pending', repeat('0', 64), repeat('x', 400), '00000000-0000-0000-0000-000000000000', now());
INSERT INTO context_task_messages
       (tenant_id, user_id, task_id, message_id, device_id, sync_cursor, stamp_epoch, stamp_cursor, synced_at)
VALUES ('00000000-0000-0000-0000-000000000000', 'nobody', '00000000-0000-0000-0000-000000000000',
        '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 3, 1, 3, now());
ANALYZE context_sync_cursors, context_push_log, context_messages, context_message_versions, context_task_tracking,
        task_events, context_task_messages;
DELETE FROM tenants WHERE tenant_id = '00000000-0000-0000-0000-000000000000';
