//! The private PostgreSQL cluster: started with the server, found again after a kill, stopped at the end, and refused
//! where it cannot be kept safely.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coditect_tests::api::Api;
use coditect_tests::deadline::{PATIENCE, until};
use coditect_tests::manager::Manager;
use coditect_tests::program::{Output, Running, output, program};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Generous for a loaded machine: what it bounds is that the server stops at all.
const STOP: Duration = Duration::from_secs(30);

/// A data directory for a server with a cluster of its own.
struct Home {
    folder: TempDir,
    data_dir: PathBuf,
}

impl Home {
    fn new() -> Home {
        Home::below("")
    }

    /// With folders between the temporary one and the data directory.
    fn below(path: &str) -> Home {
        let folder = tempfile::tempdir().unwrap();
        // Under root the cluster runs as another user, who must be able to pass.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let data_dir = folder.path().join(path).join("data");
        Home { folder, data_dir }
    }

    fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.data_dir().join("pg/data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("coditect-server"));
        for name in [
            "CODITECT_DATABASE_URL",
            "CODITECT_OWNER_DATABASE_URL",
            "CODITECT_LISTEN",
            "CODITECT_DATA_DIR",
        ] {
            command.env_remove(name);
        }
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .env("RUST_LOG", "info");
        command
    }

    async fn cli(&self, arguments: &[&str]) -> Output {
        output(self.command().args(arguments), "").await
    }

    /// Whatever runs with this data directory: the programs of PostgreSQL, and ours.
    async fn processes(&self) -> Vec<String> {
        let mut ps = Command::new("ps");
        let listed = output(ps.args(["-axww", "-o", "args="]), "").await.ok();
        let ours = self.data_dir().to_str().unwrap();
        let lines = listed.lines().filter(|line| line.contains(ours));
        lines.map(str::to_owned).collect()
    }

