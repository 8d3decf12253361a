-- Signing in on a device (RFC 8628): codes that wait for approval, the devices that were approved, their refresh tokens,
-- the short sessions of the browsers in which people approve, and the count of attempts.

-- One login on one workstation. Its id is made by the workstation and kept by it, so that a second login there is the
-- same device again; it proves nothing by itself. Access tokens name it, and stop counting when it is revoked.
CREATE TABLE devices (
    tenant_id      uuid         NOT NULL,
    id             uuid         NOT NULL,
    user_id        uuid         NOT NULL,
    -- As the workstation calls itself; shown, and believed by nobody.
    name           varchar(100) NOT NULL,
    -- From where the login was asked for.
    address        varchar(45)  NOT NULL,
    created_at     timestamptz  NOT NULL DEFAULT clock_timestamp(),
    -- The last refresh.
    last_seen_at   timestamptz  NOT NULL DEFAULT clock_timestamp(),
    revoked_at     timestamptz,
    -- logout: by itself; administration: by an operator; reuse: a spent refresh token was presented; wrong_device: a
    -- refresh token came from another device.
    revoked_reason varchar(20)  CHECK (revoked_reason IN ('logout', 'administration', 'reuse', 'wrong_device')),
    PRIMARY KEY (tenant_id, id),
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX devices_user ON devices (tenant_id, user_id);
ALTER TABLE devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE devices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON devices
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT, INSERT ON devices TO coditect_app;
GRANT UPDATE (name, address, created_at, last_seen_at, revoked_at, revoked_reason) ON devices TO coditect_app;

-- The refresh tokens of a device, by digest.
--
-- A refresh makes a new current token. The one presented becomes the previous one, and stays good until its successor
-- is used for the first time: whoever lost the answer, even by a lid that was closed for a week, asks again with what
-- he has and gets another successor, and the one that nobody received is spent. Whoever presents a spent token shows
-- that two hold tokens of one device, and the device is revoked. (A successor that could be derived again and given out
-- twice would let a thief and the device go on side by side, unnoticed for ever.)
CREATE TABLE refresh_tokens (
    tenant_id uuid        NOT NULL,
    digest    bytea       NOT NULL CHECK (octet_length(digest) = 32),
    device_id uuid        NOT NULL,
    state     varchar(10) NOT NULL CHECK (state IN ('current', 'previous', 'spent')),
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, digest),
    FOREIGN KEY (tenant_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE UNIQUE INDEX refresh_tokens_good ON refresh_tokens (tenant_id, device_id, state) WHERE state <> 'spent';
-- Spent ones are kept for a while as evidence, then deleted at a refresh of their device.
CREATE INDEX refresh_tokens_spent ON refresh_tokens (tenant_id, device_id, made_at) WHERE state = 'spent';
ALTER TABLE refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON refresh_tokens
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT, INSERT, DELETE, UPDATE (state) ON refresh_tokens TO coditect_app;

-- A browser in which somebody signed in, from the password to the approval.
CREATE TABLE browser_sessions (
    tenant_id  uuid        NOT NULL,
    digest     bytea       NOT NULL CHECK (octet_length(digest) = 32),
    user_id    uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, digest),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX browser_sessions_user ON browser_sessions (tenant_id, user_id);
ALTER TABLE browser_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE browser_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON browser_sessions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
GRANT SELECT, INSERT, DELETE ON browser_sessions TO coditect_app;

-- Logins that wait for approval. Nobody knows the tenant yet, so there is no policy that could protect a row; instead
-- the serving role has no right on the table and asks through functions that answer for one exact digest. A row lives
-- for minutes.
CREATE TABLE device_codes (
    -- SHA-256 of the code that the device polls with, and of the one that a person types.
    device_digest  bytea        PRIMARY KEY CHECK (octet_length(device_digest) = 32),
    user_digest    bytea        NOT NULL UNIQUE CHECK (octet_length(user_digest) = 32),
    device_id      uuid         NOT NULL,
    device_name    varchar(100) NOT NULL,
    address        varchar(45)  NOT NULL,
    created_at     timestamptz  NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz  NOT NULL,
    -- How long the device waits between two polls; grows when it does not.
    interval_secs  integer      NOT NULL,
    polled_at      timestamptz,
    -- Null: nobody has decided yet.
    approved       boolean,
    decided_tenant uuid,
    decided_user   uuid,
    CHECK (approved IS NULL OR (decided_tenant IS NOT NULL AND decided_user IS NOT NULL))
);
CREATE INDEX device_codes_address ON device_codes (address);
CREATE INDEX device_codes_expiry ON device_codes (expires_at);
REVOKE ALL ON device_codes FROM PUBLIC;

-- How often somebody failed lately: by account (the digest of the address that was typed, whether somebody has it or
-- not), by network address, by user. In the database, so that every server counts together and a restart forgets
-- nothing.
CREATE TABLE sign_in_attempts (
    kind          varchar(20) NOT NULL CHECK (kind IN ('account', 'address', 'code')),
    digest        bytea       NOT NULL CHECK (octet_length(digest) = 32),
    attempts      integer     NOT NULL DEFAULT 0,
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    last_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, digest)
);
CREATE INDEX sign_in_attempts_age ON sign_in_attempts (last_at);
REVOKE ALL ON sign_in_attempts FROM PUBLIC;

-- Counts an attempt before it is made, so that many at once cannot overtake the count. The answer is 0 if it may be
-- made, else the seconds to wait. The first free_attempts cost nothing, each further one doubles the wait after it.
CREATE FUNCTION sign_in_attempt(wanted_kind text, wanted_digest bytea, free_attempts integer, longest_secs integer)
    RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known  public.sign_in_attempts;
    moment timestamptz;
BEGIN
    DELETE FROM public.sign_in_attempts a
     WHERE (a.kind, a.digest) IN (
           SELECT old.kind, old.digest FROM public.sign_in_attempts old
            WHERE old.last_at < clock_timestamp() - interval '1 day'
            ORDER BY old.last_at LIMIT 20 FOR UPDATE SKIP LOCKED);
    INSERT INTO public.sign_in_attempts (kind, digest) VALUES (wanted_kind, wanted_digest) ON CONFLICT DO NOTHING;
    SELECT * INTO known FROM public.sign_in_attempts a
     WHERE a.kind = wanted_kind AND a.digest = wanted_digest FOR UPDATE;
    moment := clock_timestamp();
    IF known.blocked_until > moment THEN
        RETURN ceil(extract(epoch FROM known.blocked_until - moment));
    END IF;
    UPDATE public.sign_in_attempts a
       SET attempts = known.attempts + 1,
           last_at = moment,
           blocked_until = CASE WHEN known.attempts + 1 < free_attempts THEN '-infinity'
                           ELSE moment + make_interval(secs => least(longest_secs,
                                power(2, least(30, known.attempts + 1 - free_attempts)))) END
     WHERE a.kind = wanted_kind AND a.digest = wanted_digest;
    RETURN 0;
END
$$;

-- An attempt succeeded: an account begins anew; an address or user gets back that one attempt alone, or whoever has one
-- good password could guess others without end.
CREATE FUNCTION sign_in_passed(wanted_kind text, wanted_digest bytea)
    RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.sign_in_attempts a
       SET attempts = CASE wanted_kind WHEN 'account' THEN 0 ELSE greatest(0, a.attempts - 1) END,
           blocked_until = '-infinity'
     WHERE a.kind = wanted_kind AND a.digest = wanted_digest
$$;

-- Stores a new pair of codes. False: too many wait already, from this address or in all.
CREATE FUNCTION device_code_make(
        new_device_digest bytea, new_user_digest bytea, new_device_id uuid, new_device_name text, new_address text,
        life_secs integer, poll_secs integer, most_of_address integer, most_of_all integer)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Kept for as long again after their end, so that a device is told that its code has expired.
    DELETE FROM public.device_codes c
     WHERE c.device_digest IN (
           SELECT old.device_digest FROM public.device_codes old
            WHERE old.expires_at < clock_timestamp() - make_interval(secs => life_secs)
            ORDER BY old.expires_at LIMIT 100 FOR UPDATE SKIP LOCKED);
    IF (SELECT count(*) FROM public.device_codes c
         WHERE c.address = new_address AND c.approved IS NULL AND c.expires_at > clock_timestamp()) >= most_of_address
       OR (SELECT count(*) FROM public.device_codes) >= most_of_all THEN
        RETURN false;
    END IF;
    INSERT INTO public.device_codes
           (device_digest, user_digest, device_id, device_name, address, expires_at, interval_secs)
    VALUES (new_device_digest, new_user_digest, new_device_id, new_device_name, new_address,
            clock_timestamp() + make_interval(secs => life_secs), poll_secs);
    RETURN true;
END
$$;

-- What the person who typed a code is shown.
CREATE FUNCTION device_code_look(wanted_user_digest bytea)
    RETURNS TABLE (device_name text, address text, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.device_name, c.address, c.created_at
      FROM public.device_codes c
     WHERE c.user_digest = wanted_user_digest AND c.approved IS NULL AND c.expires_at > clock_timestamp()
$$;

-- Decides for the tenant and user of the transaction, and for nobody else. The device, or nothing if it is too late.
CREATE FUNCTION device_code_decide(wanted_user_digest bytea, approve boolean)
    RETURNS TABLE (device_id uuid, device_name text, address text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.device_codes c
       SET approved = approve,
           decided_tenant = current_setting('app.tenant_id')::uuid,
           decided_user = current_setting('app.user_id')::uuid
     WHERE c.user_digest = wanted_user_digest AND c.approved IS NULL AND c.expires_at > clock_timestamp()
    RETURNING c.device_id, c.device_name, c.address
$$;

-- One poll of a device. outcome is an error of RFC 8628, or 'approved' with whose it is; no row: there is no such code.
CREATE FUNCTION device_code_poll(wanted_device_digest bytea, wanted_device_id uuid, more_secs integer)
    RETURNS TABLE (outcome text, tenant_id uuid, user_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known  public.device_codes;
    moment timestamptz;
    hasty  boolean;
BEGIN
    SELECT * INTO known FROM public.device_codes c
     WHERE c.device_digest = wanted_device_digest AND c.device_id = wanted_device_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    moment := clock_timestamp();
    IF known.expires_at <= moment THEN
        RETURN QUERY SELECT 'expired_token', NULL::uuid, NULL::uuid;
    ELSIF known.approved THEN
        RETURN QUERY SELECT 'approved', known.decided_tenant, known.decided_user;
    ELSIF NOT known.approved THEN
        RETURN QUERY SELECT 'access_denied', NULL::uuid, NULL::uuid;
    ELSE
        -- A tenth less than the interval is forgiven to the network.
        hasty := coalesce(known.polled_at + make_interval(secs => known.interval_secs * 0.9) > moment, false);
        UPDATE public.device_codes c
           SET polled_at = moment,
               interval_secs = known.interval_secs + CASE WHEN hasty THEN more_secs ELSE 0 END
         WHERE c.device_digest = wanted_device_digest;
        RETURN QUERY SELECT CASE WHEN hasty THEN 'slow_down' ELSE 'authorization_pending' END, NULL::uuid, NULL::uuid;
    END IF;
END
$$;

-- Takes an approved code away, for the tenant and user of the transaction: what follows in it happens once.
CREATE FUNCTION device_code_take(wanted_device_digest bytea)
    RETURNS TABLE (device_id uuid, device_name text, address text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM public.device_codes c
     WHERE c.device_digest = wanted_device_digest AND c.approved AND c.expires_at > clock_timestamp()
       AND c.decided_tenant = current_setting('app.tenant_id')::uuid
       AND c.decided_user = current_setting('app.user_id')::uuid
    RETURNING c.device_id, c.device_name, c.address
$$;

REVOKE ALL ON FUNCTION sign_in_attempt(text, bytea, integer, integer), sign_in_passed(text, bytea),
    device_code_make(bytea, bytea, uuid, text, text, integer, integer, integer, integer), device_code_look(bytea),
    device_code_decide(bytea, boolean), device_code_poll(bytea, uuid, integer), device_code_take(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sign_in_attempt(text, bytea, integer, integer), sign_in_passed(text, bytea),
    device_code_make(bytea, bytea, uuid, text, text, integer, integer, integer, integer), device_code_look(bytea),
    device_code_decide(bytea, boolean), device_code_poll(bytea, uuid, integer), device_code_take(bytea) TO coditect_app;
