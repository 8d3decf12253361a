-- Passwords, and the invitations with which people set them.

-- One password for each user who has one; people who sign in elsewhere have none. Apart from users, so that whatever
-- reads users never meets a hash, and with a policy of its own: what one user's request can reach is his own hash.
CREATE TABLE user_passwords (
    tenant_id  uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    -- Argon2id in the PHC form, which names its salt and parameters.
    hash       text        NOT NULL CHECK (hash LIKE '$argon2id$%'),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
ALTER TABLE user_passwords ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_passwords FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON user_passwords
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
       AND user_id::text = (SELECT nullif(current_setting('app.user_id', true), '')));
GRANT SELECT, INSERT, UPDATE (hash, changed_at) ON user_passwords TO coditect_app;

-- A link with which a user sets his password, once. One for each user: a newer one takes the older one's place.
CREATE TABLE invitations (
    tenant_id     uuid        NOT NULL,
    user_id       uuid        NOT NULL,
    -- SHA-256 of what stands in the link, which is shown once, when it is made.
    secret_digest bytea       NOT NULL CHECK (octet_length(secret_digest) = 32),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    UNIQUE (tenant_id, secret_digest),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON invitations
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
-- Whoever serves requests finds and uses them up; they are made by administration.
GRANT SELECT, DELETE ON invitations TO coditect_app;
