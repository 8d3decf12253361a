//! How tasks are told: records in, rows out.

use serde_json::{Value, json};

use super::record;
use super::task::{Speaker, Status, TaskRow};
use super::tasks::{Place, Tasks};

/// What a session's tasks look like after these records, one a minute from 08:00 on, and each message's
/// places.
fn told(records: &[Value]) -> (Vec<TaskRow>, Vec<Vec<Place>>) {
    let mut tasks = Tasks::new("s", "");
    let mut places = Vec::new();
    for (minute, record) in records.iter().enumerate() {
        tasks.tick(&time(minute));
        let speaker = match record["agentId"].as_str() {
            Some(agent) => Speaker::Agent(agent.to_owned()),
            None => Speaker::Main,
        };
        let json = record.to_string();
        for said in record::read(&json).unwrap().said {
            places.push(tasks.hear(&speaker, &said));
        }
    }
    (tasks.take_changed(), places)
}

fn rows(records: &[Value]) -> Vec<TaskRow> {
    told(records).0
}

fn time(minute: usize) -> String {
    format!("2026-11-03T08:{minute:02}:00Z")
}

fn call(id: &str, tool: &str, input: Value) -> Value {
    json!({"type": "assistant", "message": {"content": [
        {"type": "tool_use", "id": id, "name": tool, "input": input}]}})
}

/// A list of (text, status), with the text in upper case for the active form.
fn todo(id: &str, items: &[(&str, &str)]) -> Value {
    let item = |(text, status): &(&str, &str)| json!({"content": text, "status": status, "activeForm": text.to_uppercase()});
    call(
        id,
        "TodoWrite",
        json!({"todos": items.iter().map(item).collect::<Vec<_>>()}),
    )
}

fn result(of: &str, text: &str, failed: bool, details: Value) -> Value {
    json!({"type": "user", "toolUseResult": details, "message": {"content": [
        {"type": "tool_result", "tool_use_id": of, "content": text, "is_error": failed}]}})
}

fn good() -> Value {
    result("x", "fine", false, Value::Null)
}

fn bad() -> Value {
    result("x", "exit code 1", true, Value::Null)
}

fn refused() -> Value {
    let text = "The user doesn't want to proceed with this tool use. The tool use was rejected.";
    result("x", text, true, Value::Null)
}

fn user(text: &str) -> Value {
    json!({"type": "user", "message": {"content": text}})
}

#[test]
fn an_item_is_one_task_from_its_first_mention_to_its_completion() {
    let rows = rows(&[
        todo("a", &[("build", "pending"), ("test", "pending")]),
        todo("b", &[("build", "in_progress"), ("test", "pending")]),
        good(),
        bad(),
        good(),
        todo("c", &[("build", "completed"), ("test", "in_progress")]),
    ]);
    assert_eq!(rows.len(), 2);
    let build = &rows[0];
    assert_eq!(
        (build.status, build.outcome),
        (Status::Completed, Some("success"))
    );
    assert_eq!((build.tool_success_count, build.tool_error_count), (2, 1));
    assert_eq!(build.outcome_score, Some(2.0 / 3.0));
    assert_eq!(build.started_at, Some(time(1)));
    assert_eq!(build.completed_at, Some(time(5)));
    assert_eq!((rows[1].status, rows[1].outcome), (Status::InProgress, None));
    assert_eq!(rows[1].outcome_score, None);
    assert_eq!(
        (rows[0].task_id.as_str(), rows[0].active_form.as_deref()),
        ("todo-1", Some("BUILD"))
    );
}

#[test]
fn a_span_holds_the_messages_from_the_starting_to_the_ending_call() {
    let (_, places) = told(&[
        user("before"),
        todo("a", &[("build", "in_progress")]),
        user("during"),
        todo("b", &[("build", "completed"), ("test", "completed")]),
        user("after"),
    ]);
    let of = |task: usize| -> Vec<Option<u32>> {
        let sequence = |places: &Vec<Place>| {
            places
                .iter()
                .find(|place| place.task == task)
                .map(|place| place.sequence)
        };
        places.iter().map(sequence).collect()
    };
    assert_eq!(of(0), [None, Some(1), Some(2), Some(3), None]);
    assert_eq!(
        of(1),
        [None, None, None, Some(1), None],
        "never seen in progress: the call that completed it"
    );
}

