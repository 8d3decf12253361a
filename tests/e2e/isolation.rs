//! P7: the isolation proof. Every route with every kind of caller, every table as the serving role, every pooled
//! connection after whatever a request may do to it.

use std::time::Duration;

use coditect_server::auth::{Caller, Role};
use coditect_shared::TenantId;
use coditect_tests::api::{Pusher, batch_of_messages, message};
use coditect_tests::isolation::faults;
use coditect_tests::postgres::{APP, TestDatabase};
use coditect_tests::server::TestServer;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// Who asks, in the order of the columns below.
const CALLERS: [&str; 8] = [
    "nobody", "forged", "removed", "viewer", "member", "admin", "owner", "stranger",
];

/// Answers to each of them. A stranger is another tenant's owner: what he names by an id is not there for him, and
/// where nothing is named he is at home in his own tenant.
type Expected = [u16; 8];

const PUBLIC: Expected = [200; 8];
const READ: Expected = [401, 401, 401, 200, 200, 200, 200, 200];
const CREATE: Expected = [401, 401, 401, 403, 200, 200, 200, 200];
const LIST: Expected = [401, 401, 401, 403, 403, 200, 200, 200];
const MAKE: Expected = [401, 401, 401, 403, 403, 201, 201, 201];
const LIST_OF_ONE: Expected = [401, 401, 401, 403, 403, 200, 200, 404];
const MAKE_IN_ONE: Expected = [401, 401, 401, 403, 403, 201, 201, 404];
const CHANGE: Expected = [401, 401, 401, 403, 403, 200, 200, 404];
const REMOVE: Expected = [401, 401, 401, 403, 403, 204, 204, 404];

/// For what proves itself by a code, a secret or a form of its own, and a token is no such thing: some refusal,
/// whoever asks.
const REFUSED: Expected = [0; 8];

/// The one table of what each route answers to whom.
const EXPECTED: [(&str, &str, Expected); 43] = [
    ("GET", "/api/v1/account", READ),
    ("POST", "/api/v1/context/push", CREATE),
    ("GET", "/api/v1/context/pull", READ),
    ("GET", "/api/v1/context/events", READ),
    ("GET", "/api/v1/context/digest", READ),
    ("GET", "/api/v1/context/stats", READ),
    ("GET", "/api/v1/audit", LIST),
    ("GET", "/api/v1/memberships", LIST),
    ("POST", "/api/v1/memberships", MAKE),
    ("PATCH", "/api/v1/memberships/{id}", CHANGE),
    ("DELETE", "/api/v1/memberships/{id}", REMOVE),
    ("GET", "/api/v1/teams", LIST),
    ("POST", "/api/v1/teams", MAKE),
    ("PATCH", "/api/v1/teams/{id}", CHANGE),
    ("DELETE", "/api/v1/teams/{id}", REMOVE),
    ("GET", "/api/v1/teams/{id}/members", LIST_OF_ONE),
    ("POST", "/api/v1/teams/{id}/members", MAKE_IN_ONE),
    ("DELETE", "/api/v1/teams/{id}/members/{user_id}", REMOVE),
    ("GET", "/api/v1/projects", LIST),
    ("POST", "/api/v1/projects", MAKE),
    ("PATCH", "/api/v1/projects/{id}", CHANGE),
    ("DELETE", "/api/v1/projects/{id}", REMOVE),
    ("GET", "/api/v1/permissions", LIST),
    ("POST", "/api/v1/permissions", MAKE_IN_ONE),
    ("DELETE", "/api/v1/permissions/{id}", REMOVE),
    ("POST", "/api/v1/auth/device", REFUSED),
    ("POST", "/api/v1/auth/token", REFUSED),
    ("POST", "/api/v1/auth/revoke", REFUSED),
    ("GET", "/device", PUBLIC),
    ("GET", "/device/confirm", REFUSED),
    ("POST", "/device/sign-in", REFUSED),
    ("POST", "/device/tenant", REFUSED),
    ("POST", "/device/decide", REFUSED),
    ("POST", "/device/sign-out", REFUSED),
    ("GET", "/device/style.css", PUBLIC),
    ("GET", "/invitation/{secret}", REFUSED),
    ("POST", "/invitation/{secret}", REFUSED),
    ("GET", "/health", PUBLIC),
    ("GET", "/health/", PUBLIC),
    ("GET", "/health/ready", PUBLIC),
    ("GET", "/health/ready/", PUBLIC),
    ("GET", "/.well-known/jwks.json", PUBLIC),
    ("GET", "/openapi.json", PUBLIC),
];

