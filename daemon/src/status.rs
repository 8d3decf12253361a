//! How things stand: the body of `GET /v1/status`, and the same for people.
//!
//! P11: a status says `in_sync` only when nothing is pending, held, quarantined or unverified. Who fills it in decides
//! that; `render` shows every such thing whatever the state says.

mod headline;
mod next;
mod render;

use coditect_shared::DeviceId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::credential::CredentialStore;
use crate::redaction::Redacted;
pub use headline::headline;
pub use next::{Next, Situation, next};
pub use render::{Line, age, counted, grouped, page, render};

/// The code of an error: context.db was judged by settings that are not there any more.
pub const SETTINGS_GONE: &str = "settings_gone";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    NeedsLogin,
    Syncing,
    InSync,
    Offline,
    Paused,
    ReadOnly,
    Blocked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    /// When the state began.
    pub since: Timestamp,
    pub version: String,
    /// Null when nobody is logged in.
    pub account: Option<AccountStatus>,
    pub database: DatabaseStatus,
    pub outbox: OutboxStatus,
    pub push: PushStatus,
    pub pull: PullStatus,
    /// Secrets that were taken out of what was sent.
    #[serde(default)]
    pub redaction: Redacted,
    pub license: LicenseStatus,
    #[serde(default)]
    pub config: ConfigStatus,
    #[serde(default)]
    pub ingest: IngestStatus,
    pub last_error: Option<LastError>,
    /// Everything that was committed here is in the cloud.
    pub safe_to_power_off: bool,
    /// Why not, as the rest of "not safe: …".
    #[serde(default)]
    pub unsafe_reason: Option<String>,
    /// What the user can do, where there is something.
    #[serde(default)]
    pub next_step: Option<String>,
    /// A command to paste for it.
    #[serde(default)]
    pub next_command: Option<String>,
    /// The newest refused rows, at most `QUARANTINE_NOTES_MAX`.
    #[serde(default)]
    pub quarantine: Vec<QuarantineNote>,
}

/// Refused rows that a status lists; `quarantine list` has all of them.
pub const QUARANTINE_NOTES_MAX: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatus {
    pub server: String,
    pub tenant_id: String,
    pub tenant: String,
    pub user: String,
    pub role: String,
    pub device_id: String,
    pub credential_store: CredentialStore,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    pub path: String,
    pub capture: Capture,
    /// What is wrong with the capture.
    #[serde(default)]
    pub note: Option<String>,
}

/// Whether every change of the file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    Ok,
    /// Triggers were lost and made again; the rows written meanwhile are still being looked for.
    Unverified,
    /// The triggers cannot be made.
    Broken,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Changes that the server has not acknowledged.
    pub pending: u64,
    pub oldest_age_ms: u64,
    /// Rows refused by the server or by this file's owner.
    pub quarantined: u64,
    /// Rows from elsewhere that wait for a local change of the same row to end.
    pub held: u64,
    /// Rows of excluded projects, which stay here. They are neither pending nor unsafe.
    #[serde(default)]
    pub excluded: u64,
    /// Local links of which an end is not acknowledged yet.
    #[serde(default)]
    pub links_parked: u64,
    /// Links from elsewhere of which an end is not here yet.
    #[serde(default)]
    pub links_waiting: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushStatus {
    pub last_success_at: Option<Timestamp>,
    /// Since this daemon started.
    pub rows_total: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullStatus {
    pub cursor: i64,
    /// The highest cursor that the server ever named.
    pub head: i64,
    pub last_success_at: Option<Timestamp>,
    /// Since this daemon started.
    pub rows_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseStatus {
    pub state: String,
    pub session_id: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// The transcripts that the daemon itself follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestStatus {
    pub following: bool,
    /// Null while nothing is followed.
    pub folder: Option<String>,
    /// Transcripts that were found, and of these what is still to be read for the first time since the start.
    pub files: u64,
    pub files_unread: u64,
    /// When something was last read of a transcript that had grown.
    pub last_line_at: Option<Timestamp>,
    /// Rows that were added to the file since the daemon started.
    pub messages: u64,
    /// Since the start: transcripts that became shorter or other files, those that are gone, and damaged parts.
    pub restarted: u64,
    pub vanished: u64,
    pub damaged: u64,
    /// Why it cannot go on for the time being; it tries again by itself.
    pub error: Option<String>,
    /// What is otherwise than one expects.
    pub note: Option<String>,
}

/// The settings that the daemon goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// config.toml, whether it exists or not.
    pub path: String,
    pub loaded_at: Timestamp,
    /// What is wrong in it, so that what held before holds still.
    pub error: Option<String>,
    /// What has to wait for the next start.
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub code: String,
    pub message: String,
    pub at: Timestamp,
    /// How often in a row.
    pub count: u64,
    pub retry_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineNote {
    pub id: i64,
    pub table: String,
    pub row: String,
    pub code: String,
    pub message: String,
}

/// The time, as a status tells it: in whole milliseconds.
pub fn now() -> Timestamp {
    let ms = Timestamp::now().as_millisecond();
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Status {
    /// Of a daemon that has just begun and knows nothing yet.
    pub fn starting(context_db: &std::path::Path, now: Timestamp) -> Status {
        Status {
            state: State::Starting,
            since: now,
            version: env!("CARGO_PKG_VERSION").into(),
            account: None,
            database: DatabaseStatus {
                path: context_db.display().to_string(),
                capture: Capture::Unverified,
                note: None,
            },
            outbox: OutboxStatus::default(),
            push: PushStatus::default(),
            pull: PullStatus::default(),
            redaction: Redacted::default(),
            license: LicenseStatus::default(),
            config: ConfigStatus::default(),
            ingest: IngestStatus::default(),
            last_error: None,
            safe_to_power_off: false,
            unsafe_reason: Some("the daemon is starting".into()),
            next_step: None,
            next_command: None,
            quarantine: Vec::new(),
        }
    }
}

impl Default for LicenseStatus {
    fn default() -> LicenseStatus {
        LicenseStatus {
            state: "none".into(),
            session_id: None,
            expires_at: None,
        }
    }
}

impl AccountStatus {
    pub fn new(account: &Account, device: DeviceId) -> AccountStatus {
        AccountStatus {
            server: account.server.to_string(),
            tenant_id: account.tenant_id.to_string(),
            tenant: account.tenant.clone(),
            user: account.user.clone(),
            role: account.role.clone(),
            device_id: device.to_string(),
            credential_store: account.credential_store,
        }
    }
}