    /// Starts the server and waits for its line; the address is its second part.
    async fn serve(&self) -> (Running, String) {
        let mut command = self.command();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped());
        let mut running = Running::start(&mut command, &self.folder.path().join("server.log"));
        let mut lines = BufReader::new(running.child().stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap();
        let url = line
            .as_deref()
            .and_then(|line| line.strip_prefix("listening on "))
            .map(str::to_owned);
        (running, url.unwrap_or_else(|| panic!("the server said {line:?}")))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A failed test must not leave a cluster behind that outlives its folder.
        if let Some(pid) = self.postmaster() {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}

async fn is_ready(url: &str) -> bool {
    Api::new(url, "").get("/health/ready/").await.status == 200
}

fn is_gone(pid: Pid) -> bool {
    // A dead child whose parent was killed may wait for the system to collect it.
    test_kill_process(pid).is_err()
        || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_cluster_starts_with_the_server_and_stops_with_it() {
    let home = Home::new();
    let (server, url) = home.serve().await;
    assert!(is_ready(&url).await);
    let postmaster = home.postmaster().unwrap();
    // No TCP port, and a socket that only the cluster's user reaches.
    let pid_file = std::fs::read_to_string(home.data_dir().join("pg/data/postmaster.pid")).unwrap();
    assert_eq!(pid_file.lines().nth(5), Some(""), "listen_addresses");
    let socket_folder = Path::new(pid_file.lines().nth(4).unwrap());
    assert_eq!(
        std::fs::metadata(socket_folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert!(server.terminate(STOP).await.success());
    assert!(is_gone(postmaster));
    assert_eq!(home.postmaster(), None);
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_open_event_streams_and_keep_alive_connections() {
    let home = Home::new();
    let (server, url) = home.serve().await;
    home.cli(&["tenant", "create", "acme"]).await.ok();
    home.cli(&["user", "create", "a@acme.test", "--tenant", "acme"])
        .await
        .ok();
    let token = home.cli(&["token", "issue", "--user", "a@acme.test"]).await.ok();
    let client = reqwest::Client::new();
    let idle = client.get(format!("{url}/health/")).send().await.unwrap();
    assert_eq!(idle.text().await.unwrap(), r#"{"status":"healthy"}"#);
    let events = client
        .get(format!("{url}/api/v1/context/events"))
        .bearer_auth(token.trim());
    let device = uuid::Uuid::new_v4().to_string();
    let mut stream = events.header("X-Device-ID", device).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    server.signal(Signal::TERM);
    // The stream comes to an orderly end, and is not cut off.
    while stream.chunk().await.unwrap().is_some() {}
    assert!(server.terminate(STOP).await.success());
}

#[tokio::test]
async fn a_cluster_that_outlives_a_killed_server_is_taken_over_with_its_data() {
    let home = Home::new();
    let (server, _) = home.serve().await;
    let made = home.cli(&["tenant", "create", "acme", "--json"]).await.json();
    let postmaster = home.postmaster().unwrap();
    server.kill().await;
    assert!(!is_gone(postmaster), "the cluster lives on");
    // Administration reaches it too, and leaves it as it was.
    assert!(!home.cli(&["tenant", "create", "acme"]).await.status.success());
    assert_eq!(home.postmaster(), Some(postmaster));

    let (server, url) = home.serve().await;
    assert_eq!(home.postmaster(), Some(postmaster), "it is the same process");
    assert!(is_ready(&url).await);
    let again = home.cli(&["tenant", "create", "acme"]).await;
    assert!(
        again.stderr.contains(made["id"].as_str().unwrap()),
        "{}",
        again.stderr
    );
    assert!(server.terminate(STOP).await.success());
    assert!(
        is_gone(postmaster),
        "what was taken over is stopped at the end all the same"
    );
}

#[tokio::test]
async fn a_cluster_killed_together_with_its_server_is_started_again() {
    let home = Home::new();
    let (server, _) = home.serve().await;
    home.cli(&["tenant", "create", "acme"]).await.ok();
    server.signal(Signal::KILL);
    kill_process(home.postmaster().unwrap(), Signal::KILL).unwrap();
    server.kill().await;
    let (server, url) = home.serve().await;
    assert!(is_ready(&url).await);
    assert!(
        home.cli(&["tenant", "create", "acme"])
            .await
            .stderr
            .contains("exists already")
    );
    assert!(server.terminate(STOP).await.success());
}

#[tokio::test]
async fn a_cluster_that_dies_under_the_server_comes_back() {
    let home = Home::new();
    let (server, url) = home.serve().await;
    let first = home.postmaster().unwrap();
    kill_process(first, Signal::KILL).unwrap();
    let probe = async || home.postmaster().is_some_and(|pid| pid != first) && is_ready(&url).await;
    until("the database answers again", probe, |ready| *ready).await;
    assert!(server.terminate(STOP).await.success());
}

#[tokio::test]
async fn a_pid_file_that_names_another_program_does_not_keep_the_cluster_from_starting() {
    let home = Home::new();
    home.cli(&["migrate"]).await.ok();
    let path = home.data_dir().join("pg/data/postmaster.pid");
    assert!(!path.exists(), "a command leaves nothing running");
    // Our own process stands for the one that has the number after a restart of the machine.
    let stale = format!(
        "{}\n{}\n1\n5432\n\n\n",
        std::process::id(),
        path.parent().unwrap().display()
    );
    std::fs::write(&path, stale).unwrap();
    home.cli(&["tenant", "create", "acme"]).await.ok();
}

#[tokio::test]
async fn a_data_directory_serves_one_server() {
    let home = Home::new();
    let (first, url) = home.serve().await;
    let second = home.cli(&["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second.stderr.contains("another coditect-server (process "),
        "{}",
        second.stderr
    );
    assert!(is_ready(&url).await, "the first is undisturbed");
    assert!(first.terminate(STOP).await.success());
}

#[tokio::test]
async fn a_data_directory_that_the_clusters_user_cannot_reach_is_refused_by_name() {
    if !rustix::process::geteuid().is_root() {
        // Only root changes to another user.
        return;
    }
    let home = Home::new();
    let closed = home.folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = home.command();
    let refused = output(
        command.arg("serve").arg("--data-dir").arg(closed.join("data")),
        "",
    )
    .await;
    assert_eq!(refused.status.code(), Some(1));
    let names_it = format!("may not pass {};", closed.canonicalize().unwrap().display());
    assert!(refused.stderr.contains(&names_it), "{}", refused.stderr);
    assert!(!closed.join("data/pg").exists(), "nothing was made there");
}

#[tokio::test]
async fn a_long_path_of_the_data_directory_does_not_break_the_socket() {
    let home = Home::below(&"x".repeat(100));
    let (server, url) = home.serve().await;
    assert!(is_ready(&url).await);
    home.cli(&["tenant", "create", "acme"]).await.ok();
    assert!(server.terminate(STOP).await.success());
}

#[tokio::test]
async fn the_database_url_leads_to_the_running_cluster() {
    let home = Home::new();
    let (server, _) = home.serve().await;
    let url = home.cli(&["database-url"]).await.ok();
    // As root, so that the socket's folder can be passed; psql would take the same URL.
    let (client, connection) = tokio_postgres::connect(url.trim(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let who = client.query_one(
        "SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user",
        &[],
    );
    let row = who.await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, bool>(1)),
        ("coditect_owner", false)
    );
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
    ] {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
    assert!(server.terminate(STOP).await.success());
}

#[tokio::test]
async fn a_command_that_is_told_to_stop_while_it_starts_a_cluster_leaves_nothing_running() {
    type Moment = fn(&Path) -> bool;
    // While initdb is at work, when the cluster has just been started, and when it answers.
    let moments: [(&str, Signal, Moment); 3] = [
        ("initdb", Signal::INT, |data| {
            let entries = std::fs::read_dir(data.join("pg")).into_iter().flatten().flatten();
            entries
                .into_iter()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("data.new."))
        }),
        ("just started", Signal::TERM, |data| {
            data.join("pg/data/PG_VERSION").exists()
        }),
        ("answering", Signal::TERM, |data| {
            let file = std::fs::read_to_string(data.join("pg/data/postmaster.pid"));
            file.is_ok_and(|text| text.contains("ready"))
        }),
    ];
    for (name, signal, moment) in moments {
        let home = Home::new();
        let mut command = home.command();
        command.args(["tenant", "create", "acme"]);
        let running = Running::start(&mut command, &home.folder.path().join("command.log"));
        until(name, async || moment(home.data_dir()), |came| *came).await;
        running.signal(signal);
        let status = running.wait(PATIENCE).await;
        assert_eq!(status.code(), Some(1), "{name}");
        // What was told to stop in good order may need a moment for it.
        until("nothing runs", async || home.processes().await, Vec::is_empty).await;
        // And nothing is in the way of the next one.
        home.cli(&["tenant", "create", "acme"]).await.ok();
    }
}

#[tokio::test]
async fn the_service_manager_is_told_when_requests_are_taken_that_they_are_and_that_it_ends() {
    let home = Home::new();
    let mut manager = Manager::new();
    let mut command = home.command();
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Running::start(
        &mut manager.start(&command),
        &home.folder.path().join("server.log"),
    );
    manager
        .hears("what it is at", |line| line == "STATUS=starting PostgreSQL")
        .await;
    let mut told = Vec::new();
    let line = manager
        .hears("where it listens", |line| {
            told.push(line.to_owned());
            line.starts_with("STATUS=listening on ")
        })
        .await;
    // PostgreSQL would say so too, long before.
    assert_eq!(
        told.iter().filter(|line| *line == "READY=1").count(),
        1,
        "{told:?}"
    );
    assert_eq!(told[told.len() - 2], "READY=1", "{told:?}");
    let url = line.strip_prefix("STATUS=listening on ").unwrap();
    assert!(is_ready(url).await, "who is ready answers");
    for _ in 0..3 {
        manager.hears("a sign of life", |line| line == "WATCHDOG=1").await;
    }
    assert!(server.terminate(STOP).await.success());
    manager.hears("it stops", |line| line == "STOPPING=1").await;
}