/// What nobody but its author may ever see.
const SECRET: &str = "only its author reads this";

/// Rows of acme, made anew for each request, since a request may remove them.
struct Rows {
    member: Uuid,
    outsider: Uuid,
    team: Uuid,
    project: Uuid,
    permission: Uuid,
}

async fn rows(server: &TestServer, tenant: TenantId) -> Rows {
    let rows = Rows {
        member: Uuid::new_v4(),
        outsider: Uuid::new_v4(),
        team: Uuid::new_v4(),
        project: Uuid::new_v4(),
        permission: Uuid::new_v4(),
    };
    let Rows {
        member,
        outsider,
        team,
        project,
        permission,
    } = &rows;
    let fill = format!(
        "INSERT INTO users (tenant_id, id, email) SELECT '{tenant}', id, id || '@acme.test' FROM unnest('{{{member},{outsider}}}'::uuid[]) id;
         INSERT INTO memberships (tenant_id, user_id, role) SELECT '{tenant}', id, 'member' FROM unnest('{{{member},{outsider}}}'::uuid[]) id;
         INSERT INTO teams (tenant_id, id, name) VALUES ('{tenant}', '{team}', '{team}');
         INSERT INTO team_members (tenant_id, team_id, user_id) VALUES ('{tenant}', '{team}', '{member}');
         INSERT INTO projects (tenant_id, id, key, name) VALUES ('{tenant}', '{project}', '{project}', 'P');
         INSERT INTO permissions (tenant_id, id, project_id, team_id, action) VALUES ('{tenant}', '{permission}', '{project}', '{team}', 'read')"
    );
    server.database.look().await.batch_execute(&fill).await.unwrap();
    rows
}

