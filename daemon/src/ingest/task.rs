//! One task: its life, what is counted in its span, and its outcome.
//!
//! **Life.** `pending`, `in_progress`, `completed`, as the lists say. A task goes back when the list says so:
//! it is reopened, and completion, outcome and score are taken back. Times are those of the transcript and
//! never run backwards: of a record that is older than one before it, the later time counts. A task that is
//! completed without having been seen in progress started when it was completed.
//!
//! **Span.** From the call that put the task in progress to the call that completed, dropped or put it back,
//! both included; several spans if it was reopened. Of its span a task counts all tool results and gets links
//! to all messages: a subagent's task those of the subagent, a task of the main conversation those of the
//! whole file. A refused tool call is no result, it and an interruption are a user's correction; refusing a
//! call and thereby stopping the assistant is one.
//!
//! **Outcome**, decided when the task ends, the first that applies:
//! - `skipped`: it left the list without having been started;
//! - `error`: results were counted, and none was a success;
//! - `partial`: it left the list unfinished, or was completed though the last result was an error;
//! - `success`: it was completed.
//!
//! `outcome_score` = (successes - corrections) / results, between 0 and 1, at the end of the task; none
//! without results.

use coditect_shared::limits::{ACTIVE_FORM_MAX_CHARS, TASK_ID_MAX_CHARS};
use uuid::Uuid;

use super::fields::cut;

/// A row of `task_tracking`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TaskRow {
    pub(super) id: Uuid,
    pub(super) task_id: String,
    pub(super) description: String,
    pub(super) active_form: Option<String>,
    pub(super) session_id: String,
    pub(super) project_id: Option<String>,
    pub(super) status: Status,
    pub(super) outcome: Option<&'static str>,
    pub(super) outcome_score: Option<f64>,
    pub(super) tool_success_count: u32,
    pub(super) tool_error_count: u32,
    pub(super) user_corrections: u32,
    pub(super) started_at: Option<String>,
    pub(super) completed_at: Option<String>,
    /// When anything above last changed, by the transcript's clock.
    pub(super) updated_at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Pending,
    InProgress,
    Completed,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
        }
    }
}

/// Who speaks: the main conversation, or a subagent by name or by the record that it began with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Speaker {
    Main,
    Agent(String),
    Sidechain(u32),
}

/// A task while its session is read.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) row: TaskRow,
    pub(super) owner: Speaker,
    /// Whether the row differs from the one last taken.
    pub(super) changed: bool,
    ended: bool,
    /// Of its spans: how many messages they hold, and whether the last counted result was an error.
    linked: u32,
    last_failed: bool,
}

impl Task {
    pub(super) fn new(
        owner: Speaker,
        id: Uuid,
        task_id: &str,
        description: &str,
        now: Option<String>,
    ) -> Task {
        Task {
            row: TaskRow {
                id,
                task_id: cut(task_id, TASK_ID_MAX_CHARS).to_owned(),
                description: description.to_owned(),
                active_form: None,
                session_id: String::new(),
                project_id: None,
                status: Status::Pending,
                outcome: None,
                outcome_score: None,
                tool_success_count: 0,
                tool_error_count: 0,
                user_corrections: 0,
                started_at: None,
                completed_at: None,
                updated_at: now,
            },
            owner,
            changed: true,
            ended: false,
            linked: 0,
            last_failed: false,
        }
    }

    /// Words it anew, where a text is given and differs.
    pub(super) fn describe(
        &mut self,
        description: Option<&str>,
        active_form: Option<&str>,
        now: Option<String>,
    ) {
        if let Some(description) = description.filter(|new| *new != self.row.description) {
            self.change(now.clone()).description = description.to_owned();
        }
        let active_form = active_form.map(|new| cut(new, ACTIVE_FORM_MAX_CHARS));
        if let Some(active_form) = active_form.filter(|new| self.row.active_form.as_deref() != Some(*new)) {
            self.change(now).active_form = Some(active_form.to_owned());
        }
    }

    /// Moves it to a status; None drops it from its list. False if it was there already.
    pub(super) fn set_status(&mut self, status: Option<Status>, now: Option<String>) -> bool {
        let before = self.row.status;
        let there = match status {
            Some(Status::Completed) => before == Status::Completed,
            Some(status) => before == status && !self.ended,
            None => self.ended,
        };
        if there {
            return false;
        }
        let started_before = self.row.started_at.is_some();
        let row = self.change(now.clone());
        row.status = status.unwrap_or(before);
        row.completed_at = None;
        row.outcome = None;
        row.outcome_score = None;
        if matches!(status, Some(Status::InProgress | Status::Completed)) && !started_before {
            row.started_at.clone_from(&now);
        }
        if status == Some(Status::Completed) {
            row.completed_at = now;
        }
        self.ended = matches!(status, Some(Status::Completed) | None);
        if self.ended {
            self.decide(started_before);
        }
        true
    }

    pub(super) fn count_result(&mut self, failed: bool, now: Option<String>) {
        self.last_failed = failed;
        let row = self.change(now);
        match failed {
            true => row.tool_error_count += 1,
            false => row.tool_success_count += 1,
        }
    }

    pub(super) fn correct(&mut self, now: Option<String>) {
        self.change(now).user_corrections += 1;
    }

    /// Takes a message into its span and gives the message's place there, from 1.
    pub(super) fn link(&mut self) -> u32 {
        self.linked += 1;
        self.linked
    }

    /// Outcome and score of a task that has just ended.
    fn decide(&mut self, started_before: bool) {
        let row = &mut self.row;
        let results = row.tool_success_count + row.tool_error_count;
        let completed = row.status == Status::Completed;
        row.outcome = Some(if !completed && !started_before {
            "skipped"
        } else if results > 0 && row.tool_success_count == 0 {
            "error"
        } else if !completed || self.last_failed {
            "partial"
        } else {
            "success"
        });
        let good = f64::from(row.tool_success_count) - f64::from(row.user_corrections);
        row.outcome_score = (results > 0).then(|| (good / f64::from(results)).clamp(0.0, 1.0));
    }

    /// The row, to be changed now.
    fn change(&mut self, now: Option<String>) -> &mut TaskRow {
        self.changed = true;
        self.row.updated_at = now;
        &mut self.row
    }
}
