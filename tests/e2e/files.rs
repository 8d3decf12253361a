//! What happens to files: copied, restored, replaced, damaged, locked for long. Nothing is lost, nothing is doubled.

use coditect_tests::contents::converge;
use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::PATIENCE;
use coditect_tests::{deadline, writer};
use rusqlite::TransactionBehavior;

use crate::pair::{Pair, is_settled};

/// Copies all that a workstation's folder holds; its daemon must not run.
fn copy_home(from: &Workstation, to: &Workstation) {
    for entry in std::fs::read_dir(from.home()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.home().join(entry.file_name())).unwrap();
        }
    }
}

/// Backups know nothing of -wal files: all of the file is in the file first.
fn fold_wal(workstation: &Workstation) {
    let file = workstation.open();
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_a_home_that_was_copied_to_another_machine_becomes_a_device_of_its_own() {
    let mut pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "before the copy").unwrap();
    let task = writer::task(&pair.a.open(), "s", "before the copy").unwrap();
    pair.converge().await;
    pair.a.terminate(PATIENCE).await;
    fold_wal(&pair.a);
    let mut copy = Workstation::new();
    copy_home(&pair.a, &copy);

    pair.a.run().await;
    copy.run().await;
    // The token was that of the other machine.
    copy.wait_for_state("needs_login").await;
    copy.login(&pair.server.url, &pair.token).await.ok();
    writer::message(&pair.a.open(), "s", "said by the first").unwrap();
    writer::message(&copy.open(), "s", "said by the copy").unwrap();
    pair.a.sync().await;
    copy.sync().await;
    writer::set_status(&copy.open(), &task, "completed").unwrap();
    let contents = converge(&[&pair.a, &copy, &pair.b]).await;
    assert_eq!((contents.message_count(), contents.task_count()), (3, 1));
    pair.assert_cloud_holds(&contents).await;
    let devices = [
        pair.a.status().await.unwrap()["account"]["device_id"].clone(),
        copy.status().await.unwrap()["account"]["device_id"].clone(),
    ];
    assert_ne!(devices[0], devices[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_a_file_restored_from_a_backup_gets_back_what_it_lost_and_loses_nothing() {
    for state_is_restored_too in [false, true] {
        let mut pair = Pair::start().await;
        writer::message(&pair.a.open(), "s", "in the backup").unwrap();
        let task = writer::task(&pair.a.open(), "s", "in the backup").unwrap();
        pair.converge().await;
        pair.a.terminate(PATIENCE).await;
        fold_wal(&pair.a);
        let backup = Workstation::new();
        copy_home(&pair.a, &backup);

        pair.a.run().await;
        writer::message(&pair.a.open(), "s", "after the backup").unwrap();
        writer::set_status(&pair.a.open(), &task, "completed").unwrap();
        pair.converge().await;
        pair.a.terminate(PATIENCE).await;
        for name in ["context.db", "context.db-wal", "context.db-shm"] {
            let _ = std::fs::remove_file(pair.a.home().join(name));
        }
        let restored: &[&str] = match state_is_restored_too {
            true => &["context.db", "state.db"],
            false => &["context.db"],
        };
        for name in restored {
            std::fs::copy(backup.home().join(name), pair.a.home().join(name)).unwrap();
        }
        // Another program is quicker than the daemon.
        writer::message(&pair.a.open(), "s", "after the restore").unwrap();
        pair.a.run().await;
        let contents = pair.converge().await;
        assert_eq!((contents.message_count(), contents.task_count()), (3, 1));
        let query = "SELECT status FROM task_tracking";
        assert_eq!(writer::text(&pair.a.open(), query), "completed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_a_file_replaced_under_a_running_daemon_is_noticed() {
    let pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "in the first file").unwrap();
    pair.converge().await;
    fold_wal(&pair.a);
    // A program that saves by writing a new file and renaming it over the old one; what is new in it is new to us.
    let draft = pair.a.home().join("draft");
    std::fs::copy(pair.a.context_db(), &draft).unwrap();
    let file = rusqlite::Connection::open(&draft).unwrap();
    writer::message(&file, "s", "in the second file").unwrap();
    file.close().unwrap();
    std::fs::rename(&draft, pair.a.context_db()).unwrap();
    deadline::until(
        "the row of the second file arrives",
        async || writer::count(&pair.b.open(), "messages"),
        |count| *count == 2,
    )
    .await;
    writer::message(&pair.a.open(), "s", "later").unwrap();
    assert_eq!(pair.converge().await.message_count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_lock_or_a_read_that_the_owner_holds_for_long_delays_the_sync_and_breaks_nothing() {
    let pair = Pair::start().await;
    let (mut locking, mut reading) = (pair.a.open(), pair.b.open());
    let lock = locking
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    writer::message(&lock, "s", "in a long transaction").unwrap();
    let read = reading.transaction().unwrap();
    assert_eq!(writer::count(&read, "messages"), 0);

    // Rows that come meanwhile cannot be written on A; B writes them beside the open read.
    writer::message(&pair.b.open(), "s", "from B").unwrap();
    pair.b.sync().await;
    pair.a
        .wait_until("A knows that there is more", |status| {
            status["pull"]["head"].as_i64() > status["pull"]["cursor"].as_i64()
        })
        .await;
    lock.commit().unwrap();
    assert_eq!(writer::count(&read, "messages"), 0, "the owner's snapshot stands");
    drop(read);
    assert_eq!(pair.converge().await.message_count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_database_blocks_with_the_reason_and_mended_goes_on() {
    let mut pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "kept").unwrap();
    pair.converge().await;
    pair.a.terminate(PATIENCE).await;
    fold_wal(&pair.a);
    let (whole, aside) = (pair.a.context_db(), pair.a.home().join("aside"));
    std::fs::rename(&whole, &aside).unwrap();
    std::fs::write(&whole, "this is no database, whatever its name says".repeat(100)).unwrap();
    pair.a.run().await;
    let status = pair.a.wait_for_state("blocked").await;
    assert!(status["last_error"]["message"].is_string(), "{status:#}");
    assert_eq!(status["safe_to_power_off"], false);
    std::fs::rename(&aside, &whole).unwrap();
    pair.a.wait_until("it goes on by itself", is_settled).await;
    assert_eq!(pair.converge().await.message_count(), 1);
}
