//! Consent: which rows belong to which project, and that those of an excluded one are not sent.

use std::sync::Arc;

use coditect_shared::Origin;
use coditect_shared::hash::message_hash;
use coditect_sync::apply::Applied;
use coditect_sync::config::{Config, Projects, Sharing};
use coditect_sync::policy::Policy;
use coditect_sync::projects::{self, NONE, Rejudge};
use coditect_sync::store::Store;
use coditect_sync::verify;
use rusqlite::types::Value;

use crate::desk::{Desk, TENANT, message};

pub(crate) const TASK: &str = "00000000-0000-4000-8000-000000000001";

pub(crate) fn settings(default: Sharing, include: &[&str], exclude: &[&str]) -> Arc<Policy> {
    let owned = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect();
    let projects = Projects {
        default,
        include: owned(include),
        exclude: owned(exclude),
    };
    let config = Config {
        projects,
        ..Config::default()
    };
    Arc::new(Policy::new(&config).unwrap())
}

/// The settings hold from here on, and the file is judged by them.
pub(crate) fn hold(desk: &mut Desk, policy: Arc<Policy>) {
    desk.context.policy = policy.clone();
    let mut at = Rejudge::default();
    while projects::is_due(desk.store.conn(), &policy.projects).unwrap() {
        at = desk
            .store
            .write(|tx, owner| projects::step(tx, owner, &policy.projects, at))
            .unwrap();
    }
}

pub(crate) fn say(desk: &Desk, project: &str, content: &str) -> i64 {
    let id = desk.say(&format!("session of {project}"), content);
    desk.exec(&format!(
        r#"UPDATE messages SET agent_context = '{{"project":"{project}"}}' WHERE id = {id}"#
    ));
    id
}

fn origin(project: &str, content: &str) -> Origin {
    let session_id = format!("session of {project}");
    Origin {
        content_hash: message_hash(TENANT, &session_id, content),
        session_id,
        occurrence: 0,
    }
}

fn sent(desk: &Desk) -> Vec<&str> {
    let mut contents: Vec<&str> = desk
        .cloud
        .messages
        .values()
        .map(|record| record.content.as_str())
        .collect();
    contents.sort_unstable();
    contents
}

#[test]
fn rows_of_an_excluded_project_stay_and_go_once_it_is_included() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    say(&desk, "open", "a");
    let kept = say(&desk, "secret", "b");
    say(&desk, "secret", "c");
    desk.push_all();
    assert_eq!(sent(&desk), ["a"]);
    assert_eq!((desk.count("sync_queue"), desk.count("sync_excluded")), (0, 2));
    // They are captured, and not refused.
    let local = verify::local(desk.path(), &desk.context.policy.redactor).unwrap();
    assert_eq!(
        (local.excluded, local.uncaptured, local.pending, local.quarantined),
        (2, 0, 0, 0)
    );
    // A row that is deleted here leaves nothing.
    desk.exec(&format!("DELETE FROM messages WHERE id = {kept}"));
    desk.push_all();
    assert_eq!((desk.count("sync_excluded"), desk.count("sync_messages")), (1, 2));

    hold(&mut desk, settings(Sharing::Include, &[], &[]));
    desk.push_all();
    assert_eq!(sent(&desk), ["a", "c"]);
    assert_eq!(desk.count("sync_excluded"), 0);
    assert!(desk.cloud.idle.is_empty());
}

#[test]
fn what_was_sent_before_stays_and_its_edits_stay_here() {
    let mut desk = Desk::new();
    let id = say(&desk, "secret", "v1");
    desk.push_all();
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    desk.push_all();
    assert_eq!((sent(&desk), desk.count("sync_excluded")), (vec!["v1"], 1));
    // Equality is with what was sent.
    let mut cloud = coditect_shared::digest::TableDigest::default();
    let origin = origin("secret", "v1");
    cloud.add_message(&origin, origin.content_hash);
    assert_eq!(
        verify::local(desk.path(), &desk.context.policy.redactor)
            .unwrap()
            .messages,
        cloud
    );
    // Taken back, there is nothing to keep.
    desk.exec(&format!("UPDATE messages SET content = 'v1' WHERE id = {id}"));
    desk.push_all();
    assert_eq!(desk.count("sync_excluded"), 0);
    // A version from elsewhere goes over an edit that stays here, as over a refused row.
    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    desk.push_all();
    let mut from_elsewhere = message("session of secret", "v3");
    from_elsewhere.origin = Some(origin);
    let page = desk.page_of(from_elsewhere);
    assert_eq!(desk.apply(&page), Applied::Page { rows: 1 });
    assert_eq!(desk.text("SELECT content FROM messages"), "v3");
    assert_eq!(
        (
            desk.count("sync_excluded"),
            desk.count("sync_queue"),
            desk.count("sync_held")
        ),
        (0, 0, 0)
    );
}

