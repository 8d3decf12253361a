//! The blocking side of the loop: every step that reads or writes context.db or our state file, one hop each.

use std::cell::Cell;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coditect_shared::TenantId;
use coditect_shared::limits::BATCH_ROWS;
use coditect_shared::wire::{PullPage, PullQuery, PushAnswer, PushConflict};
use jiff::Timestamp;

use crate::apply::{self, Applied, ApplyError};
use crate::capture::{self, CaptureHealth};
use crate::identity;
use crate::outbox::{self, Batch, BatchLimits, Context, Settled};
use crate::owner::ShapeError;
use crate::policy::Policy;
use crate::projects::{self, Rejudge};
use crate::quarantine::{self, Refused};
use crate::redaction::Redacted;
use crate::state::State;
use crate::status::{self, Capture, QUARANTINE_NOTES_MAX, QuarantineNote};
use crate::store::{self, Store, StoreError};
use crate::sync::{Outcome, Trouble, View};

/// Outbox rows that get identities in one transaction.
const IDENTIFY_ROWS: usize = 500;

/// Parts of the backfill, or of judging projects anew, in one hop; each is a transaction of its own.
const BACKFILL_STEPS: usize = 8;

/// How long the write lock is held to build a batch, and how many records it has at least: a program that writes with
/// busy_timeout 0 fails if it meets us.
const BUILD_TIME_MAX: Duration = Duration::from_millis(20);
const BATCH_ROWS_MIN: usize = 50;

/// zstd level: the one that is as fast as the disk; higher ones gain a few percent.
const ZSTD_LEVEL: i32 = 3;

/// context.db and our state file, open.
#[derive(Debug)]
pub(super) struct Files {
    store: Store,
    state: State,
    /// Device and inode: another file under the same name is another history.
    identity: (u64, u64),
    hardware_id: String,
    policy: Arc<Policy>,
    rejudge: Rejudge,
    /// Rows kept back, counted when this connection had made so many changes; nobody else writes that table, and with
    /// everything kept back it may have a million rows.
    excluded: Cell<Option<(u64, u64)>>,
    capture: CaptureHealth,
    /// Records of a batch, by the time that the last ones took.
    batch_rows: usize,
}

/// What `status` shows of the files.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub device: coditect_shared::DeviceId,
    pub capture: Capture,
    pub capture_note: Option<String>,
    pub oldest_queued_at: Option<String>,
    pub quarantined: u64,
    /// Of these, rows of this file that did not get into the cloud.
    pub refused: u64,
    /// Rows of excluded projects that are only here.
    pub excluded: u64,
    pub redacted: Redacted,
    pub links_parked: u64,
    pub links_waiting: u64,
    pub notes: Vec<QuarantineNote>,
}

/// A batch ready to go over the wire.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub batch: Batch,
    pub zstd_body: Vec<u8>,
    /// Under which all of it may leave.
    pub policy: Arc<Policy>,
}

impl Files {
    pub(super) fn open(context_db: &Path, state_db: &Path, policy: Arc<Policy>) -> anyhow::Result<Self> {
        let store = Store::open(context_db)?;
        let identity = file_identity(context_db)?;
        let hardware_id = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let state = State::open(state_db)?;
        let capture = capture::health(store.conn(), store.owner())?;
        Ok(Self {
            store,
            state,
            identity,
            hardware_id,
            policy,
            rejudge: Rejudge::default(),
            excluded: Cell::new(None),
            capture,
            batch_rows: BATCH_ROWS,
        })
    }

    /// Whether the path still leads to the file that is open.
    pub(super) fn is_current(&self) -> bool {
        file_identity(self.store.path()).is_ok_and(|identity| identity == self.identity)
    }

    pub(super) fn binding(&self) -> anyhow::Result<Option<store::Binding>> {
        Ok(self.store.binding()?)
    }

    pub(super) fn device_id(&self) -> anyhow::Result<coditect_shared::DeviceId> {
        Ok(self.store.device_id()?)
    }

