//! P3: a reader who follows the cursor misses no row, however many write at once.

use std::cell::Cell;
use std::collections::BTreeSet;

use coditect_tests::api::{Pusher, message};
use coditect_tests::server::TestServer;
use futures_util::future::join_all;

const PUSHERS: usize = 16;
const PUSHES: usize = 12;

/// Reads on from the cursor, again and again, until the writers are done, and gives all that was seen. `pull` reads
/// what lies above a cursor, and gives the names of the rows and the cursor to go on from.
async fn follow(
    writing: impl Future<Output = ()>,
    mut pull: impl AsyncFnMut(i64) -> (Vec<String>, i64),
) -> BTreeSet<String> {
    let done = Cell::new(false);
    let writing = async {
        writing.await;
        done.set(true);
    };
    let following = async {
        let (mut seen, mut cursor) = (BTreeSet::new(), 0);
        loop {
            // Known before the read: the read after the last write sees all that the cursor still leads to.
            let last = done.get();
            let (names, next) = pull(cursor).await;
            seen.extend(names);
            cursor = next;
            if last {
                return seen;
            }
        }
    };
    tokio::join!(writing, following).1
}

fn all_names() -> BTreeSet<String> {
    let name = |pusher| (0..PUSHES).flat_map(move |push| (0..3).map(move |n| format!("{pusher}.{push}.{n}")));
    (0..PUSHERS).flat_map(name).collect()
}

#[tokio::test]
async fn p3_sixteen_pushers_of_one_tenant_and_a_follower_who_misses_nothing() {
    // Two servers, so that the pushes meet at PostgreSQL and not only in one process's queue; and another user of the
    // tenant, whose rows lie between.
    let server = TestServer::start().await;
    let second = server.beside().await;
    let (caller, api) = server.acme().await;
    let other = server.api(&server.user(caller.tenant, "b@acme.test", caller.role).await);
    let push = async |pusher: usize| {
        let mut device = Pusher::new(api.another_device());
        let mut others = Pusher::new(other.another_device());
        if pusher % 2 == 1 {
            device.api.base.clone_from(&second.url);
        }
        for push in 0..PUSHES {
            let names = (0..3).map(|n| message(&format!("s{n}"), &format!("{pusher}.{push}.{n}")));
            device.messages(names.collect()).await;
            if pusher.is_multiple_of(4) {
                others
                    .messages(vec![message("s", &format!("{pusher}.{push}"))])
                    .await;
            }
        }
    };
    let follower = api.another_device();
    let seen = follow(
        async { drop(join_all((0..PUSHERS).map(&push)).await) },
        async |cursor| {
            let page = follower.pull_to_head(cursor).await;
            (
                page.messages.into_iter().map(|row| row.content).collect(),
                page.cursor,
            )
        },
    )
    .await;
    assert_eq!(seen, all_names());
}

#[tokio::test]
async fn p3_the_same_follower_misses_rows_where_cursors_come_from_a_sequence() {
    // The test above can fail: PostgreSQL draws a sequence's numbers before the commit, so that a later number can be
    // seen before an earlier one.
    let server = TestServer::start().await;
    let database = &server.database;
    let setup = database.look().await;
    setup
        .batch_execute("CREATE TABLE plain (cursor bigserial PRIMARY KEY, name text NOT NULL)")
        .await
        .unwrap();
    let clients = join_all((0..PUSHERS).map(|_| database.look())).await;
    let reader = database.look().await;
    for _round in 0..100 {
        setup
            .batch_execute("TRUNCATE plain RESTART IDENTITY")
            .await
            .unwrap();
        let push = async |pusher: usize| {
            for push in 0..PUSHES {
                let client = &clients[pusher];
                client.batch_execute("BEGIN").await.unwrap();
                for n in 0..3 {
                    let insert = format!("INSERT INTO plain (name) VALUES ('{pusher}.{push}.{n}')");
                    client.batch_execute(&insert).await.unwrap();
                }
                client.batch_execute("COMMIT").await.unwrap();
            }
        };
        let seen = follow(
            async { drop(join_all((0..PUSHERS).map(&push)).await) },
            async |cursor| {
                let rows = reader
                    .query(
                        "SELECT cursor, name FROM plain WHERE cursor > $1 ORDER BY cursor",
                        &[&cursor],
                    )
                    .await;
                let rows = rows.unwrap();
                let next = rows.last().map_or(cursor, |row| row.get("cursor"));
                (rows.iter().map(|row| row.get("name")).collect(), next)
            },
        )
        .await;
        if seen != all_names() {
            return;
        }
    }
    panic!("no row was missed in 100 rounds: the follower would not notice one");
}
