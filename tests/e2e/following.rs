//! The daemon follows transcripts itself: each line becomes a row here and in the cloud, whatever becomes of the files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::{PATIENCE, until};
use coditect_tests::server::TestServer;
use coditect_tests::writer::count;
use serde_json::{Value, json};

use crate::pair::server;

/// A workstation whose daemon runs, logged in, and the folder that it follows or is to follow.
struct Desk {
    server: TestServer,
    a: Workstation,
}

impl Desk {
    async fn new() -> Desk {
        let (server, token) = server().await;
        let a = Workstation::start(&server.url, &token).await;
        Desk { server, a }
    }

    /// One that follows.
    async fn following() -> Desk {
        let desk = Desk::new().await;
        fs::create_dir(desk.projects()).unwrap();
        desk.follow(true).await;
        desk
    }

    fn projects(&self) -> PathBuf {
        self.a.home().join("projects")
    }

    /// By editing config.toml while the daemon runs.
    async fn follow(&self, on: bool) {
        let folder = self.projects();
        let text = format!(
            "[ingest]\nclaude_projects = {on}\nclaude_projects_dir = {:?}\n",
            folder
        );
        fs::write(self.a.home().join("config.toml"), text).unwrap();
        self.a
            .wait_until("the daemon has taken it up", |status| {
                status["ingest"]["following"] == on
            })
            .await;
    }

    fn append(&self, file: &str, text: &str) {
        append(&self.projects().join(file), text);
    }

    fn here(&self) -> i64 {
        count(&self.a.open(), "messages")
    }

    async fn until_here(&self, what: &str, rows: i64) {
        until(what, async || self.here(), |here| *here == rows).await;
    }

    /// Here, and in PostgreSQL.
    async fn until_everywhere(&self, what: &str, rows: i64) {
        self.until_here(what, rows).await;
        let cloud = async || self.server.database.count("context_messages").await;
        until(what, cloud, |cloud| *cloud == rows).await;
    }

    async fn until_status(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        self.a.wait_until(what, |status| good(&status["ingest"])).await["ingest"].clone()
    }
}

