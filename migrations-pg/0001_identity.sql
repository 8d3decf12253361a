-- Identity: tenants, who belongs to them, what they may do, their licences, and the record of what was done.
--
-- Rules that hold for every tenant table, here and in later files:
--
--   * tenant_id comes first in the primary key, in every unique key and in every foreign key, so that
--     create_distributed_table(…, 'tenant_id') of Citus works as it stands. For the same reason there are no sequences
--     and no triggers.
--   * Row level security is enabled and forced: even the owner of the tables sees and writes rows of one tenant alone,
--     the one named by the setting app.tenant_id of the transaction. No setting: no rows, no error. The sub-select
--     makes the planner read the setting once for a statement, not once for a row.
--   * The serving role coditect_app owns nothing, bypasses nothing, and gets the rights that a route needs and no more.
--   * Deleting a tenant takes everything of it along, but for the audit.

-- One row: which database this is. Clients bind their files to instance_id, so that a URL that one day leads to
-- another database does not mix two histories.
CREATE TABLE server_instance (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    instance_id uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO server_instance DEFAULT VALUES;
GRANT SELECT ON server_instance TO coditect_app;

-- A customer organisation. That no two bear the same name is kept by login_directory: a unique key over the name alone
-- would have no tenant_id in it, and no tenant may see another's row.
CREATE TABLE tenants (
    tenant_id  uuid         PRIMARY KEY,
    name       varchar(255) NOT NULL CHECK (name <> ''),
    created_at timestamptz  NOT NULL DEFAULT now()
);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tenants
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON tenants TO coditect_app;

-- A person within one tenant. The same person in two tenants is two users: nothing of theirs is shared.
CREATE TABLE users (
    tenant_id  uuid         NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id         uuid         NOT NULL,
    -- In lower case: people type addresses in any case and mean the same mailbox.
    email      varchar(320) NOT NULL CHECK (email = lower(email)),
    created_at timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, email)
);
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON users
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON users TO coditect_app;

-- What a user may do in the tenant: owner everything, admin create, read, update and delete, member read and create,
-- viewer read. Apart from users, since it can be withdrawn while what the user wrote stays.
CREATE TABLE memberships (
    tenant_id  uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    role       varchar(20) NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON memberships
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON memberships TO coditect_app;

-- Groups of users, to give permissions to.
CREATE TABLE teams (
    tenant_id  uuid         NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id         uuid         NOT NULL,
    name       varchar(255) NOT NULL CHECK (name <> ''),
    created_at timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name)
);
ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
ALTER TABLE teams FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON teams
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON teams TO coditect_app;

CREATE TABLE team_members (
    tenant_id  uuid        NOT NULL,
    team_id    uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, team_id, user_id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES teams ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
-- Which teams is this user in? (The primary key answers the other way round.)
CREATE INDEX team_members_user ON team_members (tenant_id, user_id);
ALTER TABLE team_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE team_members FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON team_members
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON team_members TO coditect_app;

-- A project as the tenant names it. key is what stands as project_id in the context tables (a repository's remote or
-- folder name). There is no foreign key from there: a workstation must be able to send a project that nobody named here.
CREATE TABLE projects (
    tenant_id  uuid         NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id         uuid         NOT NULL,
    key        varchar(255) NOT NULL CHECK (key <> ''),
    name       varchar(255) NOT NULL,
    created_at timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key)
);
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON projects
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON projects TO coditect_app;

-- What one user or one team may do in one project, beyond what the membership's role gives.
CREATE TABLE permissions (
    tenant_id  uuid        NOT NULL,
    id         uuid        NOT NULL,
    project_id uuid        NOT NULL,
    user_id    uuid,
    team_id    uuid,
    action     varchar(20) NOT NULL CHECK (action IN ('create', 'read', 'update', 'delete')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    -- Somebody must have it, and one only: two columns, since each has its own foreign key.
    CHECK (num_nonnulls(user_id, team_id) = 1),
    -- NULLS NOT DISTINCT: one of the two is always null, and a null would otherwise collide with nothing.
    UNIQUE NULLS NOT DISTINCT (tenant_id, project_id, user_id, team_id, action),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, team_id) REFERENCES teams ON DELETE CASCADE
);
CREATE INDEX permissions_user ON permissions (tenant_id, user_id);
CREATE INDEX permissions_team ON permissions (tenant_id, team_id);
ALTER TABLE permissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE permissions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON permissions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON permissions TO coditect_app;

-- A number of seats. Whoever grants one locks this row first, so that seats are never oversold.
CREATE TABLE licenses (
    tenant_id          uuid        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id                 uuid        NOT NULL,
    -- SHA-256 of the licence key. The key itself is shown once, when it is made, and kept nowhere.
    key_digest         bytea       NOT NULL CHECK (octet_length(key_digest) = 32),
    -- Given to one person alone; it ends with that person.
    user_id            uuid,
    tier               varchar(50) NOT NULL,
    max_seats          integer     NOT NULL CHECK (max_seats >= 0),
    -- How many machines may ever use it; null: no limit.
    max_activations    integer     CHECK (max_activations >= 0),
    features           jsonb       NOT NULL DEFAULT '[]',
    status             varchar(20) NOT NULL DEFAULT 'active'
                                   CHECK (status IN ('active', 'suspended', 'expired', 'revoked')),
    valid_from         timestamptz NOT NULL DEFAULT now(),
    valid_until        timestamptz,
    -- How long a workstation that cannot reach us may go on with its last token.
    offline_grace_secs integer     NOT NULL DEFAULT 0 CHECK (offline_grace_secs >= 0),
    -- Whether a holder who fell silent keeps the seat through that grace, or somebody else may take it.
    grace_holds_seat   boolean     NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key_digest),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX licenses_user ON licenses (tenant_id, user_id);
