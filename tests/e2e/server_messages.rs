//! Which of two versions of a message is current, and where the other can be read (PROTOCOL 3). Each test plays one
//! interleaving.

use coditect_shared::wire::{PushRequest, Verdict};
use coditect_shared::{MessageRecord, Stamp};
use coditect_tests::api::{message, verdict};
use coditect_tests::two_devices::TwoDevices;

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

fn at(cursor: i64) -> Option<Stamp> {
    Some(Stamp { epoch: 1, cursor })
}

#[tokio::test]
async fn an_edit_is_a_new_version_of_its_row_and_the_old_one_is_kept() {
    // A sends v0, then fifty edits of it, as a program does that streams an answer into one row.
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    two.a.messages(vec![message("s", "v0")]).await;
    for n in 1..=50 {
        let edit = two.edit(&origin, &format!("v{n}"));
        assert_eq!(two.a.messages(vec![edit]).await.cursor, n + 1);
    }
    assert_eq!(two.contents().await, [("v50".to_owned(), 0)]);
    assert_eq!(two.filed().await.len(), 50);
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_does_not_bring_its_version_back() {
    // A sends v1 and the answer is lost; B edits to v2; A sends the same batch again.
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    two.a.messages(vec![message("s", "v0")]).await;
    let v1 = PushRequest {
        epoch: 1,
        push_seq: 2,
        messages: vec![two.edit(&origin, "v1")],
        ..PushRequest::default()
    };
    let lost = two.a.api.push(&v1).await;
    let v2 = two.edit(&origin, "v2");
    two.b.messages(vec![v2]).await;
    assert_eq!(two.a.api.push(&v1).await, lost);
    assert_eq!(two.contents().await, [("v2".to_owned(), 0)]);
}

#[tokio::test]
async fn both_devices_ingesting_one_session_store_it_once() {
    let mut two = TwoDevices::start().await;
    let session = vec![
        message("s", "go"),
        message("s", "yes"),
        two.repeated("s", "yes", 1),
    ];
    two.a.messages(session.clone()).await;
    let answer = two.b.messages(session).await;
    assert_eq!((answer.synced, answer.skipped), (0, 3));
    assert_eq!(
        answer.cursor, 3,
        "a batch of nothing but duplicates moves no head"
    );
    assert_eq!(two.contents().await.len(), 3);
}

#[tokio::test]
async fn ingesting_a_session_again_after_an_edit_leaves_the_edit_and_files_the_old_text_once() {
    // A ingests v0 and its owner edits it to v1; B ingests the same transcript, v0, and later once more.
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    two.a.messages(vec![message("s", "v0")]).await;
    let v1 = two.edit(&origin, "v1");
    two.a.messages(vec![v1]).await;
    for _ in 0..2 {
        let answer = two.b.messages(vec![message("s", "v0")]).await;
        assert_eq!(verdict(&answer, "messages[0]"), Verdict::Superseded);
        assert_eq!(answer.verdicts[0].cursor, Some(2), "the version that is current");
    }
    assert_eq!(two.contents().await, [("v1".to_owned(), 0)]);
    assert_eq!(two.filed().await, owned(&[("replaced", "v0")]));
}

#[tokio::test]
async fn a_superseded_text_that_was_never_stored_is_filed() {
    // A's row was edited before B, who wrote another text under the same origin in recovery, arrives.
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    two.a.messages(vec![message("s", "v0")]).await;
    let (v1, v2) = (two.edit(&origin, "v1"), two.edit(&origin, "v2"));
    two.a.messages(vec![v1]).await;
    let old = MessageRecord {
        base: at(1),
        ..v2.clone()
    };
    let answer = two.b.messages(vec![old]).await;
    assert_eq!(verdict(&answer, "messages[0]"), Verdict::Superseded);
    assert_eq!(two.contents().await, [("v1".to_owned(), 0)]);
    assert_eq!(
        two.filed().await,
        owned(&[("replaced", "v0"), ("superseded", "v2")])
    );

    // Made from what is stored, it is current.
    let newer = MessageRecord { base: at(2), ..v2 };
    let answer = two.b.messages(vec![newer]).await;
    assert_eq!(verdict(&answer, "messages[0]"), Verdict::Stored);
    assert_eq!(two.contents().await, [("v2".to_owned(), 0)]);
}

#[tokio::test]
async fn a_row_edited_back_to_its_first_text_is_a_third_version() {
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    two.a.messages(vec![message("s", "v0")]).await;
    for content in ["v1", "v0"] {
        let edit = two.edit(&origin, content);
        let answer = two.a.messages(vec![edit]).await;
        assert_eq!(answer.synced, 1);
    }
    let page = two.b.api.pull(0).await;
    assert_eq!(
        (page.messages.len(), page.messages[0].content.as_str()),
        (1, "v0")
    );
    assert_eq!(page.messages[0].sync_cursor, Some(3));
    assert_eq!(
        page.messages[0].origin.as_ref(),
        Some(&origin),
        "its origin keeps the number 0 from the row's own key"
    );
}

#[tokio::test]
async fn an_edit_of_the_role_alone_keeps_the_key_and_the_same_edit_again_is_a_duplicate() {
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    let first = MessageRecord {
        hash: Some("mine".into()),
        ..message("s", "v0")
    };
    two.a.messages(vec![first]).await;
    let edit = MessageRecord {
        role: "assistant".into(),
        hash: Some("other".into()),
        ..two.edit(&origin, "v0")
    };
    assert_eq!(two.a.messages(vec![edit.clone()]).await.synced, 1);
    let again = two.b.messages(vec![edit]).await;
    assert_eq!(verdict(&again, "messages[0]"), Verdict::Duplicate);
    let row = &two.b.api.another_device().pull(0).await.messages[0];
    assert_eq!(
        (row.role.as_str(), row.occurrence, &row.origin),
        ("assistant", 0, &None)
    );
    assert_eq!(
        row.hash.as_deref(),
        Some("mine"),
        "the writer's hash is that of the first sending"
    );
}

#[tokio::test]
async fn a_text_edited_into_another_rows_text_takes_the_lowest_free_occurrence() {
    let mut two = TwoDevices::start().await;
    two.a.messages(vec![message("s", "ok"), message("s", "no")]).await;
    let edit = two.edit(&two.origin("s", "no", 0), "ok");
    two.a.messages(vec![edit]).await;
    assert_eq!(two.contents().await, [("ok".to_owned(), 0), ("ok".to_owned(), 1)]);
}

#[tokio::test]
async fn a_new_row_whose_key_was_taken_by_an_edit_keeps_its_origin_under_another_occurrence() {
    // A's "no" becomes "ok" while B, who knows nothing of it, sends the session's first "ok".
    let mut two = TwoDevices::start().await;
    two.a.messages(vec![message("s", "no")]).await;
    let edit = two.edit(&two.origin("s", "no", 0), "ok");
    two.a.messages(vec![edit]).await;
    let answer = two.b.messages(vec![message("s", "ok")]).await;
    assert_eq!(verdict(&answer, "messages[0]"), Verdict::Stored);
    let page = two.a.api.another_device().pull(0).await;
    let keys: Vec<_> = page
        .messages
        .iter()
        .map(|row| (row.occurrence, row.origin.clone()))
        .collect();
    assert_eq!(
        keys,
        [
            (0, Some(two.origin("s", "no", 0))),
            (1, Some(two.origin("s", "ok", 0)))
        ]
    );
    let again = two.a.messages(vec![message("s", "ok")]).await;
    assert_eq!(
        verdict(&again, "messages[0]"),
        Verdict::Duplicate,
        "found by its origin"
    );
}

#[tokio::test]
async fn the_number_of_a_rows_origin_is_not_given_to_another_row() {
    // The first "ok" is edited away; another row becomes "ok"; the first one comes back.
    let mut two = TwoDevices::start().await;
    two.a.messages(vec![message("s", "ok"), message("s", "no")]).await;
    let (ok, no) = (two.origin("s", "ok", 0), two.origin("s", "no", 0));
    for (origin, content) in [(&ok, "away"), (&no, "ok"), (&ok, "ok")] {
        let edit = two.edit(origin, content);
        assert_eq!(two.a.messages(vec![edit]).await.synced, 1);
    }
    assert_eq!(two.contents().await, [("ok".to_owned(), 1), ("ok".to_owned(), 2)]);
}

#[tokio::test]
async fn two_rows_that_swap_their_texts_in_one_batch_do_not_collide() {
    let mut two = TwoDevices::start().await;
    two.a
        .messages(vec![message("s", "left"), message("s", "right")])
        .await;
    let (left, right) = (two.origin("s", "left", 0), two.origin("s", "right", 0));
    let batch = vec![two.edit(&left, "right"), two.edit(&right, "left")];
    assert_eq!(two.a.messages(batch).await.synced, 2);
    let page = two.b.api.pull(0).await;
    let rows: Vec<_> = page
        .messages
        .iter()
        .map(|row| (row.content.as_str(), row.origin.clone()))
        .collect();
    assert_eq!(rows, [("right", Some(left)), ("left", Some(right))]);
}

#[tokio::test]
async fn equal_keys_in_one_batch_fold_as_if_each_came_alone() {
    // A REPLACE of a row in a batch, and a row whose insert and edits were not folded by the sender.
    let mut two = TwoDevices::start().await;
    let origin = two.origin("s", "v0", 0);
    let batch = vec![
        message("s", "v0"),
        message("s", "v0"),
        two.edit(&origin, "v1"),
        two.edit(&origin, "v2"),
        message("s", "v0"),
    ];
    let answer = two.a.messages(batch).await;
    assert_eq!((answer.synced, answer.skipped, answer.cursor), (3, 2, 3));
    assert_eq!(verdict(&answer, "messages[1]"), Verdict::Duplicate);
    assert_eq!(verdict(&answer, "messages[4]"), Verdict::Superseded);
    assert_eq!(two.contents().await, [("v2".to_owned(), 0)]);
    assert_eq!(
        two.filed().await,
        owned(&[("replaced", "v0"), ("replaced", "v1")])
    );
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent() {
    let mut two = TwoDevices::start().await;
    let mut sent = MessageRecord {
        session_null: true,
        created_at: Some("2026-11-24 06:00:00".into()),
        hardware_id: Some("mac".into()),
        hash: Some("sha:1".into()),
        ..message("", "a:b\u{1F600}\n\\u0000 é")
    };
    sent.metadata.insert("has_code".into(), 1.into());
    sent.metadata
        .insert("agent_context".into(), "{\"a\": [1.5, null]}".into());
    two.a.messages(vec![sent.clone()]).await;
    let got = two.b.api.pull(0).await.messages.remove(0);
    assert_eq!(
        MessageRecord {
            sync_cursor: None,
            synced_at: None,
            content_hash: None,
            ..got
        },
        sent
    );
}

#[tokio::test]
async fn synced_at_never_falls_along_the_cursor() {
    let mut two = TwoDevices::start().await;
    // The clock was an hour ahead when the newest row was stored.
    two.a.messages(vec![message("s", "0")]).await;
    let look = two.server.database.look().await;
    look.execute(
        "UPDATE context_heads SET last_synced_at = now() + interval '1 hour'",
        &[],
    )
    .await
    .unwrap();
    for n in 1..4 {
        two.a.messages(vec![message("s", &n.to_string())]).await;
    }
    let rows = look
        .query(
            "SELECT synced_at::text FROM context_messages ORDER BY sync_cursor",
            &[],
        )
        .await
        .unwrap();
    let times: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(
        times.is_sorted() && times.windows(2).all(|pair| pair[0] < pair[1]),
        "{times:?}"
    );
}
