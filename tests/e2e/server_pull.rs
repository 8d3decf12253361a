//! Pull: pages, stubs, proof of history, and the digest and statistics of what is stored.

use coditect_shared::digest::TableDigest;
use coditect_shared::hash::message_hash;
use coditect_shared::limits::PULL_PAGE_BYTES;
use coditect_shared::wire::{PullPage, PullQuery, PushRequest, Stub};
use coditect_shared::{MessageRecord, Origin};
use coditect_tests::api::{Api, Pusher, link, message, task};
use coditect_tests::server::TestServer;
use serde_json::{Value, json};
use uuid::Uuid;

fn from(cursor: i64) -> PullQuery {
    PullQuery {
        cursor,
        ..PullQuery::default()
    }
}

async fn diverged(api: &Api, query: &PullQuery) -> bool {
    let reply = api.try_pull(query).await;
    if reply.status == 200 {
        return false;
    }
    assert_eq!(reply.error(409).error.code, "history_diverged");
    true
}

/// A message, a task and a link, three times over.
async fn nine_rows(pusher: &mut Pusher, tenant: coditect_shared::TenantId) {
    for n in 0..3 {
        let (id, text) = (Uuid::new_v4(), format!("m{n}"));
        let origin = Origin {
            session_id: "s".into(),
            content_hash: message_hash(tenant, "s", &text),
            occurrence: 0,
        };
        let batch = PushRequest {
            messages: vec![message("s", &text)],
            tasks: vec![task(id, &text)],
            task_messages: vec![link(id, origin)],
            ..PushRequest::default()
        };
        pusher.push(batch).await;
    }
}

fn cursors(page: &PullPage) -> Vec<i64> {
    let messages = page.messages.iter().filter_map(|row| row.sync_cursor);
    let tasks = page.tasks.iter().filter_map(|row| row.sync_cursor);
    let links = page.task_messages.iter().filter_map(|row| row.sync_cursor);
    let mut all: Vec<i64> = messages
        .chain(tasks)
        .chain(links)
        .chain(page.own.iter().map(Stub::sync_cursor))
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn pages_of_any_size_give_every_row_once_in_cursor_order() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    nine_rows(&mut Pusher::new(api.clone()), caller.tenant).await;
    for device in [api.another_device(), api] {
        for limit in 1..=10 {
            let (mut seen, mut cursor, mut mark) = (Vec::new(), 0, None);
            loop {
                let query = PullQuery {
                    cursor,
                    mark,
                    limit: Some(limit),
                    ..PullQuery::default()
                };
                let page: PullPage = device.try_pull(&query).await.ok();
                assert!(
                    page.has_more || page.cursor == 9,
                    "the last page ends at the head"
                );
                let rows = cursors(&page);
                assert!(
                    rows.iter().all(|row| (cursor + 1..=page.cursor).contains(row)),
                    "{page:#?}"
                );
                assert_eq!((page.head, page.epoch, page.mark.is_some()), (9, 1, true));
                seen.extend(rows);
                (cursor, mark) = (page.cursor, page.mark);
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(seen, (1..=9).collect::<Vec<_>>(), "limit {limit}");
        }
    }
}

#[tokio::test]
async fn what_a_device_pushed_comes_back_to_it_as_stubs_and_to_others_in_full() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    nine_rows(&mut Pusher::new(api.clone()), caller.tenant).await;
    let own = api.pull(0).await;
    assert_eq!(
        (
            own.own.len(),
            own.messages.len() + own.tasks.len() + own.task_messages.len()
        ),
        (9, 0)
    );
    assert_eq!(own.device_push_seq, 3);
    let Stub::Message {
        origin,
        content_hash,
        sync_cursor,
    } = &own.own[0]
    else {
        panic!("{own:#?}")
    };
    assert_eq!(
        (*content_hash, *sync_cursor),
        (message_hash(caller.tenant, "s", "m0"), 1)
    );
    assert_eq!(
        (origin.content_hash, origin.session_id.as_str()),
        (*content_hash, "s")
    );

    let other = api.another_device();
    let full = other.pull(0).await;
    assert_eq!(
        (
            full.own.len(),
            full.messages.len(),
            full.tasks.len(),
            full.task_messages.len()
        ),
        (0, 3, 3, 3)
    );
    assert_eq!(full.device_push_seq, 0);
    let stubs: PullPage = other
        .try_pull(&PullQuery {
            stubs: Some(true),
            ..from(0)
        })
        .await
        .ok();
    assert_eq!(stubs.own, own.own);
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_and_holds_at_least_one_row() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let mut pusher = Pusher::new(api);
    let text = |n: usize, bytes: usize| message("s", &n.to_string().repeat(bytes));
    pusher.messages((0..6).map(|n| text(n, 1 << 20)).collect()).await;
    let large = usize::try_from(PULL_PAGE_BYTES).unwrap() + 1;
    pusher.messages(vec![text(6, large), text(7, 1)]).await;
    let other = pusher.api.another_device();
    let (mut sizes, mut cursor) = (Vec::new(), 0);
    loop {
        let page = other.pull(cursor).await;
        sizes.push(page.messages.len());
        cursor = page.cursor;
        if !page.has_more {
            break;
        }
    }
    // The last one of each page begins below the limit and goes beyond it.
    assert_eq!(sizes, [4, 3, 1]);
    let own = pusher.api.pull(0).await;
    assert_eq!((own.own.len(), own.has_more), (8, false), "stubs weigh little");
}

