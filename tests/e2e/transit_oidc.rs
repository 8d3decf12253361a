//! Access tokens of a real OpenID provider: `oidc-provider` of npm, in `tests/oidc-provider`.

use std::path::PathBuf;
use std::process::Stdio;

use coditect_server::external::Settings;
use coditect_shared::wire::Account;
use coditect_tests::api::Api;
use coditect_tests::program::{Running, output};
use coditect_tests::server::TestServer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdin, Command};

const AUDIENCE: &str = "coditect";

/// The provider as a process, which ends with its standard input.
struct Provider {
    url: String,
    _input: ChildStdin,
    _running: Running,
    _log: tempfile::TempDir,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("oidc-provider")
}

impl Provider {
    /// None where Node or the registry of npm is out of reach, with a remark.
    async fn start() -> Option<Provider> {
        if !installed().await {
            eprintln!(
                "skipped: a real OpenID provider needs node and npm, and once `npm ci` in {}",
                folder().display()
            );
            return None;
        }
        let log = tempfile::tempdir().unwrap();
        let mut command = Command::new("node");
        command
            .arg("provider.mjs")
            .current_dir(folder())
            .stdout(Stdio::piped());
        let mut running = Running::start_with_input(&mut command, &log.path().join("provider.log"));
        let input = running.child().stdin.take().unwrap();
        let mut lines = BufReader::new(running.child().stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().expect("the provider starts");
        Some(Provider {
            url,
            _input: input,
            _running: running,
            _log: log,
        })
    }

    /// The access token of the client `robot` for a resource, or for none.
    async fn token(&self, resource: Option<&str>) -> String {
        let mut form = "grant_type=client_credentials&client_id=robot&client_secret=secret".to_owned();
        if let Some(resource) = resource {
            form += &format!("&scope=api&resource={resource}");
        }
        let answer = reqwest::Client::new()
            .post(format!("{}/token", self.url))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        let token = answer["access_token"].as_str();
        token.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

async fn installed() -> bool {
    if folder().join("node_modules/oidc-provider").exists() {
        return true;
    }
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    };
    if !there("node") || !there("npm") {
        return false;
    }
    let mut command = Command::new("npm");
    command
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(folder());
    output(&mut command, "").await.status.success()
}

#[tokio::test]
async fn tokens_of_a_real_openid_provider_are_believed_and_its_others_are_not() {
    let Some(provider) = Provider::start().await else {
        return;
    };
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let mut settings = Settings::new(&provider.url, AUDIENCE);
    settings.tenant = Some(tenant.to_string());
    let believing = server.beside_believing(vec![settings]).await;
    let api = Api::new(&believing.url, "");
    let resource = |algorithm: &str, audience: &str| format!("urn:test:{algorithm}:{audience}");

    let token = provider.token(Some(&resource("RS256", AUDIENCE))).await;
    let unknown = api.with_token(&token).get("/api/v1/account").await;
    assert_eq!(unknown.error(401).error.code, "user_unknown");
    server
        .database
        .look()
        .await
        .execute("UPDATE tenants SET first_login_makes_user = true", &[])
        .await
        .unwrap();
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let token = provider.token(Some(&resource(algorithm, AUDIENCE))).await;
        let account: Account = api.with_token(&token).get("/api/v1/account").await.ok();
        assert_eq!(
            (account.user.as_str(), account.role.as_str()),
            ("robot@acme.test", "viewer"),
            "{algorithm}"
        );
    }
    assert_eq!(server.database.count("users").await, 1);
    // For somebody else, or opaque.
    let foreign = provider.token(Some(&resource("ES256", "another"))).await;
    for token in [foreign, provider.token(None).await] {
        let refused = api.with_token(&token).get("/api/v1/account").await;
        assert_eq!(refused.error(401).error.code, "token_invalid");
    }
}
