//! Devices that signed in, and their refresh tokens: made at the approval, rotated at each use, ended by revocation.
//!
//! Which token is good, and why the previous one stays good for a while: `migrations-pg/0007_sign_in.sql`.

use std::time::{Duration, SystemTime};

use coditect_shared::{DeviceId, TenantId, UserId};
use deadpool_postgres::Pool;
use serde_json::{Value, json};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::device_code::{self, Decided};
use super::secret::TenantSecret;
use super::{Entry, record};
use crate::error::ApiError;
use crate::role::Role;
use crate::tenant::TenantTx;

/// How long a device may be silent and still come back without a login: a long holiday.
const REFRESH_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How long spent tokens are kept as evidence: some hundred rows a device. Older ones are refused all the same.
const EVIDENCE_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a device gets.
pub(super) struct Granted {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    pub(super) role: Role,
    pub(super) refresh_token: TenantSecret,
}

/// Why a device was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// By itself.
    Logout,
    /// By an operator.
    Administration,
    /// A spent refresh token was presented.
    Reuse,
    /// A refresh token came from another device.
    WrongDevice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Current,
    Previous,
    Spent,
}

/// What is stored of a refresh token and its device.
struct Found {
    state: State,
    device: DeviceId,
    user: UserId,
    made_at: SystemTime,
    revoked: bool,
    /// None: no member any more.
    role: Option<Role>,
}

/// What becomes of a refresh.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The token was the current one.
    Rotate,
    /// The token was the previous one: the answer with its successor was lost, and that one is spent.
    RotateAgain,
    Refuse,
    Revoke(Reason),
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Logout => "logout",
            Reason::Administration => "administration",
            Reason::Reuse => "reuse",
            Reason::WrongDevice => "wrong_device",
        }
    }
}

/// Takes an approved code and makes its device. None: the code is taken, or what it stood for is gone.
pub(super) async fn enrol(
    pool: &Pool,
    device_code: &str,
    (tenant, user): (TenantId, UserId),
    request_id: &str,
) -> Result<Option<Granted>, ApiError> {
    let tx = TenantTx::begin(pool, tenant, &user).await?;
    let Some(decided) = device_code::take(&tx, device_code).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let (Some(role), Some(first)) = (
        role(&tx, tenant, &user).await?,
        upsert(&tx, tenant, &user, &decided).await?,
    ) else {
        // No member any more, or the id is another user's device: the code is used up.
        tx.commit().await?;
        return Ok(None);
    };
    // Tokens of a former login on this device end with the new one, spent ones too: whoever presents one of them, such
    // as the device itself while it logs in again, is refused, and does not end the new login.
    tx.execute_typed(
        "DELETE FROM refresh_tokens WHERE tenant_id = $1 AND device_id = $2",
        &[(&tenant.0, Type::UUID), (&decided.device.0, Type::UUID)],
    )
    .await?;
    let refresh_token = add_token(&tx, tenant, decided.device).await?;
    let details = json!({"name": decided.device_name, "address": decided.address});
    audit(
        &tx,
        tenant,
        if first { "create" } else { "update" },
        decided.device,
        user.as_str(),
        details,
        request_id,
    )
    .await?;
    tx.commit().await?;
    Ok(Some(Granted {
        user,
        device: decided.device,
        role,
        refresh_token,
    }))
}