#[test]
fn the_same_text_from_another_device_is_the_same_row_and_is_kept_back_no_more() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Exclude, &[], &[]));
    say(&desk, "secret", "x");
    desk.task(TASK);
    desk.push_all();
    assert_eq!(desk.count("sync_excluded"), 2);
    let page = desk.page_of(message("session of secret", "x"));
    desk.apply(&page);
    assert_eq!((desk.count("messages"), desk.count("sync_excluded")), (1, 1));
}

#[test]
fn a_link_waits_while_an_end_is_excluded_whether_that_was_sent_or_not() {
    let mut desk = Desk::new();
    let old = say(&desk, "secret", "old");
    desk.task(TASK);
    desk.push_all();
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    let new = say(&desk, "secret", "new");
    for id in [old, new] {
        desk.exec(&format!(
            "INSERT INTO task_messages VALUES ('{TASK}', {id}, {id})"
        ));
    }
    desk.push_all();
    assert_eq!((desk.cloud.links.len(), desk.count("sync_links_parked")), (0, 2));
    // A link that is taken away waits no more.
    desk.exec(&format!(
        "INSERT INTO task_messages VALUES ('{TASK}', 99, 1); DELETE FROM task_messages WHERE message_id = 99"
    ));
    desk.push_all();
    assert_eq!(desk.count("sync_links_parked"), 2);

    hold(&mut desk, settings(Sharing::Exclude, &["sec*", "(none)"], &[]));
    desk.push_all();
    assert_eq!((desk.cloud.links.len(), desk.count("sync_links_parked")), (2, 0));
    assert_eq!((desk.count("sync_excluded"), desk.count("sync_queue")), (0, 0));
}

#[test]
fn a_row_that_could_not_travel_is_kept_back_and_not_refused_while_its_project_is_excluded() {
    let mut desk = Desk::new();
    desk.exec(
        r#"INSERT INTO messages (hash, session_id, role, content, agent_context)
           VALUES ('h', 's', 'user', x'ff', '{"project":"secret"}')"#,
    );
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    desk.push_all();
    assert_eq!((desk.quarantine().len(), desk.count("sync_excluded")), (0, 1));
    hold(&mut desk, settings(Sharing::Include, &[], &[]));
    desk.push_all();
    assert_eq!((desk.quarantine().len(), desk.count("sync_excluded")), (1, 0));
}

#[test]
fn rows_from_before_the_settings_are_judged_by_what_any_row_of_their_session_names() {
    let mut desk = Desk::new();
    desk.say("s", "unnamed");
    desk.exec(&format!(
        "INSERT INTO task_tracking (id, task_id, description, session_id, project_id) VALUES ('{TASK}', '1', 'd', 's', 'secret')"
    ));
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    desk.push_all();
    assert_eq!(
        (sent(&desk), desk.cloud.tasks.len(), desk.count("sync_excluded")),
        (vec![], 0, 2)
    );
}

#[test]
fn rows_that_were_kept_back_unnamed_go_once_their_session_is_named() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Exclude, &["open"], &[]));
    desk.say("session of open", "first, without a name");
    desk.push_all();
    assert_eq!(desk.count("sync_excluded"), 1);
    say(&desk, "open", "second");
    desk.push_all();
    assert_eq!(sent(&desk).len(), 2);
    assert_eq!(desk.count("sync_excluded"), 0);
}

#[test]
fn settings_that_never_kept_anything_back_leave_no_trace() {
    let mut desk = Desk::new();
    say(&desk, "open", "a");
    desk.push_all();
    hold(&mut desk, Arc::default());
    assert_eq!(desk.count("sync_sessions"), 0);
    assert_eq!(desk.count("sync_state WHERE key LIKE 'projects%'"), 0);
}

