//! The interleavings of PROTOCOL 1 to 4, each with its rule and with the rule taken out. That the second run
//! breaks is what shows that the first one tests anything.

use coditect_server::rules::{self as server_rules, Rule as ServerRule};
use coditect_sync::apply::Applied;
use coditect_sync::outbox;
use coditect_sync::outbox::BatchLimits;
use coditect_sync::rules::{Rule, take_out};
use coditect_tests::server::TestServer;
use coditect_tests::stepped::{Sent, Stepped};

const TASK: &str = "11111111-1111-4111-8111-111111111111";

type Verdict = Result<(), String>;

/// Puts the rule back when the test ends, however it does: another test may get this thread.
struct RuleOut;

impl Drop for RuleOut {
    fn drop(&mut self) {
        take_out(None);
        server_rules::take_out(None);
    }
}

/// Two new devices of one user.
async fn two_devices() -> (Stepped, Stepped, TestServer) {
    let server = TestServer::start().await;
    let (caller, _) = server.acme().await;
    (
        Stepped::new(&server, &caller),
        Stepped::new(&server, &caller),
        server,
    )
}

async fn with_and_without(rule: Rule, interleaving: impl AsyncFn() -> Verdict) {
    interleaving().await.expect("with all rules the promises hold");
    let _back = RuleOut;
    take_out(Some(rule));
    let broken = interleaving().await;
    assert!(
        broken.is_err(),
        "nothing breaks without {rule:?}: the interleaving does not test it"
    );
}

/// The same for a rule of the server, which runs on the test's own thread.
async fn with_and_without_on_the_server(rule: ServerRule, interleaving: impl AsyncFn() -> Verdict) {
    interleaving().await.expect("with all rules the promises hold");
    let _back = RuleOut;
    server_rules::take_out(Some(rule));
    let broken = interleaving().await;
    assert!(
        broken.is_err(),
        "nothing breaks without {rule:?}: the interleaving does not test it"
    );
}

/// Lets both sync until nothing moves; then their files must hold the same.
async fn converge(a: &mut Stepped, b: &mut Stepped) -> Verdict {
    for _ in 0..3 {
        a.sync().await?;
        b.sync().await?;
    }
    let (left, right) = (a.contents(), b.contents());
    if left != right {
        return Err(format!("the files differ: {left:?} and {right:?}"));
    }
    Ok(())
}

fn expect(what: &str, found: i64, expected: i64) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found} instead of {expected}"))
    }
}

/// The answer that the test lets get lost: the server has committed.
async fn send_and_lose_the_answer(device: &mut Stepped) {
    let batch = device.build().expect("something to send");
    assert!(matches!(device.send(&batch).await, Sent::Answer(_)));
}

#[tokio::test]
async fn an_edit_while_the_first_version_is_in_flight_finds_its_own_stub() {
    with_and_without(Rule::OriginKept, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "v0", "w");
        send_and_lose_the_answer(&mut a).await;
        a.edit(id, "v1");
        // The stub of v0 comes back while the row says v1.
        a.pull_all().await?;
        converge(&mut a, &mut b).await?;
        expect("rows on b", b.count("messages"), 1)?;
        expect("of v1", b.count("messages WHERE content = 'v1'"), 1)
    })
    .await;
}

#[tokio::test]
async fn two_edits_while_the_other_device_holds_the_first_version_make_no_second_row() {
    with_and_without(Rule::OriginKept, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "v0", "w");
        converge(&mut a, &mut b).await?;
        for version in ["v1", "v2"] {
            a.edit(id, version);
            a.push_all().await?;
        }
        converge(&mut a, &mut b).await?;
        expect("rows on b", b.count("messages"), 1)?;
        expect("of v2", b.count("messages WHERE content = 'v2'"), 1)
    })
    .await;
}

#[tokio::test]
async fn the_same_text_said_anew_after_a_purge_does_not_vanish() {
    with_and_without(Rule::OccurrenceKept, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.say("s", "yes", "first");
        converge(&mut a, &mut b).await?;
        a.exec("DELETE FROM messages");
        a.sync().await?;
        a.say("s", "yes", "second");
        a.sync().await?;
        b.sync().await?;
        expect("both on b", b.count("messages WHERE content = 'yes'"), 2)
    })
    .await;
}

