//! What the calls of the task tools say, read from their JSON.

use coditect_shared::limits::ACTIVE_FORM_MAX_CHARS;

use super::fields::{cut, items, pick, some_text, text};
use super::task::Status;

/// An item as a call of TodoWrite gives it.
#[derive(Debug)]
pub(super) struct Item {
    /// Its place among all that the call listed.
    pub(super) place: usize,
    pub(super) id: Option<String>,
    pub(super) content: String,
    pub(super) active_form: Option<String>,
    /// None for one that is listed as cancelled or deleted.
    pub(super) status: Option<Status>,
}

/// The items of a call of TodoWrite; None if it has no list. What is no item in it is passed over.
pub(super) fn todo_items(input: &str) -> Option<Vec<Item>> {
    let [Some(todos)] = pick(input, ["todos"])? else {
        return None;
    };
    // Some models wrap the list into a text.
    let unwrapped = text(todos).unwrap_or(todos.into());
    if !unwrapped.trim_start().starts_with('[') {
        return None;
    }
    let read = |(place, json): (usize, &str)| {
        let [id, content, active_form, status] = pick(json, ["id", "content", "activeForm", "status"])?;
        Some(Item {
            place,
            id: id
                .map(|json| text(json).unwrap_or(json.into()).into_owned())
                .filter(|id| !id.is_empty()),
            content: some_text(content)?.into_owned(),
            active_form: some_text(active_form).map(|form| cut(&form, ACTIVE_FORM_MAX_CHARS).to_owned()),
            status: status_of(&some_text(status).unwrap_or_default()),
        })
    };
    Some(
        items(&unwrapped)
            .into_iter()
            .enumerate()
            .filter_map(read)
            .collect(),
    )
}

/// A status that we do not know is that of a task which is still to be done.
pub(super) fn status_of(status: &str) -> Option<Status> {
    match status {
        "completed" => Some(Status::Completed),
        "in_progress" => Some(Status::InProgress),
        "cancelled" | "deleted" => None,
        _ => Some(Status::Pending),
    }
}

/// The number of a created task: `toolUseResult.task.id`, else out of `Task #1 created successfully: …`.
pub(super) fn created_number(details: Option<&str>, answer: &str) -> Option<String> {
    let task = details
        .and_then(|json| pick(json, ["task"]))
        .and_then(|[task]| task);
    let id = task.and_then(|json| pick(json, ["id"])).and_then(|[id]| id);
    if let Some(id) = id {
        return Some(text(id).unwrap_or(id.into()).into_owned());
    }
    let number = answer.strip_prefix("Task #")?.split_whitespace().next()?;
    Some(number.to_owned())
}