#[test]
fn lost_tables_of_consent_make_all_rows_be_judged_anew() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Include, &[], &["secret"]));
    say(&desk, "secret", "x");
    desk.push_all();
    desk.exec("DROP TABLE sync_excluded; DROP TABLE sync_sessions");
    assert!(desk.store.repair_tables().unwrap());
    desk.backfill();
    desk.push_all();
    assert_eq!((sent(&desk), desk.count("sync_excluded")), (vec![], 1));
}

#[test]
fn a_session_has_the_project_that_its_lowest_row_names_and_its_rows_follow_it() {
    let mut desk = Desk::new();
    desk.exec(
        r#"INSERT INTO messages (id, hash, session_id, role, content, source_file, agent_context) VALUES
             (1, 'a', 's', 'user', 'x', '-c-shop/s.jsonl', NULL),
             (2, 'b', 's', 'user', 'x', '-c-shop/s.jsonl', '{"project":"shop"}'),
             (3, 'c', 's', 'user', 'x', '-c-shop/s.jsonl', '{"agent":"a1","project":"other"}'),
             (4, 'd', 't', 'user', 'x', NULL, NULL),
             (5, 'e', 'u', 'user', 'x', '-c-lamp/u.jsonl', 'a1'),
             (6, 'f', NULL, 'user', 'x', NULL, NULL);
           INSERT INTO task_tracking (id, task_id, description, session_id, project_id) VALUES
             ('k1', '1', 'a', 't', 'toys'), ('k2', '1', 'a', 's', NULL), ('k3', '1', 'a', NULL, NULL);"#,
    );
    let all = projects::of_sessions(&desk.owner, desk.store.owner()).unwrap();
    let named: Vec<(&str, &str)> = ["s", "t", "u"]
        .map(|session| (session, all[session].name()))
        .into();
    assert_eq!(named, [("s", "shop"), ("t", "toys"), ("u", "-c-lamp")]);
    for (session, place) in &all {
        let one = projects::of_session(&desk.owner, desk.store.owner(), session).unwrap();
        assert_eq!(&one, place, "{session}");
    }
    // In the order in which they are sent, as the daemon looks at them.
    let judged = desk
        .store
        .write::<_, rusqlite::Error>(|tx, owner| {
            let mut names = Vec::new();
            for row in 1..=6 {
                let (_, place) = projects::judged_message(tx, owner, row)?.unwrap();
                names.push(place.name().to_owned());
            }
            for task in ["k1", "k2", "k3"] {
                let (_, place) = projects::judged_task(tx, owner, &Value::Text(task.into()))?.unwrap();
                names.push(place.name().to_owned());
            }
            Ok(names)
        })
        .unwrap();
    assert_eq!(judged[..3], ["-c-shop", "shop", "shop"]);
    assert_eq!(judged[3..6], [NONE, "-c-lamp", NONE]);
    assert_eq!(judged[6..], ["toys", "shop", NONE]);
    let place = projects::of_message(&desk.owner, desk.store.owner(), 3)
        .unwrap()
        .unwrap();
    assert_eq!((place.name(), place.own.as_deref()), ("shop", Some("other")));
    assert_eq!(
        projects::of_message(&desk.owner, desk.store.owner(), 99).unwrap(),
        None
    );
}

#[test]
fn a_file_of_the_former_schema_gets_the_new_tables_and_keeps_its_identities() {
    let mut desk = Desk::new();
    desk.say("s", "x");
    desk.push_all();
    let before = desk.text("SELECT group_concat(hex(origin_hash)) FROM sync_messages");
    desk.exec(
        "DROP TABLE sync_sessions; DROP TABLE sync_excluded;
         ALTER TABLE sync_messages DROP COLUMN hardware_id; ALTER TABLE sync_tasks DROP COLUMN hardware_id;
         UPDATE sync_state SET value = 1 WHERE key = 'schema_version';",
    );
    let store = Store::open(desk.path()).unwrap();
    assert_eq!(desk.count("sync_excluded"), 0);
    assert_eq!(
        desk.text("SELECT group_concat(hex(origin_hash)) FROM sync_messages"),
        before
    );
    assert_eq!(desk.count("sync_queue"), 0, "nothing is looked at anew");
    assert_eq!(store.device_id().unwrap(), desk.context.device);
}