/// Exchanges a refresh token. None: it is not good, or not any more.
pub(super) async fn refresh(
    pool: &Pool,
    token: &TenantSecret,
    device: DeviceId,
    request_id: &str,
) -> Result<Option<Granted>, ApiError> {
    let tenant = token.tenant;
    let tx = TenantTx::begin_for_tenant(pool, tenant).await?;
    let Some(found) = lock(&tx, token).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let verdict = judge(&found, device, SystemTime::now());
    let displaced = match verdict {
        Verdict::Rotate => "previous",
        Verdict::RotateAgain => "current",
        Verdict::Refuse => {
            tx.rollback().await?;
            return Ok(None);
        }
        Verdict::Revoke(reason) => {
            tracing::warn!(%tenant, device = %found.device, user = %found.user, reason = reason.as_str(), "a refresh token was abused: the device is revoked");
            revoke(
                &tx,
                tenant,
                found.device,
                reason,
                found.user.as_str(),
                Some(request_id),
            )
            .await?;
            tx.commit().await?;
            return Ok(None);
        }
    };
    let Some(role) = found.role else {
        tx.rollback().await?;
        return Ok(None);
    };
    let refresh_token = rotate(&tx, tenant, found.device, displaced, token).await?;
    let details = json!({"refresh_token": if displaced == "previous" { "rotated" } else { "rotated again" }});
    audit(
        &tx,
        tenant,
        "update",
        found.device,
        found.user.as_str(),
        details,
        request_id,
    )
    .await?;
    tx.commit().await?;
    Ok(Some(Granted {
        user: found.user,
        device: found.device,
        role,
        refresh_token,
    }))
}

/// Revokes the device of a refresh token, as it asks itself. A token that is not good is as good as revoked.
pub(super) async fn log_out(
    pool: &Pool,
    token: &TenantSecret,
    request_id: &str,
) -> Result<Option<DeviceId>, ApiError> {
    let tx = TenantTx::begin_for_tenant(pool, token.tenant).await?;
    let Some(found) = lock(&tx, token).await?.filter(|found| !found.revoked) else {
        tx.rollback().await?;
        return Ok(None);
    };
    revoke(
        &tx,
        token.tenant,
        found.device,
        Reason::Logout,
        found.user.as_str(),
        Some(request_id),
    )
    .await?;
    tx.commit().await?;
    Ok(Some(found.device))
}

/// Revokes a device: its refresh tokens end now, its access tokens within 30 s. False: it was revoked, or is not there.
pub(crate) async fn revoke(
    tx: &TenantTx,
    tenant: TenantId,
    device: DeviceId,
    reason: Reason,
    actor: &str,
    request_id: Option<&str>,
) -> Result<bool, ApiError> {
    let revoked = tx
        .execute_typed(
            "UPDATE devices SET revoked_at = clock_timestamp(), revoked_reason = $3
              WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
            &[
                (&tenant.0, Type::UUID),
                (&device.0, Type::UUID),
                (&reason.as_str(), Type::TEXT),
            ],
        )
        .await?;
    if revoked == 0 {
        return Ok(false);
    }
    let details = json!({"revoked": {"before": false, "after": true}, "reason": reason.as_str()});
    let row = device.to_string();
    let entry = Entry {
        actor,
        action: "update",
        table: "devices",
        row: &row,
        request_id,
        details,
    };
    record(tx, tenant.0, &entry).await?;
    Ok(true)
}

/// Decides about a refresh, without doing anything.
fn judge(found: &Found, device: DeviceId, now: SystemTime) -> Verdict {
    // A revoked device's tokens prove nothing more, and a clock that went back makes none older.
    let age = now.duration_since(found.made_at).unwrap_or_default();
    if found.revoked {
        return Verdict::Refuse;
    }
    if found.device != device {
        return Verdict::Revoke(Reason::WrongDevice);
    }
    match found.state {
        State::Spent => Verdict::Revoke(Reason::Reuse),
        State::Current | State::Previous if age > REFRESH_LIFE => Verdict::Refuse,
        State::Current => Verdict::Rotate,
        State::Previous => Verdict::RotateAgain,
    }
}

