//! Whole ingests: real files into a real context.db.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Follower, Options, Report, Told, ingest};

/// How long a test waits for what must happen; far beyond what it takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of transcripts and a context.db.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("projects/-p")).unwrap();
        Home { folder }
    }

    fn db_path(&self) -> PathBuf {
        self.folder.path().join("context.db")
    }

    fn db(&self) -> Connection {
        Connection::open(self.db_path()).unwrap()
    }

    fn projects(&self) -> PathBuf {
        self.folder.path().join("projects")
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.projects().join("-p").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn ingest(&self) -> Report {
        self.ingest_from(&self.projects())
    }

    fn ingest_from(&self, path: &Path) -> Report {
        ingest(Options {
            context_db: &self.db_path(),
            paths: &[path.to_owned()],
            progress: &mut |_| {},
        })
        .unwrap()
    }

    /// All rows, but for what must differ: row ids and the time of the ingest.
    fn rows(&self) -> Vec<String> {
        let sql = [
            "SELECT hash, session_id, role, content, source_type, source_file, checkpoint, timestamp, content_length,
                    has_code, has_markdown, agent_context FROM messages",
            "SELECT * FROM task_tracking",
            "SELECT l.task_id, m.hash, l.sequence FROM task_messages l JOIN messages m ON m.id = l.message_id",
        ];
        let db = self.db();
        let mut rows = Vec::new();
        for sql in sql {
            let mut statement = db.prepare(sql).unwrap();
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                let cells: Vec<Cell> = (0..columns).map(|column| row.get(column).unwrap()).collect();
                Ok(format!("{cells:?}"))
            };
            rows.extend(statement.query_map([], row).unwrap().map(Result::unwrap));
        }
        rows.sort();
        rows
    }

    fn texts(&self) -> Vec<String> {
        let db = self.db();
        let mut statement = db.prepare("SELECT content FROM messages ORDER BY id").unwrap();
        let texts = statement.query_map([], |row| row.get(0)).unwrap();
        texts.map(Result::unwrap).collect()
    }

    fn count(&self, sql: &str) -> i64 {
        self.db().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/sample")
}

fn said(session: &str, content: impl Into<Value>) -> Value {
    json!({"type": "user", "sessionId": session, "timestamp": "2026-11-03T08:00:00.000Z", "cwd": "/home/ada/code/shop",
           "message": {"role": "user", "content": content.into()}})
}

