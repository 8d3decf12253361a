//! Tenants are kept apart by PostgreSQL itself: roles, forced row level security, the login directory, migrations.

use std::process::Stdio;

use coditect_server::auth::Role;
use coditect_server::database::Address;
use coditect_server::error::ApiError;
use coditect_server::migrate::{self, Migrated};
use coditect_server::tenant::TenantTx;
use coditect_shared::{TenantId, UserId};
use coditect_tests::postgres::{APP, OWNER, TestDatabase};
use coditect_tests::program::{output, program};
use coditect_tests::server::TestServer;
use tokio::process::Command;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

/// Tables that belong to no tenant, each with its reason in the migration that makes it.
const WITHOUT_TENANT: [&str; 5] = [
    "device_codes",
    "login_directory",
    "schema_migrations",
    "server_instance",
    "sign_in_attempts",
];

/// The tables of the schema, as the catalogue has them.
async fn tables(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "SELECT relname::text FROM pg_class
              WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn tenant_tables(client: &Client) -> Vec<String> {
    let mut tables = tables(client).await;
    tables.retain(|table| !WITHOUT_TENANT.contains(&table.as_str()));
    assert!(tables.len() >= 11, "{tables:?}");
    tables
}

fn code(result: Result<u64, tokio_postgres::Error>) -> Option<SqlState> {
    result.err().and_then(|error| error.code().cloned())
}

#[tokio::test]
async fn p7_every_tenant_table_of_the_catalogue_has_forced_row_security_with_a_tenant_policy() {
    let database = TestDatabase::create().await;
    let client = database.look().await;
    for table in tenant_tables(&client).await {
        let row = client
            .query_one(
                "SELECT c.relrowsecurity, c.relforcerowsecurity,
                        (SELECT count(*) FROM pg_policies p WHERE p.tablename = $1
                            AND p.qual LIKE '%app.tenant_id%' AND p.permissive = 'PERMISSIVE'),
                        (SELECT count(*) FROM pg_policies p WHERE p.tablename = $1
                            AND coalesce(p.qual, '') || coalesce(p.with_check, '') NOT LIKE '%app.tenant_id%')
                   FROM pg_class c WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace",
                &[&table],
            )
            .await
            .unwrap();
        assert!(
            row.get::<_, bool>(0) && row.get::<_, bool>(1),
            "{table}: row security is not forced"
        );
        assert!(row.get::<_, i64>(2) > 0, "{table}: no policy compares the tenant");
        assert_eq!(
            row.get::<_, i64>(3),
            0,
            "{table}: a policy lets rows pass without comparing the tenant"
        );
    }
}

#[tokio::test]
async fn every_key_of_a_tenant_table_begins_with_the_tenant() {
    let database = TestDatabase::create().await;
    let client = database.look().await;
    for table in tenant_tables(&client).await {
        let regclass = format!("public.{table}");
        let keys = client
            .query(
                "SELECT i.indexrelid::regclass::text, i.indisprimary,
                        (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[0])
                   FROM pg_index i WHERE i.indrelid = $1::text::regclass AND i.indisunique",
                &[&regclass],
            )
            .await
            .unwrap();
        assert!(
            keys.iter().any(|key| key.get::<_, bool>(1)),
            "{table}: no primary key"
        );
        for key in keys {
            assert_eq!(
                key.get::<_, Option<&str>>(2),
                Some("tenant_id"),
                "{}",
                key.get::<_, &str>(0)
            );
        }
        let foreign = client
            .query(
                "SELECT c.conname::text, a.attname::text
                   FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
                  WHERE c.conrelid = $1::text::regclass AND c.contype = 'f'",
                &[&regclass],
            )
            .await
            .unwrap();
        for key in foreign {
            assert_eq!(key.get::<_, &str>(1), "tenant_id", "{}", key.get::<_, &str>(0));
        }
    }
}

#[tokio::test]
async fn p7_neither_owner_nor_serving_role_sees_a_row_without_naming_the_tenant() {
    let server = TestServer::start().await;
    let mine = server.tenant("mine").await;
    server.user(mine, "a@mine.test", Role::Owner).await;
    for client in [server.database.as_owner().await, server.database.as_app().await] {
        for table in ["tenants", "users", "memberships"] {
            let count = format!("SELECT count(*) FROM {table}");
            assert_eq!(
                client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0),
                0,
                "{table}"
            );
            let named = format!("SET app.tenant_id = '{mine}'");
            client.batch_execute(&named).await.unwrap();
            assert_eq!(
                client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0),
                1,
                "{table}"
            );
            client.batch_execute("RESET app.tenant_id").await.unwrap();
        }
    }
}

