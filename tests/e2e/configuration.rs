//! Settings: what holds and why, what is refused, and what a running daemon takes up.

use std::fs;

use coditect_tests::daemon::Workstation;
use coditect_tests::program::output;
use rustix::process::Signal;
use serde_json::Value;

fn write(workstation: &Workstation, text: &str) {
    // As editors do it: beside it, and renamed into place.
    let beside = workstation.home().join("config.toml~");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, workstation.home().join("config.toml")).unwrap();
}

async fn show(workstation: &Workstation, variables: &[(&str, &str)], options: &[&str], key: &str) -> Value {
    let mut command = workstation.command();
    command
        .envs(variables.iter().copied())
        .args(options)
        .args(["config", "show", "--json"]);
    let shown = output(&mut command, "").await.json();
    let settings = shown["settings"].as_array().unwrap();
    settings
        .iter()
        .find(|setting| setting["key"] == key)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn what_holds_is_shown_with_where_it_comes_from() {
    let a = Workstation::new();
    let shown = show(&a, &[], &[], "log.level").await;
    assert_eq!(
        (&shown["value"], &shown["source"]),
        (&"info".into(), &"default".into())
    );
    write(&a, "[log]\nlevel = \"warn\"");
    let shown = show(&a, &[], &[], "log.level").await;
    assert_eq!(
        (&shown["value"], &shown["source"]),
        (&"warn".into(), &"file".into())
    );
    let variables = [("CODITECT_LOG_LEVEL", "error")];
    let shown = show(&a, &variables, &[], "log.level").await;
    assert_eq!(
        (&shown["value"], &shown["source"]),
        (&"error".into(), &"environment".into())
    );
    assert_eq!(shown["name"], "CODITECT_LOG_LEVEL");
    let shown = show(&a, &variables, &["--set", "log.level=trace"], "log.level").await;
    assert_eq!(
        (&shown["value"], &shown["source"]),
        (&"trace".into(), &"flag".into())
    );
}

#[tokio::test]
async fn the_default_file_is_printed_and_checks_out() {
    let a = Workstation::new();
    let text = a.cli(&["config", "default"]).await.ok();
    fs::write(a.home().join("config.toml"), text).unwrap();
    a.cli(&["config", "check"]).await.ok();
}

#[tokio::test]
async fn a_wrong_file_stops_a_command_with_the_line_and_the_right_word_and_check_and_set_still_work() {
    let a = Workstation::new();
    write(&a, "[ingest]\nclaude_project = true\n");
    let expected =
        "config.toml, line 2: unknown key `claude_project` in [ingest]: did you mean `claude_projects`?";
    let refused = a.cli(&["status"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
    assert!(refused.stderr.contains(expected), "{refused:#?}");
    let checked = a.cli(&["config", "check"]).await;
    assert_eq!(checked.status.code(), Some(1), "{checked:#?}");
    assert!(checked.stderr.contains(expected), "{checked:#?}");
    write(&a, "# mine\n");
    a.cli(&["config", "set", "ingest.claude_projects", "true"])
        .await
        .ok();
    let text = fs::read_to_string(a.home().join("config.toml")).unwrap();
    assert_eq!(text, "# mine\n\n[ingest]\nclaude_projects = true\n");
    let again = a
        .cli(&["config", "set", "ingest.claude_projects", "true"])
        .await
        .ok();
    assert!(again.contains("already"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_daemon_takes_a_changed_file_up_and_keeps_what_held_while_the_file_is_wrong() {
    let mut a = Workstation::new();
    a.run().await;
    let loaded = |status: &Value| status["config"]["loaded_at"].as_str().unwrap().to_owned();
    let at_start = loaded(&a.wait_for_state("needs_login").await);

    write(&a, "[projects]\ndefault = \"exlude\"\n");
    let status = a
        .wait_until("it says what is wrong", |status| {
            status["config"]["error"].is_string()
        })
        .await;
    let error = status["config"]["error"].as_str().unwrap();
    assert!(
        error.contains("line 2: projects.default: \"exlude\" is no value of it: did you mean \"exclude\"?"),
        "{error}"
    );
    assert_eq!(loaded(&status), at_start);
    let shown = a.cli(&["status"]).await;
    assert_eq!(
        shown.status.code(),
        Some(2),
        "the command line reads the same wrong file: {shown:#?}"
    );

    write(&a, "[projects]\ndefault = \"exclude\"\n");
    a.wait_until("the mended file holds", |status| {
        status["config"]["error"].is_null() && loaded(status) != at_start
    })
    .await;

    fs::remove_file(a.home().join("config.toml")).unwrap();
    let status = a
        .wait_until("a file that is gone is told", |status| {
            status["config"]["error"].is_string()
        })
        .await;
    assert!(
        status["config"]["error"]
            .as_str()
            .unwrap()
            .contains("the former settings hold"),
        "{status:#}"
    );

    write(&a, "context_db = \"elsewhere.db\"\n");
    let status = a
        .wait_until("what has to wait is told", |status| {
            status["config"]["note"].is_string()
        })
        .await;
    assert!(
        status["config"]["note"].as_str().unwrap().contains("next start"),
        "{status:#}"
    );
    assert_eq!(status["database"]["path"], a.context_db().to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_and_the_sockets_reload_read_the_settings_anew_and_end_nothing() {
    let mut a = Workstation::new();
    a.run().await;
    let mut last = a.status().await.unwrap()["config"]["loaded_at"].clone();
    for by_socket in [false, true] {
        match by_socket {
            true => assert!(a.post("/v1/reload").await.status().is_success()),
            false => a.daemon().signal(Signal::HUP),
        }
        let status = a
            .wait_until("it was read anew", |status| status["config"]["loaded_at"] != last)
            .await;
        last = status["config"]["loaded_at"].clone();
    }
    assert!(a.daemon().ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_much_the_log_tells_changes_while_the_daemon_runs() {
    let mut a = Workstation::new();
    write(&a, "[log]\nlevel = \"error\"\n");
    let mut command = a.command();
    command.env_remove("RUST_LOG").arg("run");
    a.run_as(&mut command).await;
    assert_eq!(a.daemon().log(), "");
    write(&a, "[log]\nlevel = \"debug\"\n");
    coditect_tests::deadline::until(
        "it tells more",
        async || a.daemon().log(),
        |log| log.contains("DEBUG"),
    )
    .await;
}
