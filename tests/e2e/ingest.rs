//! Transcripts, read on one device or on both: every row once, on every device.

use std::path::PathBuf;

use coditect_tests::contents::{Contents, settle};
use coditect_tests::daemon::Workstation;
use coditect_tests::writer;

use crate::pair::{Pair, sent};

/// The hand-written sample that the demo shows.
fn sample() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/sample"))
}

async fn ingest(workstation: &Workstation) -> serde_json::Value {
    let folder = sample();
    let folder = folder.to_str().expect("a path in UTF-8");
    workstation.cli(&["ingest", folder, "--json"]).await.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_read_here_arrives_there_and_reading_it_again_sends_nothing() {
    let pair = Pair::start().await;
    let report = ingest(&pair.a).await;
    let contents = pair.converge().await;
    assert_eq!(report["messages"]["inserted"], contents.message_count());
    assert_eq!(report["tasks"]["inserted"], contents.task_count());
    assert_eq!(report["links"]["inserted"], contents.link_count());
    assert!(contents.message_count() > 0 && contents.task_count() > 0 && contents.link_count() > 0);

    let sent_before = [
        sent(&pair.a.status().await.unwrap()),
        sent(&pair.b.status().await.unwrap()),
    ];
    for workstation in [&pair.a, &pair.b] {
        let again = ingest(workstation).await;
        assert_eq!(again["messages"]["inserted"], 0, "{again:#}");
        assert_eq!(again["tasks"]["inserted"], 0, "{again:#}");
        assert_eq!(again["tasks"]["updated"], 0, "{again:#}");
        assert_eq!(again["links"]["inserted"], 0, "{again:#}");
    }
    assert_eq!(pair.converge().await, contents);
    let sent_after = [
        sent(&pair.a.status().await.unwrap()),
        sent(&pair.b.status().await.unwrap()),
    ];
    assert_eq!(sent_after, sent_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_devices_reading_the_same_transcripts_at_once_hold_each_row_once() {
    let pair = Pair::start().await;
    let (report, _) = tokio::join!(ingest(&pair.a), ingest(&pair.b));
    let contents = settled(&pair).await;
    assert_eq!(report["messages"]["seen"], contents.message_count());
    assert_eq!(report["tasks"]["seen"], contents.task_count());
    assert_eq!(report["links"]["seen"], contents.link_count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_purged_here_and_read_again_doubles_nothing() {
    let pair = Pair::start().await;
    ingest(&pair.a).await;
    let contents = settled(&pair).await;
    let file = pair.a.open();
    file.execute_batch("DELETE FROM task_messages; DELETE FROM messages; DELETE FROM task_tracking")
        .unwrap();
    pair.a.sync().await;
    assert_eq!(writer::count(&file, "messages"), 0);
    ingest(&pair.a).await;
    assert_eq!(settled(&pair).await, contents);
}

/// What both hold, but for the time at which each of them read it.
async fn settled(pair: &Pair) -> Contents {
    settle(&[&pair.a, &pair.b]).await;
    let [a, b] = [&pair.a, &pair.b].map(|workstation| Contents::without("extracted_at", workstation));
    a.assert_same(&b);
    pair.assert_cloud_holds(&a).await;
    a
}
