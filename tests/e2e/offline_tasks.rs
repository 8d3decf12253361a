//! P6: two devices edit one task without knowing of each other; one version wins everywhere, the other is kept.

use coditect_tests::deadline::PATIENCE;
use coditect_tests::writer;

use crate::pair::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_the_later_push_wins_on_both_and_the_other_version_stays_in_the_history() {
    for later_is_a in [false, true] {
        let mut pair = Pair::start().await;
        let task = writer::task(&pair.a.open(), "s", "as it was").unwrap();
        pair.converge().await;
        pair.a.terminate(PATIENCE).await;
        pair.b.terminate(PATIENCE).await;

        let edit = "UPDATE task_tracking SET description = ?2, status = ?3 WHERE id = ?1";
        pair.a
            .open()
            .execute(edit, [&task, "by A", "in_progress"])
            .unwrap();
        pair.b.open().execute(edit, [&task, "by B", "completed"]).unwrap();
        let (first, second) = match later_is_a {
            true => (&mut pair.b, &mut pair.a),
            false => (&mut pair.a, &mut pair.b),
        };
        first.run().await;
        first.sync().await;
        second.run().await;
        pair.converge().await;

        let query = "SELECT description FROM task_tracking";
        let winner = if later_is_a { "by A" } else { "by B" };
        assert_eq!(writer::text(&pair.a.open(), query), winner);
        assert_eq!(writer::text(&pair.b.open(), query), winner);
        let cloud = pair.server.database.look().await;
        let current: String = cloud
            .query_one("SELECT description FROM context_task_tracking", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(current, winner);
        for version in ["as it was", "by A", "by B"] {
            let kept = pair
                .server
                .database
                .count(&format!("task_events WHERE description = '{version}'"))
                .await;
            assert_eq!(kept, 1, "{version}");
        }
    }
}