#[tokio::test]
async fn a_row_id_that_is_given_out_again_is_a_new_row_and_no_edit() {
    with_and_without(Rule::OpsDecide, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "old", "w-old");
        converge(&mut a, &mut b).await?;
        a.exec("DELETE FROM messages");
        assert_eq!(
            a.say("s", "new", "w-new"),
            id,
            "SQLite gives the highest id out again"
        );
        a.sync().await?;
        b.sync().await?;
        expect("old on b", b.count("messages WHERE content = 'old'"), 1)?;
        expect("new on b", b.count("messages WHERE content = 'new'"), 1)
    })
    .await;
}

#[tokio::test]
async fn insert_or_replace_displaces_a_row_without_a_trigger_and_makes_no_second_one() {
    with_and_without(Rule::TakeOver, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.say("s", "text", "w");
        converge(&mut a, &mut b).await?;
        a.exec("INSERT OR REPLACE INTO messages (session_id, role, content, hash) VALUES ('s', 'user', 'text', 'w')");
        converge(&mut a, &mut b).await?;
        expect("rows on b", b.count("messages"), 1)
    })
    .await;
}

#[tokio::test]
async fn a_replace_of_a_row_that_is_in_a_batch_is_an_edit_of_it() {
    with_and_without(Rule::TakeOver, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.say("s", "v0", "w");
        let batch = a.build().expect("something to send");
        let Sent::Answer(answer) = a.send(&batch).await else { return Err("a conflict".into()) };
        a.exec("INSERT OR REPLACE INTO messages (session_id, role, content, hash) VALUES ('s', 'user', 'v1', 'w')");
        a.settle(&batch, &answer);
        converge(&mut a, &mut b).await?;
        expect("rows on b", b.count("messages"), 1)?;
        expect("of v1", b.count("messages WHERE content = 'v1'"), 1)
    })
    .await;
}

#[tokio::test]
async fn p5_applying_pulled_rows_queues_nothing() {
    with_and_without(Rule::GuardFlag, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "text", "w");
        a.task(TASK, "pending");
        a.link(TASK, id, 1);
        a.push_all().await?;
        b.pull_all().await?;
        expect("queued on b", b.count("sync_queue"), 0)?;
        b.say("s", "b's own", "w2");
        expect("queued by b's owner", b.count("sync_queue"), 1)
    })
    .await;
}

#[tokio::test]
async fn p12_an_edit_made_while_its_row_is_in_flight_is_sent_again() {
    with_and_without(Rule::CoveredVersion, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "v0", "w");
        let batch = a.build().expect("something to send");
        a.edit(id, "v1");
        let Sent::Answer(answer) = a.send(&batch).await else {
            return Err("a conflict".into());
        };
        a.settle(&batch, &answer);
        converge(&mut a, &mut b).await?;
        expect("v1 on b", b.count("messages WHERE content = 'v1'"), 1)
    })
    .await;
}

#[tokio::test]
async fn a_link_written_before_its_ends_is_sent_once_they_are_there() {
    with_and_without(Rule::ParkedLinks, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.link(TASK, 1, 7);
        a.sync().await?;
        a.task(TASK, "pending");
        a.sync().await?;
        a.say("s", "text", "w");
        converge(&mut a, &mut b).await?;
        expect("links on b", b.count("task_messages WHERE sequence = 7"), 1)
    })
    .await;
}

#[tokio::test]
async fn a_link_that_the_server_cannot_place_yet_steps_behind_the_others() {
    with_and_without(Rule::RetryLater, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.limits = BatchLimits {
            rows: 1,
            bytes: 1 << 20,
        };
        a.link(TASK, 1, 7);
        a.task(TASK, "pending");
        a.say("s", "text", "w");
        // Queued first, alone in its batch, and both ends are in the file: it goes out before them.
        converge(&mut a, &mut b).await?;
        expect("links on b", b.count("task_messages WHERE sequence = 7"), 1)
    })
    .await;
}

