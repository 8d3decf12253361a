//! Owners and admins manage their tenant through the API; nobody else does, and no other tenant is there.

use coditect_server::auth::{Caller, Role};
use coditect_tests::api::{Api, Reply, send};
use coditect_tests::deadline::until;
use coditect_tests::server::{ServerProcess, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

async fn call(api: &Api, method: Method, path: &str, body: Value) -> Reply {
    let mut request = api.request(method, &format!("/api/v1{path}"));
    if !body.is_null() {
        request = request.json(&body);
    }
    send(request).await
}

async fn post(api: &Api, path: &str, body: Value) -> Reply {
    call(api, Method::POST, path, body).await
}

async fn patch(api: &Api, path: &str, body: Value) -> Reply {
    call(api, Method::PATCH, path, body).await
}

async fn delete(api: &Api, path: &str) -> Reply {
    call(api, Method::DELETE, path, Value::Null).await
}

/// What a creation gave.
fn made(reply: &Reply) -> Value {
    assert_eq!(reply.status.as_u16(), 201, "{reply:#?}");
    reply.json()
}

fn code(reply: &Reply, status: u16) -> String {
    reply.error(status).error.code
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// A tenant `acme` with an owner and an admin.
async fn acme(server: &TestServer) -> ((Caller, Api), (Caller, Api)) {
    let tenant = server.tenant("acme").await;
    let owner = server.user(tenant, "owner@acme.test", Role::Owner).await;
    let admin = server.user(tenant, "admin@acme.test", Role::Admin).await;
    let (owner_api, admin_api) = (server.api(&owner), server.api(&admin));
    ((owner, owner_api), (admin, admin_api))
}

/// Action, table and changed fields of the tenant's newest change.
async fn newest_change(server: &TestServer) -> (String, String, Value) {
    let row = server
        .database
        .look()
        .await
        .query_one(
            "SELECT action, table_name, details FROM audit_log WHERE action <> 'read' ORDER BY at DESC LIMIT 1",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn an_admin_invites_changes_and_removes_members_and_each_change_is_on_record() {
    let server = TestServer::start().await;
    let (_, (_, admin)) = acme(&server).await;
    let invited = made(
        &post(
            &admin,
            "/memberships",
            json!({"email": " New@Acme.test ", "role": "viewer"}),
        )
        .await,
    );
    assert_eq!(
        (&invited["email"], &invited["role"]),
        (&json!("new@acme.test"), &json!("viewer"))
    );
    let user = invited["user_id"].as_str().unwrap().to_owned();
    assert_eq!(
        newest_change(&server).await,
        (
            "create".into(),
            "memberships".into(),
            json!({"after": {"email": "new@acme.test", "role": "viewer"}})
        )
    );
    let looked_up = server
        .database
        .count("login_lookup('email', sha256('new@acme.test'))")
        .await;
    assert_eq!(
        looked_up, 1,
        "whoever signs in with the address is led to the tenant"
    );
    let again = post(
        &admin,
        "/memberships",
        json!({"email": "new@acme.test", "role": "member"}),
    )
    .await;
    assert_eq!(code(&again, 409), "already_exists");

    let path = format!("/memberships/{user}");
    let changed: Value = patch(&admin, &path, json!({"role": "member"})).await.ok();
    assert_eq!(changed["role"], "member");
    assert_eq!(
        newest_change(&server).await.2,
        json!({"before": {"role": "viewer"}, "after": {"role": "member"}})
    );
    assert_eq!(delete(&admin, &path).await.status, 204);
    assert_eq!(newest_change(&server).await.0, "delete");
    assert_eq!(code(&delete(&admin, &path).await, 404), "not_found");

    // Whoever comes back is the same user, with what he wrote.
    let back = made(
        &post(
            &admin,
            "/memberships",
            json!({"email": "new@acme.test", "role": "member"}),
        )
        .await,
    );
    assert_eq!(back["user_id"], json!(user));
}

#[tokio::test]
async fn only_an_owner_makes_or_unmakes_owners() {
    let server = TestServer::start().await;
    let ((owner, owner_api), (admin, admin_api)) = acme(&server).await;
    let of = |caller: &Caller| format!("/memberships/{}", caller.user);
    for refused in [
        post(
            &admin_api,
            "/memberships",
            json!({"email": "x@acme.test", "role": "owner"}),
        )
        .await,
        patch(&admin_api, &of(&admin), json!({"role": "owner"})).await,
        patch(&admin_api, &of(&owner), json!({"role": "member"})).await,
        delete(&admin_api, &of(&owner)).await,
    ] {
        assert_eq!(code(&refused, 403), "forbidden");
    }
    assert_eq!(server.database.count("users").await, 2);
    assert_eq!(
        patch(&owner_api, &of(&admin), json!({"role": "owner"}))
            .await
            .status,
        200
    );
    assert_eq!(delete(&admin_api, &of(&owner)).await.status, 204, "an owner now");
}

#[tokio::test]
async fn the_last_owner_stays_even_when_two_step_down_at_once() {
    let server = TestServer::start().await;
    let ((owner, owner_api), (admin, admin_api)) = acme(&server).await;
    let of = |caller: &Caller| format!("/memberships/{}", caller.user);
    assert_eq!(code(&delete(&owner_api, &of(&owner)).await, 409), "last_owner");
    assert_eq!(
        code(
            &patch(&owner_api, &of(&owner), json!({"role": "admin"})).await,
            409
        ),
        "last_owner"
    );
    let (of_owner, of_admin) = (of(&owner), of(&admin));
    for _ in 0..10 {
        assert_eq!(
            patch(&owner_api, &of(&admin), json!({"role": "owner"}))
                .await
                .status,
            200
        );
        let down = json!({"role": "admin"});
        let (one, other) = tokio::join!(
            patch(&owner_api, &of_owner, down.clone()),
            patch(&admin_api, &of_admin, down.clone())
        );
        let mut statuses = [one.status.as_u16(), other.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{one:?} {other:?}");
        assert_eq!(server.database.count("memberships WHERE role = 'owner'").await, 1);
        // The one who stepped down comes back for the next round.
        let (owner_is_left, left) = if one.status == 200 {
            (false, &admin_api)
        } else {
            (true, &owner_api)
        };
        if !owner_is_left {
            assert_eq!(
                patch(left, &of(&owner), json!({"role": "owner"})).await.status,
                200
            );
            assert_eq!(
                patch(left, &of(&admin), json!({"role": "admin"})).await.status,
                200
            );
        }
    }
}

#[tokio::test]
async fn a_role_that_was_taken_away_does_not_give_itself_back_while_it_is_still_believed() {
    let server = TestServer::start().await;
    let ((_, owner), (admin, admin_api)) = acme(&server).await;
    // Another server, that has just read the admin's role.
    let second = server.beside().await;
    let admin_there = Api::new(&second.url, &admin_api.token);
    assert_eq!(
        call(&admin_there, Method::GET, "/memberships", Value::Null)
            .await
            .status,
        200
    );
    let of_admin = format!("/memberships/{}", admin.user);
    assert_eq!(
        patch(&owner, &of_admin, json!({"role": "viewer"})).await.status,
        200
    );
    let refused = patch(&admin_there, &of_admin, json!({"role": "admin"})).await;
    assert_eq!(code(&refused, 403), "forbidden");
    // Here, where it was changed, it counts at once.
    let refused = call(&admin_api, Method::GET, "/memberships", Value::Null).await;
    assert_eq!(code(&refused, 403), "forbidden");
}

#[tokio::test]
async fn teams_projects_and_permissions_are_made_listed_changed_and_removed() {
    let server = TestServer::start().await;
    let ((owner, _), (_, admin)) = acme(&server).await;
    let team = id(&made(&post(&admin, "/teams", json!({"name": "Core"})).await));
    assert_eq!(
        code(&post(&admin, "/teams", json!({"name": "Core"})).await, 409),
        "already_exists"
    );
    let renamed: Value = patch(&admin, &format!("/teams/{team}"), json!({"name": "Kernel"}))
        .await
        .ok();
    assert_eq!(renamed["name"], "Kernel");
    assert_eq!(
        newest_change(&server).await.2,
        json!({"before": {"name": "Core"}, "after": {"name": "Kernel"}})
    );
    let members = format!("/teams/{team}/members");
    let member = json!({"user_id": owner.user});
    made(&post(&admin, &members, member.clone()).await);
    assert_eq!(code(&post(&admin, &members, member).await, 409), "already_exists");
    let stranger = post(&admin, &members, json!({"user_id": Uuid::new_v4()})).await;
    assert_eq!(code(&stranger, 404), "not_found");

    let project = id(&made(
        &post(&admin, "/projects", json!({"key": "acme/shop", "name": "Shop"})).await,
    ));
    let taken = post(&admin, "/projects", json!({"key": "acme/shop", "name": "Other"})).await;
    assert_eq!(code(&taken, 409), "already_exists");
    let both = json!({"project_id": project, "user_id": owner.user, "team_id": team, "action": "read"});
    assert_eq!(
        post(&admin, "/permissions", both).await.error(422).error.details["field"],
        "user_id"
    );
    let of_team = json!({"project_id": project, "team_id": team, "action": "read"});
    let permission = id(&made(&post(&admin, "/permissions", of_team.clone()).await));
    assert_eq!(
        code(&post(&admin, "/permissions", of_team).await, 409),
        "already_exists"
    );
    let of_user = json!({"project_id": project, "user_id": owner.user, "action": "update"});
    made(&post(&admin, "/permissions", of_user).await);

    for (list, rows) in [
        ("teams", 1),
        ("projects", 1),
        ("permissions", 2),
        ("memberships", 2),
    ] {
        let page: Value = call(&admin, Method::GET, &format!("/{list}"), Value::Null)
            .await
            .ok();
        assert_eq!(page[list].as_array().unwrap().len(), rows, "{list}: {page}");
        assert_eq!(page["next"], Value::Null);
    }
    let page: Value = call(&admin, Method::GET, &members, Value::Null).await.ok();
    assert_eq!(page["members"][0]["email"], "owner@acme.test");

    assert_eq!(
        delete(&admin, &format!("{members}/{}", owner.user)).await.status,
        204
    );
    assert_eq!(
        delete(&admin, &format!("/permissions/{permission}")).await.status,
        204
    );
    assert_eq!(delete(&admin, &format!("/teams/{team}")).await.status, 204);
    assert_eq!(delete(&admin, &format!("/projects/{project}")).await.status, 204);
    for table in ["teams", "team_members", "projects", "permissions"] {
        assert_eq!(server.database.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_that_lose_and_repeat_nothing_while_rows_come_and_go() {
    let server = TestServer::start().await;
    let (_, (_, admin)) = acme(&server).await;
    let mut made_ids = Vec::new();
    for n in 0..7 {
        made_ids.push(id(&made(
            &post(&admin, "/teams", json!({"name": format!("team {n}")})).await,
        )));
    }
    made_ids.sort();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page: Value = call(
            &admin,
            Method::GET,
            &format!("/teams?limit=2{after}"),
            Value::Null,
        )
        .await
        .ok();
        let teams = page["teams"].as_array().unwrap();
        assert!(teams.len() <= 2);
        seen.extend(teams.iter().map(id));
        // A row of a page before goes: with an offset the next page would skip one.
        assert_eq!(
            delete(&admin, &format!("/teams/{}", seen[seen.len() - 1]))
                .await
                .status,
            204
        );
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, made_ids);
    for bad in ["limit=0", "limit=501", "limit=x", "after=x"] {
        let refused = call(&admin, Method::GET, &format!("/teams?{bad}"), Value::Null).await;
        assert_eq!(code(&refused, 422), "invalid_field", "{bad}");
    }
}

#[tokio::test]
async fn p7_what_another_tenant_owns_is_not_there() {
    let server = TestServer::start().await;
    let ((owner, owner_api), _) = acme(&server).await;
    let other = server.tenant("other").await;
    let rival = server.api(&server.user(other, "r@other.test", Role::Owner).await);
    let team = id(&made(&post(&owner_api, "/teams", json!({"name": "T"})).await));
    let project = id(&made(
        &post(&owner_api, "/projects", json!({"key": "p", "name": "P"})).await,
    ));
    let permission = json!({"project_id": project, "team_id": team, "action": "read"});
    let given = id(&made(&post(&owner_api, "/permissions", permission.clone()).await));
    for reply in [
        patch(&rival, &format!("/teams/{team}"), json!({"name": "x"})).await,
        delete(&rival, &format!("/teams/{team}")).await,
        call(
            &rival,
            Method::GET,
            &format!("/teams/{team}/members"),
            Value::Null,
        )
        .await,
        post(
            &rival,
            &format!("/teams/{team}/members"),
            json!({"user_id": owner.user}),
        )
        .await,
        delete(&rival, &format!("/teams/{team}/members/{}", owner.user)).await,
        patch(&rival, &format!("/projects/{project}"), json!({"name": "x"})).await,
        delete(&rival, &format!("/projects/{project}")).await,
        post(&rival, "/permissions", permission).await,
        delete(&rival, &format!("/permissions/{given}")).await,
        patch(
            &rival,
            &format!("/memberships/{}", owner.user),
            json!({"role": "viewer"}),
        )
        .await,
        delete(&rival, &format!("/memberships/{}", owner.user)).await,
    ] {
        assert_eq!(code(&reply, 404), "not_found");
    }
    // The same names are free there.
    made(&post(&rival, "/teams", json!({"name": "T"})).await);
    made(
        &post(
            &rival,
            "/memberships",
            json!({"email": "owner@acme.test", "role": "member"}),
        )
        .await,
    );
    let page: Value = call(&rival, Method::GET, "/memberships", Value::Null).await.ok();
    assert_eq!(page["memberships"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn names_that_nobody_could_read_are_refused_with_their_field() {
    let server = TestServer::start().await;
    let (_, (_, admin)) = acme(&server).await;
    let long = "x".repeat(256);
    for (path, body, field) in [
        ("/teams", json!({"name": ""}), "name"),
        ("/teams", json!({"name": " \u{7}"}), "name"),
        ("/teams", json!({"name": "a\u{0}b"}), "name"),
        ("/teams", json!({"name": long}), "name"),
        ("/teams", json!({}), "name"),
        ("/projects", json!({"key": "", "name": "n"}), "key"),
        (
            "/memberships",
            json!({"email": "nobody", "role": "member"}),
            "email",
        ),
        ("/memberships", json!({"email": "a@b", "role": "king"}), "role"),
    ] {
        let refused = post(&admin, path, body.clone()).await;
        assert_eq!(refused.error(422).error.details["field"], field, "{path} {body}");
    }
    let refused = delete(&admin, "/teams/not-a-uuid").await;
    assert_eq!(refused.error(422).error.details["field"], "id");
}

#[tokio::test]
async fn tenant_delete_asks_whether_it_is_meant_takes_everything_and_keeps_the_audit() {
    let mut server = ServerProcess::start().await;
    let token = server.token("a@acme.test").await;
    let api = Api::new(&server.url(), &token);
    assert_eq!(api.get("/api/v1/account").await.status, 200);
    let asked = server.cli(&["tenant", "delete", "acme"]).await;
    assert_eq!(asked.status.code(), Some(2));
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert_eq!(server.database.count("tenants").await, 1);
    // The read above is on record before the tenant goes, or a moment after; either way it stays.
    until(
        "the read is on record",
        async || server.database.count("audit_log WHERE action = 'read'").await,
        |count| *count == 1,
    )
    .await;
    server.cli(&["tenant", "delete", "ACME", "--yes"]).await.ok();
    for table in ["tenants", "users", "memberships", "login_directory"] {
        assert_eq!(server.database.count(table).await, 0, "{table}");
    }
    assert_eq!(
        server.database.count("audit_log WHERE action = 'delete'").await,
        1
    );
    assert_eq!(server.database.count("audit_log").await, 5);
    let gone = server.cli(&["tenant", "delete", "acme", "--yes"]).await;
    assert_eq!(gone.status.code(), Some(1), "{gone:#?}");
    assert!(!server.running().log().contains("panicked"));
}