#[tokio::test]
async fn other_users_rows_are_not_seen_and_do_not_keep_a_device_below_its_head() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let other = server.user(caller.tenant, "b@acme.test", caller.role).await;
    let mut pusher = Pusher::new(api.clone());
    pusher.messages(vec![message("s", "mine")]).await;
    let mut others = Pusher::new(server.api(&other));
    others
        .messages(vec![message("s", "mine"), message("s", "theirs")])
        .await;
    let page = api.another_device().pull(0).await;
    assert_eq!((page.messages.len(), page.cursor, page.head), (1, 1, 1));
    let theirs = others.api.another_device().pull(0).await;
    assert_eq!((theirs.messages.len(), theirs.cursor, theirs.head), (2, 3, 3));
}

#[tokio::test]
async fn p14_a_cursor_mark_or_witness_of_another_past_is_refused() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    assert!(
        !diverged(&api, &from(0)).await,
        "an empty history diverges from nothing"
    );
    assert!(diverged(&api, &from(1)).await, "beyond the head");
    let mut pusher = Pusher::new(api.clone());
    let first = pusher.messages(vec![message("s", "1"), message("s", "2")]).await;
    let second = pusher.messages(vec![message("s", "3")]).await;
    let (first, second) = (first.mark.unwrap(), second.mark.unwrap());
    let marked = |cursor, mark: &str| PullQuery {
        mark: Some(mark.into()),
        ..from(cursor)
    };
    let witnessed = |text: String| PullQuery {
        witness: Some(text),
        ..from(0)
    };
    // Both cursors of the first batch are covered by its mark.
    for query in [
        marked(1, &first),
        marked(2, &first),
        marked(3, &second),
        marked(0, "any"),
        from(3),
    ] {
        assert!(!diverged(&api, &query).await, "{query:?}");
    }
    assert!(!diverged(&api, &witnessed(format!("3:{second}"))).await);
    for query in [
        marked(1, &second),
        marked(3, &first),
        marked(3, "unknown"),
        from(4),
        marked(4, &second),
    ] {
        assert!(diverged(&api, &query).await, "{query:?}");
    }
    for text in [format!("3:{first}"), format!("4:{second}"), "2:unknown".into()] {
        assert!(diverged(&api, &witnessed(text.clone())).await, "{text}");
    }

    // The database goes back to the first batch, and on from there by another one.
    let look = server.database.look().await;
    look.batch_execute(
        "DELETE FROM context_messages WHERE sync_cursor > 2; DELETE FROM context_push_log WHERE last_cursor > 2;
         UPDATE context_heads SET head = 2; UPDATE context_sync_cursors SET push_seq = 1",
    )
    .await
    .unwrap();
    Pusher::new(api.another_device())
        .messages(vec![message("s", "another 3")])
        .await;
    assert!(
        diverged(&api, &marked(3, &second)).await,
        "the mark tells although the cursor exists"
    );
    assert!(diverged(&api, &witnessed(format!("3:{second}"))).await);
    assert!(!diverged(&api, &marked(2, &first)).await);
}

#[tokio::test]
async fn a_bad_parameter_is_422_and_named() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    for (query, field) in [
        ("cursor=-1", "cursor"),
        ("cursor=one", "cursor"),
        ("limit=0", "limit"),
        ("limit=5001", "limit"),
        ("limit=x", "limit"),
        ("witness=x", "witness"),
        ("stubs=x", "stubs"),
    ] {
        let error = api
            .get(&format!("/api/v1/context/pull?{query}"))
            .await
            .error(422)
            .error;
        assert_eq!(error.details["field"], field, "{query}");
    }
    assert_eq!(
        server.database.count("context_sync_cursors").await,
        0,
        "nothing stored"
    );
}

