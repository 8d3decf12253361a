-- All links weigh the same, so the page's bytes bound them by number ($7 over $8).
SELECT l.sync_cursor, l.own, $8 AS weight, l.task_id, l.sequence, m.session_id, m.origin_hash, m.origin_occurrence,
       CASE WHEN NOT l.own THEN l.synced_at END AS synced_at
  FROM (SELECT sync_cursor, task_id, message_id, sequence, synced_at, device_id = $4 OR $5 AS own
          FROM context_task_messages
         WHERE tenant_id = $1 AND user_id = $2 AND sync_cursor > $3
         ORDER BY sync_cursor
         LIMIT least($6, $7 / $8 + 2)) l
 CROSS JOIN LATERAL (
       SELECT session_id, origin_hash, origin_occurrence
         FROM context_messages
        WHERE tenant_id = $1 AND id = l.message_id
       OFFSET 0) m
 ORDER BY l.sync_cursor
