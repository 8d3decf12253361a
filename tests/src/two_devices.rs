//! Two devices of one user at one server, without daemons: what each sends is the test's to say.

use coditect_server::auth::Caller;
use coditect_shared::hash::message_hash;
use coditect_shared::{MessageRecord, Origin};
use uuid::Uuid;

use crate::api::{Pusher, message};
use crate::server::TestServer;

/// A server with two devices of one user.
pub struct TwoDevices {
    pub server: TestServer,
    pub caller: Caller,
    pub a: Pusher,
    pub b: Pusher,
}

impl TwoDevices {
    pub async fn start() -> TwoDevices {
        let server = TestServer::start().await;
        let (caller, api) = server.acme().await;
        let b = Pusher::new(api.another_device());
        TwoDevices {
            server,
            caller,
            a: Pusher::new(api),
            b,
        }
    }

    pub fn origin(&self, session: &str, content: &str, occurrence: u32) -> Origin {
        Origin {
            session_id: session.to_owned(),
            content_hash: message_hash(self.caller.tenant, session, content),
            occurrence,
        }
    }

    /// The n-th repetition of a text.
    pub fn repeated(&self, session: &str, content: &str, occurrence: u32) -> MessageRecord {
        MessageRecord {
            occurrence,
            ..message(session, content)
        }
    }

    /// The row of this origin, now with another text.
    pub fn edit(&self, origin: &Origin, content: &str) -> MessageRecord {
        MessageRecord {
            origin: Some(origin.clone()),
            ..message(&origin.session_id, content)
        }
    }

    /// Contents of all messages, as a new device gets them, with the occurrence of each.
    pub async fn contents(&self) -> Vec<(String, u32)> {
        let page = self.a.api.another_device().pull_to_head(0).await;
        page.messages
            .into_iter()
            .map(|message| (message.content, message.occurrence))
            .collect()
    }

    /// Kind and content of what is filed, oldest first.
    pub async fn filed(&self) -> Vec<(String, String)> {
        let rows = self
            .server
            .database
            .look()
            .await
            .query(
                "SELECT kind, content FROM context_message_versions ORDER BY filed_at, sync_cursor",
                &[],
            )
            .await
            .expect("looking at what is filed");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Kind and description of a task's versions, oldest first.
    pub async fn events(&self, id: Uuid) -> Vec<(String, String)> {
        let rows = self
            .server
            .database
            .look()
            .await
            .query(
                "SELECT kind, description FROM task_events WHERE id = $1 ORDER BY synced_at, sync_cursor",
                &[&id],
            )
            .await
            .expect("looking at what is filed");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}
