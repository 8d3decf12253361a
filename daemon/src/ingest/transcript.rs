//! Reads one transcript into context.db, in one go or as it grows.
//!
//! What is kept between two readings is small: the position, a short digest of each text for the repetitions,
//! and the tasks. A transcript read in parts gives the same rows as one read at once.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;
use coditect_shared::limits::{PROJECT_ID_MAX_CHARS, SESSION_ID_MAX_CHARS, TIMESTAMP_MAX_CHARS};

use super::agent_context::AgentContext;
use super::context_db::{ContextDb, LinkRow, MessageRow};
use super::fields::cut;
use super::find::{Source, project_of, unreadable};
use super::record::{self, Record};
use super::report::Report;
use super::task::Speaker;
use super::tasks::Tasks;
use super::values::{Damage, Piece, Stopped, read_values};

/// Messages are stored in batches of so many rows or so many bytes of text, whichever comes first.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 4 << 20;

/// So many links wait in memory for the end of the file, so that a task is written once and before its links.
/// 32 bytes each.
const LINKS_WAITING_MAX: usize = 100_000;

/// Longest name of a subagent that is kept, in characters; it becomes part of a message's hash.
const AGENT_MAX_CHARS: usize = 100;

/// By how much of its beginning a file is known: a whole first record as a rule, and little to read again.
const BEGINNING_BYTES: u64 = 4 << 10;

pub(super) struct Transcript {
    source: Source,
    agent: Option<String>,
    /// Device and inode of the file that was read: another file under the same name is read from its
    /// beginning.
    file: Option<(u64, u64)>,
    position: u64,
    /// Length and hash of what the file began with when it was read.
    beginning: (u64, u64),
    unfinished: u64,
    repetitions: Repetitions,
    sessions: HashMap<String, Tasks>,
    sidechains: Sidechains,
    batch: Batch,
    links: Vec<LinkRow>,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    ToTheEnd,
    /// As it was told to.
    Stopped,
}

/// Why a reading ended before the end of the file.
enum Ended {
    Stopped,
    Failed(anyhow::Error),
}

/// Messages that are read and not stored yet.
#[derive(Default)]
struct Batch {
    rows: Vec<MessageRow>,
    bytes: usize,
    /// Index of the message in `rows`, task, place in the task's span.
    links: Vec<(usize, uuid::Uuid, u32)>,
}

impl Transcript {
    pub(super) fn new(source: Source) -> Transcript {
        let agent = source
            .agent
            .as_deref()
            .map(|agent| cut(agent, AGENT_MAX_CHARS).to_owned());
        Transcript {
            source,
            agent,
            file: None,
            position: 0,
            beginning: (0, short_hash("")),
            unfinished: 0,
            repetitions: Repetitions::default(),
            sessions: HashMap::new(),
            sidechains: Sidechains::default(),
            batch: Batch::default(),
            links: Vec::new(),
        }
    }

    /// Reads on from where the last reading ended, and stores what is new. `go_on` learns of each position in the file,
    /// and says whether to read on.
    ///
    /// A file that cannot be read is reported; an error is one of context.db. After that, and after a stop, this value
    /// must be dropped: it counts as read what may not be stored.
    pub(super) fn read_on(
        &mut self,
        db: &mut ContextDb,
        report: &mut Report,
        now: &str,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> anyhow::Result<Reading> {
        let opened = File::open(&self.source.path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                report.unreadable(unreadable(&self.source.path, &error));
                return Ok(Reading::ToTheEnd);
            }
        };
        let identity = (metadata.dev(), metadata.ino());
        if let Some(change) = self.change(identity, metadata.len(), &mut file) {
            tracing::info!(
                file = self.source.source_file,
                "a transcript {change}; reading it from its beginning, and nothing is deleted"
            );
            report.restarted += 1;
            *self = Transcript::new(self.source.clone());
        }
        self.file = Some(identity);
        let read = read_values(&mut file, self.position, |piece| -> Result<(), Ended> {
            match piece {
                Piece::Value { json, offset } => {
                    self.value(json, report);
                    self.position = offset + json.len() as u64;
                    if self.batch.is_full() {
                        self.store_messages(db, report, now).map_err(Ended::Failed)?;
                    }
                }
                Piece::Damage(damage) => {
                    self.position = self.position.max(damage.offset + damage.bytes);
                    report.damage(&self.source.source_file, damage);
                }
            }
            match go_on(self.position) {
                true => Ok(()),
                false => Err(Ended::Stopped),
            }
        });
        match read {
            Ok(read_to) => {
                self.position = read_to.offset;
                self.unfinished = read_to.unfinished;
            }
            Err(Stopped::File(error)) => report.unreadable(unreadable(&self.source.path, &error)),
            Err(Stopped::Taker(Ended::Stopped)) => return Ok(Reading::Stopped),
            Err(Stopped::Taker(Ended::Failed(error))) => {
                return Err(error).context(self.source.source_file.clone());
            }
        }
        self.store_messages(db, report, now)?;
        self.store_tasks(db, report)?;
        if self.beginning.0 < BEGINNING_BYTES {
            let length = self.position.min(BEGINNING_BYTES);
            // What cannot be read now is read next time, or reported.
            self.beginning = beginning(&mut file, length).map_or(self.beginning, |hash| (length, hash));
        }
        go_on(metadata.len());
        Ok(Reading::ToTheEnd)
    }

