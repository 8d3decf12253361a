//! HTTPS: the daemon over it, certificates renewed under it, and who is refused.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coditect_server::tls::Tls;
use coditect_tests::api::{Api, send};
use coditect_tests::certificates::{Authority, Pair, certificate_of};
use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::until;
use coditect_tests::server::{ServerProcess, TestServer};
use coditect_tests::writer;
use reqwest::Method;
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pair::is_settled;

/// Certificate and key behind a symbolic link to their folder, as Kubernetes and certbot lay them out.
struct Live {
    folder: TempDir,
}

impl Live {
    fn of(pair: &Pair) -> Live {
        let live = Live {
            folder: tempfile::tempdir().unwrap(),
        };
        live.swap(pair);
        live
    }

    /// One step: a reader finds both old or both new files.
    fn swap(&self, pair: &Pair) {
        let next = self.folder.path().join("next");
        symlink(pair.cert.parent().unwrap(), &next).unwrap();
        std::fs::rename(next, self.folder.path().join("now")).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("now").join(name)
    }

    fn load(&self) -> Tls {
        Tls::load(&self.file("tls.crt"), &self.file("tls.key")).unwrap()
    }
}

/// A TLS client of one version, which trusts the authority.
async fn connect(
    authority: &Authority,
    url: &str,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let (_, port) = url.rsplit_once(':').unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].clone().into_owned()
}

/// The certificate that a new connection is shown.
async fn certificate_at(authority: &Authority, url: &str) -> CertificateDer<'static> {
    shown(&connect(authority, url, &rustls::version::TLS13).await.unwrap())
}

