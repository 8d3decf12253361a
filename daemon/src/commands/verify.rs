//! `verify`: the proof that this file and the cloud hold the same (P16). With a daemon it syncs first, and compares
//! again as long as either side moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use coditect_shared::digest::TableDigest;
use coditect_shared::wire::DigestAnswer;
use serde::Serialize;

use super::daemon::{Daemon, Waited};
use super::{fault_of, load_token};
use crate::account::Account;
use crate::cli::Setup;
use crate::client::Client;
use crate::output::{self, Fault, remark};
use crate::redaction::Redactor;
use crate::status::{counted, grouped};
use crate::store::Store;
use crate::verify::{self, Local};

/// How long both sides may keep moving before we give up comparing them.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Buckets that are listed of a table that differs.
const BUCKETS_SHOWN_MAX: usize = 8;

#[derive(Debug, Serialize)]
struct Comparison {
    equal: bool,
    epoch: i64,
    cursor: i64,
    tables: Vec<Table>,
    /// Rows of excluded projects, which stay here. That is equality, too.
    excluded: u64,
    /// All that was not refused is equal; this many rows were.
    equal_but_for: Option<u64>,
    /// Why both sides are not equal although the tables are, or why they cannot be.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Table {
    table: &'static str,
    equal: bool,
    /// Rows.
    here: u64,
    cloud: u64,
    /// Over all rows, as 16 hexadecimal digits.
    digest_here: String,
    digest_cloud: String,
    /// Of `here`: rows deleted in this file, which the cloud keeps. That is equality.
    deleted_here: u64,
    differing: Vec<Bucket>,
}

#[derive(Debug, Serialize)]
struct Bucket {
    bucket: String,
    here: u64,
    cloud: u64,
}

pub(super) async fn run(json: bool, setup: &Setup) -> Result<(), Fault> {
    let client = client(setup).await?;
    let (local, cloud) = settle(&client, setup).await?;
    let comparison = compare(&local, &cloud);
    match json {
        true => output::json(&comparison)?,
        false => output::text(&page(&comparison))?,
    }
    match comparison.equal {
        true => Ok(()),
        false => Err(Fault::failed(match comparison.equal_but_for {
            Some(_) => "this file and the cloud are equal, but for what was refused",
            None => "this file and the cloud are not equal",
        })),
    }
}

async fn client(setup: &Setup) -> Result<Client, Fault> {
    let log_in = format!("log in first: {}", setup.command("login --server URL"));
    let account = Account::load(&setup.paths.account)?
        .ok_or_else(|| Fault::NotLoggedIn(format!("nobody is logged in; {log_in}")))?;
    let token = load_token(&account, setup)
        .await
        .map_err(|error| Fault::NotLoggedIn(error.to_string()))?
        .ok_or_else(|| Fault::NotLoggedIn(format!("the token is gone; {log_in}")))?;
    let store = Store::open(&setup.paths.context_db).map_err(anyhow::Error::new)?;
    let device = store.device_id().map_err(anyhow::Error::new)?;
    Ok(Client::of_account(
        &account,
        &setup.paths,
        device,
        &token,
        setup.ca_file().as_deref(),
    )?)
}

/// Both sides at one cursor, if they come to rest.
async fn settle(client: &Client, setup: &Setup) -> Result<(Local, DigestAnswer), Fault> {
    let daemon = Daemon::of(setup)?;
    // First of all, so that a server that is down is said at once, and not after the wait for a sync.
    client.account().await.map_err(fault_of)?;
    let redactor = Arc::new(Redactor::new(&setup.config.redaction).map_err(Fault::Usage)?);
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let syncing = match daemon.sync_and_wait(left.max(Duration::from_millis(1))).await {
            Ok(Waited::Done { .. }) => true,
            Ok(Waited::TimedOut) => false,
            Ok(Waited::NotPossible { reason, .. }) => {
                remark(&format!("not synced first: {reason}"));
                false
            }
            Err(Fault::NotReachable(_)) => {
                remark("no daemon runs: comparing the file as it stands");
                false
            }
            Err(fault) => return Err(fault),
        };
        let cloud = client.digest().await.map_err(fault_of)?;
        let (path, redactor) = (setup.paths.context_db.clone(), redactor.clone());
        let local = tokio::task::spawn_blocking(move || verify::local(&path, &redactor))
            .await
            .context("reading the file")??;
        let at_rest = local.pending == 0 && (local.epoch, local.cursor) == (cloud.epoch, cloud.cursor);
        if at_rest || !syncing || Instant::now() >= deadline {
            return Ok((local, cloud));
        }
    }
}

