//! Between servers of one database: PostgreSQL's NOTIFY, on a connection of its own.
//!
//! A NOTIFY inside a push's transaction would queue the commits of the whole cluster behind one lock. So heads go out
//! after the commit, in a statement of their own, at most one in [`PAUSE`] for a server, with all heads that moved.

use std::future::pending;
use std::time::Duration;

use anyhow::Context as _;
use coditect_shared::{TenantId, UserId};
use futures_util::StreamExt as _;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::hub::Heads;
use crate::database::Address;

const CHANNEL: &str = "coditect_heads";

/// Between two statements: below what a person notices, and fifty a second do not disturb PostgreSQL.
const PAUSE: Duration = Duration::from_millis(20);

/// PostgreSQL takes a payload of less than 8,000 bytes.
const PAYLOAD_MAX: usize = 7_900;

/// Notifications that wait to be looked at. Looking is only memory, so more than a few never do.
const RECEIVED_MAX: usize = 1_024;

/// How long to wait before connecting anew, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Carries heads both ways, for ever; connects anew when the connection breaks. What is lost meanwhile the poll finds.
pub(super) async fn run(heads: &Heads, address: &Address) {
    heads.attach();
    let mut retry = RETRY_FIRST;
    loop {
        let connected = Instant::now();
        if let Err(error) = carry(heads, address).await {
            tracing::warn!("heads do not travel between servers for now: {error:#}");
        }
        if connected.elapsed() > RETRY_MAX {
            retry = RETRY_FIRST;
        }
        // Full jitter: servers that lost the same database do not come back in step.
        sleep(retry.mul_f64(rand::random())).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// One connection's life; ends with the reason.
async fn carry(heads: &Heads, address: &Address) -> anyhow::Result<()> {
    let (client, mut received) = connect(address).await?;
    client
        .batch_execute(&format!("LISTEN {CHANNEL}"))
        .await
        .context("listening")?;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            payload = received.recv() => match payload {
                Some(payload) => learn(heads, &payload),
                None => anyhow::bail!("the connection was closed"),
            },
            () = async { heads.outgoing_ready().await; sleep_until(next).await } => {
                notify(&client, heads).await?;
                next = Instant::now() + PAUSE;
            }
        }
    }
}

async fn connect(address: &Address) -> anyhow::Result<(Client, mpsc::Receiver<String>)> {
    let (client, mut connection) = address.open().await?;
    let (sender, received) = mpsc::channel(RECEIVED_MAX);
    tokio::spawn(async move {
        let mut messages = poll_fn(move |cx| connection.poll_message(cx));
        // The client ends the connection when it is dropped; an error ends it too, and the receiver notices either.
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message
                && sender.send(notification.payload().to_owned()).await.is_err()
            {
                // Nobody looks any more, but the connection is to be driven to its end.
                pending::<()>().await;
            }
        }
    });
    Ok((client, received))
}

async fn notify(client: &Client, heads: &Heads) -> anyhow::Result<()> {
    let moved = heads.outgoing();
    let payloads = payloads(&moved);
    let sent = client
        .execute_typed(
            "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
            &[(&CHANNEL, Type::TEXT), (&payloads, Type::TEXT_ARRAY)],
        )
        .await;
    if let Err(error) = sent {
        // The next connection tells them.
        heads.send(moved);
        return Err(anyhow::Error::new(error).context("notifying"));
    }
    Ok(())
}

/// One line a head, `TENANT USER HEAD`, in as few payloads as they fit into.
fn payloads(moved: &[((TenantId, UserId), i64)]) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for ((tenant, user), head) in moved {
        let line = format!("{tenant} {user} {head}\n");
        match payloads.last_mut() {
            Some(last) if last.len() + line.len() <= PAYLOAD_MAX => last.push_str(&line),
            Some(_) | None => payloads.push(line),
        }
    }
    payloads
}

/// Whatever is no head is passed over: another version of this program may say more.
fn learn(heads: &Heads, payload: &str) {
    for line in payload.lines() {
        let mut words = line.split(' ');
        let (Some(tenant), Some(user), Some(head)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if let (Ok(tenant), Ok(user), Ok(head)) = (tenant.parse(), user.parse(), head.parse()) {
            heads.learn(tenant, &user, head);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn heads_are_packed_into_payloads_that_postgresql_takes_and_read_back() {
        let user: UserId = "u".repeat(63).parse().unwrap();
        let moved: Vec<_> = (0..200u64)
            .map(|n| ((TenantId(Uuid::from_u128(u128::from(n))), user.clone()), n as i64))
            .collect();
        let payloads = payloads(&moved);
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() < 8_000));

        let heads = Heads::default();
        let mut listener = heads.subscribe(moved[199].0.0, &user);
        for payload in &payloads {
            learn(&heads, payload);
        }
        learn(&heads, "nonsense\n\n1 2 3\n");
        assert_eq!(listener.head(), 199);
    }
}
