//! The server's command line: what it prints, what it refuses, and with which exit code.

use coditect_shared::wire::Account;
use coditect_tests::api::Api;
use coditect_tests::postgres::TestDatabase;
use coditect_tests::program::{Output, output, program};
use coditect_tests::server::ServerProcess;
use tempfile::TempDir;
use tokio::process::Command;

/// The command line on a database of its own, without a server.
struct Cli {
    database: TestDatabase,
    data: TempDir,
}

impl Cli {
    async fn new() -> Cli {
        Cli {
            database: TestDatabase::create().await,
            data: tempfile::tempdir().unwrap(),
        }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("coditect-server"));
        command
            .env("CODITECT_DATA_DIR", self.data.path())
            .env("CODITECT_DATABASE_URL", self.database.app_url())
            .env("CODITECT_OWNER_DATABASE_URL", self.database.owner_url());
        output(command.args(arguments), "").await
    }
}

#[tokio::test]
async fn tenant_user_and_token_lead_to_an_account_that_the_server_knows() {
    let server = ServerProcess::start().await;
    let tenant = server
        .cli(&["tenant", "create", "Beta Ltd", "--json"])
        .await
        .json();
    assert_eq!(tenant["name"], "Beta Ltd");
    let user = [
        "user",
        "create",
        "Ann@Beta.test",
        "--tenant",
        "beta ltd",
        "--role",
        "admin",
        "--json",
    ];
    let user = server.cli(&user).await.json();
    assert_eq!(user["email"], "ann@beta.test", "addresses are kept in lower case");
    assert_eq!(user["tenant_id"], tenant["tenant_id"]);
    let token = server
        .cli(&["token", "issue", "--user", "ann@beta.test"])
        .await
        .ok();
    let account: Account = Api::new(&server.url(), token.trim())
        .get("/api/v1/account")
        .await
        .ok();
    assert_eq!(account.tenant_id.to_string(), tenant["id"].as_str().unwrap());
    assert_eq!(account.user_id.to_string(), user["id"].as_str().unwrap());
    assert_eq!(
        (account.tenant.as_str(), account.role.as_str()),
        ("Beta Ltd", "admin")
    );
}

#[tokio::test]
async fn what_exists_is_not_made_again_and_what_is_missing_is_named() {
    let cli = Cli::new().await;
    cli.run(&["tenant", "create", "acme"]).await.ok();
    cli.run(&[
        "user",
        "create",
        "a@acme.test",
        "--tenant",
        "acme",
        "--role",
        "owner",
    ])
    .await
    .ok();
    for (arguments, complaint) in [
        (&["tenant", "create", " ACME "][..], "exists already"),
        (
            &["user", "create", "A@acme.test", "--tenant", "acme"],
            "has a user a@acme.test already",
        ),
        (
            &["user", "create", "b@acme.test", "--tenant", "nobody"],
            "there is no tenant \"nobody\"",
        ),
        (
            &["token", "issue", "--user", "b@acme.test"],
            "there is no user b@acme.test",
        ),
        (
            &["token", "issue", "--user", "a@acme.test", "--tenant", "nobody"],
            "there is no tenant \"nobody\"",
        ),
    ] {
        let refused = cli.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(
            refused.stderr.contains(complaint),
            "{arguments:?}: {}",
            refused.stderr
        );
        assert_eq!(refused.stdout, "", "{arguments:?}");
    }
    assert_eq!(cli.database.count("tenants").await, 1);
    assert_eq!(
        cli.database.count("audit_log").await,
        3,
        "each thing made is on record (the user's invitation too), each refusal is not"
    );
}

#[tokio::test]
async fn an_address_in_several_tenants_needs_the_tenants_name() {
    let cli = Cli::new().await;
    for tenant in ["acme", "beta"] {
        cli.run(&["tenant", "create", tenant]).await.ok();
        cli.run(&["user", "create", "a@both.test", "--tenant", tenant])
            .await
            .ok();
    }
    let ambiguous = cli.run(&["token", "issue", "--user", "a@both.test"]).await;
    assert!(
        ambiguous.stderr.contains("name one with --tenant"),
        "{}",
        ambiguous.stderr
    );
    let issued = cli
        .run(&[
            "token",
            "issue",
            "--user",
            "a@both.test",
            "--tenant",
            "beta",
            "--json",
        ])
        .await
        .json();
    assert_eq!(issued["role"], "member");
}

#[tokio::test]
async fn a_name_is_free_again_when_its_tenant_was_deleted() {
    let cli = Cli::new().await;
    let first = cli.run(&["tenant", "create", "acme", "--json"]).await.json();
    let owner = cli.database.as_owner().await;
    let id = first["id"].as_str().unwrap();
    owner
        .batch_execute(&format!("SET app.tenant_id = '{id}'; DELETE FROM tenants"))
        .await
        .unwrap();
    let second = cli.run(&["tenant", "create", "acme", "--json"]).await.json();
    assert_ne!(first["id"], second["id"]);
}

#[tokio::test]
async fn wrong_usage_is_2_and_an_unreachable_database_3() {
    let cli = Cli::new().await;
    for wrong in [
        &["frobnicate"][..],
        &["tenant", "create"],
        &["tenant", "create", " "],
        &["user", "create", "nobody", "--tenant", "acme"],
        &["user", "create", "a@b", "--tenant", "acme", "--role", "king"],
        &["token", "issue", "--user", "a@b", "--ttl", "never"],
    ] {
        assert_eq!(cli.run(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("coditect-server"));
    command
        .args(["migrate", "--data-dir"])
        .arg(data.path())
        .env(
            "CODITECT_OWNER_DATABASE_URL",
            "postgresql://owner:hunter2@127.0.0.1:1/x",
        )
        .env_remove("CODITECT_DATABASE_URL");
    let unreachable = output(&mut command, "").await;
    assert_eq!(unreachable.status.code(), Some(3));
    assert!(
        unreachable.stderr.contains("127.0.0.1:1"),
        "{}",
        unreachable.stderr
    );
    assert!(
        !unreachable.stderr.contains("hunter2"),
        "P15: {}",
        unreachable.stderr
    );
}

#[tokio::test]
async fn p15_help_does_not_show_the_urls_of_the_environment() {
    let cli = Cli::new().await;
    let help = cli.run(&["--help"]).await.ok();
    assert!(help.contains("CODITECT_OWNER_DATABASE_URL"));
    assert!(!help.contains("postgresql://"), "{help}");
}