/// The token's row, with its device's locked until the transaction ends: two refreshes of a device follow each other.
async fn lock(tx: &TenantTx, token: &TenantSecret) -> Result<Option<Found>, ApiError> {
    let (tenant, digest) = (token.tenant.0, token.digest());
    let locked = tx
        .query_typed_opt(
            "SELECT d.id FROM devices d
              WHERE d.tenant_id = $1
                AND d.id = (SELECT r.device_id FROM refresh_tokens r WHERE r.tenant_id = $1 AND r.digest = $2)
                FOR UPDATE",
            &[(&tenant, Type::UUID), (&digest, Type::BYTEA)],
        )
        .await?;
    if locked.is_none() {
        return Ok(None);
    }
    // Read only now: what the lock was waited for has changed it.
    let row = tx
        .query_typed_opt(
            "SELECT r.state, r.made_at, d.id, d.user_id, d.revoked_at IS NOT NULL, m.role
               FROM refresh_tokens r
               JOIN devices d ON d.tenant_id = r.tenant_id AND d.id = r.device_id
               LEFT JOIN memberships m ON m.tenant_id = d.tenant_id AND m.user_id = d.user_id
              WHERE r.tenant_id = $1 AND r.digest = $2",
            &[(&tenant, Type::UUID), (&digest, Type::BYTEA)],
        )
        .await?;
    let found = |row: tokio_postgres::Row| {
        let state = match row.try_get(0)? {
            "current" => State::Current,
            "previous" => State::Previous,
            _ => State::Spent,
        };
        Ok(Found {
            state,
            made_at: row.try_get(1)?,
            device: DeviceId(row.try_get(2)?),
            user: UserId::from(row.try_get::<_, Uuid>(3)?),
            revoked: row.try_get(4)?,
            role: row.try_get::<_, Option<&str>>(5)?.map(parse_role).transpose()?,
        })
    };
    row.map(found).transpose()
}

/// Spends what stands in the way, makes the presented token the previous one and a new one current.
async fn rotate(
    tx: &TenantTx,
    tenant: TenantId,
    device: DeviceId,
    displaced: &str,
    presented: &TenantSecret,
) -> Result<TenantSecret, ApiError> {
    let key = [
        (
            &tenant.0 as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::UUID,
        ),
        (&device.0, Type::UUID),
    ];
    tx.execute_typed(
        "UPDATE refresh_tokens SET state = 'spent' WHERE tenant_id = $1 AND device_id = $2 AND state = $3",
        &[key[0].clone(), key[1].clone(), (&displaced, Type::TEXT)],
    )
    .await?;
    tx.execute_typed(
        "UPDATE refresh_tokens SET state = 'previous' WHERE tenant_id = $1 AND digest = $2",
        &[key[0].clone(), (&presented.digest(), Type::BYTEA)],
    )
    .await?;
    tx.execute_typed(
        "DELETE FROM refresh_tokens
          WHERE tenant_id = $1 AND device_id = $2 AND state = 'spent'
            AND made_at < clock_timestamp() - make_interval(secs => $3)",
        &[
            key[0].clone(),
            key[1].clone(),
            (&EVIDENCE_LIFE.as_secs_f64(), Type::FLOAT8),
        ],
    )
    .await?;
    tx.execute_typed(
        "UPDATE devices SET last_seen_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2",
        &key,
    )
    .await?;
    add_token(tx, tenant, device).await
}

async fn add_token(tx: &TenantTx, tenant: TenantId, device: DeviceId) -> Result<TenantSecret, ApiError> {
    let token = TenantSecret::new(tenant)?;
    tx.execute_typed(
        "INSERT INTO refresh_tokens (tenant_id, digest, device_id, state) VALUES ($1, $2, $3, 'current')",
        &[
            (&tenant.0, Type::UUID),
            (&token.digest(), Type::BYTEA),
            (&device.0, Type::UUID),
        ],
    )
    .await?;
    Ok(token)
}

