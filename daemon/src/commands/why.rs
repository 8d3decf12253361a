//! `why`: how it stands with one row, a sentence for each fact, the conclusion first.

use jiff::Timestamp;
use serde_json::json;

use crate::browse::moment;
use crate::cli::{Setup, Why};
use crate::key::{KeyPart, RowKey, Table};
use crate::output::{self, Fault};
use crate::policy::Policy;
use crate::status::{age, counted};
use crate::why::{self, Conclusion, Facts};

const TABLES: &str = "messages ID, task_tracking ID, or task_messages TASK MESSAGE";

pub(super) fn run(args: &Why, setup: &Setup) -> Result<(), Fault> {
    let key = key_of(args)?;
    let policy = Policy::new(&setup.config).map_err(Fault::Usage)?;
    let (context_db, state_db) = (&setup.paths.context_db, &setup.paths.state_db);
    let found = why::look(context_db, state_db, &policy, &key)?;
    let row = args.ids.join(" ");
    let Some((conclusion, facts)) = found else {
        return Err(Fault::failed(format!(
            "no row {row} is in {} of {}, nor was one ever sent from it",
            key.table.name(),
            context_db.display()
        )));
    };
    let first = format!("{} {row}: {}", key.table.name(), concluded(conclusion, &facts));
    if args.json {
        return output::json(&json!({
            "table": key.table.name(),
            "row": args.ids,
            "conclusion": conclusion,
            "text": first,
            "facts": facts,
        }));
    }
    let mut text = format!("{first}\n");
    for sentence in sentences(&facts, setup, Timestamp::now()) {
        text.push_str(&format!("  {sentence}\n"));
    }
    output::text(&text)
}

fn key_of(args: &Why) -> Result<RowKey, Fault> {
    let table = match args.table.as_str() {
        "message" => Some(Table::Messages),
        "task" | "tasks" => Some(Table::TaskTracking),
        "link" | "links" => Some(Table::TaskMessages),
        name => Table::from_name(name),
    };
    let table = table.ok_or_else(|| {
        Fault::failed(format!(
            "{:?} is no table that is synced; ask for {TABLES}",
            args.table
        ))
    })?;
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| {
            Fault::failed(format!(
                "{text:?} is no id of a message, which is a number; `show` has them with --json"
            ))
        })
    };
    match (table, args.ids.as_slice()) {
        (Table::Messages, [id]) => Ok(RowKey::message(number(id)?)),
        (Table::TaskTracking, [id]) => Ok(RowKey {
            table,
            key: KeyPart::Text(id.clone()),
            key2: KeyPart::Null,
        }),
        (Table::TaskMessages, [task, message]) => Ok(RowKey {
            table,
            key: KeyPart::Text(task.clone()),
            key2: KeyPart::Int(number(message)?),
        }),
        (_, _) => Err(Fault::Usage(format!("ask for {TABLES}"))),
    }
}

fn concluded(conclusion: Conclusion, facts: &Facts) -> &'static str {
    match conclusion {
        Conclusion::Sent if facts.pulled_from.is_some() => {
            "in the cloud, where it came from, and unchanged since"
        }
        Conclusion::Sent => "sent and unchanged since",
        Conclusion::InFlight => "on its way: in a batch that is not acknowledged yet",
        Conclusion::Refused => "stays here: it was refused",
        Conclusion::Excluded => "stays here: its project is excluded",
        Conclusion::WaitsForEnd => "stays here: it waits for an end",
        Conclusion::ToSend => "waits to be sent",
        Conclusion::DeletedHere => "deleted here; the cloud keeps what was sent",
        Conclusion::NotNoticed => "not sent, and not noticed: the doctor may know why (coditect-sync doctor)",
        Conclusion::NoAccount => "only here: this file was never logged in",
    }
}

fn sentences(facts: &Facts, setup: &Setup, now: Timestamp) -> Vec<String> {
    let mut told = Vec::new();
    let ago = |at: Option<&str>| match moment(at) {
        Some(at) => format!("{} ago", age(now.duration_since(at))),
        None => at.unwrap_or("at an unknown time").to_owned(),
    };
    told.push(match facts.exists {
        true => "it stands in this file".to_owned(),
        false => "it stands in this file no more".to_owned(),
    });
    if let Some(machine) = &facts.pulled_from {
        told.push(match machine.as_str() {
            "" => "it came from another device".to_owned(),
            machine => format!("it came from {machine}"),
        });
    }
    if let Some(project) = &facts.project {
        let state = if project.standing.included {
            "included"
        } else {
            "excluded"
        };
        told.push(format!(
            "its project is {}, {state} by {}",
            project.name, project.standing.setting
        ));
        if !project.standing.included {
            told.push(format!(
                "to send it: {}",
                setup.command(&format!("projects include {}", project.name))
            ));
        }
    }
    if let Some(entry) = &facts.excluded {
        told.push(format!(
            "it is kept back since {}, as a row of {}",
            ago(Some(&entry.since)),
            entry.project
        ));
    }
    if let Some(queued) = &facts.queued {
        told.push(format!(
            "{} in the outbox, the first {}",
            counted(queued.changes, "change of it waits", "changes of it wait"),
            ago(queued.since.as_deref())
        ));
    }
    if let Some(push_seq) = facts.in_flight {
        told.push(format!("it is in push {push_seq}, which is being sent"));
    }
    for refusal in &facts.refused {
        let by = if refusal.direction == "up" {
            "it was refused"
        } else {
            "a version from elsewhere was refused here"
        };
        told.push(format!(
            "{by} {}: {} ({})",
            ago(Some(&refusal.at)),
            refusal.message,
            refusal.code
        ));
    }
    told.extend(facts.waits_for.iter().map(|end| format!("it waits for {end}")));
    if let Some(acknowledged) = &facts.acknowledged {
        let since = match (facts.exists, acknowledged.unchanged) {
            (true, true) => "unchanged since",
            (true, false) => "changed since",
            (false, _) => "deleted here since",
        };
        told.push(format!(
            "the server acknowledged it at cursor {} of epoch {}; {since}",
            acknowledged.at.cursor, acknowledged.at.epoch
        ));
    }
    if let Some(held) = &facts.held {
        told.push(format!(
            "a version from elsewhere, at cursor {}, waits until the change made here is settled",
            held.cursor
        ));
    }
    if !facts.redacted.is_empty() {
        let kinds: Vec<String> = facts
            .redacted
            .iter()
            .map(|(kind, count)| format!("{kind} ({count})"))
            .collect();
        told.push(format!("in what is sent of it is redacted: {}", kinds.join(", ")));
    }
    told
}
