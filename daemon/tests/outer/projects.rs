//! Consent on the command line: what `projects` lists and changes, and what `login` asks before the first upload.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::cli::{Home, account_server, code, stderr, stdout};

/// A home whose file holds two projects and a row of none, as another program wrote it.
fn home() -> (Home, Connection) {
    let home = Home::new();
    let file = Connection::open(home.path().join("context.db")).unwrap();
    file.execute_batch(include_str!("../../../migrations-sqlite/0001_context.sql"))
        .unwrap();
    file.execute_batch(
        r#"INSERT INTO messages (hash, session_id, role, content, timestamp, source_file, agent_context) VALUES
             ('a', 's1', 'user', 'four', '2026-11-01T10:00:00Z', '-c-harbour/s1.jsonl', '{"project":"harbour"}'),
             ('b', 's2', 'user', 'grün', '2026-11-02T10:00:00Z', '-c-harbour/s2.jsonl', '{"project":"harbour"}'),
             ('c', 's3', 'user', 'dark', '2026-11-03T10:00:00Z', '-c-vault/s3.jsonl', '{"project":"vault"}'),
             ('d', NULL, 'user', 'lost', NULL, NULL, NULL);
           INSERT INTO task_tracking (id, task_id, description, session_id) VALUES ('k', '1', 'dig', 's3');"#,
    )
    .unwrap();
    (home, file)
}