fn todo_call(call: &str, minute: u32, items: &[(&str, &str)]) -> Value {
    let todos: Vec<Value> = items
        .iter()
        .map(|(text, status)| json!({"content": text, "status": status}))
        .collect();
    json!({"type": "assistant", "sessionId": "s", "timestamp": format!("2026-11-03T08:{minute:02}:00.000Z"),
           "message": {"role": "assistant", "content": [
               {"type": "tool_use", "id": call, "name": "TodoWrite", "input": {"todos": todos}}]}})
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn the_sample_gives_its_messages_tasks_and_links_and_reports_its_damage() {
    let home = Home::new();
    let report = home.ingest_from(&sample());
    assert_eq!(
        (report.files, report.sessions, report.messages.inserted),
        (4, 3, 79)
    );
    assert_eq!((report.tasks.inserted, report.links.inserted), (7, 51));
    let reasons: Vec<&str> = report.damaged.iter().map(|part| part.reason).collect();
    assert_eq!(reasons, ["NUL bytes", "no JSON", "cut off"]);
    assert_eq!(
        home.count("SELECT count(DISTINCT project_id) FROM task_tracking"),
        1
    );
    assert_eq!(
        home.count(
            r#"SELECT count(*) FROM messages WHERE agent_context LIKE '{"agent":"a4f19c03",%"project":"%'"#
        ),
        5
    );
}

#[test]
fn a_second_ingest_writes_nothing_at_all() {
    let home = Home::new();
    assert!(home.ingest_from(&sample()).wrote());
    let watcher = home.db();
    let version =
        |db: &Connection| -> i64 { db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let (before, bytes) = (version(&watcher), fs::read(home.db_path()).unwrap());
    let report = home.ingest_from(&sample());
    assert!(!report.wrote());
    assert_eq!((report.messages.seen, report.links.seen), (79, 51));
    assert_eq!(version(&watcher), before);
    assert_eq!(fs::read(home.db_path()).unwrap(), bytes);
}

#[test]
fn the_same_transcripts_give_the_same_rows_on_another_machine() {
    let (here, there) = (Home::new(), Home::new());
    here.ingest_from(&sample());
    copy_folder(&sample(), &there.projects());
    there.ingest();
    assert_eq!(here.rows(), there.rows());
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_file_ingested_half_and_later_grown_gives_the_rows_of_one_ingested_at_once() {
    for name in [
        "-home-ada-code-harbour/5b1f0c2e-7a44-4d0b-9a55-1f6f4b3f0a01.jsonl",
        "-home-ada-code-lighthouse/e07d5b61-52c4-4e0a-b1cd-6a8e2f4c9d03.jsonl",
    ] {
        let whole = fs::read(sample().join(name)).unwrap();
        let at_once = Home::new();
        at_once.write("s.jsonl", &whole);
        at_once.ingest();
        for cut in (1..whole.len()).step_by(whole.len() / 9) {
            let grown = Home::new();
            let path = grown.write("s.jsonl", &whole[..cut]);
            let mut follower = Follower::open(&grown.db_path(), vec![grown.projects()]).unwrap();
            follower.catch_up(&mut |_| {}).unwrap();
            fs::write(&path, &whole).unwrap();
            follower.catch_up(&mut |_| {}).unwrap();
            assert_eq!(grown.rows(), at_once.rows(), "followed, cut at {cut} of {name}");

            let again = Home::new();
            again.write("s.jsonl", &whole[..cut]);
            again.ingest();
            again.write("s.jsonl", &whole);
            again.ingest();
            assert_eq!(
                again.rows(),
                at_once.rows(),
                "ingested twice, cut at {cut} of {name}"
            );
        }
    }
}

#[test]
fn a_half_written_last_line_waits_for_its_end() {
    let home = Home::new();
    let text = lines(&[said("s", "one"), said("s", "two")]);
    let path = home.write("s.jsonl", &text[..text.len() - 9]);
    assert_eq!(home.ingest().damaged[0].reason, "unfinished last record");
    let mut follower = Follower::open(&home.db_path(), vec![path.clone()]).unwrap();
    let report = follower.catch_up(&mut |_| {}).unwrap();
    assert_eq!((report.messages.seen, report.damaged_total), (1, 0));
    fs::write(&path, &text).unwrap();
    assert_eq!(follower.catch_up(&mut |_| {}).unwrap().messages.inserted, 1);
    assert_eq!(follower.catch_up(&mut |_| {}).unwrap().files, 0);
    assert_eq!(home.texts(), ["one", "two"]);
}

#[test]
fn following_reads_what_is_appended_and_ends_when_told() {
    let home = Home::new();
    let path = home.write("s.jsonl", lines(&[said("s", "one")]));
    let mut follower = Follower::open(&home.db_path(), vec![home.projects()]).unwrap();
    let stopper = follower.stopper();
    let (round, rounds) = channel();
    std::thread::scope(|scope| {
        let following = scope.spawn(|| {
            follower.follow(&mut |told| {
                if let Told::Round(report) = told {
                    round.send(report.messages.inserted).unwrap();
                }
            });
        });
        assert_eq!(rounds.recv_timeout(PATIENCE), Ok(1));
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(lines(&[said("s", "two"), said("s", "three")]).as_bytes())
            .unwrap();
        assert_eq!(rounds.recv_timeout(PATIENCE), Ok(2));
        stopper.stop();
        following.join().unwrap();
    });
    assert_eq!(home.texts(), ["one", "two", "three"]);
}

#[test]
fn a_file_that_became_shorter_or_another_is_read_from_its_beginning_and_a_deleted_one_keeps_its_rows() {
    let home = Home::new();
    let path = home.write("s.jsonl", lines(&[said("s", "one"), said("s", "two")]));
    let mut follower = Follower::open(&home.db_path(), vec![home.projects()]).unwrap();
    follower.catch_up(&mut |_| {}).unwrap();
    let mut again = || follower.catch_up(&mut |_| {}).unwrap();

    fs::write(&path, lines(&[said("s", "three")])).unwrap();
    let shorter = again();
    assert_eq!((shorter.restarted, shorter.messages.inserted), (1, 1));

    let beside = home.write("beside.txt", lines(&[said("s", "three"), said("s", "four")]));
    fs::rename(&beside, &path).unwrap();
    let replaced = again();
    assert_eq!((replaced.restarted, replaced.messages.inserted), (1, 1));

    fs::write(
        &path,
        lines(&[said("s", "five"), said("s", "a longer one"), said("s", "six")]),
    )
    .unwrap();
    let rewritten = again();
    assert_eq!((rewritten.restarted, rewritten.messages.inserted), (1, 3));

    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(lines(&[said("s", "seven")]).as_bytes()).unwrap();
    assert_eq!((again().restarted, again().files), (0, 0));

    fs::remove_file(&path).unwrap();
    let gone = again();
    assert_eq!((gone.vanished, gone.messages.seen), (1, 0));
    assert_eq!(
        home.texts(),
        [
            "one",
            "two",
            "three",
            "four",
            "five",
            "a longer one",
            "six",
            "seven"
        ]
    );
}

#[test]
fn a_stop_is_seen_in_the_middle_of_a_file_and_reading_it_later_doubles_nothing() {
    let home = Home::new();
    let many: Vec<_> = (0..3_000).map(|n| said("s", format!("line {n}"))).collect();
    home.write("s.jsonl", lines(&many));
    let mut follower = Follower::in_background(&home.db_path(), vec![home.projects()]);
    let stopper = follower.stopper();
    follower.follow(&mut |told| {
        if matches!(told, Told::Progress(progress) if progress.bytes_done > 0) {
            stopper.stop();
        }
    });
    let report = home.ingest();
    assert!(report.messages.inserted > 0, "it stopped in the middle");
    assert_eq!(home.texts().len(), 3_000);
}

#[test]
fn a_database_that_cannot_be_written_is_told_and_tried_again_and_ends_nothing() {
    let home = Home::new();
    home.write("s.jsonl", lines(&[said("s", "one")]));
    // A folder stands where the file is to be.
    fs::create_dir(home.db_path()).unwrap();
    let mut follower = Follower::in_background(&home.db_path(), vec![home.projects()]);
    let stopper = follower.stopper();
    let mut troubles = 0;
    follower.follow(&mut |told| match told {
        Told::Trouble(_) => {
            troubles += 1;
            fs::remove_dir(home.db_path()).unwrap();
        }
        Told::Round(_) => stopper.stop(),
        Told::Progress(_) | Told::Found { .. } | Told::Watching { .. } => {}
    });
    assert_eq!(troubles, 1);
    assert_eq!(home.texts(), ["one"]);
}

#[test]
fn folders_that_come_and_go_are_noticed() {
    let home = Home::new();
    fs::remove_dir_all(home.projects()).unwrap();
    let mut follower = Follower::in_background(&home.db_path(), vec![home.projects()]);
    let stopper = follower.stopper();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let following = scope.spawn(|| {
            follower.follow(&mut |what| match what {
                Told::Round(report) => tell.send((report.messages.inserted, report.vanished)).unwrap(),
                Told::Watching { absent: true, .. } => tell.send((0, 0)).unwrap(),
                Told::Watching { .. } | Told::Progress(_) | Told::Found { .. } | Told::Trouble(_) => {}
            });
        });
        let until = |expected: (u64, u64)| while told.recv_timeout(PATIENCE).unwrap() != expected {};
        // The folder of all projects is not there yet.
        until((0, 0));
        home.write("s.jsonl", lines(&[said("s", "one")]));
        until((1, 0));
        home.write("a/b/subagents/agent-c.jsonl", lines(&[said("s", "two")]));
        until((1, 0));
        // Gone with all that is in it, and made anew.
        fs::remove_dir_all(home.projects()).unwrap();
        until((0, 0));
        home.write(
            "a/b/subagents/agent-d.jsonl",
            lines(&[said("s", "three"), said("s", "four")]),
        );
        until((2, 0));
        stopper.stop();
        following.join().unwrap();
    });
}

#[test]
fn repetitions_are_kept_and_numbered_in_the_hash() {
    let home = Home::new();
    let records = ["yes", "no", "yes", "yes"].map(|text| said("s", text));
    home.write("s.jsonl", lines(&records));
    home.ingest();
    assert_eq!(home.texts(), ["yes", "no", "yes", "yes"]);
    let numbered = |n| home.count(&format!("SELECT count(*) FROM messages WHERE hash LIKE '%:{n}'"));
    assert_eq!([numbered(1), numbered(2), numbered(3)], [1, 1, 0]);
}

#[test]
fn a_fork_stays_a_session_of_its_own_and_a_copy_of_a_file_adds_nothing() {
    let home = Home::new();
    home.write("a.jsonl", lines(&[said("a", "yes"), said("a", "yes")]));
    home.write("b.jsonl", lines(&[said("b", "yes"), said("b", "yes")]));
    home.write("copy of a.jsonl", lines(&[said("a", "yes"), said("a", "yes")]));
    home.ingest();
    assert_eq!(
        home.count("SELECT count(*) FROM messages WHERE session_id = 'a'"),
        2
    );
    assert_eq!(
        home.count("SELECT count(*) FROM messages WHERE session_id = 'b'"),
        2
    );
}

#[test]
fn a_shorter_copy_of_a_transcript_does_not_undo_its_tasks() {
    let home = Home::new();
    let records = [
        todo_call("c1", 1, &[("build", "in_progress")]),
        said("s", "go on"),
        todo_call("c2", 2, &[("build", "completed")]),
    ];
    home.write("s.jsonl", lines(&records));
    home.write("z.jsonl", lines(&records[..2]));
    home.ingest();
    assert_eq!(
        home.count("SELECT count(*) FROM task_tracking WHERE status = 'completed'"),
        1
    );
    assert!(!home.ingest().wrote());
}

#[test]
fn a_task_that_another_device_knows_in_a_later_version_is_left_alone() {
    let home = Home::new();
    home.write(
        "s.jsonl",
        lines(&[todo_call("c1", 1, &[("build", "in_progress")])]),
    );
    home.ingest();
    home.db()
        .execute(
            "UPDATE task_tracking SET status = 'completed', updated_at = '2027-01-01T00:00:00Z'",
            [],
        )
        .unwrap();
    assert!(!home.ingest().wrote());
}

#[test]
fn what_cannot_be_stored_is_replaced_and_bytes_that_are_no_text_are_reported() {
    let home = Home::new();
    let mut bytes =
        br#"{"type":"user","sessionId":"s","message":{"content":"nul \u0000 lone \ud800 bad "#.to_vec();
    bytes.extend(b"\xff end\"}}\n");
    home.write("s.jsonl", bytes);
    let report = home.ingest();
    assert_eq!(home.texts(), ["nul \u{2400} lone \u{FFFD} bad \u{FFFD} end"]);
    assert_eq!(report.damaged[0].reason, "no UTF-8");
}

#[test]
fn long_lines_are_kept_up_to_the_limit_and_beyond_it_reported() {
    let home = Home::new();
    let mut text = lines(&[said("s", "x".repeat(1 << 20)), said("s", "y".repeat(17 << 20))]);
    text.push_str(&lines(&[said("s", "after")]));
    home.write("s.jsonl", text);
    let report = home.ingest();
    assert_eq!(
        home.texts().iter().map(String::len).collect::<Vec<_>>(),
        [1 << 20, 5]
    );
    assert_eq!(
        (report.damaged_total, report.damaged[0].reason),
        (1, "longer than 16 MiB")
    );
    assert!(report.damaged[0].bytes > 17 << 20);
}

#[test]
fn empty_files_and_values_that_are_no_records_are_no_damage() {
    let home = Home::new();
    home.write("empty.jsonl", "");
    home.write(
        "odd.jsonl",
        "42\n\"text\"\n[1]\n\n  \n{\"silly\":\"this\"}\n{\"type\":\"user\",\"message\":null}\n",
    );
    let report = home.ingest();
    assert_eq!(
        (report.files, report.damaged_total, report.messages.seen),
        (2, 0, 0)
    );
    assert_eq!(report.skipped_record_kinds["(no object)"], 3);
}

#[test]
fn a_table_that_another_program_made_is_written_as_far_as_it_goes() {
    for hash in ["", "hash TEXT,", "hash TEXT UNIQUE,"] {
        let home = Home::new();
        let sql = format!(
            "CREATE TABLE messages (nr INTEGER PRIMARY KEY, {hash} session_id TEXT, role TEXT NOT NULL,
             content TEXT NOT NULL, stars INTEGER NOT NULL DEFAULT 0);"
        );
        home.db().execute_batch(&sql).unwrap();
        let records = [
            said("s", "yes"),
            said("t", "yes"),
            said("s", "yes"),
            todo_call("c", 1, &[("build", "in_progress")]),
        ];
        home.write("s.jsonl", lines(&records));
        let report = home.ingest();
        assert_eq!(
            (report.messages.inserted, report.links.inserted),
            (4, 1),
            "{hash}"
        );
        assert!(!home.ingest().wrote(), "{hash}");
        assert_eq!(
            home.count("SELECT count(*) FROM messages WHERE content = 'yes'"),
            3,
            "{hash}"
        );
    }
}

