//! `sessions`, `tasks` and `show`, on a file that no daemon has ever seen.

use rusqlite::Connection;
use serde_json::Value;

use crate::cli::{Home, code, stderr, stdout};

/// A home with two sessions whose ids begin alike; in one of them a task, and a text that would steer a terminal.
fn home() -> (Home, Connection) {
    let home = Home::new();
    let file = Connection::open(home.path().join("context.db")).unwrap();
    let owners_tables = include_str!("../../../migrations-sqlite/0001_context.sql");
    file.execute_batch(owners_tables).unwrap();
    let said = [
        (
            "0a1b2c3d-1111",
            "user",
            "user",
            "2026-11-01T10:00:00Z",
            "Build the harbour\nin stone",
        ),
        (
            "0a1b2c3d-1111",
            "assistant",
            "thinking",
            "2026-11-01T10:00:01Z",
            "stone it is",
        ),
        (
            "0a1b2c3d-1111",
            "assistant",
            "tool_use",
            "2026-11-01T10:00:02Z",
            "Bash\ncommand: ls",
        ),
        (
            "0a1b2c3d-1111",
            "tool",
            "tool_result",
            "2026-11-01T10:00:03Z",
            "1\n2\n3\n4\n5\n6\nlast",
        ),
        (
            "0a1b2c3d-1111",
            "assistant",
            "assistant",
            "2026-11-01T10:00:04Z",
            "\x1b[2Jdone",
        ),
        (
            "0a1b2c3d-2222",
            "user",
            "user",
            "2026-11-20T10:00:00Z",
            "Light the lighthouse",
        ),
    ];
    for (n, (session, role, kind, at, content)) in said.into_iter().enumerate() {
        file.execute(
            "INSERT INTO messages (hash, session_id, role, source_type, timestamp, content, source_file)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, '-home-ada-harbour/x.jsonl')",
            rusqlite::params![n.to_string(), session, role, kind, at, content],
        )
        .unwrap();
    }
    file.execute(
        "INSERT INTO task_tracking (id, task_id, description, session_id, project_id, status, outcome)
         VALUES ('11111111-1111-4111-8111-111111111111', '1', 'Quarry it', '0a1b2c3d-1111', 'acme/harbour',
                 'completed', 'success')",
        [],
    )
    .unwrap();
    file.execute(
        "INSERT INTO task_messages VALUES ('11111111-1111-4111-8111-111111111111', 3, 1)",
        [],
    )
    .unwrap();
    (home, file)
}

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.run(&[args, &["--json"]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ids(home: &Home, args: &[&str]) -> Vec<String> {
    let list = json(home, &[&["sessions"], args].concat());
    let sessions = list.as_array().unwrap().iter();
    sessions
        .map(|session| session["session_id"].as_str().unwrap()[9..].to_owned())
        .collect()
}

#[test]
fn sessions_are_listed_newest_first_with_what_they_are_about() {
    let (home, _file) = home();
    assert_eq!(ids(&home, &[]), ["2222", "1111"]);
    let list = json(&home, &["sessions"]);
    let older = &list[1];
    assert_eq!(older["title"], "Build the harbour");
    assert_eq!(older["messages"], 5);
    assert_eq!(older["project"], "acme/harbour");
    assert_eq!(older["tasks"]["completed"], 1);
    assert_eq!(older["first_at"], "2026-11-01T10:00:00Z");
    assert_eq!(older["devices"][0]["here"], true);
    assert_eq!(older["sync"]["state"], "local");
    let text = stdout(&home.run(&["sessions"]));
    assert!(
        text.contains("0a1b2c3d-1111") && text.contains("Light the lighthouse"),
        "{text}"
    );
}

#[test]
fn sessions_are_filtered_by_project_time_state_and_device() {
    let (home, _file) = home();
    assert_eq!(ids(&home, &["--project", "acme/*"]), ["1111"]);
    assert_eq!(ids(&home, &["--project", "-home-ada-*"]), ["2222", "1111"]);
    assert_eq!(ids(&home, &["--since", "2026-11-10"]), ["2222"]);
    assert_eq!(ids(&home, &["--status", "waiting"]), [""; 0]);
    assert_eq!(ids(&home, &["--device", "here", "--limit", "1"]), ["2222"]);
    assert_eq!(ids(&home, &["--device", "elsewhere"]), [""; 0]);
    for (args, expected) in [
        (&["sessions", "--since", "soon"][..], "2026-11-01"),
        (&["sessions", "--status", "done"], "excluded"),
        (&["sessions", "--project", "a{"], "glob"),
        (&["tasks", "--status", "done"], "in_progress"),
    ] {
        let output = home.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn tasks_are_listed_with_status_and_outcome() {
    let (home, _file) = home();
    let tasks = json(&home, &["tasks", "0a1b2c3d-1", "--status", "completed"]);
    assert_eq!(tasks[0]["description"], "Quarry it");
    assert_eq!(tasks[0]["outcome"], "success");
    assert_eq!(tasks[0]["project"], "acme/harbour");
    assert_eq!(
        json(&home, &["tasks", "--status", "pending"]),
        serde_json::json!([])
    );
    let text = stdout(&home.run(&["tasks"]));
    assert!(text.contains("completed") && text.contains("Quarry it"), "{text}");
}

#[test]
fn a_session_is_shown_in_order_with_its_tasks_and_cannot_steer_the_terminal() {
    let (home, _file) = home();
    let text = stdout(&home.run(&["show", "0a1b2c3d-1"]));
    let order = [
        "in stone",
        "stone it is",
        "Quarry it",
        "> Bash",
        "… 4 more lines",
        "␛[2Jdone",
    ];
    let places: Vec<usize> = order
        .iter()
        .map(|part| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part:?} is missing in\n{text}"))
        })
        .collect();
    assert!(places.is_sorted(), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert!(stdout(&home.run(&["show", "0a1b2c3d-1", "--full"])).contains("\n    last\n"));

    let shown = json(&home, &["show", "0a1b2c3d-1"]);
    assert_eq!(shown["messages"][4]["content"], "\x1b[2Jdone", "as it is");
    assert_eq!(shown["tasks"][0]["description"], "Quarry it");
    assert_eq!(shown["session"]["session_id"], "0a1b2c3d-1111");
    assert_eq!(
        json(&home, &["show", "--last"])["session"]["session_id"],
        "0a1b2c3d-2222"
    );
}

#[test]
fn an_id_that_is_not_enough_names_the_candidates_and_one_that_is_none_is_said() {
    let (home, _file) = home();
    let output = home.run(&["show", "0a1b"]);
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(
        said.contains("0a1b2c3d-1111") && said.contains("0a1b2c3d-2222"),
        "{said}"
    );
    let output = home.run(&["show", "ffff"]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("sessions` lists them"),
        "{}",
        stderr(&output)
    );
    assert_eq!(code(&home.run(&["show"])), 2);
}

#[test]
fn without_a_file_there_is_nothing_to_list_and_none_is_made() {
    let home = Home::new();
    assert_eq!(json(&home, &["sessions"]), serde_json::json!([]));
    assert!(stdout(&home.run(&["sessions"])).contains("ingest ~/.claude/projects"));
    assert_eq!(code(&home.run(&["show", "--last"])), 1);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn p9_a_transcript_that_somebody_goes_on_reading_keeps_no_journal_from_shrinking() {
    let (home, file) = home();
    file.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .unwrap();
    let browser = coditect_sync::browse::Browser::open(&home.path().join("context.db"))
        .unwrap()
        .unwrap();
    let chunk = browser.messages_after("0a1b2c3d-1111", 0).unwrap();
    assert_eq!(chunk.messages.len(), 5);
    file.execute("DELETE FROM task_messages", []).unwrap();
    let busy: bool = file
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert!(!busy, "the reader still holds its snapshot");
}