#[tokio::test]
async fn a_link_that_arrives_before_its_message_waits_for_it() {
    with_and_without(Rule::WaitingLinks, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = a.say("s", "v0", "w");
        a.task(TASK, "pending");
        a.link(TASK, id, 7);
        a.push_all().await?;
        // The edit moves the message behind its link.
        a.edit(id, "v1");
        a.push_all().await?;
        b.page_rows = 1;
        b.pull_all().await?;
        expect("links on b", b.count("task_messages WHERE sequence = 7"), 1)
    })
    .await;
}

#[tokio::test]
async fn p6_a_newer_version_from_elsewhere_survives_a_lost_answer() {
    with_and_without(Rule::Held, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.task(TASK, "pending");
        converge(&mut a, &mut b).await?;
        a.task(TASK, "in_progress");
        send_and_lose_the_answer(&mut a).await;
        b.task(TASK, "completed");
        b.push_all().await?;
        // The other's newer version comes while ours counts as pending; then the retry gets the old answer.
        a.pull_all().await?;
        a.push_all().await?;
        expect(
            "completed on a",
            a.count("task_tracking WHERE status = 'completed'"),
            1,
        )?;
        converge(&mut a, &mut b).await
    })
    .await;
}

#[tokio::test]
async fn p6_a_held_version_does_not_come_back_over_a_later_acknowledged_one() {
    with_and_without(Rule::OlderLoses, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.task(TASK, "pending");
        converge(&mut a, &mut b).await?;
        b.task(TASK, "completed");
        b.push_all().await?;
        a.task(TASK, "in_progress");
        a.pull_all().await?;
        expect("held on a", a.count("sync_held"), 1)?;
        a.push_all().await?;
        expect(
            "in_progress on a",
            a.count("task_tracking WHERE status = 'in_progress'"),
            1,
        )?;
        converge(&mut a, &mut b).await
    })
    .await;
}

#[tokio::test]
async fn the_owners_insert_between_pull_and_transaction_does_not_double() {
    with_and_without(Rule::IdentitiesFirst, async || {
        let (mut a, mut b, _server) = two_devices().await;
        b.say("s", "text", "w");
        b.push_all().await?;
        let page = a.page().await;
        a.say("s", "text", "w");
        if let Applied::Parted(reason) = a.apply(&page) {
            return Err(reason);
        }
        converge(&mut a, &mut b).await?;
        expect("rows on a", a.count("messages"), 1)
    })
    .await;
}

#[tokio::test]
async fn a_superseded_insert_ends_the_change_and_takes_the_newer_version() {
    with_and_without(Rule::Superseded, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = b.say("s", "as first written", "w");
        b.push_all().await?;
        b.edit(id, "as edited");
        b.push_all().await?;
        b.say("s", "something else", "w2");
        b.push_all().await?;
        a.say("s", "as first written", "w");
        a.push_all().await?;
        converge(&mut a, &mut b).await?;
        expect("rows on a", a.count("messages"), 2)?;
        expect("edited on a", a.count("messages WHERE content = 'as edited'"), 1)
    })
    .await;
}

#[tokio::test]
async fn the_server_files_a_plain_insert_that_comes_after_an_edit_of_the_same_origin() {
    with_and_without_on_the_server(ServerRule::InsertSuperseded, async || {
        let (mut a, mut b, _server) = two_devices().await;
        let id = b.say("s", "as first written", "w");
        b.push_all().await?;
        b.edit(id, "as edited");
        b.push_all().await?;
        a.say("s", "as first written", "w");
        a.push_all().await?;
        converge(&mut a, &mut b).await?;
        expect("edited on b", b.count("messages WHERE content = 'as edited'"), 1)
    })
    .await;
}

