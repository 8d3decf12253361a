//! Which of two versions of a task is current, where the other can be read (P6), and when a link finds its ends. Each
//! test plays one interleaving.

use coditect_shared::wire::{PushRequest, Verdict};
use coditect_shared::{Stamp, TaskRecord};
use coditect_tests::api::{link, message, task, verdict};
use coditect_tests::two_devices::TwoDevices;
use uuid::Uuid;

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
async fn p6_of_two_versions_of_a_task_the_later_wins_and_the_other_stays_readable() {
    // Both devices edit one task offline; A arrives first.
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    for (device, text) in [(0, "first"), (0, "of A"), (1, "of B")] {
        let pusher = if device == 0 { &mut two.a } else { &mut two.b };
        assert_eq!(pusher.tasks(vec![task(id, text)]).await.synced, 1);
    }
    let page = two.a.api.another_device().pull(0).await;
    assert_eq!(
        (page.tasks.len(), page.tasks[0].description.as_str()),
        (1, "of B")
    );
    assert_eq!(
        two.events(id).await,
        owned(&[("stored", "first"), ("stored", "of A"), ("stored", "of B")])
    );
}

#[tokio::test]
async fn p6_a_task_that_goes_back_to_an_earlier_state_is_a_new_version() {
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    for status in ["pending", "in_progress", "pending"] {
        let version = TaskRecord {
            status: status.into(),
            ..task(id, "t")
        };
        assert_eq!(two.a.tasks(vec![version.clone()]).await.synced, 1);
        let again = two.b.tasks(vec![version]).await;
        assert_eq!(
            verdict(&again, "tasks[0]"),
            Verdict::Duplicate,
            "equals the current version"
        );
    }
    assert_eq!(two.events(id).await.len(), 3);
}

#[tokio::test]
async fn p6_an_old_copy_of_a_task_does_not_win_by_arriving_last() {
    // B's file was restored from a backup: it was acknowledged at 1, and A has stored a newer version at 2.
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    two.a.tasks(vec![task(id, "one")]).await;
    two.a.tasks(vec![task(id, "two")]).await;
    for _ in 0..2 {
        let old = TaskRecord {
            base: at(1),
            ..task(id, "old")
        };
        let answer = two.b.tasks(vec![old]).await;
        assert_eq!(verdict(&answer, "tasks[0]"), Verdict::Superseded);
    }
    let page = two.b.api.another_device().pull(0).await;
    assert_eq!(page.tasks[0].description, "two");
    assert_eq!(
        two.events(id).await,
        owned(&[("stored", "one"), ("stored", "two"), ("superseded", "old")])
    );
}

#[tokio::test]
async fn a_task_twice_in_one_batch_is_two_versions_and_the_last_one_is_current() {
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    let answer = two
        .a
        .tasks(vec![task(id, "one"), task(id, "two"), task(id, "two")])
        .await;
    assert_eq!((answer.synced, answer.skipped), (2, 1));
    assert_eq!(two.b.api.pull(0).await.tasks[0].description, "two");
    assert_eq!(
        two.events(id).await,
        owned(&[("stored", "one"), ("stored", "two")])
    );
}

#[tokio::test]
async fn a_task_comes_back_in_the_very_spelling_in_which_it_was_sent() {
    let mut two = TwoDevices::start().await;
    let sent = TaskRecord {
        outcome: Some(String::new()),
        outcome_score: Some(0.1 + 0.2),
        tool_success_count: Some(3),
        started_at: Some("2026-11-24 06:00:00".into()),
        completed_at: Some("2026-11-24T07:00:00.1234567+01:00".into()),
        updated_at: Some("about noon".into()),
        hardware_id: Some("mac".into()),
        client_version: Some("0.1.0".into()),
        ..task(Uuid::new_v4(), "über \"x\"\n")
    };
    two.a.tasks(vec![sent.clone()]).await;
    let got = two.b.api.pull(0).await.tasks.remove(0);
    assert!(got.sync_cursor.is_some() && got.synced_at.is_some() && got.content_hash.is_some());
    assert_eq!(
        TaskRecord {
            sync_cursor: None,
            synced_at: None,
            content_hash: None,
            ..got.clone()
        },
        sent
    );
    let again = two.b.tasks(vec![got]).await;
    assert_eq!(verdict(&again, "tasks[0]"), Verdict::Duplicate);
}

#[tokio::test]
async fn a_link_waits_for_its_ends_and_finds_them_in_its_own_batch() {
    // A link arrives before its task and its message, then before its message alone, then with it.
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    let origin = two.origin("s", "m", 0);
    let later = two.a.links(vec![link(id, origin.clone())]).await;
    assert_eq!(verdict(&later, "task_messages[0]"), Verdict::RetryLater);
    assert!(later.rejected.is_empty() && later.verdicts[0].cursor.is_none());
    two.a.tasks(vec![task(id, "t")]).await;
    let later = two.a.links(vec![link(id, origin.clone())]).await;
    assert_eq!(verdict(&later, "task_messages[0]"), Verdict::RetryLater);
    let whole = PushRequest {
        messages: vec![message("s", "m")],
        task_messages: vec![link(id, origin.clone()), link(id, origin.clone())],
        ..PushRequest::default()
    };
    let answer = two.a.push(whole).await;
    assert_eq!(
        (answer.synced, verdict(&answer, "task_messages[1]")),
        (2, Verdict::Duplicate)
    );
    let page = two.b.api.pull(0).await;
    assert_eq!(
        (page.task_messages.len(), &page.task_messages[0].message),
        (1, &origin)
    );
}

#[tokio::test]
async fn a_link_survives_an_edit_of_its_message_and_another_sequence_is_a_new_version() {
    let mut two = TwoDevices::start().await;
    let id = Uuid::new_v4();
    let origin = two.origin("s", "v0", 0);
    let batch = PushRequest {
        messages: vec![message("s", "v0")],
        tasks: vec![task(id, "t")],
        task_messages: vec![link(id, origin.clone())],
        ..PushRequest::default()
    };
    two.a.push(batch).await;
    let edit = two.edit(&origin, "v1");
    two.a.messages(vec![edit]).await;
    let again = two.b.links(vec![link(id, origin.clone())]).await;
    assert_eq!(verdict(&again, "task_messages[0]"), Verdict::Duplicate);
    let mut moved = link(id, origin.clone());
    moved.sequence = Some(7);
    assert_eq!(two.b.links(vec![moved]).await.synced, 1);
    let page = two.a.api.another_device().pull(0).await;
    assert_eq!(
        (page.task_messages[0].sequence, page.task_messages[0].sync_cursor),
        (Some(7), Some(5))
    );
    assert_eq!(page.task_messages[0].message, origin);
}
