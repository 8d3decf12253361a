-- "own" rows come as stubs; "whole" ones with everything; the others lie beyond the bytes of the page.
SELECT p.sync_cursor, p.own, p.weight, p.session_id, p.origin_hash, p.origin_occurrence, p.content_hash, p.occurrence,
       p.session_null, p.message_type, p.created_at_text, p.hardware_id, p.writer_hash,
       CASE WHEN p.whole THEN p.content END AS content,
       CASE WHEN p.whole THEN p.metadata::text END AS metadata,
       CASE WHEN p.whole THEN p.synced_at END AS synced_at
  FROM (SELECT w.*,
               NOT w.own AND sum(w.weight) OVER (ORDER BY w.sync_cursor ROWS UNBOUNDED PRECEDING) - w.weight < $7 AS whole
          FROM (SELECT m.*, CASE WHEN m.own THEN $8 ELSE m.size_bytes + $8 END AS weight
                  FROM (SELECT sync_cursor, session_id, origin_hash, origin_occurrence, content_hash, occurrence,
                               session_null, message_type, created_at_text, hardware_id, writer_hash, content, metadata,
                               synced_at, size_bytes, device_id = $4 OR $5 AS own
                          FROM context_messages
                         WHERE tenant_id = $1 AND user_id = $2 AND sync_cursor > $3
                         ORDER BY sync_cursor
                         LIMIT $6) m) w) p
 ORDER BY p.sync_cursor