ALTER TABLE licenses ENABLE ROW LEVEL SECURITY;
ALTER TABLE licenses FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON licenses
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON licenses TO coditect_app;

-- A machine on which a licence was used.
CREATE TABLE activations (
    tenant_id      uuid         NOT NULL,
    id             uuid         NOT NULL,
    license_id     uuid         NOT NULL,
    hardware_id    varchar(255) NOT NULL,
    machine_name   varchar(255),
    client_version varchar(50),
    first_seen_at  timestamptz  NOT NULL DEFAULT now(),
    last_seen_at   timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, license_id, hardware_id),
    FOREIGN KEY (tenant_id, license_id) REFERENCES licenses ON DELETE CASCADE
);
ALTER TABLE activations ENABLE ROW LEVEL SECURITY;
ALTER TABLE activations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON activations
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON activations TO coditect_app;

-- A seat taken: by one user on one machine, until it is released or its time is over.
CREATE TABLE license_sessions (
    tenant_id         uuid        NOT NULL,
    id                uuid        NOT NULL,
    -- Also reachable through the activation; here since seats are counted by licence, at every grant.
    license_id        uuid        NOT NULL,
    activation_id     uuid        NOT NULL,
    user_id           uuid        NOT NULL,
    started_at        timestamptz NOT NULL,
    last_heartbeat_at timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL CHECK (expires_at > started_at),
    released_at       timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, license_id) REFERENCES licenses ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, activation_id) REFERENCES activations ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
-- One session for a user on a machine; it also finds the one to give back when the user asks again.
CREATE UNIQUE INDEX license_sessions_held ON license_sessions (tenant_id, license_id, activation_id, user_id)
    WHERE released_at IS NULL;
CREATE INDEX license_sessions_activation ON license_sessions (tenant_id, activation_id);
CREATE INDEX license_sessions_user ON license_sessions (tenant_id, user_id);
ALTER TABLE license_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE license_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON license_sessions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT ON license_sessions TO coditect_app;

-- Who did what and when. No foreign keys: it outlives the tenant, the users and the rows that it speaks of.
CREATE TABLE audit_log (
    tenant_id   uuid        NOT NULL,
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The user's id, or 'administration' for the command line of the server.
    actor       varchar(63) NOT NULL,
    action      varchar(20) NOT NULL CHECK (action IN ('create', 'read', 'update', 'delete')),
    table_name  varchar(63) NOT NULL,
    -- The row, where it is one; a push or a pulled page is one entry with its counts and cursor range instead.
    row_id      varchar(255),
    row_count   bigint      NOT NULL DEFAULT 1,
    cursor_from bigint,
    cursor_to   bigint,
    request_id  varchar(64),
    -- What else belongs to it: the device, counts by table, of an update the changed fields before and after.
    details     jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_log_at ON audit_log (tenant_id, at);
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit_log
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
-- Append-only for whoever serves requests: a record that its subject can change proves nothing.
GRANT SELECT, INSERT ON audit_log TO coditect_app;

-- From what somebody shows before the tenant is known (an address, a tenant's name, a licence key, a subject at an
-- identity provider) to the tenant. Only SHA-256 digests stand here, nothing readable.
--
-- It has no tenant policy, since it is read when there is no tenant yet; the serving role has no right on it and asks
-- through login_lookup alone, which answers one exact digest: nobody can list who our customers are. It has no foreign
-- key either (a table that is not distributed cannot refer to one that is), so an entry may outlive its tenant for a
-- moment; whoever follows it looks into the tenant's own tables next and finds nothing.
CREATE TABLE login_directory (
    kind       varchar(20) NOT NULL CHECK (kind IN ('email', 'tenant', 'license_key', 'subject')),
    digest     bytea       NOT NULL CHECK (octet_length(digest) = 32),
    tenant_id  uuid        NOT NULL,
    -- Null for what belongs to the tenant as a whole.
    user_id    uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The same address may belong to users of several tenants.
    PRIMARY KEY (kind, digest, tenant_id)
);
-- Everything else leads to one tenant.
CREATE UNIQUE INDEX login_directory_exact ON login_directory (kind, digest) WHERE kind <> 'email';
REVOKE ALL ON login_directory FROM PUBLIC;

-- Runs with the owner's rights on login_directory. search_path is pinned, or a caller's temporary table of that name
-- would be read in its place.
CREATE FUNCTION login_lookup(wanted_kind text, wanted_digest bytea)
    RETURNS TABLE (tenant_id uuid, user_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.tenant_id, d.user_id
      FROM public.login_directory d
     WHERE d.kind = wanted_kind AND d.digest = wanted_digest
$$;
REVOKE ALL ON FUNCTION login_lookup(text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION login_lookup(text, bytea) TO coditect_app;