    /// Other settings hold from here on. What they include is sent again, by `backfill`; until that is done, nothing is.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "a step on the files, as the loop does them"
    )]
    pub(super) fn set_policy(&mut self, policy: Arc<Policy>) -> anyhow::Result<()> {
        self.policy = policy;
        self.rejudge = Rejudge::default();
        Ok(())
    }

    /// Whether settings other than the defaults were the last to judge what may leave.
    pub(super) fn was_judged(&self) -> anyhow::Result<bool> {
        Ok(projects::was_judged(self.store.conn())?)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.is_paused().unwrap_or(false)
    }

    pub(super) fn set_paused(&mut self, paused: bool) -> anyhow::Result<()> {
        self.state.set_paused(paused)
    }

    /// Looks at the file, repairs the capture where that is needed, and says what is to be done.
    pub(super) fn look(&mut self) -> anyhow::Result<Outcome> {
        self.store.note_commits()?;
        // Lost tables of ours come first: our triggers name them, and until they are there again every write of the
        // owner fails.
        let schema_changed = self.store.schema_changed()?;
        if schema_changed && self.store.repair_tables()? {
            tracing::warn!("tables of the sync were dropped from context.db; made them again");
        }
        // What was broken before this daemon started has to be mended too, and what could not be mended last time.
        if self.store.refresh_owner()? || schema_changed || self.capture != CaptureHealth::Ok {
            self.check_capture()?;
        }
        if self.has_released()? {
            let context = self.context_of_binding()?;
            self.store
                .write(|tx, owner| apply::apply_released(tx, owner, &context))?;
        }
        if apply::held_without_change(self.store.conn())? {
            let context = self.context_of_binding()?;
            self.store
                .write(|tx, owner| apply::release_held(tx, owner, &context))?;
        }
        if let Some(reason) = self.void_batch()? {
            return Ok(Outcome::Parted { reason });
        }
        Ok(Outcome::Looked(self.view()?))
    }

    pub(super) fn backfill(&mut self) -> anyhow::Result<Outcome> {
        self.judge_anew()?;
        for _ in 0..BACKFILL_STEPS {
            if self.store.write(|tx, owner| capture::backfill_step(tx, owner))? {
                break;
            }
        }
        Ok(Outcome::Looked(self.view()?))
    }

    pub(super) fn identify(&mut self) -> anyhow::Result<Outcome> {
        let context = self.context_of_binding()?;
        self.store
            .write(|tx, owner| identity::identify_queued(tx, owner, &context, IDENTIFY_ROWS))?;
        Ok(Outcome::Looked(self.view()?))
    }

    /// Builds a batch and persists it before anything of it is sent.
    pub(super) fn build(&mut self, limits: BatchLimits) -> anyhow::Result<Outcome> {
        if projects::is_due(self.store.conn(), &self.policy.projects)? {
            // The file is judged anew first: by whatever a batch is built, the file says that it was judged by that. Else
            // settings that change to and fro would leave one behind that nobody looks at.
            return Ok(Outcome::Built(self.view()?));
        }
        let context = self.context_of_binding()?;
        let limits = BatchLimits {
            rows: limits.rows.min(self.batch_rows),
            ..limits
        };
        let (built, took) = self.store.write(|tx, owner| {
            let begun = Instant::now();
            outbox::build(tx, owner, &context, limits).map(|built| (built, begun.elapsed()))
        })?;
        if took > BUILD_TIME_MAX {
            self.batch_rows = (self.batch_rows / 2).max(BATCH_ROWS_MIN);
        } else if took < BUILD_TIME_MAX / 2
            && built
                .batch
                .as_ref()
                .is_some_and(|batch| batch.records.len() >= self.batch_rows)
        {
            self.batch_rows = (self.batch_rows + self.batch_rows / 4).min(BATCH_ROWS);
        }
        if let Some(batch) = &built.batch {
            self.state.put_batch(batch).context("persisting a batch")?;
        }
        Ok(Outcome::Built(self.view()?))
    }

    /// The batch in flight as it goes over the wire; None if there is none, if it has to be judged anew first, or if it
    /// was redacted in another way than rows are now. Then its rows, which are still in the outbox, go in another batch;
    /// it stays as a variant of its push_seq, since it may have arrived.
    pub(super) fn ready(&mut self) -> anyhow::Result<Option<Ready>> {
        if projects::is_due(self.store.conn(), &self.policy.projects)? {
            return Ok(None);
        }
        let Some(mut batch) = self.state.batch()? else {
            return Ok(None);
        };
        if batch.redacted_by != Some(self.policy.redactor.fingerprint()) {
            tracing::info!(
                push_seq = batch.push_seq,
                "a batch that was redacted by other rules is not sent; its rows go in another one"
            );
            self.state.retire_batch()?;
            return Ok(None);
        }
        let epoch: i64 = store::value(self.store.conn(), "epoch")?.unwrap_or(1);
        if batch.epoch != epoch {
            // What was made for another epoch would be refused for ever. The old bytes stay known as a variant.
            batch = outbox::with_epoch(&batch, epoch)?;
            self.state.put_batch(&batch).context("persisting a batch")?;
        }
        let zstd_body = zstd::encode_all(batch.body.as_slice(), ZSTD_LEVEL).context("compressing a batch")?;
        Ok(Some(Ready {
            batch,
            zstd_body,
            policy: self.policy.clone(),
        }))
    }

    pub(super) fn settle(
        &mut self,
        batch: &Batch,
        answer: &PushAnswer,
    ) -> anyhow::Result<(Outcome, Settled)> {
        let context = self.context_of_binding()?;
        let settled = self.store.write(|tx, owner| {
            // A settling that comes twice, or for another life of the file, changes nothing.
            let push_seq: i64 = store::value(tx, "push_seq")?.unwrap_or(0);
            if batch.device != context.device || batch.push_seq != push_seq + 1 {
                return Ok(Settled::default());
            }
            outbox::settle(tx, owner, &context, batch, answer)
        })?;
        match settled == Settled::default() {
            true => self.state.clear_batch()?,
            false => self.state.end_batch(batch, Timestamp::now())?,
        }
        Ok((
            Outcome::Settled {
                view: self.view()?,
                ended: batch.records.len().saturating_sub(settled.deferred),
                deferred: settled.deferred,
                head: answer.cursor,
            },
            settled,
        ))
    }

    /// What a conflict means: the answer to something that this file sent, or that it is a copy.
    pub(super) fn resolve(&mut self, conflict: &PushConflict) -> anyhow::Result<Option<Batch>> {
        self.state.variant(&conflict.digest.to_string())
    }

    pub(super) fn halve(&mut self) -> anyhow::Result<Outcome> {
        if let Some(batch) = self.state.batch()?
            && let Some(half) = outbox::halve(&batch)?
        {
            self.state
                .put_batch(&half)
                .context("persisting half of a batch")?;
        }
        Ok(Outcome::Looked(self.view()?))
    }

    pub(super) fn give_up(&mut self, code: &str, message: &str) -> anyhow::Result<Outcome> {
        if let Some(batch) = self.state.batch()? {
            let context = self.context_of_binding()?;
            let refused = Refused { code, message };
            self.store
                .write(|tx, owner| outbox::give_up(tx, owner, &context, &batch, &refused))?;
            // It may commit late; its number then answers for it.
            self.state.retire_batch()?;
        }
        Ok(Outcome::Looked(self.view()?))
    }

    /// Lets the rows of the batch in flight wait behind all others.
    pub(super) fn defer(&mut self) -> anyhow::Result<Outcome> {
        if let Some(batch) = self.state.batch()? {
            self.store.write(|tx, _| outbox::defer(tx, &batch))?;
            self.state.retire_batch()?;
        }
        Ok(Outcome::Looked(self.view()?))
    }

    pub(super) fn pull_query(&self, limit: u32, head: i64) -> anyhow::Result<PullQuery> {
        let conn = self.store.conn();
        let witness = match (
            store::value::<i64>(conn, "witness_cursor")?,
            store::value::<String>(conn, "witness_mark")?,
        ) {
            (Some(cursor), Some(mark)) => Some(format!("{cursor}:{mark}")),
            (_, _) => None,
        };
        let cursor: i64 = store::value(conn, "cursor")?.unwrap_or(0);
        Ok(PullQuery {
            cursor,
            limit: Some(limit),
            mark: store::value(conn, "mark")?,
            witness,
            at_least: Some(head.max(cursor)),
            stubs: None,
        })
    }

    /// Whether there is anything to be written for a page: while nothing happens, nothing is.
    pub(super) fn is_news(&self, page: &PullPage) -> anyhow::Result<bool> {
        let conn = self.store.conn();
        let (epoch, cursor): (Option<i64>, Option<i64>) =
            (store::value(conn, "epoch")?, store::value(conn, "cursor")?);
        let own_seq: i64 = match self.sent()?.first() {
            Some(batch) => batch.push_seq,
            None => store::value(conn, "push_seq")?.unwrap_or(0),
        };
        let is_empty = page.messages.is_empty()
            && page.tasks.is_empty()
            && page.task_messages.is_empty()
            && page.own.is_empty();
        let is_known = !page.has_more
            && (epoch, cursor) == (Some(page.epoch), Some(page.cursor))
            && store::value::<String>(conn, "mark")? == page.mark
            && page.device_push_seq <= own_seq
            && store::value::<i64>(conn, "recovering")?.is_none();
        Ok(!(is_empty && is_known))
    }

    pub(super) fn apply(
        &mut self,
        page: &PullPage,
        all_identities: bool,
    ) -> anyhow::Result<(Outcome, usize)> {
        let context = self.context_of_binding()?;
        let sent = self.sent()?;
        let identities_max = if all_identities { usize::MAX } else { IDENTIFY_ROWS };
        let begun = Instant::now();
        let applied = self
            .store
            .write(|tx, owner| apply::apply_page(tx, owner, &context, page, &sent, identities_max))?;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(match applied {
            Applied::Page { rows } => (
                Outcome::Applied {
                    view: self.view()?,
                    took_ms,
                },
                rows,
            ),
            Applied::IdentitiesFirst => (Outcome::IdentitiesFirst, 0),
            Applied::Parted(reason) => (Outcome::Parted { reason }, 0),
        })
    }

    pub(super) fn take_new_device_id(&mut self) -> anyhow::Result<Outcome> {
        let new = coditect_shared::DeviceId(uuid::Uuid::new_v4());
        self.store.write(|tx, _| apply::take_new_device_id(tx, new))?;
        self.state.clear_batch()?;
        Ok(Outcome::Looked(self.view()?))
    }

    pub(super) fn facts(&self) -> anyhow::Result<Facts> {
        let conn = self.store.conn();
        let count = |sql: &str| {
            conn.prepare_cached(sql)?
                .query_row([], |row| row.get::<_, i64>(0))
                .map(i64::unsigned_abs)
        };
        let oldest_queued_at = conn
            .prepare_cached("SELECT queued_at FROM sync_queue ORDER BY seq LIMIT 1")?
            .query_map([], |row| row.get(0))?
            .next()
            .transpose()?
            .flatten();
        let notes = quarantine::newest(conn, QUARANTINE_NOTES_MAX)?;
        let (quarantined, refused) = quarantine::count(conn)?;
        let (capture, capture_note) = match &self.capture {
            CaptureHealth::Broken(names) => (
                Capture::Broken,
                Some(format!("missing triggers: {}", names.join(", "))),
            ),
            CaptureHealth::Ok if capture::backfill_pending(conn)? => (
                Capture::Unverified,
                Some("rows that were there before are being queued".into()),
            ),
            CaptureHealth::Ok => (Capture::Ok, None),
        };
        Ok(Facts {
            device: self.store.device_id()?,
            capture,
            capture_note,
            oldest_queued_at,
            quarantined,
            refused,
            excluded: self.excluded()?,
            redacted: self.state.redacted()?,
            links_parked: count("SELECT count(*) FROM sync_links_parked")?,
            links_waiting: count("SELECT count(*) FROM sync_links_waiting")?,
            notes: notes
                .into_iter()
                .map(|entry| QuarantineNote {
                    id: entry.id,
                    table: entry.table,
                    row: entry.row,
                    code: entry.code,
                    message: entry.message,
                })
                .collect(),
        })
    }

    fn view(&self) -> anyhow::Result<View> {
        let conn = self.store.conn();
        let (pending, oldest_seq, newest_seq) = outbox::size(conn)?;
        let held: i64 = conn
            .prepare_cached("SELECT count(*) FROM sync_held")?
            .query_row([], |row| row.get(0))?;
        Ok(View {
            pending,
            newest_seq,
            oldest_seq,
            held: held.unsigned_abs(),
            backfilling: capture::backfill_pending(conn)? || projects::is_due(conn, &self.policy.projects)?,
            capture_ok: self.capture == CaptureHealth::Ok,
            recovering: store::value::<i64>(conn, "recovering")?.is_some(),
            epoch: store::value(conn, "epoch")?.unwrap_or(0),
            cursor: store::value(conn, "cursor")?.unwrap_or(0),
            in_flight: self.state.batch()?.map_or(0, |batch| batch.records.len()),
        })
    }

    /// Goes on with judging the file by other settings than it was last judged by.
    fn judge_anew(&mut self) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        for _ in 0..BACKFILL_STEPS {
            if !projects::is_due(self.store.conn(), &policy.projects)? {
                break;
            }
            if self.rejudge.knows_sessions() {
                self.retire_excluded()?;
            }
            let at = self.rejudge;
            self.rejudge = self
                .store
                .write(|tx, owner| projects::step(tx, owner, &policy.projects, at))?;
        }
        Ok(())
    }

    /// A batch with rows of a project that is excluded by now must not leave. Its rows are still in the outbox, to be
    /// judged there; it stays as a variant of its push_seq, since it may have arrived.
    fn retire_excluded(&mut self) -> anyhow::Result<()> {
        let Some(batch) = self.state.batch()? else {
            return Ok(());
        };
        let (conn, owner) = (self.store.conn(), self.store.owner());
        if outbox::has_excluded(conn, owner, &self.policy.projects, &batch)? {
            tracing::info!(
                push_seq = batch.push_seq,
                "a batch with rows of an excluded project is not sent; the others go in another one"
            );
            self.state.retire_batch()?;
        }
        Ok(())
    }

    fn excluded(&self) -> rusqlite::Result<u64> {
        let changes = self.store.conn().total_changes();
        if let Some((at, count)) = self.excluded.get()
            && at == changes
        {
            return Ok(count);
        }
        let count = projects::excluded::count(self.store.conn())?;
        self.excluded.set(Some((changes, count)));
        Ok(count)
    }

    /// All batches that may have arrived under the next push_seq.
    fn sent(&self) -> anyhow::Result<Vec<Batch>> {
        let next: i64 = store::value::<i64>(self.store.conn(), "push_seq")?.unwrap_or(0) + 1;
        let device = self.store.device_id()?;
        let mut sent = self.state.sent()?;
        sent.retain(|batch| batch.device == device && batch.push_seq == next);
        Ok(sent)
    }

    /// Lost triggers are made again; what was written without them is looked for among all rows.
    fn check_capture(&mut self) -> anyhow::Result<()> {
        self.capture = capture::health(self.store.conn(), self.store.owner())?;
        if let CaptureHealth::Broken(names) = &self.capture {
            tracing::warn!(triggers = ?names, "triggers were lost; making them again and looking at all rows");
            self.store.write(|tx, owner| {
                capture::install(tx, owner)?;
                capture::begin_backfill(tx)
            })?;
            self.store.refresh_owner()?;
            self.capture = capture::health(self.store.conn(), self.store.owner())?;
        }
        Ok(())
    }

    /// Drops a batch that belongs to another device id or that is settled already. One of another life of this file
    /// means that the file went back.
    fn void_batch(&mut self) -> anyhow::Result<Option<String>> {
        let Some(batch) = self.state.batch()? else {
            return Ok(None);
        };
        let conn = self.store.conn();
        let push_seq: i64 = store::value(conn, "push_seq")?.unwrap_or(0);
        let nonce: Option<String> = store::value(conn, "batch_nonce")?;
        if batch.device != self.store.device_id()? {
            self.state.clear_batch()?;
            return Ok(None);
        }
        if nonce.as_deref() != Some(batch.nonce.as_str()) {
            return Ok(Some("a batch was prepared in another life of this file".into()));
        }
        if batch.push_seq != push_seq + 1 {
            self.state.clear_batch()?;
        }
        Ok(None)
    }

    fn has_released(&self) -> rusqlite::Result<bool> {
        self.store
            .conn()
            .prepare_cached("SELECT 1 FROM sync_quarantine WHERE direction = 'released'")?
            .exists([])
    }

    fn context_of_binding(&self) -> anyhow::Result<Context> {
        let tenant: TenantId = self
            .store
            .binding()?
            .context("context.db is bound to no account: run `coditect-sync login`")?
            .tenant;
        Ok(Context {
            tenant,
            device: self.store.device_id()?,
            hardware_id: Some(self.hardware_id.clone()),
            now: status::now().to_string(),
            policy: self.policy.clone(),
        })
    }
}