#[tokio::test]
async fn p7_a_tenants_transaction_cannot_write_another_tenants_row() {
    let server = TestServer::start().await;
    let (mine, theirs) = (server.tenant("mine").await, server.tenant("theirs").await);
    let pool = server
        .database
        .owner_url()
        .parse::<Address>()
        .unwrap()
        .pool()
        .unwrap();
    let tx = TenantTx::begin_for_tenant(&pool, mine).await.unwrap();
    let insert = "INSERT INTO users (tenant_id, id, email) VALUES ($1, gen_random_uuid(), 'x@x.test')";
    let refused = tx.execute(insert, &[&theirs.0]).await;
    assert_eq!(code(refused), Some(SqlState::INSUFFICIENT_PRIVILEGE));
    drop(tx);
    let tx = TenantTx::begin_for_tenant(&pool, mine).await.unwrap();
    let touched = tx
        .execute(
            "UPDATE tenants SET name = 'taken over' WHERE tenant_id = $1",
            &[&theirs.0],
        )
        .await;
    assert_eq!(touched.unwrap(), 0, "the row is not there for us");
}

#[tokio::test]
async fn p7_what_a_transaction_set_ends_with_it_however_it_ends() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let caller = server.user(tenant, "a@acme.test", Role::Member).await;
    let pool = &server.state.pool;
    let left = async || {
        let client = pool.get().await.unwrap();
        let text = "SELECT coalesce(current_setting('app.tenant_id', true), '') || coalesce(current_setting('app.user_id', true), '')";
        client.query_one(text, &[]).await.unwrap().get::<_, String>(0)
    };
    TenantTx::begin(pool, tenant, &caller.user)
        .await
        .unwrap()
        .commit()
        .await
        .unwrap();
    assert_eq!(left().await, "", "after a commit");
    TenantTx::begin(pool, tenant, &caller.user)
        .await
        .unwrap()
        .rollback()
        .await
        .unwrap();
    assert_eq!(left().await, "", "after a rollback");
    let failing = TenantTx::begin(pool, tenant, &caller.user).await.unwrap();
    assert!(failing.batch_execute("SELECT 1 / 0").await.is_err());
    drop(failing);
    assert_eq!(left().await, "", "after an error");
    let cancelled = TenantTx::begin(pool, tenant, &caller.user).await.unwrap();
    tokio::select! {
        biased;
        _ = cancelled.batch_execute("SELECT pg_sleep(30)") => panic!("it was meant to be cancelled"),
        () = tokio::task::yield_now() => {}
    }
    drop(cancelled);
    assert_eq!(left().await, "", "after a cancelled request");
}

#[tokio::test]
async fn committing_a_transaction_in_which_a_statement_failed_is_an_error() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let tx = TenantTx::begin(&server.state.pool, tenant, &UserId::from(Uuid::new_v4()))
        .await
        .unwrap();
    let _ = tx.batch_execute("SELECT 1 / 0").await;
    assert!(tx.commit().await.is_err());
}