fn compare(local: &Local, cloud: &DigestAnswer) -> Comparison {
    let deleted = &local.deleted_here;
    let tables = vec![
        table("messages", &local.messages, &cloud.messages, deleted.messages),
        table("tasks", &local.tasks, &cloud.tasks, deleted.tasks),
        table(
            "task_messages",
            &local.task_messages,
            &cloud.task_messages,
            deleted.links,
        ),
    ];
    let mut reasons = Vec::new();
    if (local.epoch, local.cursor) != (cloud.epoch, cloud.cursor) {
        reasons.push(format!(
            "this file is at {} (epoch {}), the cloud at {} (epoch {}): sync first",
            local.cursor, local.epoch, cloud.cursor, cloud.epoch
        ));
    }
    let counts = [
        (local.pending, "change is", "changes are", "not sent yet"),
        (
            local.held,
            "row is",
            "rows are",
            "received but held, until a change of your own is settled",
        ),
        (
            local.quarantined,
            "row is",
            "rows are",
            "refused (coditect-sync quarantine list)",
        ),
        (
            local.uncaptured,
            "row is",
            "rows are",
            "not noticed yet (coditect-sync doctor)",
        ),
    ];
    for (count, one, many, what) in counts {
        if count > 0 {
            reasons.push(format!("{} {what}", counted(count, one, many)));
        }
    }
    let only_refused = local.quarantined > 0 && reasons.len() == 1 && tables.iter().all(|table| table.equal);
    Comparison {
        equal_but_for: only_refused.then_some(local.quarantined),
        equal: reasons.is_empty() && tables.iter().all(|table| table.equal),
        epoch: cloud.epoch,
        cursor: cloud.cursor,
        tables,
        excluded: local.excluded,
        reasons,
    }
}

fn table(name: &'static str, here: &TableDigest, cloud: &TableDigest, deleted_here: u64) -> Table {
    let differing = here.differing(cloud).into_iter();
    Table {
        table: name,
        equal: here == cloud,
        here: here.rows,
        cloud: cloud.rows,
        digest_here: format!("{:016x}", here.digest),
        digest_cloud: format!("{:016x}", cloud.digest),
        deleted_here,
        differing: differing
            .map(|(bucket, here, cloud)| Bucket { bucket, here, cloud })
            .collect(),
    }
}

fn page(comparison: &Comparison) -> String {
    let mut text = String::new();
    for table in &comparison.tables {
        let verdict = match table.equal {
            true => format!("equal, digest {}", table.digest_here),
            false => format!(
                "DIFFERS, digest {} here, {} in the cloud",
                table.digest_here, table.digest_cloud
            ),
        };
        text.push_str(&format!(
            "{:<14} {:>9} here {:>9} in the cloud  {verdict}",
            table.table,
            grouped(table.here),
            grouped(table.cloud)
        ));
        if table.deleted_here > 0 {
            text.push_str(&format!(
                " ({} only in the cloud: deleted here)",
                grouped(table.deleted_here)
            ));
        }
        text.push('\n');
        for bucket in table.differing.iter().take(BUCKETS_SHOWN_MAX) {
            let (here, cloud) = (grouped(bucket.here), grouped(bucket.cloud));
            text.push_str(&format!(
                "  hashes from {}: {here} here, {cloud} in the cloud\n",
                bucket.bucket
            ));
        }
        if table.differing.len() > BUCKETS_SHOWN_MAX {
            text.push_str(&format!(
                "  and {} buckets more\n",
                table.differing.len() - BUCKETS_SHOWN_MAX
            ));
        }
    }
    if comparison.excluded > 0 {
        text.push_str(&format!(
            "{} of excluded projects {} only here\n",
            counted(comparison.excluded, "row", "rows"),
            if comparison.excluded == 1 { "is" } else { "are" }
        ));
    }
    for reason in &comparison.reasons {
        text.push_str(reason);
        text.push('\n');
    }
    let verdict = match (comparison.equal, comparison.equal_but_for) {
        (true, _) => "equal".to_owned(),
        (false, Some(rows)) => format!(
            "equal, but for {}",
            counted(rows, "row that was refused", "rows that were refused")
        ),
        (false, None) => "not equal".into(),
    };
    text.push_str(&format!(
        "{verdict} at cursor {} (epoch {})\n",
        comparison.cursor, comparison.epoch
    ));
    text
}