#[tokio::test]
async fn p16_the_digest_is_what_a_client_computes_from_the_rows_it_pulled() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let mut pusher = Pusher::new(api.clone());
    nine_rows(&mut pusher, caller.tenant).await;
    let long = "é".repeat(255);
    pusher
        .messages(vec![
            message("", "text"),
            message("a:b:c", "text"),
            message(&long, "text"),
            MessageRecord {
                occurrence: 1,
                ..message("a:b:c", "text")
            },
        ])
        .await;
    let origin = |text: &str| Origin {
        session_id: "s".into(),
        content_hash: message_hash(caller.tenant, "s", text),
        occurrence: 0,
    };
    // An edited row, and a link without a sequence.
    let id = Uuid::new_v4();
    let mut bare = link(id, origin("m1"));
    bare.sequence = None;
    let batch = PushRequest {
        messages: vec![MessageRecord {
            origin: Some(origin("m0")),
            ..message("s", "edited")
        }],
        tasks: vec![task(id, "x")],
        task_messages: vec![bare],
        ..PushRequest::default()
    };
    pusher.push(batch).await;

    let page = api.another_device().pull_to_head(0).await;
    let (mut messages, mut tasks, mut links) = (
        TableDigest::default(),
        TableDigest::default(),
        TableDigest::default(),
    );
    for row in &page.messages {
        let hash = message_hash(caller.tenant, &row.session_id, &row.content);
        messages.add_message(&row.origin_with(hash), hash);
    }
    for row in &page.tasks {
        tasks.add_task(
            row.id.parse().unwrap(),
            row.content_hash.as_ref().unwrap().parse().unwrap(),
        );
    }
    for row in &page.task_messages {
        links.add_link(row.task_id.parse().unwrap(), &row.message, row.sequence);
    }
    let digest = api.digest().await;
    assert_eq!((messages.rows, tasks.rows, links.rows), (7, 4, 4));
    assert_eq!(
        (digest.messages, digest.tasks, digest.task_messages),
        (messages, tasks, links)
    );
    assert_eq!((digest.cursor, digest.epoch), (page.head, 1));
}

#[tokio::test]
async fn statistics_count_what_is_current_and_say_how_far_each_device_is() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let empty: Value = api.get("/api/v1/context/stats").await.ok();
    assert_eq!(
        (&empty["messages"], &empty["last_synced_at"]),
        (&json!(0), &Value::Null)
    );
    let mut pusher = Pusher::new(api.clone());
    let origin = Origin {
        session_id: "s".into(),
        content_hash: message_hash(caller.tenant, "s", "four"),
        occurrence: 0,
    };
    let first = MessageRecord {
        hardware_id: Some("mac".into()),
        ..message("s", "four")
    };
    let answer = pusher.messages(vec![first.clone(), message("s", "a\0")]).await;
    assert_eq!(answer.rejected.len(), 1);
    pusher
        .messages(vec![
            first,
            MessageRecord {
                origin: Some(origin),
                ..message("s", "seven ç")
            },
        ])
        .await;
    let other = api.another_device();
    other.pull(0).await;
    other.pull(2).await;
    let stats: Value = api.get("/api/v1/context/stats").await.ok();
    let expected = json!({"messages": 1, "tasks": 0, "task_messages": 0, "bytes": "seven ç".len(), "pushes": 2,
        "records_stored": 2, "records_skipped": 1, "records_rejected": 1, "cursor": 2});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&stats[name], value, "{name} of {stats:#}");
    }
    let devices = stats["devices"].as_array().unwrap();
    let of = |device: &Api| {
        devices
            .iter()
            .find(|row| row["device_id"] == json!(device.device))
            .unwrap()
    };
    assert_eq!(
        (&of(&api)["push_seq"], &of(&api)["hardware_id"]),
        (&json!(2), &json!("mac"))
    );
    assert_eq!(
        (&of(&other)["pulled_cursor"], &of(&other)["push_seq"]),
        (&json!(2), &json!(0))
    );
    assert!(of(&other)["last_pulled_at"].is_string() && of(&api)["last_pushed_at"].is_string());
}
