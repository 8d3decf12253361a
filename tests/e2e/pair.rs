//! Two workstations of one user at one server: where most stories begin.

use coditect_tests::contents::{Contents, converge};
use coditect_tests::daemon::Workstation;
use coditect_tests::proxy::Proxy;
use coditect_tests::server::TestServer;
use serde_json::Value;

pub(crate) struct Pair {
    pub(crate) server: TestServer,
    pub(crate) token: String,
    pub(crate) a: Workstation,
    pub(crate) b: Workstation,
}

impl Pair {
    /// Both daemons run and are in sync with an empty cloud.
    pub(crate) async fn start() -> Pair {
        let (server, token) = server().await;
        let (a, b) = tokio::join!(
            Workstation::start(&server.url, &token),
            Workstation::start(&server.url, &token)
        );
        Pair { server, token, a, b }.in_sync().await
    }

    /// As [`Pair::start`], with a faulty network between A and the server, and another between B and the server.
    pub(crate) async fn start_behind_proxies() -> (Pair, Proxy, Proxy) {
        let (server, token) = server().await;
        let (to_a, to_b) = tokio::join!(Proxy::before(&server.url), Proxy::before(&server.url));
        let (a, b) = tokio::join!(
            Workstation::start(&to_a.url, &token),
            Workstation::start(&to_b.url, &token)
        );
        let pair = Pair { server, token, a, b }.in_sync().await;
        (pair, to_a, to_b)
    }

    /// Both have what the other had, and the cloud holds each row once.
    pub(crate) async fn converge(&self) -> Contents {
        let contents = converge(&[&self.a, &self.b]).await;
        self.assert_cloud_holds(&contents).await;
        contents
    }

    /// # Panics
    /// If a table of the cloud has another number of rows than the file.
    pub(crate) async fn assert_cloud_holds(&self, contents: &Contents) {
        let database = &self.server.database;
        let cloud = [
            database.count("context_messages").await,
            database.count("context_task_tracking").await,
            database.count("context_task_messages").await,
        ];
        let here = [
            contents.message_count(),
            contents.task_count(),
            contents.link_count(),
        ];
        assert_eq!(cloud, here.map(|count| count as i64), "messages, tasks, links");
    }

    async fn in_sync(self) -> Pair {
        tokio::join!(self.a.wait_for_state("in_sync"), self.b.wait_for_state("in_sync"));
        self
    }
}

/// A server with a member of a tenant, and a token of that member.
pub(crate) async fn server() -> (TestServer, String) {
    let server = TestServer::start().await;
    let (caller, _) = server.acme().await;
    let token = server.token(&caller);
    (server, token)
}

/// Rows that a daemon has sent since it started.
pub(crate) fn sent(status: &Value) -> u64 {
    status["push"]["rows_total"].as_u64().expect("a number of rows")
}

/// Nothing waits here, and all that the cloud has is here.
pub(crate) fn is_settled(status: &Value) -> bool {
    status["state"] == "in_sync" && status["outbox"]["pending"] == 0 && status["outbox"]["held"] == 0
}