#[tokio::test]
async fn what_passes_is_503_and_what_will_never_work_is_500() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let user = UserId::from(Uuid::new_v4());
    for (statement, status) in [
        ("SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(30)", 503),
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503),
        (
            "SET LOCAL transaction_read_only = on; INSERT INTO audit_log (tenant_id) VALUES (NULL)",
            503,
        ),
        ("SELECT 1 / 0", 500),
        ("SELECT * FROM nowhere", 500),
    ] {
        let tx = TenantTx::begin(&server.state.pool, tenant, &user).await.unwrap();
        let error = ApiError::from(tx.batch_execute(statement).await.unwrap_err());
        assert_eq!(error.status().as_u16(), status, "{statement}: {error:?}");
    }
    // Somebody else holds the row for longer than the role may wait.
    let holder = server.database.look().await;
    holder.batch_execute("BEGIN; LOCK TABLE tenants").await.unwrap();
    let tx = TenantTx::begin(&server.state.pool, tenant, &user).await.unwrap();
    let waited = tx
        .batch_execute("SET LOCAL lock_timeout = '1ms'; SELECT name FROM tenants")
        .await;
    assert_eq!(ApiError::from(waited.unwrap_err()).status().as_u16(), 503);
}

#[tokio::test]
async fn the_serving_role_finds_a_tenant_by_one_exact_digest_and_lists_nothing() {
    let server = TestServer::start().await;
    let client = server.database.as_app().await;
    let digest = vec![7_u8; 32];
    server
        .database
        .look()
        .await
        .execute(
            "INSERT INTO login_directory (kind, digest, tenant_id) VALUES ('tenant', $1, gen_random_uuid())",
            &[&digest],
        )
        .await
        .unwrap();
    let found = client
        .query("SELECT * FROM login_lookup('tenant', $1)", &[&digest])
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    for statement in [
        "SELECT count(*) FROM login_directory",
        "DELETE FROM login_directory",
        "DELETE FROM audit_log",
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE server_instance SET instance_id = gen_random_uuid()",
        "DELETE FROM schema_migrations",
        "UPDATE memberships SET user_id = gen_random_uuid()",
        "UPDATE users SET email = 'x@x.test'",
        "DELETE FROM users",
        "UPDATE tenants SET name = 'x'",
        "DELETE FROM tenants",
        "CREATE TABLE mine (a int)",
        "SET ROLE coditect_owner",
        "ALTER ROLE coditect_app BYPASSRLS",
    ] {
        let refused = client.execute(statement, &[]).await;
        assert_eq!(
            code(refused),
            Some(SqlState::INSUFFICIENT_PRIVILEGE),
            "{statement}"
        );
    }
}