#[test]
fn the_outcome_follows_the_stated_rule() {
    let outcome = |between: &[Value], end: Value| {
        let mut records = vec![todo("a", &[("build", "in_progress")])];
        records.extend_from_slice(between);
        records.push(end);
        let rows = rows(&records);
        (rows[0].outcome.unwrap(), rows[0].outcome_score)
    };
    let completed = || todo("b", &[("build", "completed")]);
    let dropped = || todo("b", &[]);
    assert_eq!(outcome(&[], completed()), ("success", None));
    assert_eq!(outcome(&[bad(), good()], completed()), ("success", Some(0.5)));
    assert_eq!(outcome(&[good(), bad()], completed()), ("partial", Some(0.5)));
    assert_eq!(outcome(&[bad(), bad()], completed()), ("error", Some(0.0)));
    assert_eq!(outcome(&[good()], dropped()), ("partial", Some(1.0)));
    assert_eq!(outcome(&[bad()], dropped()), ("error", Some(0.0)));
    assert_eq!(outcome(&[], dropped()), ("partial", None));
    let never_started = rows(&[todo("a", &[("build", "pending")]), todo("b", &[])]);
    assert_eq!(
        (never_started[0].status, never_started[0].outcome),
        (Status::Pending, Some("skipped"))
    );
}

#[test]
fn refusals_and_interruptions_are_corrections_and_no_results() {
    let rows = rows(&[
        todo("a", &[("build", "in_progress")]),
        good(),
        good(),
        refused(),
        user("[Request interrupted by user for tool use]"),
        user("use the other file"),
        good(),
        good(),
        user("[Request interrupted by user]"),
        todo("b", &[("build", "completed")]),
    ]);
    assert_eq!(
        rows[0].user_corrections, 2,
        "the refusal and its interruption are one act"
    );
    assert_eq!((rows[0].tool_success_count, rows[0].tool_error_count), (4, 0));
    assert_eq!(rows[0].outcome_score, Some(0.5));
}

#[test]
fn more_corrections_than_successes_score_zero() {
    let rows = rows(&[
        todo("a", &[("build", "in_progress")]),
        good(),
        refused(),
        refused(),
        todo("b", &[("build", "completed")]),
    ]);
    assert_eq!(rows[0].outcome_score, Some(0.0));
}

#[test]
fn a_reopened_task_goes_back_and_counts_on() {
    let mut records = vec![
        todo("a", &[("build", "in_progress")]),
        good(),
        todo("b", &[("build", "completed")]),
        bad(),
        todo("c", &[("build", "in_progress")]),
    ];
    let open = rows(&records);
    assert_eq!((open.len(), open[0].status), (1, Status::InProgress));
    assert_eq!(
        (&open[0].completed_at, open[0].outcome, open[0].outcome_score),
        (&None, None, None)
    );
    assert_eq!(
        open[0].tool_error_count, 0,
        "what happened while it was completed is not counted"
    );
    records.extend([good(), todo("d", &[("build", "completed")])]);
    let closed = rows(&records);
    assert_eq!(
        (closed[0].tool_success_count, closed[0].started_at.clone()),
        (2, Some(time(0)))
    );
    assert_eq!(closed[0].completed_at, Some(time(6)));
}

#[test]
fn equal_texts_in_one_list_are_told_apart_by_their_order() {
    let rows = rows(&[
        todo(
            "a",
            &[("test", "pending"), ("build", "pending"), ("test", "pending")],
        ),
        todo(
            "b",
            &[
                ("test", "completed"),
                ("build", "pending"),
                ("test", "in_progress"),
            ],
        ),
    ]);
    let statuses: Vec<Status> = rows.iter().map(|row| row.status).collect();
    assert_eq!(statuses, [Status::Completed, Status::Pending, Status::InProgress]);
}

#[test]
fn a_renamed_item_stays_the_same_task() {
    let item = |id: &str, text: &str, form: &str| json!({"id": id, "content": text, "status": "pending", "activeForm": form});
    let list = |call_id: &str, item: Value| call(call_id, "TodoWrite", json!({"todos": [item]}));
    let by_id = rows(&[
        list("a", item("7", "build", "x")),
        list("b", item("7", "build it", "y")),
    ]);
    assert_eq!((by_id.len(), by_id[0].description.as_str()), (1, "build it"));
    let by_place = rows(&[
        list("a", item("", "build", "x")),
        list("b", item("", "build it", "x")),
    ]);
    assert_eq!(
        (by_place.len(), by_place[0].description.as_str()),
        (1, "build it")
    );
    let neither = rows(&[
        list("a", item("", "build", "x")),
        list("b", item("", "ship", "y")),
    ]);
    assert_eq!((neither.len(), neither[0].outcome), (2, Some("skipped")));
}

#[test]
fn an_item_that_left_unfinished_comes_back_as_itself_and_a_finished_one_as_a_new_task() {
    let back = rows(&[
        todo("a", &[("build", "in_progress")]),
        todo("b", &[]),
        todo("c", &[("build", "in_progress")]),
    ]);
    assert_eq!(
        (back.len(), back[0].status, back[0].outcome),
        (1, Status::InProgress, None)
    );
    let anew = rows(&[
        todo("a", &[("build", "completed")]),
        todo("b", &[("other", "pending")]),
        todo("c", &[("other", "pending"), ("build", "pending")]),
    ]);
    let builds: Vec<Status> = anew
        .iter()
        .filter(|row| row.description == "build")
        .map(|row| row.status)
        .collect();
    assert_eq!(builds, [Status::Completed, Status::Pending]);
}

