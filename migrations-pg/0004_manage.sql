-- What owners and admins do with their tenant through the API: the rights of the serving role that these routes need.
--
-- A user is never changed nor deleted there: what he wrote stays with the tenant, and so does his address, under which
-- he may be invited again.
GRANT INSERT ON users TO coditect_app;
GRANT INSERT, UPDATE (role, updated_at), DELETE ON memberships TO coditect_app;
GRANT INSERT, UPDATE (name), DELETE ON teams TO coditect_app;
GRANT INSERT, DELETE ON team_members TO coditect_app;
GRANT INSERT, UPDATE (name), DELETE ON projects TO coditect_app;
GRANT INSERT, DELETE ON permissions TO coditect_app;

-- Enters the address of a user of the transaction's own tenant, and nothing else: digest, tenant and user all come from
-- the user's row, so that a handler gone wrong can lead nobody's address to somebody else. Runs with the owner's rights
-- on login_directory, and like every role under forced row security on users.
CREATE FUNCTION login_enter_email(entered_user uuid)
    RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO public.login_directory (kind, digest, tenant_id, user_id)
    SELECT 'email', sha256(convert_to(u.email, 'UTF8')), u.tenant_id, u.id
      FROM public.users u
     WHERE u.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid AND u.id = entered_user
        ON CONFLICT (kind, digest, tenant_id) DO UPDATE SET user_id = excluded.user_id
$$;
REVOKE ALL ON FUNCTION login_enter_email(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_enter_email(uuid) TO coditect_app;

-- The audit record is read newest first, page by page.
DROP INDEX audit_log_at;
CREATE INDEX audit_log_at ON audit_log (tenant_id, at, id);