    /// What happened to a file that is not merely longer than before.
    fn change(&self, identity: (u64, u64), length: u64, file: &mut File) -> Option<&'static str> {
        let known = self.file?;
        if known != identity {
            return Some("was replaced by another file");
        }
        if length < self.position {
            return Some("has become shorter");
        }
        let (length, hash) = self.beginning;
        let same = beginning(file, length).map_or(true, |now| now == hash);
        (!same).then_some("begins with another text than before")
    }

    /// What stands at the end of the file and is no whole record yet.
    pub(super) fn unfinished(&self) -> Option<Damage> {
        (self.unfinished > 0).then_some(Damage {
            offset: self.position,
            bytes: self.unfinished,
            reason: "unfinished last record",
        })
    }

    pub(super) fn source_file(&self) -> &str {
        &self.source.source_file
    }

    fn value(&mut self, json: &str, report: &mut Report) {
        let Some(record) = record::read(json) else {
            return report.skipped("(no object)");
        };
        report.records += 1;
        if record.said.is_empty() {
            report.skipped(&record.kind);
        }
        for kind in &record.skipped {
            report.skipped(kind);
        }
        let session: Cow<'_, str> = match &record.session {
            Some(session) if !self.source.one_session => session.clone(),
            Some(_) | None => Cow::Borrowed(&self.source.session),
        };
        let session = cut(&session, SESSION_ID_MAX_CHARS).to_owned();
        report.session(&session);
        self.hear(record, session, report);
    }

    /// Takes the messages of a record into the batch, each with its places in the spans of tasks.
    fn hear(&mut self, record: Record<'_>, session: String, report: &mut Report) {
        let speaker = self.speaker(&record);
        let stream = self.agent.as_deref().unwrap_or_default();
        let tasks = self
            .sessions
            .entry(session.clone())
            .or_insert_with(|| Tasks::new(&session, stream));
        let timestamp = record
            .timestamp
            .as_deref()
            .map(|time| cut(time, TIMESTAMP_MAX_CHARS));
        if let Some(timestamp) = timestamp {
            tasks.tick(timestamp);
        }
        if let Some(project) = record.cwd.as_deref().and_then(project_of) {
            tasks.set_project(cut(project, PROJECT_ID_MAX_CHARS));
        }
        let agent = match (&self.agent, &record.agent) {
            (Some(agent), _) => Some(agent.clone()),
            (None, Some(agent)) => Some(cut(agent, AGENT_MAX_CHARS).to_owned()),
            (None, None) => None,
        };
        let agent_context = AgentContext {
            sidechain: record.sidechain && agent.is_none(),
            agent,
            project: tasks.project().map(str::to_owned),
        };
        let agent_context = agent_context.render();
        for said in record.said {
            let index = self.batch.rows.len();
            for place in tasks.hear(&speaker, &said) {
                self.batch
                    .links
                    .push((index, tasks.id(place.task), place.sequence));
            }
            let digest = session_digest(&session, &said.content);
            let repetition = self.repetitions.count(&digest);
            self.batch.bytes += said.content.len();
            self.batch.rows.push(MessageRow {
                digest,
                repetition,
                hash: message_hash(&digest, self.agent.as_deref(), repetition),
                session_id: session.clone(),
                role: said.role,
                content: said.content.into_owned(),
                source_type: said.source_type,
                source_file: self.source.source_file.clone(),
                timestamp: timestamp.map(str::to_owned),
                agent_context: agent_context.clone(),
            });
            report.messages.seen += 1;
        }
    }

    /// A subagent's own file is one conversation; in a main file the side chains are conversations of their
    /// own.
    fn speaker(&mut self, record: &Record<'_>) -> Speaker {
        if self.agent.is_some() || !record.sidechain {
            return Speaker::Main;
        }
        match &record.agent {
            Some(agent) => Speaker::Agent(agent.to_string()),
            None => Speaker::Sidechain(
                self.sidechains
                    .of(record.uuid.as_deref(), record.parent.as_deref()),
            ),
        }
    }

    fn store_messages(&mut self, db: &mut ContextDb, report: &mut Report, now: &str) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let (ids, inserted) = db.store_messages(&batch.rows, now)?;
        report.messages.inserted += inserted;
        self.links
            .extend(batch.links.into_iter().map(|(row, task, sequence)| LinkRow {
                task,
                message: ids[row],
                sequence,
            }));
        if self.links.len() > LINKS_WAITING_MAX {
            self.store_tasks(db, report)?;
        }
        Ok(())
    }

    fn store_tasks(&mut self, db: &mut ContextDb, report: &mut Report) -> anyhow::Result<()> {
        for tasks in self.sessions.values_mut() {
            let rows = tasks.take_changed();
            let stored = db.store_tasks(&rows)?;
            report.tasks.seen += rows.len() as u64;
            report.tasks.inserted += stored.inserted;
            report.tasks.updated += stored.updated;
        }
        let links = std::mem::take(&mut self.links);
        report.links.seen += links.len() as u64;
        report.links.inserted += db.store_links(&links)?;
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }
}

