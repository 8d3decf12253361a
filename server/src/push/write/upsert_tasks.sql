INSERT INTO context_task_tracking
       (tenant_id, user_id, synced_at, device_id, id, task_id, description, active_form, session_id, project_id, status,
        outcome, outcome_score, tool_success_count, tool_error_count, user_corrections, started_at, completed_at,
        updated_at, client_version, hardware_id, content_hash, record, size_bytes, sync_cursor, stamp_epoch, stamp_cursor)
SELECT $1, $2, $3, $4, new.*
  FROM unnest($5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
              $13::float8[], $14::int4[], $15::int4[], $16::int4[], $17::timestamptz[], $18::timestamptz[],
              $19::timestamptz[], $20::text[], $21::text[], $22::text[], $23::text[], $24::int4[], $25::int8[],
              $26::int8[], $27::int8[]) AS new
ON CONFLICT (tenant_id, user_id, id) DO UPDATE
   SET synced_at = excluded.synced_at, device_id = excluded.device_id, task_id = excluded.task_id,
       description = excluded.description, active_form = excluded.active_form, session_id = excluded.session_id,
       project_id = excluded.project_id, status = excluded.status, outcome = excluded.outcome,
       outcome_score = excluded.outcome_score, tool_success_count = excluded.tool_success_count,
       tool_error_count = excluded.tool_error_count, user_corrections = excluded.user_corrections,
       started_at = excluded.started_at, completed_at = excluded.completed_at, updated_at = excluded.updated_at,
       client_version = excluded.client_version, hardware_id = excluded.hardware_id,
       content_hash = excluded.content_hash, record = excluded.record, size_bytes = excluded.size_bytes,
       sync_cursor = excluded.sync_cursor, stamp_epoch = excluded.stamp_epoch, stamp_cursor = excluded.stamp_cursor