#[tokio::test]
async fn p7_a_role_that_row_security_would_not_bind_is_refused_as_serving_role() {
    let server = TestServer::start().await;
    let client = server.database.look().await;
    let suffix = Uuid::new_v4().simple().to_string();
    let (bypass, member) = (format!("bypass_{suffix}"), format!("member_{suffix}"));
    client
        .batch_execute(&format!(
            "CREATE ROLE {bypass} LOGIN BYPASSRLS; CREATE ROLE {member} LOGIN IN ROLE {OWNER}"
        ))
        .await
        .unwrap();
    for (role, fault) in [
        ("postgres", "is a superuser"),
        (OWNER, "owns objects"),
        (&bypass, "has BYPASSRLS"),
        (&member, "may become coditect_owner"),
    ] {
        let url = server.database.app_url().replace(APP, role);
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(program("coditect-server"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .env("CODITECT_DATABASE_URL", url)
            .env_remove("CODITECT_OWNER_DATABASE_URL")
            .stdin(Stdio::null());
        let refused = output(&mut command, "").await;
        assert_eq!(refused.status.code(), Some(1), "{role}");
        assert!(refused.stderr.contains(fault), "{role}: {}", refused.stderr);
        assert_eq!(refused.stdout, "", "{role}");
    }
}

#[tokio::test]
async fn migrating_twice_changes_nothing_and_at_once_does_not_collide() {
    let database = TestDatabase::create_empty().await;
    let owner: Address = database.owner_url().parse().unwrap();
    let (one, other) = tokio::join!(migrate::migrate(&owner, None), migrate::migrate(&owner, None));
    for done in [one.unwrap(), other.unwrap()] {
        assert_eq!(done.to, migrate::VERSION);
    }
    let again = migrate::migrate(&owner, None).await.unwrap();
    assert_eq!(
        again,
        Migrated {
            from: migrate::VERSION,
            to: migrate::VERSION
        }
    );
}

#[tokio::test]
async fn a_schema_that_is_newer_changed_or_missing_is_refused_with_what_to_do() {
    let database = TestDatabase::create().await;
    let owner: Address = database.owner_url().parse().unwrap();
    let newer = format!(
        "INSERT INTO schema_migrations VALUES ({}, 'future', 'x')",
        migrate::VERSION + 1
    );
    let client = database.as_owner().await;
    client.batch_execute(&newer).await.unwrap();
    let refusal = migrate::migrate(&owner, None).await.unwrap_err().to_string();
    assert!(refusal.contains("newer coditect-server"), "{refusal}");
    let serving = migrate::expect_current(&database.as_app().await)
        .await
        .unwrap_err()
        .to_string();
    assert!(serving.contains("newer coditect-server"), "{serving}");
    client
        .batch_execute("DELETE FROM schema_migrations WHERE name = 'future'; UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
        .await
        .unwrap();
    let refusal = migrate::migrate(&owner, None).await.unwrap_err().to_string();
    assert!(refusal.contains("applied in another form"), "{refusal}");
    let empty = TestDatabase::create_empty().await;
    let refusal = migrate::expect_current(&empty.as_app().await)
        .await
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("run `coditect-server migrate`"), "{refusal}");
}

#[tokio::test]
async fn deleting_a_tenant_takes_everything_along_but_the_audit() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let user = server.user(tenant, "a@acme.test", Role::Owner).await;
    let keep: TenantId = server.tenant("other").await;
    let client = server.database.look().await;
    let user = Uuid::parse_str(user.user.as_str()).unwrap();
    let fill = "
        WITH project AS (INSERT INTO projects VALUES ($1, gen_random_uuid(), 'p', 'P') RETURNING id),
             team AS (INSERT INTO teams VALUES ($1, gen_random_uuid(), 'T') RETURNING id),
             licence AS (INSERT INTO licenses (tenant_id, id, key_digest, user_id, tier, max_seats)
                         VALUES ($1, gen_random_uuid(), sha256('k'), $2, 'pro', 1) RETURNING id),
             audit AS (INSERT INTO audit_log (tenant_id, actor, action, table_name) VALUES ($1, 'x', 'create', 'users'))
        SELECT project.id, team.id, licence.id FROM project, team, licence";
    let ids = client.query_one(fill, &[&tenant.0, &user]).await.unwrap();
    let (project, team, licence): (Uuid, Uuid, Uuid) = (ids.get(0), ids.get(1), ids.get(2));
    client
        .execute(
            "INSERT INTO team_members VALUES ($1, $2, $3)",
            &[&tenant.0, &team, &user],
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO permissions VALUES ($1, gen_random_uuid(), $2, NULL, $3, 'read')",
            &[&tenant.0, &project, &team],
        )
        .await
        .unwrap();
    let activation: Uuid = client
        .query_one(
            "INSERT INTO activations VALUES ($1, gen_random_uuid(), $2, 'machine') RETURNING id",
            &[&tenant.0, &licence],
        )
        .await
        .unwrap()
        .get(0);
    client
        .execute(
            "INSERT INTO license_sessions VALUES ($1, gen_random_uuid(), $2, $3, $4, now(), now(), now() + '6 min')",
            &[&tenant.0, &licence, &activation, &user],
        )
        .await
        .unwrap();

    // As the owner, under its own tenant's policy, as administration does.
    let owner = server.database.as_owner().await;
    owner
        .batch_execute(&format!("SET app.tenant_id = '{tenant}'; DELETE FROM tenants"))
        .await
        .unwrap();
    for table in tenant_tables(&client).await {
        let left = format!("SELECT count(*) FROM {table} WHERE tenant_id = $1");
        let left: i64 = client.query_one(&left, &[&tenant.0]).await.unwrap().get(0);
        assert_eq!(left, i64::from(table == "audit_log"), "{table}");
    }
    let kept: i64 = client
        .query_one("SELECT count(*) FROM tenants WHERE tenant_id = $1", &[&keep.0])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, 1);
}