/// The head of the answer to a request over a connection that goes on.
async fn health_over(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Names whom the daemon is to trust in its config.toml.
fn trust(workstation: &Workstation, ca_file: &Path) {
    let text = format!("ca_file = {:?}\n", ca_file.to_str().unwrap());
    std::fs::write(workstation.home().join("config.toml"), text).unwrap();
}

async fn workstation_that_trusts(authority: &Authority, server: &TestServer) -> Workstation {
    let (caller, _) = server.acme().await;
    let workstation = Workstation::new();
    trust(&workstation, &authority.file());
    workstation.login(&server.url, &server.token(&caller)).await.ok();
    workstation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_daemon_syncs_over_tls_through_the_renewal_of_the_certificate() {
    let authority = Authority::new();
    let (old, new) = (authority.sign(&["localhost"]), authority.sign(&["localhost"]));
    let live = Live::of(&old);
    let tls = live.load();
    let server = TestServer::start_over_tls(tls.clone()).await;
    let watching = tokio::spawn(async move { tls.keep_current(Duration::from_millis(5)).await });
    let mut a = workstation_that_trusts(&authority, &server).await;
    let mut before = connect(&authority, &server.url, &rustls::version::TLS13)
        .await
        .unwrap();
    assert_eq!(
        before.get_ref().1.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(shown(&before), certificate_of(&old.cert));

    let file = a.create_context_db();
    for n in 0..3_000 {
        writer::message(&file, "s", &format!("message {n}")).unwrap();
    }
    a.run().await;
    a.wait_until("the sync has begun", |status| status["push"]["rows_total"] != 0)
        .await;
    live.swap(&new);
    until(
        "the new certificate is shown",
        async || certificate_at(&authority, &server.url).await,
        |shown| *shown == certificate_of(&new.cert),
    )
    .await;
    // Connections that stood go on, and so does the sync.
    assert!(health_over(&mut before).await.starts_with("HTTP/1.1 200"));
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 3_000);
    watching.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_refuses_a_wrong_host_name_and_an_unknown_authority() {
    let authority = Authority::new();
    let live = Live::of(&authority.sign(&["elsewhere.test"]));
    let server = TestServer::start_over_tls(live.load()).await;
    let (caller, _) = server.acme().await;
    let token = server.token(&caller);
    let mut a = Workstation::new();
    trust(&a, &authority.file());
    let refused = a.login(&server.url, &token).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:#?}");
    assert!(
        refused
            .stderr
            .contains("certificate not valid for name \"localhost\""),
        "{refused:#?}"
    );

    let other = Authority::new();
    let live = Live::of(&authority.sign(&["localhost"]));
    let server = TestServer::start_over_tls(live.load()).await;
    trust(&a, &other.file());
    let refused = a.login(&server.url, &token).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:#?}");
    assert!(refused.stderr.contains("certificate"), "{refused:#?}");
    trust(&a, &live.file("tls.key"));
    let refused = a.login(&server.url, &token).await;
    assert!(
        refused.stderr.contains("ca_file") && refused.stderr.contains("none in PEM"),
        "{refused:#?}"
    );

    // Without the key it is the machine's authorities, which a variable may name too.
    std::fs::remove_file(a.home().join("config.toml")).unwrap();
    let token = server.token(&server.acme().await.0);
    assert!(!a.login(&server.url, &token).await.status.success());
    a.set("SSL_CERT_FILE", authority.file());
    a.login(&server.url, &token).await.ok();
}

#[tokio::test]
async fn plain_http_is_refused_in_words_and_tls_1_2_by_alert() {
    let authority = Authority::new();
    let live = Live::of(&authority.sign(&["localhost"]));
    let server = TestServer::start_over_tls(live.load()).await;
    let plain = server.url.replace("https://localhost", "http://127.0.0.1");
    let api = Api::new(&plain, "secret");
    for path in ["/health/", "/api/v1/account"] {
        let refused = send(api.request(Method::GET, path)).await;
        let error = refused.error(400);
        assert_eq!(error.error.code, "tls_needed");
        assert!(error.error.message.contains("https://"), "{error:?}");
        assert_eq!(refused.headers["x-request-id"], error.meta.request_id.as_str());
    }
    let old = connect(&authority, &server.url, &rustls::version::TLS12).await;
    assert!(
        old.as_ref()
            .is_err_and(|error| error.to_string().contains("ProtocolVersion")),
        "{old:?}"
    );
    // Whoever comes in the right way is served as before.
    let mut good = connect(&authority, &server.url, &rustls::version::TLS13)
        .await
        .unwrap();
    assert!(health_over(&mut good).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_server_takes_a_renewed_certificate_at_sighup_and_keeps_the_old_one_when_the_new_is_bad() {
    let authority = Authority::new();
    let (old, new) = (authority.sign(&["localhost"]), authority.sign(&["localhost"]));
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("c.pem"), files.path().join("k.pem"));
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).unwrap();
    copy(&old.cert, &cert);
    copy(&old.key, &key);
    let mut server = ServerProcess::start().await;
    server.kill().await;
    server.serve_arguments = vec![
        format!("--tls-cert={}", cert.display()),
        format!("--tls-key={}", key.display()),
    ];
    server.run().await;
    let url = server.url();
    assert!(url.starts_with("https://"), "{url}");
    assert_eq!(certificate_at(&authority, &url).await, certificate_of(&old.cert));

    // Half a renewal: the new certificate with the old key.
    copy(&new.cert, &cert);
    server.running().signal(Signal::HUP);
    until(
        "the bad pair is logged",
        async || server.running().log(),
        |log| log.contains("stays the old one") && log.contains("cannot be used together"),
    )
    .await;
    assert_eq!(certificate_at(&authority, &url).await, certificate_of(&old.cert));
    copy(&new.key, &key);
    server.running().signal(Signal::HUP);
    until(
        "the new certificate is shown",
        async || certificate_at(&authority, &url).await,
        |shown| *shown == certificate_of(&new.cert),
    )
    .await;
    assert!(!server.running().log().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn the_server_does_not_start_with_a_key_that_others_may_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let authority = Authority::new();
    let pair = authority.sign(&["localhost"]);
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = ServerProcess::start().await;
    let (cert, key) = (pair.cert.to_str().unwrap(), pair.key.to_str().unwrap());
    let data = tempfile::tempdir().unwrap();
    let started = |arguments: Vec<&'static str>| {
        let mut command = server.command();
        command
            .env("CODITECT_DATA_DIR", data.path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments);
        command
    };
    let mut command = started(vec![]);
    command.args(["--tls-cert", cert, "--tls-key", key]);
    let refused = coditect_tests::program::output(&mut command, "").await;
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("chmod 600"), "{refused:#?}");
    let mut command = started(vec!["--tls-cert", "only.pem"]);
    let refused = coditect_tests::program::output(&mut command, "").await;
    assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
}

#[tokio::test]
async fn a_stranger_who_says_nothing_or_leaves_costs_the_others_nothing() {
    let authority = Authority::new();
    let live = Live::of(&authority.sign(&["localhost"]));
    let server = TestServer::start_over_tls(live.load()).await;
    let address = server.url.replace("https://localhost", "127.0.0.1");
    let mut silent = Vec::new();
    for first in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(first).await.unwrap();
        silent.push(stream);
    }
    drop(TcpStream::connect(&address).await.unwrap());
    let mut good = connect(&authority, &server.url, &rustls::version::TLS13)
        .await
        .unwrap();
    assert!(health_over(&mut good).await.starts_with("HTTP/1.1 200"));
    // Each is shown the door when its time for the handshake is over.
    for mut stream in silent {
        let mut bytes = [0; 64];
        match stream.read(&mut bytes).await {
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(read) => panic!("answered {:?}", &bytes[..read]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_daemon_takes_up_another_authority() {
    let authority = Authority::new();
    let live = Live::of(&authority.sign(&["localhost"]));
    let server = TestServer::start_over_tls(live.load()).await;
    let mut a = workstation_that_trusts(&authority, &server).await;
    let other = Authority::new();
    trust(&a, &other.file());
    a.run().await;
    a.wait_for_state("offline").await;
    trust(&a, &authority.file());
    a.wait_until("in sync", is_settled).await;
}