/// A failure on the files as an outcome. What the file's owner can mend is told apart by the code. An error that names no
/// file is of context.db.
pub(super) fn failed(error: &anyhow::Error, context_db: &Path) -> Outcome {
    let (trouble, code) = match error.downcast_ref::<ApplyError>() {
        // Not the file's fault; another answer may make sense.
        Some(ApplyError::Protocol(_)) => (Trouble::Server, "bad_answer"),
        Some(ApplyError::Sqlite(_)) | None => (Trouble::File, code_of(error)),
    };
    let mut message = told_once(error);
    if trouble == Trouble::File && !message.contains('/') {
        let path = context_db.display();
        message = match message.strip_prefix("context.db: ") {
            Some(message) => format!("{path}: {message}"),
            None => format!("{path}: {message}"),
        };
    }
    Outcome::Failed {
        trouble,
        code: code.into(),
        message,
    }
}

fn code_of(error: &anyhow::Error) -> &'static str {
    use rusqlite::ErrorCode;
    let shape = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(StoreError::Newer { .. }) => Some("schema_newer"),
        Some(StoreError::Shape { source, .. }) if !matches!(source, ShapeError::Sqlite(_)) => {
            Some("schema_unfit")
        }
        Some(StoreError::NotADatabase { .. }) => Some("corrupt_file"),
        Some(StoreError::Create { .. }) => Some("cannot_open"),
        Some(StoreError::BoundElsewhere { .. } | StoreError::Shape { .. } | StoreError::Sqlite(_)) | None => {
            None
        }
    });
    let sqlite = error.chain().find_map(|cause| {
        if let Some(ShapeError::Sqlite(error)) = cause.downcast_ref() {
            // Its own text is the inner error's, which is then no link of the chain.
            return error.sqlite_error_code();
        }
        cause.downcast_ref::<rusqlite::Error>()?.sqlite_error_code()
    });
    let io = error
        .chain()
        .find_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    let io = match io {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Some("disk_full"),
        Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => Some("read_only_file"),
        Some(_) | None => None,
    };
    // The shared memory beside the file cannot be made larger, which has one reason in practice.
    let no_memory_file = |error: &rusqlite::Error| {
        matches!(error, rusqlite::Error::SqliteFailure(failure, _)
            if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
    };
    if error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(no_memory_file))
    {
        return "disk_full";
    }
    io.or(shape).unwrap_or(match sqlite {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "database_locked",
        Some(ErrorCode::DiskFull) => "disk_full",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "read_only_file",
        Some(ErrorCode::SystemIoFailure) => "io_error",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "corrupt_file",
        Some(ErrorCode::CannotOpen) => "cannot_open",
        Some(_) | None => "database_unusable",
    })
}

/// An error with its causes, each once: some texts hold that of their cause already.
pub(super) fn told_once(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn file_identity(path: &Path) -> anyhow::Result<(u64, u64)> {
    let meta = std::fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests;