fn listed(home: &Home) -> Vec<Value> {
    let output = home.run(&["projects", "list", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Name, whether it is included, pending and kept back.
fn states(home: &Home) -> Vec<(String, bool, u64, u64)> {
    let state = |project: &Value| {
        (
            project["project"].as_str().unwrap().to_owned(),
            project["included"].as_bool().unwrap(),
            project["pending"].as_u64().unwrap(),
            project["excluded"].as_u64().unwrap(),
        )
    };
    listed(home).iter().map(state).collect()
}

#[test]
fn projects_are_listed_with_what_is_in_them_and_the_newest_first() {
    let (home, _file) = home();
    let projects = listed(&home);
    let names: Vec<&str> = projects
        .iter()
        .map(|project| project["project"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["vault", "harbour", "(none)"]);
    let harbour = &projects[1];
    for (field, count) in [
        ("sessions", 2),
        ("messages", 2),
        ("tasks", 0),
        ("bytes", 9),
        ("pending", 2),
        ("sent", 0),
    ] {
        assert_eq!(harbour[field], count, "{field}: {harbour}");
    }
    assert_eq!(harbour["folders"][0], "-c-harbour");
    assert_eq!(projects[0]["tasks"], 1);
    assert_eq!(projects[0]["setting"], "default = \"include\"");
    let text = stdout(&home.run(&["projects", "list"]));
    assert!(
        text.contains("harbour  included") && text.contains("2026-11-02") && text.contains("2 to send"),
        "{text}"
    );
    assert_eq!(
        stdout(&home.run(&["projects"])),
        text,
        "to list is what it does by itself"
    );
    assert!(
        stdout(&Home::new().run(&["projects", "list"])).contains("no project"),
        "an empty home"
    );
}

#[test]
fn a_pattern_moves_projects_and_config_toml_keeps_its_comments_and_its_mode() {
    let (home, _file) = home();
    let config = home.path().join("config.toml");
    std::fs::write(&config, "# mine\n[projects]\nexclude = [\"old\"] # gone\n").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o640)).unwrap();
    let output = home.run(&["projects", "exclude", "vault", "(none)"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stdout(&output).contains("vault: 2 rows, not sent from now on"),
        "{}",
        stdout(&output)
    );
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# mine\n") && text.contains("# gone"), "{text}");
    assert_eq!(
        std::fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let kept = |name: &str, rows| (name.to_owned(), false, 0, rows);
    assert_eq!(
        states(&home),
        [
            kept("vault", 2),
            ("harbour".into(), true, 2, 0),
            kept("(none)", 1)
        ]
    );

    let output = home.run(&["projects", "include", "vault", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["changed"], &told["daemon_running"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    assert_eq!(told["exclude"], serde_json::json!(["old", "(none)"]));
    assert!(states(&home)[0].1);
    let again = home.run(&["projects", "include", "vault"]);
    assert!(stdout(&again).contains("already"), "{}", stdout(&again));
}

#[test]
fn private_by_default_is_one_setting() {
    let (home, _file) = home();
    assert_eq!(
        code(&home.run(&["config", "set", "projects.default", "exclude"])),
        0
    );
    assert!(
        states(&home)
            .iter()
            .all(|(_, included, pending, _)| !included && *pending == 0)
    );
    assert_eq!(code(&home.run(&["projects", "include", "harb*"])), 0);
    assert_eq!(states(&home)[1], ("harbour".into(), true, 2, 0));
}

#[test]
fn a_pattern_that_names_nothing_is_told_with_the_nearest_and_a_bad_one_is_refused() {
    let (home, _file) = home();
    let output = home.run(&["projects", "exclude", "harbor"]);
    assert_eq!(code(&output), 0);
    assert!(
        stderr(&output).contains("did you mean \"harbour\"?"),
        "{}",
        stderr(&output)
    );
    let output = home.run(&["projects", "exclude", "harb["]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("projects.exclude: \"harb[\""),
        "{}",
        stderr(&output)
    );
    assert!(
        !std::fs::read_to_string(home.path().join("config.toml"))
            .unwrap()
            .contains("harb[")
    );
}

/// Logs in with a terminal around it, where this is typed.
fn login_on_a_terminal(home: &Home, server: &str, flags: &str, typed: &str) -> (i32, String) {
    let login = format!(
        "printf token-of-1 | {} login --server {server} --token-stdin --insecure-storage {flags} --home {}",
        env!("CARGO_BIN_EXE_coditect-sync"),
        home.path().display(),
    );
    let mut script = Command::new("script")
        .args(["-qec", &login, "/dev/null"])
        .env_remove("CODITECT_HOME")
        .env_remove("CODITECT_CONTEXT_DB")
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its end is Ctrl-D on the terminal.
    script.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (code(&output), stdout(&output))
}

#[test]
fn before_the_first_upload_login_shows_what_would_leave_and_asks_on_the_terminal() {
    let (home, file) = home();
    let server = account_server();
    assert_eq!(code(&home.run(&["projects", "exclude", "vault"])), 0);
    for refusal in ["n\n", "\n", "what?\n", ""] {
        let (code, text) = login_on_a_terminal(&home, &server, "", refusal);
        assert_eq!(code, 1, "{refusal:?}: {text}");
        assert!(
            text.contains("in all 2 sessions, 3 messages, 0 tasks, 13 B"),
            "{text}"
        );
        let (leaves, stays) = text.split_once("what stays here").unwrap();
        assert!(
            leaves.contains("harbour") && !leaves.contains("vault") && stays.contains("vault"),
            "{text}"
        );
        assert!(
            text.contains("[y/N]") && text.contains("as 1@acme.test?"),
            "{text}"
        );
        assert!(text.contains("projects exclude PATTERN"), "{text}");
        // Neither token, account nor binding; not even tables of ours.
        for name in ["account.json", "credentials.json"] {
            assert!(!home.path().join(name).exists(), "{name}");
        }
        assert!(home.files_with("token-of-1").is_empty());
        let ours: i64 = file
            .query_row(
                "SELECT count(*) FROM sqlite_master WHERE name LIKE 'sync\\_%' ESCAPE '\\'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(ours, 0);
    }
    let (code, text) = login_on_a_terminal(&home, &server, "", "y\n");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("logged in as 1@acme.test"), "{text}");
}

#[test]
fn login_does_not_ask_with_yes_or_without_a_terminal() {
    let server = account_server();
    let (asked, _file) = home();
    let (code_of_yes, text) = login_on_a_terminal(&asked, &server, "--yes", "");
    assert_eq!(code_of_yes, 0, "{text}");
    assert!(!text.contains("[y/N]") && text.contains("harbour"), "{text}");

    let (piped, _file) = home();
    let arguments = [
        "login",
        "--server",
        &server,
        "--token-stdin",
        "--insecure-storage",
        "--json",
    ];
    let output = piped.run_with(&arguments, "token-of-1");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("what would leave this machine"),
        "{}",
        stderr(&output)
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["leaving"]["sent"]["messages"], 4);
    assert_eq!(told["leaving"]["projects"].as_array().unwrap().len(), 3);
}

#[test]
fn with_nothing_here_yet_login_asks_about_what_comes_later_and_counts_the_transcripts_it_will_take_in() {
    let server = account_server();
    let home = Home::new();
    let folder = home.path().join("transcripts/-c-shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("s.jsonl"), "x".repeat(1500)).unwrap();
    let settings = format!(
        "[ingest]\nclaude_projects = true\nclaude_projects_dir = {:?}\n",
        folder.parent().unwrap()
    );
    std::fs::write(home.path().join("config.toml"), settings).unwrap();
    let (code_of_no, text) = login_on_a_terminal(&home, &server, "", "n\n");
    assert_eq!(code_of_no, 1, "{text}");
    for expected in [
        "nothing is here yet",
        "context.db goes to",
        "as 1@acme.test, except what [projects] excludes",
        "1 transcript, 1.5 kB",
        "go on? [y/N]",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!home.path().join("account.json").exists());
    let (code_of_yes, text) = login_on_a_terminal(&home, &server, "", "y\n");
    assert_eq!(code_of_yes, 0, "{text}");

    let arguments = [
        "login",
        "--server",
        &server,
        "--token-stdin",
        "--insecure-storage",
    ];
    let piped = Home::new().run_with(&arguments, "token-of-1");
    assert_eq!(code(&piped), 0, "{}", stderr(&piped));
    assert!(
        stderr(&piped).contains("from now on what is written"),
        "{}",
        stderr(&piped)
    );
}

#[test]
fn why_concludes_in_its_first_line_and_names_what_it_does_not_know() {
    let (home, _file) = home();
    let output = home.run(&["why", "messages", "3"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.starts_with("messages 3: only here: this file was never logged in\n"),
        "{text}"
    );
    assert!(
        text.contains("its project is vault, included by default"),
        "{text}"
    );
    assert_eq!(code(&home.run(&["projects", "exclude", "vault"])), 0);
    let text = stdout(&home.run(&["why", "task", "k"]));
    assert!(
        text.starts_with("task_tracking k: stays here: its project is excluded\n"),
        "{text}"
    );
    assert!(
        text.contains("excluded by exclude: \"vault\"") && text.contains("projects include vault"),
        "{text}"
    );
    let told: Value = serde_json::from_slice(&home.run(&["why", "messages", "3", "--json"]).stdout).unwrap();
    assert_eq!(
        (&told["conclusion"], &told["facts"]["exists"]),
        (&"excluded".into(), &true.into())
    );

    for (arguments, expected) in [
        (&["why", "messages", "99"][..], "no row 99 is in messages"),
        (&["why", "message", "x"], "no id of a message"),
        (&["why", "sync_queue", "1"], "task_messages TASK MESSAGE"),
    ] {
        let output = home.run(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(code(&home.run(&["why", "messages", "1", "2"])), 2);
    assert_eq!(code(&Home::new().run(&["why", "messages", "1"])), 1);
}

#[test]
fn what_only_this_shell_says_is_refused_for_the_service_and_told_by_login() {
    let (home, _file) = home();
    let only_here = [
        "--set",
        "projects.default=exclude",
        "--set",
        "redaction.enabled=false",
    ];
    let install = |flags: &[&str]| {
        let mut arguments = flags.to_vec();
        arguments.extend(["service", "install", "--no-start"]);
        home.run(&arguments)
    };
    let refused = install(&only_here);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    for command in [
        "config set projects.default exclude",
        "config set redaction.enabled false",
    ] {
        assert!(stderr(&refused).contains(command), "{}", stderr(&refused));
    }
    let server = account_server();
    let flags = ["--set", "projects.exclude=vault"];
    let login = [
        "login",
        "--server",
        &server,
        "--token-stdin",
        "--insecure-storage",
    ];
    let output = home.run_with(&[&flags[..], &login[..]].concat(), "token-of-1");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("which the daemon may not have")
            && stderr(&output).contains("config set projects.exclude"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_list_that_config_set_replaces_is_told_with_what_it_has_lost() {
    let (home, _file) = home();
    assert_eq!(code(&home.run(&["projects", "exclude", "vault", "harbour"])), 0);
    let output = home.run(&["config", "set", "projects.exclude", "harbour,new"]);
    assert_eq!(code(&output), 0);
    assert!(
        stderr(&output).contains("no longer in projects.exclude: \"vault\"\n"),
        "{}",
        stderr(&output)
    );
    let output = home.run(&["config", "set", "projects.exclude", "harbour,new,more"]);
    assert_eq!(stderr(&output), "");
}