/// Makes the device, or lets it in again. Whether it is new; None if its id is another user's device.
async fn upsert(
    tx: &TenantTx,
    tenant: TenantId,
    user: &UserId,
    decided: &Decided,
) -> Result<Option<bool>, ApiError> {
    let row = tx
        .query_typed_opt(
            "INSERT INTO devices AS d (tenant_id, id, user_id, name, address)
             VALUES ($1, $2, $3::text::uuid, $4, $5)
             ON CONFLICT (tenant_id, id) DO UPDATE
                SET name = excluded.name, address = excluded.address, created_at = excluded.created_at,
                    last_seen_at = excluded.last_seen_at, revoked_at = NULL, revoked_reason = NULL
              WHERE d.user_id = excluded.user_id
             RETURNING xmax = 0",
            &[
                (&tenant.0, Type::UUID),
                (&decided.device.0, Type::UUID),
                (&user.as_str(), Type::TEXT),
                (&decided.device_name, Type::TEXT),
                (&decided.address, Type::TEXT),
            ],
        )
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn role(tx: &TenantTx, tenant: TenantId, user: &UserId) -> Result<Option<Role>, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT role FROM memberships WHERE tenant_id = $1 AND user_id = $2::text::uuid",
            &[(&tenant.0, Type::UUID), (&user.as_str(), Type::TEXT)],
        )
        .await?;
    row.map(|row| parse_role(row.try_get(0)?)).transpose()
}

fn parse_role(text: &str) -> Result<Role, ApiError> {
    text.parse()
        .map_err(|error: String| ApiError::Internal(anyhow::Error::msg(error)))
}

async fn audit(
    tx: &TenantTx,
    tenant: TenantId,
    action: &'static str,
    device: DeviceId,
    actor: &str,
    details: Value,
    request_id: &str,
) -> Result<(), ApiError> {
    let row = device.to_string();
    let entry = Entry {
        actor,
        action,
        table: "devices",
        row: &row,
        request_id: Some(request_id),
        details,
    };
    record(tx, tenant.0, &entry).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: DeviceId = DeviceId(Uuid::from_u128(1));
    const ANOTHER: DeviceId = DeviceId(Uuid::from_u128(2));

    fn found(state: State) -> Found {
        Found {
            state,
            device: OURS,
            user: UserId::from(Uuid::from_u128(3)),
            made_at: SystemTime::UNIX_EPOCH,
            revoked: false,
            role: Some(Role::Member),
        }
    }

    #[test]
    fn a_token_is_good_until_its_successor_is_used_and_its_reuse_revokes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let of = |state| judge(&found(state), OURS, now);
        assert_eq!(of(State::Current), Verdict::Rotate);
        assert_eq!(of(State::Previous), Verdict::RotateAgain);
        assert_eq!(of(State::Spent), Verdict::Revoke(Reason::Reuse));
    }

    #[test]
    fn a_token_from_another_device_revokes_whatever_its_state() {
        let now = SystemTime::UNIX_EPOCH;
        for state in [State::Current, State::Previous, State::Spent] {
            assert_eq!(
                judge(&found(state), ANOTHER, now),
                Verdict::Revoke(Reason::WrongDevice)
            );
        }
    }

    #[test]
    fn silence_of_ninety_days_and_a_revoked_device_are_refused_and_a_clock_set_back_is_not() {
        let at = |age| judge(&found(State::Current), OURS, SystemTime::UNIX_EPOCH + age);
        assert_eq!(at(REFRESH_LIFE), Verdict::Rotate);
        assert_eq!(at(REFRESH_LIFE + Duration::from_secs(1)), Verdict::Refuse);
        let future = Found {
            made_at: SystemTime::UNIX_EPOCH + REFRESH_LIFE * 2,
            ..found(State::Current)
        };
        assert_eq!(judge(&future, OURS, SystemTime::UNIX_EPOCH), Verdict::Rotate);
        let revoked = Found {
            revoked: true,
            ..found(State::Spent)
        };
        assert_eq!(judge(&revoked, ANOTHER, SystemTime::UNIX_EPOCH), Verdict::Refuse);
    }
}
