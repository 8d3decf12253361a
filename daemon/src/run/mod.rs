//! The one loop of the daemon: asks the core what to do, does it, tells it what came of it.
//!
//! It is the only reader of the clock and the only user of context.db in this process. Work on files happens in one
//! blocking hop a step; the status socket and the event stream live in tasks of their own and only send hints.

mod files;
mod following;
mod repeats;
mod report;
mod settings;
mod stream;

use std::collections::HashMap;
use std::fs::File;
use std::mem::{self, Discriminant};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coditect_shared::limits::BATCH_BYTES;
use coditect_shared::wire::{PullPage, PushAnswer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::client::{self, Client, Failure, PullOutcome, PushOutcome};
use crate::config::{Config, Overrides};
use crate::credential;
use crate::fail_point::{self, FailPoint};
use crate::outbox::{Batch, BatchLimits};
use crate::paths::Paths;
use crate::policy::Policy;
use crate::socket::{self, Control, Socket, SyncDone};
use crate::status::{self, OutboxStatus, Status};
use crate::supervisor::Supervisor;
use crate::sync::{Core, Hint, Millis, Next, Outcome, Step, Trouble};
use crate::wake::Wake;
use files::{Facts, Files, Ready};
use following::Following;
use repeats::Repeats;
use report::{Sources, Totals};
use settings::Settings;

/// Wishes and hints that may wait for a step to end. What does not fit is said again, or covered by the poll.
const QUEUE: usize = 64;

/// A daemon that was killed keeps its lock until it is really gone: a restart right after waits for that.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// How long a login that could not be used is left alone.
const LOGIN_RETRY_MS: Millis = 30_000;

/// How often identities are given in transactions of their own before the page's transaction does it all: an owner that
/// writes without pause must not keep pulled rows out for ever.
const IDENTIFY_ROUNDS_MAX: u32 = 50;

/// How long a step on the files, or a wish, may take before the loop counts as stuck: to open a file after a crash
/// reads its WAL back, to take up an old one goes through its rows, and a keyring may ask its user. Each takes seconds,
/// on a slow disk minutes.
const FILES_TAKE_AT_MOST: Duration = Duration::from_secs(10 * 60);

/// Runs the daemon until `shutdown`. Fails if another one has this context.db or this socket. `overrides` go over
/// config.toml again when that changes.
pub async fn run(
    paths: Paths,
    config: Config,
    overrides: Overrides,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let policy = Policy::new(&config).map_err(anyhow::Error::msg)?;
    let _lock = lock(&paths)?;
    let settings = Settings::new(paths.config.clone(), overrides, config, status::now());
    let socket = Socket::bind(&paths.socket).await?;
    let (control, wishes) = mpsc::channel(QUEUE);
    let starting = Arc::new(Status::starting(&paths.context_db, status::now()));
    let (publish, status) = watch::channel(starting);
    tokio::spawn(settings::watch(paths.config.clone(), control.clone()));
    let serving = tokio::spawn(socket::serve_on(socket, status, control, shutdown.clone()));
    Daemon::new(paths, settings, Arc::new(policy), publish)
        .run(wishes, &shutdown, Supervisor::from_environment())
        .await;
    shutdown.cancel();
    serving.await.context("the status socket")?
}

struct Daemon {
    paths: Paths,
    settings: Settings,
    policy: Arc<Policy>,
    following: Following,
    started: Instant,
    core: Core,
    wake: Wake,
    /// Taken into each blocking hop and given back.
    files: Option<Files>,
    facts: Option<Facts>,
    account: Option<Account>,
    client: Option<Client>,
    /// A keyring that was locked may be open by then.
    login_retry_at: Millis,
    stream: Option<AbortHandle>,
    hints_in: mpsc::Sender<Hint>,
    hints: mpsc::Receiver<Hint>,
    /// Between two steps: the batch with its bytes, the verdicts on it, the page that was pulled.
    ready: Option<Ready>,
    answer: Option<(Batch, PushAnswer)>,
    page: Option<PullPage>,
    identify_rounds: u32,
    waiting: Vec<(u64, oneshot::Sender<SyncDone>)>,
    next_waiter: u64,
    totals: Totals,
    /// What each kind of step, and the login, failed with last.
    failing: HashMap<Discriminant<Step>, Repeats>,
    login_failing: Repeats,
    status: watch::Sender<Arc<Status>>,
}

impl Daemon {
    fn new(
        paths: Paths,
        settings: Settings,
        policy: Arc<Policy>,
        status: watch::Sender<Arc<Status>>,
    ) -> Self {
        let (hints_in, hints) = mpsc::channel(QUEUE);
        Self {
            core: Core::new(rand::random(), false, false),
            wake: Wake::on(&paths.context_db),
            paths,
            settings,
            policy,
            following: Following::nothing(),
            started: Instant::now(),
            files: None,
            facts: None,
            account: None,
            client: None,
            login_retry_at: 0,
            stream: None,
            hints_in,
            hints,
            ready: None,
            answer: None,
            page: None,
            identify_rounds: 0,
            waiting: Vec::new(),
            next_waiter: 0,
            totals: Totals::default(),
            failing: HashMap::new(),
            login_failing: Repeats::default(),
            status,
        }
    }

    async fn run(
        &mut self,
        mut wishes: mpsc::Receiver<Control>,
        shutdown: &CancellationToken,
        mut supervisor: Supervisor,
    ) {
        loop {
            fail_point::pass(FailPoint::Loop);
            while let Ok(wish) = wishes.try_recv() {
                self.heed(wish, &mut supervisor).await;
            }
            while let Ok(hint) = self.hints.try_recv() {
                self.core.hint(self.now(), hint);
            }
            if self.files.is_some() {
                // Not before: it is the loop that adopts the file, or makes it.
                self.following
                    .adopt(&self.paths.context_db, self.settings.ingest());
            }
            self.publish();
            supervisor.turn(self.facts.is_some(), &self.status.borrow());
            match self.core.next(self.now()) {
                Next::Do(step) => {
                    let outcome = tokio::select! {
                        biased;
                        () = shutdown.cancelled() => break,
                        outcome = supervisor.during(takes_at_most(&step), self.perform(&step)) => outcome,
                    };
                    self.log(&step, &outcome);
                    self.core.done(self.now(), &step, outcome);
                }
                Next::WaitUntil(until) => {
                    let wait = Duration::from_millis(until.saturating_sub(self.now()).max(1));
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        Some(wish) = wishes.recv() => self.heed(wish, &mut supervisor).await,
                        Some(hint) = self.hints.recv() => self.core.hint(self.now(), hint),
                        () = self.following.changed() => {}
                        () = self.wake.changed() => self.core.hint(self.now(), Hint::File),
                        () = supervisor.due() => supervisor.sign_of_life(),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
        self.following.stop().await;
    }

    fn log(&mut self, step: &Step, outcome: &Outcome) {
        let before = self.failing.entry(mem::discriminant(step)).or_default();
        if let Outcome::Failed { code, message, .. } = outcome {
            if let Some(times) = before.failed(&format!("{code}: {message}")) {
                tracing::warn!(?step, code, message, times, "a step failed");
            }
        } else {
            tracing::debug!(?step, ?outcome, "a step is done");
            if let Some(times) = before.ended() {
                tracing::info!(?step, times, "a step that failed works again");
            }
        }
    }

    async fn heed(&mut self, wish: Control, supervisor: &mut Supervisor) {
        let reloads = matches!(wish, Control::Reload);
        if reloads {
            supervisor.reloading();
        }
        supervisor.during(FILES_TAKE_AT_MOST, self.grant(wish)).await;
        if reloads {
            supervisor.reloaded();
        }
    }

    async fn grant(&mut self, wish: Control) {
        match wish {
            Control::Sync { done } => {
                let waiter = done.map(|done| {
                    self.next_waiter += 1;
                    self.waiting.push((self.next_waiter, done));
                    self.next_waiter
                });
                self.core.hint(self.now(), Hint::SyncRequested { waiter });
            }
            Control::Pause => self.pause(true).await,
            Control::Resume => self.pause(false).await,
            Control::Reload => {
                self.reconfigure().await;
                self.client = None;
                self.reload().await;
            }
            Control::Reconfigure => self.reconfigure().await,
        }
    }

    /// Reads config.toml, and goes on by it.
    async fn reconfigure(&mut self) {
        let reader = self.settings.reader();
        let read = match blocking(move || Ok(reader())).await {
            Ok(read) => read,
            Err(error) => Err(format!("{error:#}")),
        };
        let changed = self.settings.take_up(read, status::now());
        if let Some(policy) = changed.policy {
            self.set_policy(policy).await;
        }
        if changed.trust {
            self.client = None;
            self.reload().await;
        }
    }

    async fn pause(&mut self, paused: bool) {
        self.core
            .hint(self.now(), if paused { Hint::Pause } else { Hint::Resume });
        if let Err(error) = self.on_files(move |files| files.set_paused(paused)).await {
            tracing::warn!(%error, "the pause will not be remembered over a restart");
        }
    }

    async fn perform(&mut self, step: &Step) -> Outcome {
        let outcome = match step {
            Step::Look => self.look().await,
            Step::Backfill => self.on_files(Files::backfill).await,
            Step::Identify => {
                self.identify_rounds += 1;
                self.on_files(Files::identify).await
            }
            Step::Build { rows } => {
                let limits = BatchLimits {
                    rows: *rows,
                    bytes: BATCH_BYTES,
                };
                self.on_files(move |files| files.build(limits)).await
            }
            Step::Push => self.push().await,
            Step::Settle => self.settle().await,
            Step::Halve => {
                self.ready = None;
                self.on_files(Files::halve).await
            }
            Step::Defer => {
                self.ready = None;
                self.on_files(Files::defer).await
            }
            Step::GiveUp { code, message } => {
                self.ready = None;
                let (code, message) = (code.clone(), message.clone());
                self.on_files(move |files| files.give_up(&code, &message)).await
            }
            Step::Pull { limit } => self.pull(*limit).await,
            Step::Apply => self.apply().await,
            Step::TakeNewDeviceId { reason } => {
                tracing::warn!(
                    reason,
                    "this file's history has parted from the server's; taking up a new device id"
                );
                (self.ready, self.answer, self.page) = (None, None, None);
                let outcome = self.on_files(Files::take_new_device_id).await;
                self.client = None;
                self.reload().await;
                outcome
            }
        };
        outcome.unwrap_or_else(|error| files::failed(&error, &self.paths.context_db))
    }

    async fn look(&mut self) -> anyhow::Result<Outcome> {
        if self.files.as_ref().is_some_and(|files| !files.is_current()) {
            tracing::warn!(path = %self.paths.context_db.display(), "context.db was replaced by another file; opening it");
            self.files = None;
        }
        if self.files.is_none() {
            let (context_db, state_db) = (self.paths.context_db.clone(), self.paths.state_db.clone());
            let policy = self.policy.clone();
            let files = blocking(move || Files::open(&context_db, &state_db, policy)).await?;
            if files.is_paused() {
                self.core.hint(self.now(), Hint::Pause);
            }
            self.files = Some(files);
            (self.ready, self.answer, self.page) = (None, None, None);
            self.client = None;
            self.login_retry_at = 0;
        }
        if self.client.is_none() && self.now() >= self.login_retry_at {
            self.reload().await;
        }
        let gone = self.settings.if_gone();
        self.on_files(move |files| {
            let looked = files.look()?;
            match gone {
                Some(gone) if files.was_judged()? => Ok(gone.outcome()),
                Some(_) | None => Ok(looked),
            }
        })
        .await
    }

    async fn push(&mut self) -> anyhow::Result<Outcome> {
        let usable = |ready: &Ready| Arc::ptr_eq(&ready.policy, &self.policy);
        let ready = match self.ready.take().filter(usable) {
            Some(ready) => ready,
            None => match self.on_files(Files::ready).await? {
                Some(ready) => ready,
                None => return self.on_files(Files::look).await,
            },
        };
        let Some(client) = self.client.clone() else {
            return Ok(logged_out());
        };
        let outcome = client.push(ready.zstd_body.clone()).await;
        Ok(match outcome {
            PushOutcome::Answer(answer) => {
                self.answer = Some((ready.batch, answer));
                Outcome::Answered
            }
            PushOutcome::Conflict(conflict) => {
                let digest = conflict.digest;
                let resolved = {
                    let conflict = conflict.clone();
                    self.on_files(move |files| files.resolve(&conflict)).await?
                };
                match resolved {
                    Some(batch) => {
                        self.answer = Some((batch, conflict.answer));
                        Outcome::Answered
                    }
                    None => Outcome::Parted {
                        reason: format!("the server has another push under this number, {digest}"),
                    },
                }
            }
            PushOutcome::Stale => Outcome::Parted {
                reason: "the server has later pushes of this device id".into(),
            },
            PushOutcome::Gap => diverged("the server has forgotten pushes of this device".into()),
            PushOutcome::Diverged { message } => diverged(message),
            PushOutcome::EpochMismatch { epoch } => Outcome::Failed {
                trouble: Trouble::EpochMismatch,
                code: "epoch_mismatch".into(),
                message: format!("the server is in epoch {epoch}"),
            },
            PushOutcome::Failed(failure) => {
                if matches!(failure, Failure::Unreachable { .. } | Failure::Busy { .. }) {
                    // The very same bytes are sent again.
                    self.ready = Some(ready);
                }
                self.failure(&failure)
            }
        })
    }

    async fn settle(&mut self) -> anyhow::Result<Outcome> {
        let Some((batch, answer)) = self.answer.clone() else {
            return self.on_files(Files::look).await;
        };
        let synced = u64::try_from(answer.synced).unwrap_or(u64::MAX);
        let (outcome, settled) = self.on_files(move |files| files.settle(&batch, &answer)).await?;
        // Only now: if the file cannot be written, the verdicts are taken again from here.
        self.answer = None;
        self.totals.pushed += synced;
        self.totals.last_push = Some(status::now());
        if settled.rejected > 0 {
            tracing::warn!(
                rows = settled.rejected,
                "the server refused rows; see `coditect-sync quarantine list`"
            );
        }
        Ok(outcome)
    }

    async fn pull(&mut self, limit: u32) -> anyhow::Result<Outcome> {
        let Some(client) = self.client.clone() else {
            return Ok(logged_out());
        };
        let head = self.core.head();
        let query = self.on_files(move |files| files.pull_query(limit, head)).await?;
        Ok(match client.pull(&query).await {
            PullOutcome::Page(page) => {
                let (page, news) = self
                    .on_files(move |files| {
                        let news = files.is_news(&page)?;
                        Ok((page, news))
                    })
                    .await?;
                let outcome = Outcome::Pulled {
                    head: page.head,
                    has_more: page.has_more,
                    news,
                };
                if news {
                    self.page = Some(*page);
                } else {
                    self.totals.last_pull = Some(status::now());
                }
                self.identify_rounds = 0;
                outcome
            }
            PullOutcome::Diverged { message } => diverged(message),
            PullOutcome::Failed(failure) => self.failure(&failure),
        })
    }

    async fn apply(&mut self) -> anyhow::Result<Outcome> {
        let Some(page) = self.page.take() else {
            return self.on_files(Files::look).await;
        };
        let all_identities = self.identify_rounds >= IDENTIFY_ROUNDS_MAX;
        let (page, applied) = self
            .on_files(move |files| {
                let applied = files.apply(&page, all_identities);
                Ok((page, applied))
            })
            .await?;
        let (outcome, rows) = applied?;
        if outcome == Outcome::IdentitiesFirst {
            self.page = Some(page);
        } else {
            self.totals.pulled += u64::try_from(rows).unwrap_or(u64::MAX);
            self.totals.last_pull = Some(status::now());
        }
        Ok(outcome)
    }

    /// What may leave the machine, from the next step on.
    async fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy.clone();
        if self.files.is_some()
            && let Err(error) = self.on_files(move |files| files.set_policy(policy)).await
        {
            tracing::warn!(%error, "opening context.db anew");
            self.files = None;
        }
        self.core.hint(self.now(), Hint::File);
    }

    /// Reads anew who is logged in, and follows that account's events.
    async fn reload(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
        let logged_in = self.log_in().await;
        self.login_retry_at = self.now() + LOGIN_RETRY_MS;
        let (client, trouble) = match logged_in {
            Ok(client) => (client, None),
            Err(error) => (
                None,
                Some(format!(
                    "cannot use the stored login: {}",
                    files::told_once(&error)
                )),
            ),
        };
        self.client = client;
        if let (Some(client), Some(files)) = (&self.client, &self.files)
            && let Ok(device) = files.device_id()
        {
            let task = tokio::spawn(stream::follow(client.clone(), device, self.hints_in.clone()));
            self.stream = Some(task.abort_handle());
        }
        self.core
            .hint(self.now(), Hint::Credential(self.client.is_some()));
        if let Some(message) = trouble {
            if let Some(times) = self.login_failing.failed(&message) {
                tracing::warn!(times, message);
            }
            self.core.login_failed(message);
        } else {
            self.login_failing.ended();
        }
    }

    async fn log_in(&mut self) -> anyhow::Result<Option<Client>> {
        let paths = self.paths.clone();
        let found = blocking(move || {
            let Some(account) = Account::load(&paths.account)? else {
                return Ok(None);
            };
            let key = account.credential_key(&paths.account);
            let secret = credential::load(&paths.credentials, &key, account.credential_store)?;
            Ok(Some((account, secret)))
        })
        .await?;
        let Some((account, secret)) = found else {
            self.account = None;
            return Ok(None);
        };
        self.account = Some(account.clone());
        let Some(files) = &self.files else { return Ok(None) };
        let bound = files.binding()?.with_context(|| {
            format!(
                "{} is not the file of the last login, which was removed or replaced by a new one; \
                     log in again, and all that is in the cloud comes into it",
                self.paths.context_db.display()
            )
        })?;
        anyhow::ensure!(
            bound.instance == account.instance_id
                && bound.tenant == account.tenant_id
                && bound.user == account.user_id,
            "{} belongs to {}, the login is that of {}",
            self.paths.context_db.display(),
            bound.whose,
            account.whose()
        );
        let Some(secret) = secret else { return Ok(None) };
        let ca_file = self.settings.ca_file();
        Client::of_account(
            &account,
            &self.paths,
            files.device_id()?,
            &secret,
            ca_file.as_deref(),
        )
        .map(Some)
    }

    fn failure(&mut self, failure: &Failure) -> Outcome {
        let trouble = match failure {
            Failure::Unreachable { .. } => Trouble::Unreachable,
            Failure::Busy { retry_after_ms, .. } => Trouble::Busy {
                retry_after_ms: *retry_after_ms,
            },
            Failure::Server { .. } => Trouble::Server,
            Failure::Unauthorized { .. } => Trouble::Unauthorized,
            Failure::Forbidden { .. } => Trouble::Forbidden,
            Failure::TooLarge { .. } => Trouble::TooLarge,
            Failure::Refused { .. } => Trouble::Refused,
        };
        Outcome::Failed {
            trouble,
            code: failure.code().into(),
            message: failure.to_string(),
        }
    }

    /// One blocking hop with the files; what `status` shows of them is read on the way back.
    async fn on_files<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Files) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut files = self.files.take().context("context.db is not open")?;
        let (files, result, facts) = blocking(move || {
            fail_point::pass(FailPoint::Files);
            let result = act(&mut files);
            let facts = files.facts();
            Ok((files, result, facts))
        })
        .await?;
        self.files = Some(files);
        if let Ok(facts) = facts {
            self.facts = Some(facts);
        }
        result
    }

    fn publish(&mut self) {
        for (id, done) in self.core.take_finished() {
            if let Some(at) = self.waiting.iter().position(|(waiter, _)| *waiter == id) {
                // Whoever asked may have gone.
                drop(self.waiting.swap_remove(at).1.send(done));
            }
        }
        let sources = Sources {
            core: &self.core,
            facts: self.facts.as_ref(),
            account: self.account.as_ref(),
            paths: &self.paths,
            settings: &self.settings,
            following: &self.following,
            totals: &self.totals,
        };
        let before = Arc::clone(&self.status.borrow());
        let status = report::report(sources, &before, status::now(), self.now());
        let as_old_as_before = OutboxStatus {
            oldest_age_ms: before.outbox.oldest_age_ms,
            ..status.outbox.clone()
        };
        let changed = Status {
            outbox: as_old_as_before,
            ..status.clone()
        } != *before;
        // An age that grows is no news, but whoever asks shall see it.
        self.status.send_if_modified(|current| {
            *current = Arc::new(status);
            changed
        });
    }

    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long a step may take before the loop counts as stuck.
fn takes_at_most(step: &Step) -> Duration {
    match step {
        Step::Push | Step::Pull { .. } => FILES_TAKE_AT_MOST + client::LONGEST_EXCHANGE,
        Step::Look
        | Step::Backfill
        | Step::Identify
        | Step::Build { .. }
        | Step::Settle
        | Step::Halve
        | Step::Defer
        | Step::GiveUp { .. }
        | Step::Apply
        | Step::TakeNewDeviceId { .. } => FILES_TAKE_AT_MOST,
    }
}

fn logged_out() -> Outcome {
    Outcome::Failed {
        trouble: Trouble::Unauthorized,
        code: "not_logged_in".into(),
        message: "not logged in".into(),
    }
}

fn diverged(message: String) -> Outcome {
    Outcome::Failed {
        trouble: Trouble::Diverged,
        code: "history_diverged".into(),
        message,
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(act)
        .await
        .context("a step on the files panicked")?
}

/// One daemon a file: two would give the same rows two identities. The lock goes with the process.
fn lock(paths: &Paths) -> anyhow::Result<File> {
    let doing = || format!("locking {}", paths.context_db.display());
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&paths.lock)
        .with_context(doing)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(std::fs::TryLockError::WouldBlock) => anyhow::bail!(
                "another coditect-sync already runs on {}; stop it first",
                paths.context_db.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(doing),
        }
    }
}