#[test]
fn where_nothing_finds_a_hash_a_text_that_another_program_stored_is_recognised() {
    let home = Home::new();
    let sql = "CREATE TABLE messages (nr INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
               INSERT INTO messages (session_id, role, content) VALUES ('s', 'user', 'yes');";
    home.db().execute_batch(sql).unwrap();
    home.write("s.jsonl", lines(&[said("s", "yes"), said("s", "yes")]));
    assert_eq!(home.ingest().messages.inserted, 1);
}

#[test]
fn a_file_that_lacks_what_ingest_needs_is_refused_with_the_reason() {
    let home = Home::new();
    home.db()
        .execute_batch("CREATE TABLE messages (id INTEGER PRIMARY KEY, text TEXT)")
        .unwrap();
    let error = Follower::open(&home.db_path(), Vec::new()).err().unwrap();
    assert!(
        format!("{error:#}").contains("has no column session_id"),
        "{error:#}"
    );
}

#[test]
fn the_progress_ends_at_all_files_and_bytes() {
    let home = Home::new();
    let mut last = super::Progress::default();
    ingest(Options {
        context_db: &home.db_path(),
        paths: &[sample()],
        progress: &mut |progress| last = progress,
    })
    .unwrap();
    assert_eq!((last.files_done, last.files_total), (4, 4));
    assert_eq!(last.bytes_done, last.bytes_total);
}
