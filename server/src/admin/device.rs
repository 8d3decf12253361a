//! `device list`, `device approve` and `device revoke`.

use anyhow::{Context as _, bail};
use coditect_shared::{DeviceId, TenantId};
use deadpool_postgres::Pool;
use serde::Serialize;
use uuid::Uuid;

use super::{ACTOR, Administration, tenant, token, tx_for, whole};
use crate::config::{Options, Usage};
use crate::instant;
use crate::signin::{Reason, UserCode, decide, revoke as revoke_device};
use crate::tenant::TenantTx;

/// A device that signed in.
#[derive(Serialize)]
pub(crate) struct Device {
    pub(crate) id: Uuid,
    pub(crate) tenant_id: TenantId,
    /// The tenant's name.
    pub(crate) tenant: String,
    pub(crate) user_id: Uuid,
    /// The user's e-mail address.
    pub(crate) user: String,
    pub(crate) name: String,
    /// From where the login was asked for.
    pub(crate) address: String,
    pub(crate) created_at: String,
    pub(crate) last_seen_at: String,
    pub(crate) revoked_at: Option<String>,
    pub(crate) revoked_reason: Option<String>,
}

/// A login that was approved. The device itself appears when it fetches its tokens.
#[derive(Serialize)]
pub(crate) struct Approved {
    pub(crate) device_id: DeviceId,
    pub(crate) name: String,
    pub(crate) address: String,
}

/// A device that was revoked.
#[derive(Serialize)]
pub(crate) struct Revoked {
    pub(crate) device_id: DeviceId,
    pub(crate) tenant_id: TenantId,
}

/// The devices of one tenant or of all, the longest silent last.
pub(crate) async fn list(options: &Options, tenant: Option<&str>) -> anyhow::Result<Vec<Device>> {
    let administration = Administration::open(options).await?;
    let listed = list_in(&administration.pool, tenant).await;
    administration.close(listed).await
}

/// Approves the login behind a code for a user, in the operator's name.
///
/// # Errors
/// If there is no such user, or no login waits under the code.
pub(crate) async fn approve(
    options: &Options,
    code: &str,
    email: &str,
    tenant: Option<&str>,
) -> anyhow::Result<Approved> {
    let Some(code) = UserCode::read(code) else {
        return Err(Usage(format!(
            "{code:?} is no code: it has eight letters, such as BCDF-GHJK"
        ))
        .into());
    };
    let administration = Administration::open(options).await?;
    let approved = approve_in(&administration.pool, &code, email, tenant).await;
    administration.close(approved).await
}

/// Revokes a device: its refresh tokens end now, its access tokens within 30 s.
///
/// # Errors
/// If there is no such device, or it is revoked already.
pub(crate) async fn revoke(options: &Options, device: DeviceId) -> anyhow::Result<Revoked> {
    let administration = Administration::open(options).await?;
    let revoked = revoke_in(&administration.pool, device).await;
    administration.close(revoked).await
}

async fn list_in(pool: &Pool, tenant: Option<&str>) -> anyhow::Result<Vec<Device>> {
    let tenants = match tenant {
        Some(name) => vec![tenant::find(pool, name).await?.0],
        None => tenant::all(pool).await?,
    };
    let mut devices = Vec::new();
    for tenant in tenants {
        let tx = tx_for(pool, tenant).await?;
        let rows = tx
            .query_typed(
                "SELECT d.id, t.name, d.user_id, u.email, d.name, d.address, d.created_at, d.last_seen_at, d.revoked_at,
                        d.revoked_reason
                   FROM devices d
                   JOIN users u ON u.tenant_id = d.tenant_id AND u.id = d.user_id
                   JOIN tenants t ON t.tenant_id = d.tenant_id
                  ORDER BY d.last_seen_at DESC",
                &[],
            )
            .await
            .context("reading the devices")?;
        tx.commit().await.map_err(whole)?;
        devices.extend(rows.iter().map(|row| Device {
            id: row.get(0),
            tenant_id: tenant,
            tenant: row.get(1),
            user_id: row.get(2),
            user: row.get(3),
            name: row.get(4),
            address: row.get(5),
            created_at: instant::to_text(row.get(6)),
            last_seen_at: instant::to_text(row.get(7)),
            revoked_at: row.get::<_, Option<_>>(8).map(instant::to_text),
            revoked_reason: row.get(9),
        }));
    }
    Ok(devices)
}

async fn approve_in(
    pool: &Pool,
    code: &UserCode,
    email: &str,
    tenant: Option<&str>,
) -> anyhow::Result<Approved> {
    let user = token::find(pool, email, tenant).await?;
    let tx = TenantTx::begin(pool, user.tenant, &user.user)
        .await
        .map_err(whole)?;
    let decided = decide(&tx, user.tenant, ACTOR, code, true, None)
        .await
        .map_err(whole)
        .context("approving")?;
    let Some(decided) = decided else {
        bail!(
            "no login waits under the code {}: it may have expired or been decided",
            code.as_str()
        );
    };
    tx.commit().await.map_err(whole)?;
    Ok(Approved {
        device_id: decided.device,
        name: decided.device_name,
        address: decided.address,
    })
}

async fn revoke_in(pool: &Pool, device: DeviceId) -> anyhow::Result<Revoked> {
    for tenant in tenant::all(pool).await? {
        let tx = tx_for(pool, tenant).await?;
        if revoke_device(&tx, tenant, device, Reason::Administration, ACTOR, None)
            .await
            .map_err(whole)?
        {
            tx.commit().await.map_err(whole)?;
            return Ok(Revoked {
                device_id: device,
                tenant_id: tenant,
            });
        }
        tx.rollback().await.map_err(whole)?;
    }
    bail!("there is no device {device} that is signed in; `coditect-server device list` shows them")
}
