//! TLS to PostgreSQL: certificate and host name are verified, and whoever cannot be is refused with the remedy.

use std::path::Path;

use coditect_server::database::{Address, Unreachable};
use coditect_shared::wire::Account;
use coditect_tests::api::{Api, Pusher, message};
use coditect_tests::certificates::{Authority, Pair};
use coditect_tests::postgres::{OWNER, TlsCluster};
use coditect_tests::program::{Output, Running, output, program};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Certificate and key as PostgreSQL is given them.
fn texts(pair: &Pair) -> Option<(String, String)> {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    Some((text(&pair.cert), text(&pair.key)))
}

/// A cluster with an owner's role and database, whose certificate is for some names.
async fn cluster(authority: &Authority, names: &[&str]) -> TlsCluster {
    let cluster = TlsCluster::start(texts(&authority.sign(names))).await;
    for sql in [
        &format!("CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD 'hunter2'"),
        "CREATE ROLE plain LOGIN PASSWORD 'hunter2'",
        &format!("CREATE DATABASE coditect OWNER {OWNER}"),
    ] {
        cluster.run(sql).await;
    }
    cluster
}

fn url(cluster: &TlsCluster, role: &str, host: &str, rest: &str) -> String {
    format!(
        "postgresql://{role}:hunter2@{host}:{}/coditect?{rest}",
        cluster.port
    )
}

/// What a connection that is not made says.
async fn refusal(url: &str, ca: Option<&Path>) -> anyhow::Error {
    let address = Address::read(url, ca).unwrap();
    match address.connect().await {
        Ok(_) => panic!("{address} was connected to"),
        Err(error) => {
            let text = format!("{error:#}");
            assert!(!text.contains("hunter2"), "P15: {text}");
            error
        }
    }
}

async fn says(url: &str, ca: Option<&Path>, parts: &[&str]) {
    let error = refusal(url, ca).await;
    let text = format!("{error:#}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    // What has to be mended first is no matter of waiting.
    assert!(error.downcast_ref::<Unreachable>().is_none(), "{text}");
}

#[tokio::test]
async fn the_certificate_and_its_host_name_are_verified() {
    let authority = Authority::new();
    let cluster = cluster(&authority, &["localhost"]).await;
    let ca = authority.file();
    let to = |host: &str, rest: &str| url(&cluster, OWNER, host, rest);

    for good in [
        to(
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={}", ca.display()),
        ),
        format!(
            "host=localhost port={} user={OWNER} password=hunter2 dbname=coditect sslrootcert='{}' channel_binding=require",
            cluster.port,
            ca.display()
        ),
    ] {
        let client = Address::read(&good, None).unwrap().connect().await.unwrap();
        let row = client
            .query_one(
                "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (true, "TLSv1.3"), "{good}");
    }
    // The mode that in libpq verifies nothing is no way around.
    for mode in ["verify-full", "verify-ca", "require"] {
        let mode = format!("sslmode={mode}");
        says(
            &to("127.0.0.1", &mode),
            Some(&ca),
            &["not valid for name \"127.0.0.1\"", "use the name that it bears"],
        )
        .await;
        let other = Authority::new();
        says(
            &to("localhost", &mode),
            Some(&other.file()),
            &["no trusted authority signed it", "sslrootcert=FILE"],
        )
        .await;
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_unless_the_clear_is_asked_for() {
    let authority = Authority::new();
    let cluster = TlsCluster::start(None).await;
    cluster.run("CREATE ROLE plain LOGIN PASSWORD 'hunter2'").await;
    cluster.run("CREATE DATABASE coditect").await;
    let to = |rest: &str| url(&cluster, "plain", "localhost", rest);
    says(
        &to("sslmode=verify-full"),
        Some(&authority.file()),
        &["does not offer TLS", "sslmode=disable"],
    )
    .await;
    let clear = Address::read(&to("sslmode=disable"), None).unwrap();
    assert!(clear.connect().await.is_ok());
}

#[tokio::test]
async fn a_wrong_password_or_database_is_told_apart_from_a_server_out_of_reach() {
    let authority = Authority::new();
    let cluster = cluster(&authority, &["localhost"]).await;
    let ca = authority.file();
    let good = url(&cluster, OWNER, "localhost", "sslmode=verify-full");
    says(
        &good.replace("hunter2", "hunter3"),
        Some(&ca),
        &["password authentication failed", "check role and password"],
    )
    .await;
    says(
        &good.replace("/coditect?", "/elsewhere?"),
        Some(&ca),
        &["\"elsewhere\" does not exist", "createdb"],
    )
    .await;
    let nobody = good.replace(&format!(":{}/", cluster.port), ":1/");
    let error = refusal(&nobody, Some(&ca)).await;
    assert!(error.downcast_ref::<Unreachable>().is_some(), "{error:#}");
}

/// The real program with its URLs in the environment.
fn server(cluster: &TlsCluster, data: &Path, ca: &Path, password: &str) -> Command {
    let mut command = Command::new(program("coditect-server"));
    let to = |role: &str| url(cluster, role, "localhost", "sslmode=verify-full").replace("hunter2", password);
    command
        .env("CODITECT_DATA_DIR", data)
        .env("CODITECT_OWNER_DATABASE_URL", to(OWNER))
        .env("CODITECT_DATABASE_URL", to("coditect_app"))
        .env("CODITECT_DATABASE_CA", ca);
    command
}

#[tokio::test]
async fn migrations_administration_requests_and_notifications_all_go_over_tls() {
    let authority = Authority::new();
    let cluster = cluster(&authority, &["localhost"]).await;
    let (data, ca) = (tempfile::tempdir().unwrap(), authority.file());
    let run = async |password: &str, arguments: &[&str]| -> Output {
        output(server(&cluster, data.path(), &ca, password).args(arguments), "").await
    };
    let wrong = run("hunter3", &["migrate"]).await;
    assert_eq!(wrong.status.code(), Some(1), "{wrong:#?}");
    run("hunter2", &["migrate"]).await.ok();
    run("hunter2", &["tenant", "create", "acme"]).await.ok();
    run("hunter2", &["user", "create", "a@acme.test", "--tenant", "acme"])
        .await
        .ok();
    let token = run("hunter2", &["token", "issue", "--user", "a@acme.test"])
        .await
        .ok();

    let mut command = server(&cluster, data.path(), &ca, "hunter2");
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped());
    let mut running = Running::start(&mut command, &data.path().join("server.log"));
    let mut lines = BufReader::new(running.child().stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("the server starts");
    let base = line.strip_prefix("listening on ").expect("an address");
    let api = Api::new(base, token.trim());
    let account: Account = api.get("/api/v1/account").await.ok();
    assert_eq!(account.tenant, "acme");
    Pusher::new(api).messages(vec![message("s", "over TLS")]).await;

    // Every session that the serving role has by now, the one of the notifications too.
    cluster.run(&format!("GRANT pg_read_all_stats TO {OWNER}")).await;
    let owner = Address::read(
        &url(&cluster, OWNER, "localhost", "sslmode=verify-full"),
        Some(&ca),
    )
    .unwrap();
    let client = owner.connect().await.unwrap();
    let rows = client
        .query(
            "SELECT s.ssl, a.query LIKE 'LISTEN%' OR a.query LIKE '%pg_notify%'
               FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = 'coditect_app'",
            &[],
        )
        .await
        .unwrap();
    assert!(rows.iter().all(|row| row.get::<_, bool>(0)), "{rows:?}");
    assert!(
        rows.len() >= 2 && rows.iter().any(|row| row.get(1)),
        "requests and notifications have their sessions: {rows:?}"
    );
}
