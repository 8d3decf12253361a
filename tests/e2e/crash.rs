//! kill -9 of daemons and server at random moments: nothing is lost, nothing is doubled.

use std::time::Duration;

use coditect_tests::contents::converge;
use coditect_tests::daemon::Workstation;
use coditect_tests::server::ServerProcess;
use coditect_tests::{deadline, writer};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const ROUNDS: i64 = 20;
const ROWS_A_ROUND: i64 = 1_000;

/// How long after the start of a round's writes the victim lives at most: about as long as the round takes.
const LIFE_MAX: Duration = Duration::from_millis(800);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p2_nothing_is_lost_or_doubled_by_twenty_kills_during_a_sync_of_20000_rows() {
    let seed: u64 = std::env::var("CODITECT_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    // Shown when the test fails; CODITECT_TEST_SEED repeats the same kills.
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = ServerProcess::start().await;
    let token = server.token("a@acme.test").await;
    let mut a = Workstation::start(&server.url(), &token).await;
    let mut b = Workstation::start(&server.url(), &token).await;

    let mut kills_amid_work = 0;
    for round in 0..ROUNDS {
        let writing = write(&a, round, random.random_range(1..=ROWS_A_ROUND));
        deadline::let_live(LIFE_MAX.mul_f64(random.random())).await;
        let status = a.status().await.expect("A's daemon runs");
        kills_amid_work += usize::from(status["outbox"]["pending"] != 0);
        match random.random_range(0..3) {
            0 => {
                server.kill().await;
                server.run().await;
            }
            1 => {
                a.kill().await;
                a.run().await;
            }
            _ => {
                b.kill().await;
                b.run().await;
            }
        }
        writing.await.expect("the owner's writes do not fail");
    }

    assert!(
        kills_amid_work > 0,
        "all kills came too early or too late to mean anything"
    );
    let contents = converge(&[&a, &b]).await;
    assert_eq!(contents.message_count() as i64, ROUNDS * ROWS_A_ROUND);
    assert_eq!(contents.link_count() as i64, ROUNDS);
    assert!(contents.messages.values().all(|times| *times == 1));
    assert_eq!(
        server.database.count("context_messages").await,
        ROUNDS * ROWS_A_ROUND
    );
    assert_eq!(server.database.count("context_task_tracking").await, ROUNDS);
    assert_eq!(server.database.count("context_task_messages").await, ROUNDS);
}

/// Writes one round's rows in transactions of `size`, and one task that is linked to one of them.
fn write(a: &Workstation, round: i64, size: i64) -> tokio::task::JoinHandle<()> {
    let mut file = a.open();
    tokio::task::spawn_blocking(move || {
        let mut written = 0;
        while written < ROWS_A_ROUND {
            let tx = file
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                .unwrap();
            for n in written..ROWS_A_ROUND.min(written + size) {
                let id = writer::message(
                    &tx,
                    &format!("session {}", n % 7),
                    &format!("round {round}, row {n}"),
                )
                .unwrap();
                if n == 500 {
                    let task = writer::task(&tx, "s", &format!("round {round}")).unwrap();
                    writer::link(&tx, &task, id, 1).unwrap();
                }
            }
            tx.commit().unwrap();
            written += size;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_found_again_without_any_new_write() {
    let mut server = ServerProcess::start().await;
    let token = server.token("a@acme.test").await;
    let a = Workstation::start(&server.url(), &token).await;
    a.wait_for_state("in_sync").await;
    server.kill().await;
    writer::message(&a.open(), "s", "written while the server was away").unwrap();
    a.wait_for_state("offline").await;
    server.run().await;
    a.wait_for_state("in_sync").await;
    assert_eq!(server.database.count("context_messages").await, 1);
}