/// SHA-256 of session and content: what a message's hash begins with.
pub(super) fn session_digest(session: &str, content: &str) -> [u8; 32] {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    hasher.update(session);
    hasher.update(":");
    hasher.update(content);
    hasher.finalize().into()
}

/// A message's `hash`: the digest; behind `@` the subagent in whose own file it stands; behind `:` the n-th
/// repetition.
///
/// Each file counts its own repetitions: so a file that grows shifts no number in another, and a copy of a
/// session's file gives the same hashes. A subagent's file sets its texts apart, as it often holds a text of
/// the main file again.
fn message_hash(digest: &[u8; 32], agent: Option<&str>, repetition: u32) -> String {
    use std::fmt::Write as _;
    let mut hash = String::with_capacity(80);
    for byte in digest {
        write!(hash, "{byte:02x}").expect("a string takes all that is written");
    }
    if let Some(agent) = agent {
        hash.push('@');
        hash.push_str(agent);
    }
    if repetition > 0 {
        write!(hash, ":{repetition}").expect("a string takes all that is written");
    }
    hash
}

/// How often each text was met, by eight bytes of its digest: 9 bytes a text, in a large file hundreds of
/// thousands.
#[derive(Default)]
struct Repetitions {
    once: HashSet<u64>,
    more: HashMap<u64, u32>,
}

impl Repetitions {
    /// Counts a text and gives how often it was met before.
    fn count(&mut self, digest: &[u8; 32]) -> u32 {
        let key = u64::from_le_bytes(*digest.first_chunk().expect("a digest is longer than eight bytes"));
        if self.once.insert(key) {
            return 0;
        }
        let before = self.more.entry(key).or_insert(0);
        *before += 1;
        *before
    }
}

/// Which side chain a record belongs to: that of its parent, else one that it begins.
#[derive(Default)]
struct Sidechains {
    by_record: HashMap<u64, u32>,
    begun: u32,
}

impl Sidechains {
    fn of(&mut self, uuid: Option<&str>, parent: Option<&str>) -> u32 {
        let known = parent.and_then(|parent| self.by_record.get(&short_hash(parent)).copied());
        let chain = known.unwrap_or_else(|| {
            self.begun += 1;
            self.begun
        });
        if let Some(uuid) = uuid {
            self.by_record.insert(short_hash(uuid), chain);
        }
        chain
    }
}

/// A hash of the first bytes of a file.
fn beginning(file: &mut File, length: u64) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(short_hash(&String::from_utf8_lossy(&bytes)))
}

fn short_hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
