//! The daemon as a service: what it tells the service manager, that a loop which hangs is noticed, and that it stops
//! when it is told to, whatever it is doing.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use coditect_tests::daemon::Workstation;
use coditect_tests::manager::Manager;
use coditect_tests::program::{output, program};
use coditect_tests::proxy::{Fault, Proxy};
use coditect_tests::writer;
use rustix::process::Signal;

use crate::pair::{is_settled, server};

/// What the product promises for a stop.
const STOP: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_when_file_and_socket_are_up_and_tells_how_things_stand() {
    let (server, token) = server().await;
    let mut a = Workstation::new();
    let mut manager = Manager::new();
    a.start_daemon(manager.start(&a.command()).arg("run"));
    manager.hears("ready", |line| line == "READY=1").await;
    let status = a.status().await.expect("who is ready answers");
    assert_ne!(status["state"], "starting", "the file is open: {status:#}");
    manager
        .hears("nobody is logged in", |line| {
            line.starts_with("STATUS=needs login")
        })
        .await;
    a.login(&server.url, &token).await.ok();
    manager.hears("in sync", |line| line == "STATUS=in sync").await;
    assert!(a.terminate(STOP).await.success());
    manager.hears("it stops", |line| line == "STOPPING=1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_file_cannot_be_opened_it_goes_on_starting_and_says_why() {
    let mut a = Workstation::new();
    let mut manager = Manager::new();
    std::fs::write(
        a.context_db(),
        "this is no database, and long enough to show it".repeat(100),
    )
    .unwrap();
    a.start_daemon(manager.start(&a.command()).arg("run"));
    manager
        .hears("why not", |line| line.starts_with("STATUS=blocked · "))
        .await;
    let mut before = Vec::new();
    for _ in 0..2 {
        // So that the manager does not take it for failed, and give it up before the user has mended the file.
        manager
            .hears("more time", |line| {
                before.push(line.to_owned());
                line.starts_with("EXTEND_TIMEOUT_USEC=")
            })
            .await;
    }
    assert!(!before.iter().any(|line| line == "READY=1"), "{before:?}");
    std::fs::remove_file(a.context_db()).unwrap();
    manager.hears("ready", |line| line == "READY=1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_loop_that_hangs_is_missed_and_after_the_restart_nothing_is_lost() {
    let (server, token) = server().await;
    let mut a = Workstation::new();
    let mut manager = Manager::new();
    a.login(&server.url, &token).await.ok();
    a.start_daemon(manager.start(&a.command()).arg("run"));
    manager.hears("in sync", |line| line == "STATUS=in sync").await;
    for _ in 0..3 {
        manager.hears("a sign of life", |line| line == "WATCHDOG=1").await;
    }
    manager.hang("loop");
    manager.misses_signs_of_life().await;
    // Whoever looked at the process or asked its socket would call it well.
    assert!(a.daemon().ended().is_none());
    a.status().await.expect("the socket still answers");
    writer::message(&a.open(), "s", "written while the loop hung").unwrap();
    // What systemd does now.
    a.daemon().signal(Signal::ABORT);
    assert_eq!(a.ended().await.signal(), Some(Signal::ABORT.as_raw()));
    manager.release("loop");
    a.start_daemon(manager.start(&a.command()).arg("run"));
    manager.hears("ready again", |line| line == "READY=1").await;
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_takes_long_counts_as_alive() {
    let mut a = Workstation::new();
    let mut manager = Manager::new();
    a.start_daemon(manager.start(&a.command()).arg("run"));
    manager.hears("ready", |line| line == "READY=1").await;
    manager.hang("files");
    // Longer than the loop would be silent if it waited for the step alone.
    for _ in 0..4 {
        manager.hears("a sign of life", |line| line == "WATCHDOG=1").await;
    }
    // It does hang: the wish is not granted while the files do not answer.
    let asked = a.cli(&["sync", "--wait", "--timeout", "1s"]).await;
    assert!(!asked.status.success(), "{asked:#?}");
    // And a stop does not wait for the disk.
    assert!(a.terminate(STOP).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p2_sigterm_in_the_middle_of_a_push_ends_within_two_seconds_and_loses_nothing() {
    let (server, token) = server().await;
    for fault in [Fault::Hold, Fault::HoldAnswer] {
        let network = Proxy::before(&server.url).await;
        let mut a = Workstation::start(&network.url, &token).await;
        a.wait_for_state("in_sync").await;
        let before = server.database.count("context_messages").await;
        network.always("POST /api/v1/context/push", fault);
        let mut file = a.open();
        let tx = file.transaction().unwrap();
        for n in 0..2_000 {
            writer::message(&tx, "s", &format!("{fault:?}, row {n}")).unwrap();
        }
        tx.commit().unwrap();
        network.wait_for_faults("POST /api/v1/context/push", 1).await;
        assert!(a.terminate(STOP).await.success());
        network.heal();
        a.run().await;
        a.sync().await;
        assert_eq!(server.database.count("context_messages").await, before + 2_000);
        assert_eq!(a.verify().await["equal"], true);
    }
}

/// `service install`, `status` and `uninstall`, the watchdog, the hardening: all under a real systemd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_systemd_it_is_installed_watched_restarted_and_removed() {
    let (server, token) = server().await;
    let arguments = [
        program("coditect-sync").into_os_string(),
        server.url.clone().into(),
    ];
    if with_systemd("test-service.sh", &arguments, &token).await {
        assert_eq!(server.database.count("context_messages").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_systemd_the_servers_hardened_unit_runs_with_its_postgresql() {
    with_systemd(
        "test-server-unit.sh",
        &[program("coditect-server").into_os_string()],
        "",
    )
    .await;
}

/// Runs one of `packaging/`'s scripts where it can start systemd. False: that is not possible on this machine.
async fn with_systemd(script: &str, arguments: &[OsString], input: &str) -> bool {
    const CANNOT_RUN_HERE: i32 = 77;
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let mut command = tokio::process::Command::new("sh");
    command
        .arg(packaging.join("with-systemd.sh"))
        .arg(packaging.join(script))
        .args(arguments);
    let done = output(&mut command, input).await;
    if done.status.code() == Some(CANNOT_RUN_HERE) {
        eprintln!("skipped: no systemd can be run here (it takes root and the package systemd)");
        return false;
    }
    eprintln!("{}", done.ok());
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_file_holds_what_the_daemon_has_to_say_and_why_it_could_not_start() {
    let mut a = Workstation::new();
    let log = a.home().join("daemon's own.log");
    a.start_daemon(a.command().arg("run").arg("--log-file").arg(&log));
    a.wait_for_state("needs_login").await;
    let second = output(a.command().arg("run").arg("--log-file").arg(&log), "").await;
    assert_eq!(second.status.code(), Some(1), "{second:#?}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("a step is done"), "{text}");
    assert!(text.contains("another coditect-sync already runs"), "{text}");
}
