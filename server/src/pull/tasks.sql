SELECT p.sync_cursor, p.own, p.weight, p.id, p.content_hash,
       CASE WHEN p.whole THEN p.record END AS record,
       CASE WHEN p.whole THEN p.synced_at END AS synced_at
  FROM (SELECT w.*,
               NOT w.own AND sum(w.weight) OVER (ORDER BY w.sync_cursor ROWS UNBOUNDED PRECEDING) - w.weight < $7 AS whole
          FROM (SELECT t.*, CASE WHEN t.own THEN $8 ELSE t.size_bytes + $8 END AS weight
                  FROM (SELECT sync_cursor, id, content_hash, record, synced_at, size_bytes,
                               device_id = $4 OR $5 AS own
                          FROM context_task_tracking
                         WHERE tenant_id = $1 AND user_id = $2 AND sync_cursor > $3
                         ORDER BY sync_cursor
                         LIMIT $6) t) w) p
 ORDER BY p.sync_cursor
