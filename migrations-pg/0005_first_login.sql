-- Users of other issuers: who they are here, and whether a tenant lets their first login make them.

-- Off unless the operator switches it on: whoever the issuer knows would be in.
ALTER TABLE tenants ADD COLUMN first_login_makes_user boolean NOT NULL DEFAULT false;

-- Enters a subject for a user of the transaction's own tenant, and nothing else; one that leads somewhere already stays.
-- The address is entered too, so that administration finds the user by it. Runs with the owner's rights on
-- login_directory, and like every role under forced row security on users.
CREATE FUNCTION login_enter_subject(entered_digest bytea, entered_user uuid)
    RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO public.login_directory (kind, digest, tenant_id, user_id)
    SELECT e.kind, e.digest, u.tenant_id, u.id
      FROM public.users u,
           LATERAL (VALUES ('subject', entered_digest),
                           ('email', sha256(convert_to(u.email, 'UTF8')))) AS e (kind, digest)
     WHERE u.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid AND u.id = entered_user
        ON CONFLICT DO NOTHING
$$;
REVOKE ALL ON FUNCTION login_enter_subject(bytea, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_enter_subject(bytea, uuid) TO coditect_app;
