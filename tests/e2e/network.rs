//! P1, P8, P12: whatever the network does to a request or its answer, the outbox drains without any new write.

use coditect_tests::proxy::Fault;
use coditect_tests::{deadline, writer};

use crate::pair::{Pair, is_settled};

const PUSH: &str = "POST /api/v1/context/push";
const PULL: &str = "GET /api/v1/context/pull";
const EVENTS: &str = "GET /api/v1/context/events";

const EVERY_FAULT: [Fault; 8] = [
    Fault::LoseAnswer,
    Fault::CutAnswer,
    Fault::Refuse,
    Fault::Portal,
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
    Fault::Status(429),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_after_every_kind_of_failed_push_the_outbox_drains_by_itself() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    let file = pair.a.open();
    for (n, fault) in EVERY_FAULT.into_iter().enumerate() {
        network.once(PUSH, fault);
        writer::message(&file, "s", &format!("met {fault:?}")).unwrap();
        network.wait_for_faults(PUSH, n + 1).await;
        pair.a
            .wait_until(&format!("in sync after {fault:?}"), is_settled)
            .await;
    }
    assert_eq!(pair.converge().await.message_count(), EVERY_FAULT.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_after_every_kind_of_failed_pull_and_event_stream_rows_still_arrive() {
    let (pair, _to_a, network) = Pair::start_behind_proxies().await;
    let file = pair.a.open();
    for (n, fault) in EVERY_FAULT.into_iter().enumerate() {
        network.once(PULL, fault);
        network.once(EVENTS, fault);
        writer::message(&file, "s", &format!("met {fault:?}")).unwrap();
        network.wait_for_faults(PULL, n + 1).await;
        let expected = n as i64 + 1;
        deadline::until(
            &format!("B has the row after {fault:?}"),
            async || writer::count(&pair.b.open(), "messages"),
            |count| *count == expected,
        )
        .await;
    }
    pair.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_push_whose_answer_was_lost_is_sent_again_in_the_same_bytes() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    network.once(PUSH, Fault::LoseAnswer);
    writer::message(&pair.a.open(), "s", "sent twice").unwrap();
    pair.a
        .wait_until("acknowledged", |status| {
            is_settled(status) && status["push"]["rows_total"] == 1
        })
        .await;
    let pushes = network.seen(PUSH);
    assert_eq!(pushes.len(), 2, "{pushes:#?}");
    assert_eq!(pushes[0].body, pushes[1].body);
    assert_eq!(pair.converge().await.message_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p12_a_row_edited_while_its_push_is_under_way_is_sent_again() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    let file = pair.a.open();
    network.once(PUSH, Fault::Hold);
    let id = writer::message(&file, "s", "v0").unwrap();
    network.wait_for_faults(PUSH, 1).await;
    file.execute("UPDATE messages SET content = 'v1' WHERE id = ?1", [id])
        .unwrap();
    network.heal();
    pair.a
        .wait_until("both versions are acknowledged", is_settled)
        .await;
    assert_eq!(pair.converge().await.message_count(), 1);
    assert_eq!(writer::text(&pair.b.open(), "SELECT content FROM messages"), "v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_edited_while_the_answer_to_its_push_is_lost_stays_one_row() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    let file = pair.a.open();
    network.once(PUSH, Fault::Refuse);
    network.once(PUSH, Fault::LoseAnswer);
    let id = writer::message(&file, "s", "v0").unwrap();
    network.wait_for_faults(PUSH, 1).await;
    file.execute("UPDATE messages SET content = 'v1' WHERE id = ?1", [id])
        .unwrap();
    pair.a
        .wait_until("both versions are acknowledged", is_settled)
        .await;
    assert_eq!(pair.converge().await.message_count(), 1);
    assert_eq!(writer::text(&pair.b.open(), "SELECT content FROM messages"), "v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_replaced_while_it_is_in_a_batch_stays_one_row() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    let file = pair.a.open();
    network.once(PUSH, Fault::Hold);
    writer::message_with_hash(&file, "h", "s", "v0").unwrap();
    network.wait_for_faults(PUSH, 1).await;
    file.execute(
        "INSERT OR REPLACE INTO messages (hash, session_id, role, content) VALUES ('h', 's', 'user', 'v1')",
        [],
    )
    .unwrap();
    network.heal();
    pair.a
        .wait_until("both versions are acknowledged", is_settled)
        .await;
    assert_eq!(pair.converge().await.message_count(), 1);
    assert_eq!(writer::text(&pair.b.open(), "SELECT content FROM messages"), "v1");
}

/// A's push of v1 is stored, the answer is lost; B pushes v2; A pulls v2 while v1 is still pending there; then A's
/// retry gets the old answer. Without holding v2 back, A would stay on v1 for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_a_lost_answer_with_a_newer_version_from_elsewhere_ends_on_the_newer_one() {
    let (pair, to_a, _to_b) = Pair::start_behind_proxies().await;
    let (file_a, file_b) = (pair.a.open(), pair.b.open());
    let task = writer::task(&file_a, "s", "v0").unwrap();
    let message = writer::message_with_hash(&file_a, "h", "s", "v0").unwrap();
    pair.converge().await;

    let set = |file: &rusqlite::Connection, version: &str| {
        file.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             UPDATE task_tracking SET description = '{version}' WHERE id = '{task}';
             UPDATE messages SET content = '{version}' WHERE hash = 'h';
             COMMIT"
        ))
        .unwrap();
    };
    // Only pushes fail from here on: rows must still come.
    to_a.always(PUSH, Fault::Status(500));
    to_a.once(PUSH, Fault::LoseAnswer);
    set(&file_a, "v1");
    to_a.wait_for_faults(PUSH, 1).await;
    let arrived = |version: &'static str| {
        let file = pair.b.open();
        let query = "SELECT group_concat(text) FROM (SELECT content AS text FROM messages
                     UNION ALL SELECT description FROM task_tracking)";
        deadline::until(
            version,
            async move || writer::text(&file, query),
            move |text| text.split(',').all(|text| text == version),
        )
    };
    arrived("v1").await;
    set(&file_b, "v2");
    pair.a
        .wait_until("A holds v2 back", |status| status["outbox"]["held"] == 2)
        .await;
    assert_eq!(
        writer::text(
            &file_a,
            &format!("SELECT content FROM messages WHERE id = {message}")
        ),
        "v1"
    );
    to_a.heal();
    let contents = pair.converge().await;
    assert_eq!((contents.message_count(), contents.task_count()), (1, 1));
    arrived("v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_ends_come_later_arrives_with_them() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let task = uuid::Uuid::new_v4().to_string();
    writer::link(&file, &task, 41, 1).unwrap();
    pair.a
        .wait_until("the link waits for its ends", |status| {
            status["outbox"]["links_parked"] == 1 && status["outbox"]["pending"] == 0
        })
        .await;
    file.execute(
        "INSERT INTO task_tracking (id, task_id, description) VALUES (?1, '1', 'the task')",
        [&task],
    )
    .unwrap();
    pair.a.sync().await;
    file.execute(
        "INSERT INTO messages (id, hash, session_id, role, content) VALUES (41, 'h', 's', 'user', 'the message')",
        [],
    )
    .unwrap();
    assert_eq!(pair.converge().await.link_count(), 1);
}

/// The same text added to one session on two devices at once merges (a stated limit); an edit of it made on one of them
/// meanwhile is newer than the other's plain insert, which must not bring the old text back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_was_superseded_before_it_was_sent_takes_the_newer_version() {
    let (pair, _to_a, to_b) = Pair::start_behind_proxies().await;
    for line in [PUSH, PULL, EVENTS] {
        to_b.always(line, Fault::Refuse);
    }
    let file = pair.a.open();
    let id = writer::message_with_hash(&file, "h", "s", "the same text").unwrap();
    pair.a.sync().await;
    file.execute("UPDATE messages SET content = 'edited' WHERE id = ?1", [id])
        .unwrap();
    pair.a.sync().await;
    writer::message_with_hash(&pair.b.open(), "h", "s", "the same text").unwrap();
    to_b.wait_for_faults(PUSH, 1).await;
    to_b.heal();
    assert_eq!(pair.converge().await.message_count(), 1);
    assert_eq!(
        writer::text(&pair.b.open(), "SELECT content FROM messages"),
        "edited"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_is_shown_and_ends_by_itself() {
    let (pair, network, _to_b) = Pair::start_behind_proxies().await;
    for line in [PUSH, PULL, EVENTS] {
        network.always(line, Fault::Refuse);
    }
    writer::message(&pair.a.open(), "s", "written offline").unwrap();
    let status = pair.a.wait_for_state("offline").await;
    assert_eq!(status["safe_to_power_off"], false);
    assert_eq!(status["outbox"]["pending"], 1);
    assert!(status["last_error"]["message"].is_string(), "{status:#}");
    network.heal();
    pair.a.wait_until("in sync again", is_settled).await;
    assert_eq!(pair.converge().await.message_count(), 1);
}