#[cfg(test)]
mod tests {
    use coditect_shared::Origin;
    use coditect_shared::hash::sha256;

    use super::*;
    use crate::verify::Deleted;

    fn both() -> (Local, DigestAnswer) {
        let mut messages = TableDigest::default();
        for text in ["a", "b"] {
            let hash = sha256(text.as_bytes());
            messages.add_message(
                &Origin {
                    session_id: "s".into(),
                    content_hash: hash,
                    occurrence: 0,
                },
                hash,
            );
        }
        let local = Local {
            epoch: 1,
            cursor: 5,
            messages: messages.clone(),
            ..Local::default()
        };
        let cloud = DigestAnswer {
            epoch: 1,
            cursor: 5,
            messages,
            ..DigestAnswer::default()
        };
        (local, cloud)
    }

    #[test]
    fn p16_equal_sides_are_equal_and_rows_deleted_here_are_named() {
        let (mut local, cloud) = both();
        local.deleted_here = Deleted {
            messages: 1,
            ..Deleted::default()
        };
        let comparison = compare(&local, &cloud);
        assert!(comparison.equal, "{comparison:?}");
        let text = page(&comparison);
        assert!(
            text.contains("1 only in the cloud: deleted here") && text.contains("equal at cursor 5"),
            "{text}"
        );
        assert!(
            text.contains(&format!("{:016x}", local.messages.digest)),
            "{text}"
        );
    }

    #[test]
    fn p16_one_row_that_differs_is_found_with_its_bucket() {
        let (local, mut cloud) = both();
        let hash = sha256(b"c");
        cloud.messages.add_message(
            &Origin {
                session_id: "s".into(),
                content_hash: hash,
                occurrence: 0,
            },
            hash,
        );
        let comparison = compare(&local, &cloud);
        assert!(!comparison.equal);
        let text = page(&comparison);
        assert!(
            text.contains("DIFFERS") && text.contains("hashes from 2e: 0 here, 1 in the cloud"),
            "{text}"
        );
    }

    #[test]
    fn p16_with_refused_rows_alone_the_verdict_is_equal_but_for_these() {
        let (mut local, cloud) = both();
        local.quarantined = 2;
        let comparison = compare(&local, &cloud);
        assert!(!comparison.equal);
        assert!(
            page(&comparison).ends_with("equal, but for 2 rows that were refused at cursor 5 (epoch 1)\n"),
            "{}",
            page(&comparison)
        );
        local.pending = 1;
        assert!(page(&compare(&local, &cloud)).contains("\nnot equal at"));
    }

    #[test]
    fn p11_equal_tables_are_not_called_equal_while_something_is_open() {
        let open: [fn(&mut Local); 6] = [
            |local| local.pending = 1,
            |local| local.held = 1,
            |local| local.quarantined = 1,
            |local| local.uncaptured = 1,
            |local| local.cursor = 4,
            |local| local.epoch = 2,
        ];
        for change in open {
            let (mut local, cloud) = both();
            change(&mut local);
            let comparison = compare(&local, &cloud);
            assert!(
                !comparison.equal && comparison.reasons.len() == 1,
                "{comparison:?}"
            );
        }
    }
}
