//! What `status` says in each state: whether the work is safe, what is wrong, and what to do next. Each state is told
//! from the others, by people and by programs.

use std::collections::BTreeSet;

use coditect_tests::daemon::Workstation;
use coditect_tests::server::ServerProcess;
use coditect_tests::small_disk::SmallDisk;
use coditect_tests::{deadline, writer};
use serde_json::Value;

use crate::pair::{Pair, is_settled};

/// More than what the journal of an idle file has room for: SQLite would write it there without needing the disk.
const LARGE_BYTES: usize = 3 << 20;

/// The status in both forms, read in one state.
struct Seen {
    json: Value,
    text: String,
}

impl Seen {
    async fn of(workstation: &Workstation, state: &str) -> Seen {
        workstation.wait_for_state(state).await;
        let seen = Seen {
            text: workstation.cli(&["status"]).await.ok(),
            json: workstation.cli(&["status", "--json"]).await.json(),
        };
        assert_eq!(seen.json["state"], state, "{}", seen.text);
        seen
    }

    fn title(&self) -> &str {
        self.text.lines().next().expect("a title")
    }

    /// Sentence and command, which the text has word for word.
    fn next(&self) -> Option<(&str, &str)> {
        let (step, command) = (
            self.json["next_step"].as_str()?,
            self.json["next_command"].as_str()?,
        );
        assert!(
            self.text.contains(&format!("\n  next      {step}\n")),
            "{}",
            self.text
        );
        assert!(
            self.text.contains(&format!("\n            {command}\n")),
            "{}",
            self.text
        );
        Some((step, command))
    }

    fn assert(&self, title: &str, next: &str) {
        assert!(self.title().starts_with(title), "{:?} in\n{}", title, self.text);
        let found = self.next();
        assert!(
            found.is_some_and(|(_, command)| command.contains(next)),
            "{next:?} in {found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_is_told_apart_with_what_to_do_next() {
    let mut server = ServerProcess::start().await;
    let token = server.token("a@acme.test").await;
    let mut a = Workstation::new();
    a.run().await;
    let mut all = Vec::new();

    let seen = Seen::of(&a, "needs_login").await;
    seen.assert("not safe: nobody is logged in", " login --server URL");
    all.push(seen);

    a.login(&server.url(), &token).await.ok();
    writer::message(&a.open(), "s", "safe").unwrap();
    a.wait_until("in sync", is_settled).await;
    let seen = Seen::of(&a, "in_sync").await;
    assert!(
        seen.title()
            .starts_with("safe: everything written here is in the cloud (in sync"),
        "{}",
        seen.text
    );
    assert_eq!(seen.next(), None, "there is nothing to do");
    for line in [
        "account   a@acme.test (member of acme)",
        "token     in a file",
        "sent      1 row",
    ] {
        assert!(seen.text.contains(line), "{line:?} in\n{}", seen.text);
    }
    all.push(seen);

    a.cli(&["pause"]).await.ok();
    writer::message(&a.open(), "s", "kept for later").unwrap();
    a.wait_until("it is noticed", |status| status["outbox"]["pending"] == 1)
        .await;
    let seen = Seen::of(&a, "paused").await;
    seen.assert("not safe: 1 change is not in the cloud yet (paused", " resume");
    all.push(seen);

    server.kill().await;
    a.cli(&["resume"]).await.ok();
    let seen = Seen::of(&a, "offline").await;
    seen.assert("not safe: 1 change is not in the cloud yet (offline", " doctor");
    assert!(seen.text.contains("\n  trouble   "), "{}", seen.text);
    all.push(seen);

    server.run().await;
    a.wait_until("it goes on by itself", is_settled).await;
    a.open()
        .execute(
            "INSERT INTO messages (hash, session_id, role, content) VALUES ('nul', 's', 'user', 'a' || char(0))",
            [],
        )
        .unwrap();
    a.wait_until("it is refused", |status| {
        status["outbox"]["quarantined"] == 1 && is_settled(status)
    })
    .await;
    let seen = Seen::of(&a, "in_sync").await;
    seen.assert("not safe: 1 row of this file was refused", " quarantine list");
    assert!(
        seen.text.contains("\n  refused   1 row was set aside"),
        "{}",
        seen.text
    );
    all.push(seen);

    let titles: BTreeSet<&str> = all.iter().map(Seen::title).collect();
    let next: BTreeSet<_> = all.iter().map(Seen::next).collect();
    assert_eq!(
        (titles.len(), next.len()),
        (all.len(), all.len()),
        "each another one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_full_disk_blocks_with_the_remedy_loses_nothing_and_goes_on_by_itself() {
    let pair = Pair::start().await;
    let mut small = Workstation::new();
    let Some(disk) = SmallDisk::mount_on(small.home(), 16) else {
        return;
    };
    small.login(&pair.server.url, &pair.token).await.ok();
    small.run().await;
    small.wait_for_state("in_sync").await;

    // Something to receive that does not fit, and something to send.
    small.cli(&["pause"]).await.ok();
    writer::message(&small.open(), "s", &"here ".repeat(LARGE_BYTES / 5)).unwrap();
    writer::message(&pair.a.open(), "s", &"there ".repeat(LARGE_BYTES / 6)).unwrap();
    pair.a.sync().await;
    disk.fill();
    small.post("/v1/resume").await;

    let status = small
        .wait_until("it says that the disk is full", |status| {
            status["last_error"]["code"] == "disk_full" && status["last_error"]["retry_at"].is_string()
        })
        .await;
    let seen = Seen::of(&small, "blocked").await;
    seen.assert("not safe: 1 change is not in the cloud yet (blocked", "df -h ");
    assert!(
        seen.next().unwrap().1.contains(small.home().to_str().unwrap()),
        "{}",
        seen.text
    );
    let message = status["last_error"]["message"].as_str().unwrap();
    assert!(message.contains(small.home().to_str().unwrap()), "{message}");
    let file = small.open();
    assert_eq!(writer::count(&file, "messages WHERE content LIKE 'there%'"), 0);
    let position = writer::count(&file, "sync_messages WHERE acked_cursor > 0");
    assert_eq!(position, 0, "the position is ahead of the data");
    drop(file);

    disk.make_room();
    small.wait_until("it goes on by itself", is_settled).await;
    let rows = async || writer::count(&pair.b.open(), "messages");
    deadline::until("the other devices have both", rows, |count| *count == 2).await;
    assert_eq!(small.verify().await["equal"], true);
    assert_eq!(pair.server.database.count("context_messages").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deleted_under_the_daemon_asks_for_a_login_that_brings_everything_back() {
    let pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "in the cloud").unwrap();
    pair.converge().await;
    for name in ["context.db", "context.db-wal", "context.db-shm"] {
        let _ = std::fs::remove_file(pair.a.home().join(name));
    }
    let seen = Seen::of(&pair.a, "needs_login").await;
    // Whether the new file has been looked through by now does not matter.
    seen.assert("", &format!(" login --server {}", pair.server.url));
    assert!(
        seen.text.contains("is not the file of the last login"),
        "{}",
        seen.text
    );
    pair.a.login(&pair.server.url, &pair.token).await.ok();
    pair.a.wait_until("in sync", is_settled).await;
    assert_eq!(writer::count(&pair.a.open(), "messages"), 1);
}
