INSERT INTO task_events
       (tenant_id, user_id, synced_at, device_id, kind, id, task_id, description, active_form, session_id, project_id,
        status, outcome, outcome_score, tool_success_count, tool_error_count, user_corrections, started_at,
        completed_at, updated_at, client_version, hardware_id, content_hash, record, sync_cursor)
SELECT $1, $2, $3, $4, CASE WHEN new.sync_cursor IS NULL THEN 'superseded' ELSE 'stored' END, new.*
  FROM unnest($5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
              $13::float8[], $14::int4[], $15::int4[], $16::int4[], $17::timestamptz[], $18::timestamptz[],
              $19::timestamptz[], $20::text[], $21::text[], $22::text[], $23::text[], $24::int8[])
    AS new (id, task_id, description, active_form, session_id, project_id, status, outcome, outcome_score,
            tool_success_count, tool_error_count, user_corrections, started_at, completed_at, updated_at,
            client_version, hardware_id, content_hash, record, sync_cursor)
 -- A version that came too late is filed once, however often it comes.
 WHERE new.sync_cursor IS NOT NULL
    OR NOT EXISTS (SELECT FROM task_events e
                    WHERE e.tenant_id = $1 AND e.user_id = $2 AND e.id = new.id AND e.content_hash = new.content_hash
                   OFFSET 0)