/// The path with ids of these rows, and a body that fits.
fn request_of(method: &str, path: &str, rows: &Rows) -> (String, Value) {
    let id = match path.split('/').nth(3) {
        Some("memberships") => rows.member,
        Some("teams") => rows.team,
        Some("projects") => rows.project,
        _ => rows.permission,
    };
    let body = match (method, path) {
        ("POST", "/api/v1/context/push") => {
            serde_json::to_value(batch_of_messages(1, vec![message("s", "m")])).unwrap()
        }
        ("POST", "/api/v1/memberships") => {
            json!({"email": format!("{}@new.test", Uuid::new_v4()), "role": "viewer"})
        }
        ("PATCH", "/api/v1/memberships/{id}") => json!({"role": "viewer"}),
        ("POST", "/api/v1/teams/{id}/members") => json!({"user_id": rows.outsider}),
        ("POST", "/api/v1/permissions") => {
            json!({"project_id": rows.project, "team_id": rows.team, "action": "update"})
        }
        ("POST", "/api/v1/projects") => json!({"key": Uuid::new_v4(), "name": "P"}),
        ("POST" | "PATCH", _) => json!({"name": Uuid::new_v4()}),
        _ => Value::Null,
    };
    let url = path
        .replace("{id}", &id.to_string())
        .replace("{user_id}", &rows.member.to_string())
        .replace("{secret}", "00000000-0000-4000-8000-000000000000.nothing");
    (url, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_every_route_of_the_document_answers_each_kind_of_caller_as_the_table_says() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let author = server.user(tenant, "author@acme.test", Role::Member).await;
    Pusher::new(server.api(&author))
        .messages(vec![message(SECRET, SECRET)])
        .await;
    let mut callers = Vec::new();
    for role in [Role::Viewer, Role::Member, Role::Admin, Role::Owner] {
        let caller = server.user(tenant, &format!("{role}@acme.test"), role).await;
        callers.push(server.api(&caller));
    }
    let other = server.tenant("other").await;
    let stranger = server.api(&server.user(other, "stranger@other.test", Role::Owner).await);
    // Signed by us for acme, as an owner even, but no member.
    let removed = server.api(&Caller {
        user: Uuid::new_v4().into(),
        role: Role::Owner,
        ..author.clone()
    });
    let forged = removed.with_token(&format!("{}x", removed.token));

    let document: Value = stranger.get("/openapi.json").await.ok();
    let documented: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum();
    assert_eq!(
        documented,
        EXPECTED.len(),
        "a route is not in the table of this test"
    );
    let mut wrong = Vec::new();
    for (method, path, expected) in EXPECTED {
        assert!(
            document["paths"][path][method.to_lowercase()].is_object(),
            "{method} {path}"
        );
        let [viewer, member, admin, owner] = callers.as_slice() else {
            unreachable!("four roles")
        };
        let by = [
            None,
            Some(&forged),
            Some(&removed),
            Some(viewer),
            Some(member),
            Some(admin),
            Some(owner),
            Some(&stranger),
        ];
        for ((who, api), expected) in CALLERS.iter().zip(by).zip(expected) {
            let (url, body) = request_of(method, path, &rows(&server, tenant).await);
            let method: Method = method.parse().unwrap();
            let mut request = match api {
                // A device of its own, so that each push is a first one.
                Some(api) => api.another_device().request(method.clone(), &url),
                None => stranger.anonymous(method.clone(), &url),
            };
            if !body.is_null() {
                request = request.json(&body);
            }
            let mut answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let is_stream = answer
                .headers()
                .get("content-type")
                .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            let text = if is_stream {
                String::from_utf8(answer.chunk().await.unwrap().unwrap().to_vec()).unwrap()
            } else {
                answer.text().await.unwrap()
            };
            if expected == 0 {
                assert!(
                    (400..500).contains(&status),
                    "{method} {path} by {who}: {status}: {text}"
                );
            } else if status != expected {
                wrong.push(format!(
                    "{method} {path} by {who}: {status} instead of {expected}: {text}"
                ));
            }
            assert!(
                !text.contains(SECRET),
                "{method} {path} shows {who} what is another's: {text}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(server.api(&author).pull(0).await.messages[0].content, SECRET);
}

#[tokio::test]
async fn p7_no_table_view_or_function_of_the_catalogue_lets_the_serving_role_past_the_policies() {
    let database = TestDatabase::create().await;
    assert_eq!(faults(&database).await, Vec::<String>::new());
}

#[tokio::test]
async fn p7_whatever_is_broken_in_a_scratch_copy_of_the_schema_is_found() {
    for (breakage, fault) in [
        ("DROP POLICY tenant_isolation ON teams", "teams: SELECT by the owner meets 0 rows"),
        ("DROP POLICY user_isolation ON context_messages", "context_messages: SELECT by the owner meets 0 rows"),
        ("ALTER TABLE projects DISABLE ROW LEVEL SECURITY", "projects: SELECT by nobody meets 3 rows"),
        ("ALTER TABLE audit_log NO FORCE ROW LEVEL SECURITY", "audit_log: row security is not forced"),
        ("CREATE POLICY all_may ON users USING (true)", "users: SELECT by nobody meets 3 rows"),
        (
            "DROP POLICY user_isolation ON task_events;
             CREATE POLICY user_isolation ON task_events
              USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))",
            "task_events: SELECT by a tenant without a user meets 2 rows",
        ),
        (
            "DROP POLICY tenant_isolation ON memberships;
             CREATE POLICY tenant_isolation ON memberships
              USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)) WITH CHECK (true)",
            "memberships: INSERT of another's row",
        ),
        (
            "CREATE TABLE newcomer (tenant_id uuid NOT NULL, id uuid NOT NULL); GRANT SELECT ON newcomer TO coditect_app",
            "newcomer: row security is not forced",
        ),
        ("CREATE TABLE shared_by_all (id uuid)", "shared_by_all: no tenant_id"),
        (
            "CREATE VIEW everybody AS SELECT * FROM users; GRANT SELECT ON everybody TO coditect_app",
            "everybody: a view with its owner's eyes",
        ),
        (
            "CREATE FUNCTION all_users() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM users'",
            "all_users: runs with its owner's rights, and nobody vouches for it",
        ),
        ("GRANT SELECT ON login_directory TO coditect_app", "the serving role may SELECT count(*) FROM login_directory"),
        ("GRANT TRUNCATE ON teams TO coditect_app", "teams: TRUNCATE by nobody"),
    ] {
        let database = TestDatabase::create().await;
        database.as_owner().await.batch_execute(breakage).await.unwrap();
        let found = faults(&database).await;
        assert!(found.iter().any(|found| found.starts_with(fault)), "{breakage}: {found:#?}");
    }
}

