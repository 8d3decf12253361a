//! One session's messages, in the order in which they stand in the file.

use serde::Serialize;

use super::sessions::SessionFilter;
use super::{Browser, some_text, text};
use crate::ingest::AgentContext;

/// What is read at once: enough to be quick, little enough that a session of any size needs no memory.
const CHUNK_ROWS: usize = 200;
const CHUNK_BYTES: usize = 4 << 20;

/// A message, as `show --json` shows it. Field names are part of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub id: i64,
    pub role: String,
    /// What kind of text it is: user, assistant, thinking, tool_use, tool_result, summary, system …
    pub source_type: Option<String>,
    /// As the source spells it.
    pub timestamp: Option<String>,
    /// The subagent that said it; null in the main conversation.
    pub agent: Option<String>,
    pub content: String,
}

/// Some messages in a row.
#[derive(Debug)]
pub struct Chunk {
    pub messages: Vec<Message>,
    /// Where to read on; None at the end.
    pub next: Option<i64>,
}

/// The sessions whose id begins with some text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    None,
    One(String),
    Many(Vec<String>),
}

impl Browser {
    /// An id that equals the text is meant, whatever others begin with it.
    pub fn find_session(&self, prefix: &str) -> rusqlite::Result<Found> {
        let mut statement = self.conn.prepare(
            "SELECT DISTINCT session_id FROM messages WHERE substr(session_id, 1, length(?1)) = ?1 ORDER BY 1",
        )?;
        let mut ids = Vec::new();
        let mut rows = statement.query([prefix])?;
        while let Some(row) = rows.next()? {
            ids.push(text(row.get_ref(0)?));
        }
        Ok(match ids.as_slice() {
            [] => Found::None,
            [one] => Found::One(one.clone()),
            _ if ids.iter().any(|id| id == prefix) => Found::One(prefix.to_owned()),
            _ => Found::Many(ids),
        })
    }

    /// The session in which something was said last.
    pub fn last_session(&self) -> rusqlite::Result<Option<String>> {
        let sessions = self.sessions(&SessionFilter::default())?;
        Ok(sessions
            .into_iter()
            .map(|session| session.session_id)
            .find(|id| !id.is_empty()))
    }

    /// The session's messages behind the row `after`. The read ends with the call.
    pub fn messages_after(&self, session: &str, after: i64) -> rusqlite::Result<Chunk> {
        let key = self.owner.message_key();
        let sql = format!(
            "SELECT {key}, role, {}, {}, {}, content FROM messages
             WHERE {key} > ?1 AND session_id = ?2 ORDER BY {key} LIMIT ?3",
            self.message_column("source_type"),
            self.message_column("timestamp"),
            self.message_column("agent_context"),
        );
        let limit = i64::try_from(CHUNK_ROWS).unwrap_or(i64::MAX);
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query(rusqlite::params![after, session, limit])?;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let content = text(row.get_ref(5)?);
            bytes += content.len();
            messages.push(Message {
                id: row.get(0)?,
                role: text(row.get_ref(1)?),
                source_type: some_text(row.get_ref(2)?),
                timestamp: some_text(row.get_ref(3)?),
                agent: some_text(row.get_ref(4)?).and_then(|context| agent(&context)),
                content,
            });
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        let is_full = messages.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES;
        let next = messages.last().map(|last| last.id).filter(|_| is_full);
        Ok(Chunk { messages, next })
    }
}

fn agent(context: &str) -> Option<String> {
    let context = AgentContext::parse(context);
    context
        .agent
        .or(context.sidechain.then(|| "sidechain".to_owned()))
}