fn append(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn line(session: &str, content: &str) -> String {
    let record = json!({"type": "user", "sessionId": session, "timestamp": "2026-11-24T08:00:00.000Z",
                        "cwd": "/home/ada/code/shop", "message": {"role": "user", "content": content}});
    format!("{record}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_growing_files_new_files_new_folders_and_subagents_become_rows_here_and_in_the_cloud() {
    let desk = Desk::following().await;
    desk.append("-shop/s1.jsonl", &line("s1", "a new folder with a file"));
    desk.until_everywhere("a new folder", 1).await;
    desk.append("-shop/s1.jsonl", &line("s1", "a line more"));
    desk.until_everywhere("a line more", 2).await;
    desk.append("-shop/s2.jsonl", &line("s2", "a new file"));
    desk.until_everywhere("a new file", 3).await;
    desk.append(
        "-shop/s1/subagents/agent-a1.jsonl",
        &line("s1", "a subagent's file"),
    );
    desk.until_everywhere("a subagent's file", 4).await;
    desk.append(
        "-shop/s1/subagents/agent-a1.jsonl",
        &line("s1", "a subagent's next line"),
    );
    desk.until_everywhere("a subagent's next line", 5).await;
    let status = desk
        .until_status("the files are counted", |ingest| ingest["files"] == 3)
        .await;
    assert!(
        status["last_line_at"].is_string() && status["error"].is_null(),
        "{status:#}"
    );
    assert_eq!(status["messages"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_line_waits_for_its_end() {
    let desk = Desk::following().await;
    let whole = line("s", "written in two halves");
    let (begin, end) = whole.split_at(whole.len() / 2);
    desk.append("-p/s.jsonl", &format!("{}{begin}", line("s", "before it")));
    desk.until_everywhere("the whole line before it", 1).await;
    desk.append("-p/s.jsonl", end);
    desk.until_everywhere("the line that was half", 2).await;
    let file = desk.a.open();
    assert_eq!(
        count(&file, "messages WHERE content = 'written in two halves'"),
        1
    );
    assert_eq!(desk.until_status("it is no damage", |_| true).await["damaged"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrinks_is_replaced_or_vanishes_takes_no_row_with_it() {
    let desk = Desk::following().await;
    let path = desk.projects().join("-p/s.jsonl");
    append(&path, &format!("{}{}", line("s", "one"), line("s", "two")));
    desk.until_everywhere("two lines", 2).await;

    fs::write(&path, line("s", "three")).unwrap();
    desk.until_everywhere("a shorter file in its place", 3).await;

    let beside = desk.a.home().join("beside");
    append(&beside, &format!("{}{}", line("s", "three"), line("s", "four")));
    fs::rename(&beside, &path).unwrap();
    desk.until_everywhere("another file in its place", 4).await;
    desk.until_status("both are told", |ingest| ingest["restarted"] == 2)
        .await;

    fs::remove_file(&path).unwrap();
    desk.until_status("that it is gone is told", |ingest| {
        ingest["vanished"] == 1 && ingest["files"] == 0
    })
    .await;
    desk.a.sync().await;
    assert_eq!(desk.here(), 4);
    assert_eq!(desk.server.database.count("context_messages").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_is_turned_on_and_off_while_the_daemon_runs_and_a_folder_that_comes_later_is_waited_for() {
    let desk = Desk::new().await;
    desk.follow(true).await;
    desk.until_status("it says that there is no folder", |ingest| {
        ingest["note"]
            .as_str()
            .is_some_and(|note| note.contains("does not exist yet"))
    })
    .await;
    desk.append("-p/s.jsonl", &line("s", "one"));
    desk.until_everywhere("the folder that came", 1).await;
    desk.until_status("the note goes", |ingest| ingest["note"].is_null())
        .await;

    desk.follow(false).await;
    desk.append("-p/s.jsonl", &line("s", "written while it does not follow"));
    // Another writer's row comes after it, and is alone.
    coditect_tests::writer::message(&desk.a.open(), "t", "of another program").unwrap();
    desk.a.sync().await;
    assert_eq!(desk.here(), 2);

    desk.follow(true).await;
    desk.until_everywhere("what was written meanwhile", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_file_it_reads_on_after_the_next_start_and_doubles_nothing() {
    const LINES: i64 = 20_000;
    let mut desk = Desk::new().await;
    let text: String = (0..LINES).map(|n| line("s", &format!("line {n}"))).collect();
    desk.append("-p/s.jsonl", &text);
    desk.follow(true).await;
    for least in [1, 1_000] {
        until("it is in the middle", async || desk.here(), |here| *here >= least).await;
        desk.a.kill().await;
        desk.a.run().await;
    }
    let left = desk.a.terminate(PATIENCE).await;
    assert!(left.success(), "SIGTERM in the middle: {left:?}");
    assert!(desk.here() < LINES, "it was in the middle");
    desk.a.run().await;
    desk.until_here("all lines", LINES).await;
    desk.a.sync().await;
    assert_eq!(desk.server.database.count("context_messages").await, LINES);
    assert_eq!(
        count(&desk.a.open(), "(SELECT DISTINCT content FROM messages)"),
        LINES
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_locked_by_another_program_for_long_is_told_and_ends_nothing() {
    let desk = Desk::following().await;
    let owner = desk.a.open();
    owner.execute_batch("BEGIN IMMEDIATE").unwrap();
    desk.append("-p/s.jsonl", &line("s", "while it is locked"));
    let status = desk
        .until_status("the trouble is told", |ingest| ingest["error"].is_string())
        .await;
    assert_eq!(status["following"], true);
    owner.execute_batch("COMMIT").unwrap();
    desk.until_everywhere("the line", 1).await;
    desk.until_status("the trouble is over", |ingest| ingest["error"].is_null())
        .await;
}