#[tokio::test]
async fn p14_a_copied_file_is_noticed_by_the_digest_of_what_the_other_copy_pushed() {
    with_and_without_on_the_server(ServerRule::DigestCompared, async || {
        let (mut a, _, server) = two_devices().await;
        a.say("s", "before", "w0");
        a.sync().await?;
        let mut copy = a.copied();
        a.say("s", "a's own", "w1");
        a.push_all().await?;
        copy.say("s", "the copy's own", "w2");
        if copy.push_all().await.is_ok() {
            let stored = server
                .database
                .count("context_messages WHERE content = 'the copy''s own'")
                .await;
            return expect("the copy's row, which counts as sent", stored, 1);
        }
        copy.take_new_device_id();
        copy.sync().await?;
        a.sync().await?;
        expect("rows on a", a.count("messages"), 3)?;
        expect("rows on the copy", copy.count("messages"), 3)
    })
    .await;
}

#[tokio::test]
async fn p14_an_old_copy_does_not_beat_newer_versions_by_arriving_last() {
    with_and_without_on_the_server(ServerRule::BaseCompared, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.task(TASK, "pending");
        converge(&mut a, &mut b).await?;
        let mut copy = a.copied();
        copy.task(TASK, "in_progress");
        a.task(TASK, "completed");
        a.sync().await?;
        copy.take_new_device_id();
        copy.sync().await?;
        expect(
            "completed on the copy",
            copy.count("task_tracking WHERE status = 'completed'"),
            1,
        )?;
        converge(&mut a, &mut b).await?;
        expect(
            "completed on a",
            a.count("task_tracking WHERE status = 'completed'"),
            1,
        )
    })
    .await;
}

#[tokio::test]
async fn p2_a_full_batch_that_commits_late_settles_although_half_of_it_was_sent_meanwhile() {
    with_and_without(Rule::VariantsKept, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.say("s", "one", "w1");
        a.say("s", "two", "w2");
        let full = a.build().expect("something to send");
        let half = outbox::halve(&full)
            .expect("a batch is JSON")
            .expect("two records");
        a.state.put_batch(&half).expect("persisting the half");
        // The full batch was taken for lost and arrives after all.
        assert!(matches!(a.send(&full).await, Sent::Answer(_)));
        a.push_all().await?;
        converge(&mut a, &mut b).await?;
        expect("rows on b", b.count("messages"), 2)
    })
    .await;
}

#[tokio::test]
async fn a_task_deleted_here_is_not_brought_back_by_a_newer_version() {
    with_and_without(Rule::DeletionKept, async || {
        let (mut a, mut b, _server) = two_devices().await;
        a.task(TASK, "pending");
        converge(&mut a, &mut b).await?;
        a.exec("DELETE FROM task_tracking");
        a.sync().await?;
        b.task(TASK, "completed");
        b.sync().await?;
        a.sync().await?;
        expect("tasks on a", a.count("task_tracking"), 0)?;
        expect(
            "tasks on b",
            b.count("task_tracking WHERE status = 'completed'"),
            1,
        )
    })
    .await;
}

#[tokio::test]
async fn both_devices_importing_the_same_session_keep_it_once_with_all_its_repetitions() {
    let (mut a, mut b, server) = two_devices().await;
    let session = ["go", "yes", "why", "yes", "yes", "end"];
    let import = |device: &Stepped| {
        for (n, text) in session.iter().enumerate() {
            device.say("imported", text, &format!("w{n}"));
        }
    };
    import(&a);
    import(&b);
    // Neither has pulled before it sends.
    a.push_all().await.unwrap();
    b.push_all().await.unwrap();
    converge(&mut a, &mut b).await.unwrap();
    assert_eq!(a.count("messages"), 6);
    assert_eq!(server.database.count("context_messages").await, 6);
}

#[tokio::test]
async fn pending_in_progress_pending_are_three_versions_of_a_task() {
    let (mut a, mut b, server) = two_devices().await;
    for status in ["pending", "in_progress", "pending"] {
        a.task(TASK, status);
        a.push_all().await.unwrap();
    }
    converge(&mut a, &mut b).await.unwrap();
    assert_eq!(b.count("task_tracking WHERE status = 'pending'"), 1);
    assert_eq!(server.database.count("task_events").await, 3);
}