#[tokio::test]
async fn p7_every_connection_of_the_server_is_the_serving_roles_which_owns_and_bypasses_nothing() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    api.pull(0).await;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(server.state.pool.get().await.unwrap());
    }
    for client in &held {
        let row = client
            .query_one(
                "SELECT current_user::text, session_user::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
                        rolreplication, EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid),
                        current_setting('row_security')
                   FROM pg_roles r WHERE rolname = current_user",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (APP, APP));
        for column in 2..8 {
            assert!(!row.get::<_, bool>(column), "column {column}");
        }
        assert_eq!(row.get::<_, &str>(8), "on");
    }
    // Those beside the pool too: the one that carries heads.
    let others = server
        .database
        .count("pg_stat_activity WHERE datname = current_database() AND application_name = 'coditect-server' AND usename <> 'coditect_app'")
        .await;
    assert_eq!(others, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_no_pooled_connection_knows_anything_of_requests_that_failed_or_were_given_up() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let other = server.tenant("other").await;
    let stranger = server.api(&server.user(other, "s@other.test", Role::Owner).await);
    api.push(&batch_of_messages(1, vec![message("s", "one")])).await;
    let look = server.database.look().await;
    look.batch_execute("BEGIN; LOCK TABLE context_heads")
        .await
        .unwrap();
    // Given up while they wait for a lock; the server closes what it cannot clean.
    let mut given_up = tokio::task::JoinSet::new();
    for n in 0..8 {
        let api = if n % 2 == 0 { api.clone() } else { stranger.clone() };
        given_up.spawn(async move {
            let batch = batch_of_messages(2, vec![message("s", "two")]);
            let pulled = async { api.get("/api/v1/context/pull").await };
            let pushed = async { api.another_device().try_push(&batch).await };
            let _ = tokio::time::timeout(Duration::from_millis(50), async {
                tokio::join!(pulled, pushed);
            })
            .await;
        });
    }
    given_up.join_all().await;
    look.batch_execute("ROLLBACK").await.unwrap();
    // Failing: in the handler, in a constraint, in the database.
    let look = server.database.look().await;
    look.batch_execute("REVOKE SELECT ON context_sync_stats FROM coditect_app")
        .await
        .unwrap();
    for _ in 0..4 {
        assert_eq!(api.get("/api/v1/context/stats").await.status, 500);
        assert_eq!(stranger.get("/api/v1/context/pull?cursor=99").await.status, 409);
        let body = json!({"name": "T"});
        let made = stranger
            .request(Method::POST, "/api/v1/teams")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(made.status() == 201 || made.status() == 409);
    }
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(server.state.pool.get().await.unwrap());
    }
    for client in &held {
        let row = client
            .query_one(
                "SELECT coalesce(current_setting('app.tenant_id', true), '') || coalesce(current_setting('app.user_id', true), ''),
                        (SELECT count(*) FROM context_messages) + (SELECT count(*) FROM users),
                        (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('advisory', 'transactionid')),
                        (SELECT count(*) FROM pg_class WHERE relpersistence = 't'),
                        current_setting('enable_seqscan'), current_setting('transaction_read_only')",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), "");
        for column in 1..4 {
            assert_eq!(row.get::<_, i64>(column), 0, "column {column}");
        }
        assert_eq!((row.get(4), row.get(5)), ("on", "off"));
    }
    drop(held);
    let page: Value = api.get("/api/v1/context/pull").await.ok();
    assert!(
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["content"] != SECRET)
    );
    let _ = caller;
}