#[test]
fn created_tasks_follow_their_updates() {
    let created = |number: &str| json!({"task": {"id": number, "subject": "…"}});
    let rows = rows(&[
        call(
            "a",
            "TaskCreate",
            json!({"subject": "build", "description": "all of it", "activeForm": "Building"}),
        ),
        call("b", "TaskCreate", json!({"subject": "test"})),
        result("b", "Task #2 created successfully: test", false, Value::Null),
        result("a", "Task #1 created successfully: build", false, created("1")),
        call("c", "TaskCreate", json!({"subject": "fails"})),
        result("c", "Error", true, Value::Null),
        call("d", "TaskUpdate", json!({"taskId": "1", "status": "in_progress"})),
        good(),
        call(
            "e",
            "TaskUpdate",
            json!({"taskId": "1", "status": "completed", "subject": "build it"}),
        ),
        call("f", "TaskUpdate", json!({"taskId": "2", "status": "deleted"})),
        call("g", "TaskUpdate", json!({"taskId": "9", "status": "completed"})),
    ]);
    assert_eq!(rows.len(), 2);
    let (test, build) = (&rows[0], &rows[1]);
    assert_eq!(
        (build.task_id.as_str(), build.description.as_str()),
        ("1", "build it\n\nall of it")
    );
    assert_eq!(
        (build.status, build.outcome, build.tool_success_count),
        (Status::Completed, Some("success"), 1)
    );
    assert_eq!(
        (test.task_id.as_str(), test.status, test.outcome),
        ("2", Status::Pending, Some("skipped"))
    );
}

#[test]
fn ids_depend_on_session_call_and_place_alone() {
    let id = |call: &str, text: &str| rows(&[todo(call, &[(text, "pending")])])[0].id;
    assert_eq!(id("a", "build"), id("a", "build"));
    assert_ne!(id("a", "build"), id("b", "build"));
    // A fixed value: if it changes, every transcript that is ingested again doubles its tasks.
    assert_eq!(
        id("a", "build").to_string(),
        "157d06ae-6860-53bb-a7ec-a81d523fcd0d"
    );
}

#[test]
fn a_subagents_list_is_its_own_and_counts_its_own_results() {
    let of_agent = |mut record: Value| {
        record["agentId"] = "a1".into();
        record
    };
    let rows = rows(&[
        todo("a", &[("build", "in_progress")]),
        of_agent(todo("b", &[("search", "in_progress")])),
        of_agent(good()),
        bad(),
        of_agent(todo("c", &[("search", "completed")])),
        todo("d", &[("build", "completed")]),
    ]);
    let (build, search) = (&rows[0], &rows[1]);
    assert_eq!((search.tool_success_count, search.tool_error_count), (1, 0));
    assert_eq!(
        (build.tool_success_count, build.tool_error_count),
        (1, 1),
        "all that happened in its span"
    );
    assert_eq!(build.status, Status::Completed);
}

#[test]
fn times_never_run_backwards() {
    let mut tasks = Tasks::new("s", "");
    let mut hear = |at: &str, record: Value| {
        tasks.tick(at);
        let json = record.to_string();
        for said in record::read(&json).unwrap().said {
            tasks.hear(&Speaker::Main, &said);
        }
    };
    hear("2026-11-03T08:05:00Z", todo("a", &[("build", "in_progress")]));
    hear("2026-11-03T08:01:00Z", todo("b", &[("build", "completed")]));
    hear("no time at all", user("x"));
    let row = &tasks.take_changed()[0];
    assert_eq!(row.started_at, Some(time(5)));
    assert_eq!(row.completed_at, Some(time(5)));
}

#[test]
fn odd_lists_are_read_as_far_as_they_go() {
    let wrapped = json!({"todos": "[{\"content\":\"build\",\"status\":\"in_progress\"}]"});
    assert_eq!(rows(&[call("a", "TodoWrite", wrapped)]).len(), 1);
    let odd = json!({"todos": ["text", 7, {"content": 7}, {"content": ""}, {"content": "build", "status": "weird"}]});
    let rows = rows(&[
        call("a", "TodoWrite", odd),
        call("b", "TodoWrite", json!({})),
        call("c", "TodoWrite", json!(1)),
    ]);
    assert_eq!(
        (rows.len(), rows[0].status, rows[0].outcome),
        (1, Status::Pending, None)
    );
}

#[test]
fn long_names_are_cut_to_what_fits_their_columns() {
    let long = "ä".repeat(300);
    let item = json!({"id": long, "content": long, "status": "pending", "activeForm": long});
    let rows = rows(&[
        call("a", "TodoWrite", json!({"todos": [item.clone()]})),
        call("b", "TodoWrite", json!({"todos": [item]})),
    ]);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].task_id.chars().count(), 50);
    assert_eq!(rows[0].active_form.as_ref().unwrap().chars().count(), 255);
    assert_eq!(rows[0].description, long);
}
