//! Bad input: what is malformed is refused as a whole, a bad row alone, and nothing of either is stored.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use coditect_server::auth::Role;
use coditect_shared::limits::{PUSH_BODY_MAX_BYTES, PUSH_RECORDS_MAX, TEXT_MAX_BYTES};
use coditect_shared::wire::{PushAnswer, PushRequest};
use coditect_shared::{MessageRecord, RecordRef, TaskRecord};
use coditect_tests::api::{Api, Pusher, Reply, batch_of_messages, link, message, send, task};
use coditect_tests::server::TestServer;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::json;
use uuid::Uuid;

async fn push_encoded(api: &Api, encoding: &str, body: Vec<u8>) -> Reply {
    let request = api
        .request(Method::POST, "/api/v1/context/push")
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_ENCODING, encoding)
        .body(body);
    send(request).await
}

async fn nothing_stored(server: &TestServer) {
    for table in [
        "context_messages",
        "context_task_tracking",
        "context_push_log",
        "context_sync_cursors",
    ] {
        assert_eq!(server.database.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn malformed_bodies_are_422_as_a_whole_and_name_the_field() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let good = json!({"session_id": "s", "role": "user", "content": "x"});
    let cases = [
        ("", "body"),
        ("{", "body"),
        ("[]", "body"),
        ("nonsense", "body"),
        (r#"{"push_seq": 1}"#, "epoch"),
        (r#"{"epoch": 1}"#, "push_seq"),
        (r#"{"epoch": 0, "push_seq": 1}"#, "epoch"),
        (r#"{"epoch": 1, "push_seq": 0}"#, "push_seq"),
        (r#"{"epoch": 1, "push_seq": -1}"#, "push_seq"),
        (
            r#"{"epoch": 1, "push_seq": 1, "messages": [{"session_id": "s", "role": "user"}]}"#,
            "messages[0].content",
        ),
        (
            r#"{"epoch": 1, "push_seq": 1, "tasks": [{"id": "x", "task_id": "1", "description": ""}]}"#,
            "tasks[0].status",
        ),
        (
            r#"{"epoch": 1, "push_seq": 1, "task_messages": [{"task_id": "x"}]}"#,
            "task_messages[0].message",
        ),
        (r#"{"epoch": "one", "push_seq": 1}"#, "epoch"),
        (
            r#"{"epoch": 1, "push_seq": 1, "messages": [{"session_id": "s", "role": "user", "content": "\ud800"}]}"#,
            "body",
        ),
    ];
    for (body, field) in cases {
        let error = api.push_text(body).await.error(422).error;
        assert_eq!(error.details["field"], field, "{body}: {error:?}");
    }
    let whole = json!({"epoch": 1, "push_seq": 1, "messages": [good, {"session_id": "s"}]});
    api.push_text(&whole.to_string()).await.error(422);
    nothing_stored(&server).await;
}

#[tokio::test]
async fn a_bad_row_is_refused_alone_with_its_code_and_the_rest_is_stored() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let id = Uuid::new_v4();
    let messages = vec![
        message("s", "good"),
        MessageRecord {
            content_hash: Some("00".repeat(32)),
            ..message("s", "1")
        },
        message(&"x".repeat(256), "2"),
        message("s", "a\0b"),
        MessageRecord {
            role: "r".repeat(51),
            ..message("s", "4")
        },
        MessageRecord {
            occurrence: u32::MAX,
            ..message("s", "5")
        },
        message("s", "also good"),
    ];
    let tasks = vec![
        task(id, "good"),
        TaskRecord {
            status: "done".into(),
            ..task(Uuid::new_v4(), "1")
        },
        TaskRecord {
            outcome_score: Some(2.0),
            ..task(Uuid::new_v4(), "2")
        },
        TaskRecord {
            outcome: Some("fine".into()),
            ..task(Uuid::new_v4(), "3")
        },
        TaskRecord {
            id: "no-uuid".into(),
            ..task(Uuid::new_v4(), "4")
        },
        TaskRecord {
            task_id: "t".repeat(51),
            ..task(Uuid::new_v4(), "5")
        },
        TaskRecord {
            tool_error_count: Some(-1),
            ..task(Uuid::new_v4(), "6")
        },
        TaskRecord {
            tool_success_count: Some(1 << 40),
            ..task(Uuid::new_v4(), "7")
        },
    ];
    let mut bad_link = link(
        id,
        coditect_shared::Origin {
            session_id: "s".into(),
            content_hash: coditect_shared::hash::sha256(b""),
            occurrence: 0,
        },
    );
    bad_link.task_id = "no-uuid".into();
    let batch = PushRequest {
        epoch: 1,
        push_seq: 1,
        messages,
        tasks,
        task_messages: vec![bad_link],
    };
    let answer = api.push(&batch).await;
    assert_eq!((answer.synced, answer.skipped), (3, 0));
    let refused: Vec<(String, &str)> = answer
        .rejected
        .iter()
        .map(|row| {
            let RecordRef::Text(place) = &row.reference else {
                panic!("{row:?}")
            };
            (place.clone(), row.code.as_str())
        })
        .collect();
    let mut expected = vec![("messages[1]".to_owned(), "hash_mismatch")];
    expected.extend((2..=5).map(|n| (format!("messages[{n}]"), "invalid_field")));
    expected.extend((1..=7).map(|n| (format!("tasks[{n}]"), "invalid_field")));
    expected.push(("task_messages[0]".to_owned(), "invalid_field"));
    assert_eq!(refused, expected);
    assert_eq!(answer.verdicts.len(), refused.len());
    let page = api.another_device().pull(0).await;
    assert_eq!((page.messages.len(), page.tasks.len()), (2, 1));
}

#[tokio::test]
async fn every_text_that_passes_the_checks_is_taken_by_postgresql() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let mut pusher = Pusher::new(api.clone());
    let long = |chars: usize| "\u{10FFFF}".repeat(chars);
    let mut widest = MessageRecord {
        role: long(50),
        created_at: Some("9999-12-31T23:59:59.999999999Z".into()),
        hardware_id: Some(long(255)),
        hash: Some(long(255)),
        occurrence: i32::MAX as u32,
        ..message(&long(255), &long(100))
    };
    let numbers = json!({"a": 1e308, "b": -1.5e-300, "c": i64::MIN, "d": u64::MAX, "e": {"f": [null, true, "\u{7f}\u{1}"]}});
    widest.metadata = numbers.as_object().unwrap().clone();
    let mut batch = vec![widest];
    for time in [
        "-009999-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "infinity",
        "24:00",
        "",
    ] {
        batch.push(MessageRecord {
            created_at: Some(time.into()),
            ..message("times", time)
        });
    }
    let sent = batch.clone();
    let answer = pusher.messages(batch).await;
    assert_eq!((answer.synced, answer.rejected), (sent.len(), vec![]));
    let wide = TaskRecord {
        task_id: long(50),
        description: long(100),
        active_form: Some(long(255)),
        session_id: Some(long(255)),
        project_id: Some(long(255)),
        client_version: Some(long(50)),
        hardware_id: Some(long(255)),
        outcome: Some(String::new()),
        outcome_score: Some(5e-324),
        tool_success_count: Some(i64::from(i32::MAX)),
        started_at: Some("-009999-01-01T00:00:00Z".into()),
        ..task(Uuid::new_v4(), "")
    };
    let answer = pusher.tasks(vec![wide.clone(), wide]).await;
    assert_eq!((answer.synced, answer.skipped, answer.rejected), (1, 1, vec![]));
    let page = api.another_device().pull(0).await;
    for (got, sent) in page.messages.iter().zip(&sent) {
        assert_eq!(
            (&got.created_at, &got.hash, &got.metadata, got.occurrence),
            (&sent.created_at, &sent.hash, &sent.metadata, sent.occurrence)
        );
    }
}

#[tokio::test]
async fn a_message_of_twenty_megabytes_is_refused_alone_and_large_ones_within_the_limit_are_stored() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let largest = "x".repeat(TEXT_MAX_BYTES);
    let batch = batch_of_messages(
        1,
        vec![
            message("s", "small"),
            message("s", &"y".repeat(20 << 20)),
            message("s", &largest),
        ],
    );
    let answer = api.push(&batch).await;
    assert_eq!(
        (
            answer.synced,
            answer.rejected.len(),
            answer.rejected[0].code.as_str()
        ),
        (2, 1, "too_large")
    );
    assert!(
        answer.rejected[0].message.contains(&TEXT_MAX_BYTES.to_string()),
        "the limit is named"
    );
    let page = api.another_device().pull_to_head(0).await;
    assert!(page.messages[1].content == largest);
}

#[tokio::test]
async fn compressed_bodies_are_read_and_known_by_what_they_unfold_to() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let body = serde_json::to_vec(&batch_of_messages(1, vec![message("s", "x")])).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&body).unwrap();
    let plain: PushAnswer = api.push_text(std::str::from_utf8(&body).unwrap()).await.ok();
    for (encoding, encoded) in [
        ("zstd", zstd::encode_all(body.as_slice(), 3).unwrap()),
        ("gzip", gzip.finish().unwrap()),
    ] {
        let answer: PushAnswer = push_encoded(&api, encoding, encoded.clone()).await.ok();
        assert_eq!(answer, plain, "the same batch in {encoding} is the same batch");
        let cut = encoded[..encoded.len() - 5].to_vec();
        push_encoded(&api.another_device(), encoding, cut)
            .await
            .error(422);
    }
    push_encoded(&api, "br", body).await.error(415);
}

#[tokio::test]
async fn a_small_body_that_unfolds_without_end_is_cut_off() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let endless = || std::io::repeat(b' ').take(PUSH_BODY_MAX_BYTES as u64 + (64 << 20));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut endless(), &mut gzip).unwrap();
    for (encoding, bomb, at_most) in [
        ("zstd", zstd::encode_all(endless(), 3).unwrap(), 64 << 10),
        ("gzip", gzip.finish().unwrap(), 256 << 10),
    ] {
        assert!(bomb.len() < at_most, "{}", bomb.len());
        let error = push_encoded(&api, encoding, bomb).await.error(413).error;
        assert_eq!(error.details["limit"], PUSH_BODY_MAX_BYTES, "{encoding}");
    }
    // Folded twice it would unfold even further.
    push_encoded(&api, "zstd, gzip", vec![1]).await.error(415);
    let many = vec![message("s", "x"); PUSH_RECORDS_MAX + 1];
    let error = api.try_push(&batch_of_messages(1, many)).await.error(413).error;
    assert_eq!(error.details["limit"], PUSH_RECORDS_MAX);
    nothing_stored(&server).await;
}

#[tokio::test]
async fn foreign_expired_and_unsigned_tokens_store_nothing() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let batch = batch_of_messages(1, vec![message("s", "x")]);
    let long_ago = Timestamp::now() - SignedDuration::from_hours(1);
    let expired = server.token_issued_at(&caller, long_ago, Duration::from_secs(60));
    let signed = server.token(&caller);
    let claims = signed.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    for token in [&expired, &unsigned, "nonsense", ""] {
        api.with_token(token).try_push(&batch).await.error(401);
        api.with_token(token)
            .try_pull(&Default::default())
            .await
            .error(401);
    }
    send(api.anonymous(Method::GET, "/api/v1/context/events"))
        .await
        .error(401);
    nothing_stored(&server).await;
    // A token of another tenant is good for that tenant and shows nothing of this one.
    api.push(&batch).await;
    let other = server.tenant("other").await;
    let stranger = server.user(other, "s@other.test", Role::Owner).await;
    let page = api.with_token(&server.token(&stranger)).pull(0).await;
    assert_eq!((page.head, page.messages.len(), page.own.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_request_without_a_device_or_with_a_bad_one_is_422() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let request = |device: Option<&str>| {
        let request = api
            .anonymous(Method::GET, "/api/v1/context/pull")
            .bearer_auth(&api.token);
        match device {
            Some(device) => request.header("x-device-id", device),
            None => request,
        }
    };
    for device in [None, Some("laptop"), Some("")] {
        assert_eq!(
            send(request(device)).await.error(422).error.details["field"],
            "X-Device-ID"
        );
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored_everywhere() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let body = json!({"epoch": 1, "push_seq": 1, "colour": "red", "messages": [
        {"session_id": "s", "role": "user", "content": "x", "mood": {"a": [1]}, "metadata": {"mood": "kept"}}],
        "tasks": [{"id": Uuid::new_v4(), "task_id": "1", "description": "", "status": "pending", "mood": 1}]});
    let answer: PushAnswer = api.push_text(&body.to_string()).await.ok();
    assert_eq!(answer.synced, 2);
    let page: coditect_shared::wire::PullPage = api
        .another_device()
        .get("/api/v1/context/pull?cursor=0&colour=red")
        .await
        .ok();
    assert_eq!(page.messages[0].metadata["mood"], "kept");
}
