//! The tasks of one session: a pure reading of its task lists, from first mention to end.
//!
//! **Lists.** `TodoWrite` sends the whole list on each call; a conversation (the main one, or one subagent's)
//! has one list. `TaskCreate` and `TaskUpdate` name single tasks of the session by number.
//!
//! **Identity.** An item of a `TodoWrite` list is the same task as an item of the list before it if
//! 1. its text is the same (the n-th of equal texts is the n-th), else
//! 2. it has the same `id` (old versions write one), or stands in the same place with the same `activeForm`,
//!    and was not completed: then it was renamed, else
//! 3. its text is that of a task that left the list unfinished: then it came back.
//!
//! Anything else is a new task; so an item that is worded like a task of a finished, cleared list is a new
//! one. Its id is the name-based UUID of session, the call that first mentioned it and its place there. A
//! created task is known by `toolUseResult.task.id` and identified by the call that created it.
//!
//! A task's life, span and outcome: [`super::task`].

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::fields::{pick, some_text, text};
use super::record::{Event, Said};
use super::task::{Speaker, Status, Task, TaskRow};
use super::todo::{Item, created_number, status_of, todo_items};

/// Namespace of the ids of tasks: the name-based UUID of `coditect.task` in the namespace of object
/// identifiers. It must never change, or every transcript ingested again would double its tasks.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d87_655e_1757_58ca_a754_9c0a_fccd_502b);

/// A message's place in the span of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the task in the session.
    pub(super) task: usize,
    /// From 1.
    pub(super) sequence: u32,
}

/// All tasks of a session, as one file tells them.
#[derive(Debug)]
pub(super) struct Tasks {
    session: String,
    /// The subagent whose file this is, else empty: sets calls apart that have no id of their own.
    stream: String,
    project: Option<String>,
    /// The latest time seen, and as it was written.
    clock: Option<(Timestamp, String)>,
    tasks: Vec<Task>,
    /// The tasks in progress, in the order in which they were started.
    open: Vec<usize>,
    lists: HashMap<Speaker, List>,
    /// Index of a created task by its number.
    created: HashMap<String, usize>,
    /// Calls of TaskCreate whose answer, which names the task, is still to come: by call, who made it and its
    /// input.
    creating: HashMap<String, (Speaker, String)>,
    /// Calls of task tools without an id of their own, to tell them apart.
    nameless_calls: u32,
    refused: bool,
}

#[derive(Debug, Default)]
struct List {
    items: Vec<Listed>,
    /// Tasks that left the list unfinished.
    dropped: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Listed {
    task: usize,
    id: Option<String>,
}

impl Tasks {
    pub(super) fn new(session: &str, stream: &str) -> Tasks {
        Tasks {
            session: session.to_owned(),
            stream: stream.to_owned(),
            project: None,
            clock: None,
            tasks: Vec::new(),
            open: Vec::new(),
            lists: HashMap::new(),
            created: HashMap::new(),
            creating: HashMap::new(),
            nameless_calls: 0,
            refused: false,
        }
    }

    /// Names the project, once: a session belongs to where it began.
    pub(super) fn set_project(&mut self, project: &str) {
        if self.project.is_none() {
            self.project = Some(project.to_owned());
            for task in &mut self.tasks {
                task.row.project_id = self.project.clone();
                task.changed = true;
            }
        }
    }

    /// The session's project, as far as it is known.
    pub(super) fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// Takes note of the time of the record that is read.
    pub(super) fn tick(&mut self, timestamp: &str) {
        if let Ok(time) = timestamp.parse::<Timestamp>()
            && self.clock.as_ref().is_none_or(|(latest, _)| time > *latest)
        {
            self.clock = Some((time, timestamp.to_owned()));
        }
    }

    /// Takes note of a message and says in whose spans it stands.
    pub(super) fn hear(&mut self, speaker: &Speaker, said: &Said<'_>) -> Vec<Place> {
        let mut concerned: Vec<usize> = self.in_progress(speaker).collect();
        match &said.event {
            Event::Nothing => {}
            Event::Call { id, tool, input } => {
                let touched = self.call(speaker, id.as_deref(), tool, input);
                let started: Vec<usize> = self.in_progress(speaker).collect();
                for task in touched.into_iter().chain(started) {
                    if !concerned.contains(&task) {
                        concerned.push(task);
                    }
                }
            }
            Event::Result {
                call,
                failed,
                details,
            } => {
                let now = self.now();
                for &task in &concerned {
                    self.tasks[task].count_result(*failed, now.clone());
                }
                if let Some((maker, input)) = call.as_deref().and_then(|call| self.creating.remove(call))
                    && !failed
                {
                    self.create(
                        maker,
                        call.as_deref().unwrap_or_default(),
                        &input,
                        *details,
                        &said.content,
                    );
                }
            }
            Event::Rejection => self.correct(&concerned),
            // Refusing a call and stopping the assistant by it is one act, told twice.
            Event::Interruption { in_tool: true } if self.refused => {}
            Event::Interruption { .. } => self.correct(&concerned),
        }
        match &said.event {
            Event::Rejection => self.refused = true,
            Event::Result { .. } => {}
            Event::Nothing | Event::Call { .. } | Event::Interruption { .. } => self.refused = false,
        }
        let place = |task: usize| Place {
            task,
            sequence: self.tasks[task].link(),
        };
        concerned.into_iter().map(place).collect()
    }

    pub(super) fn id(&self, task: usize) -> Uuid {
        self.tasks[task].row.id
    }

    /// The rows that changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<TaskRow> {
        let mut rows = Vec::new();
        for task in &mut self.tasks {
            if std::mem::take(&mut task.changed) {
                rows.push(task.row.clone());
            }
        }
        rows
    }

    /// Tasks in whose span a message of this speaker falls.
    fn in_progress<'a>(&'a self, speaker: &'a Speaker) -> impl Iterator<Item = usize> + 'a {
        let heard = move |task: &&usize| {
            let owner = &self.tasks[**task].owner;
            *owner == Speaker::Main || owner == speaker
        };
        self.open.iter().filter(heard).copied()
    }

    /// Gives the tasks that the call completed without their having had a span.
    fn call(&mut self, speaker: &Speaker, id: Option<&str>, tool: &str, input: &str) -> Vec<usize> {
        if !matches!(tool, "TodoWrite" | "TaskCreate" | "TaskUpdate") {
            return Vec::new();
        }
        let id = match id {
            Some(id) => id.to_owned(),
            None => {
                self.nameless_calls += 1;
                format!("{} call {}", self.stream, self.nameless_calls)
            }
        };
        match tool {
            "TodoWrite" => self.todo_write(speaker, &id, input),
            "TaskCreate" => {
                self.creating.insert(id, (speaker.clone(), input.to_owned()));
                Vec::new()
            }
            _ => self.task_update(input),
        }
    }

    fn todo_write(&mut self, speaker: &Speaker, call: &str, input: &str) -> Vec<usize> {
        // A call without a list says nothing; an empty list says that it was cleared.
        let Some(listed) = todo_items(input) else {
            return Vec::new();
        };
        let mut list = self.lists.remove(speaker).unwrap_or_default();
        let mut matched = self.match_items(&listed, &list);
        for (item, task) in listed.iter().zip(&mut matched) {
            if task.is_none() {
                let back = list
                    .dropped
                    .iter()
                    .position(|&gone| self.tasks[gone].row.description == item.content);
                *task = back.map(|place| list.dropped.remove(place));
            }
        }
        let mut touched = Vec::new();
        let mut items = Vec::with_capacity(listed.len());
        for (item, task) in listed.into_iter().zip(matched) {
            let task = task.unwrap_or_else(|| self.add(speaker.clone(), call, &item));
            let now = self.now();
            self.tasks[task].describe(Some(&item.content), item.active_form.as_deref(), now);
            touched.extend(self.set_status(task, item.status));
            if item.status.is_some() {
                items.push(Listed { task, id: item.id });
            }
        }
        for gone in std::mem::take(&mut list.items) {
            let unfinished = self.tasks[gone.task].row.status != Status::Completed;
            if unfinished && !items.iter().any(|item| item.task == gone.task) {
                touched.extend(self.set_status(gone.task, None));
                list.dropped.push(gone.task);
            }
        }
        list.items = items;
        self.lists.insert(speaker.clone(), list);
        touched
    }

    /// Which task of the list before each item is, by text and by what else survives a renaming.
    fn match_items(&self, listed: &[Item], before: &List) -> Vec<Option<usize>> {
        let mut free: Vec<Option<&Listed>> = before.items.iter().map(Some).collect();
        let mut matched = vec![None; listed.len()];
        let mut settle = |fits: &dyn Fn(&Item, usize, &Listed, &TaskRow) -> bool| {
            for (item, task) in listed.iter().zip(&mut matched) {
                if task.is_some() {
                    continue;
                }
                let found = free.iter_mut().enumerate().find(|(place, old)| {
                    old.is_some_and(|old| fits(item, *place, old, &self.tasks[old.task].row))
                });
                *task = found.and_then(|(_, old)| old.take()).map(|old| old.task);
            }
        };
        settle(&|item, _, _, row| row.description == item.content);
        settle(&|item, _, old, row| {
            row.status != Status::Completed && item.id.is_some() && old.id == item.id
        });
        settle(&|item, place, _, row| {
            row.status != Status::Completed
                && place == item.place
                && item.active_form.is_some()
                && row.active_form == item.active_form
        });
        matched
    }

    fn add(&mut self, owner: Speaker, call: &str, item: &Item) -> usize {
        let number = self.tasks.len() + 1;
        let task_id = match &item.id {
            Some(id) => id.clone(),
            None => format!("todo-{number}"),
        };
        self.push(owner, format!("{call}\n{}", item.place), &task_id, &item.content)
    }

    fn create(&mut self, owner: Speaker, call: &str, input: &str, details: Option<&str>, answer: &str) {
        let [subject, description, active_form] =
            pick(input, ["subject", "description", "activeForm"]).unwrap_or_default();
        let Some(subject) = some_text(subject) else {
            return;
        };
        let Some(number) = created_number(details, answer) else {
            return;
        };
        let whole = match some_text(description) {
            Some(description) if description != subject => format!("{subject}\n\n{description}"),
            Some(_) | None => subject.into_owned(),
        };
        let task = self.push(owner, format!("{call}\n0"), &number, &whole);
        let now = self.now();
        self.tasks[task].describe(None, some_text(active_form).as_deref(), now);
        self.created.insert(number, task);
    }

    fn push(&mut self, owner: Speaker, name: String, task_id: &str, description: &str) -> usize {
        let id = Uuid::new_v5(&NAMESPACE, format!("{}\n{name}", self.session).as_bytes());
        let mut task = Task::new(owner, id, task_id, description, self.now());
        task.row.session_id.clone_from(&self.session);
        task.row.project_id.clone_from(&self.project);
        self.tasks.push(task);
        self.tasks.len() - 1
    }

    fn task_update(&mut self, input: &str) -> Vec<usize> {
        let names = ["taskId", "status", "subject", "description", "activeForm"];
        let [number, status, subject, description, active_form] = pick(input, names).unwrap_or_default();
        let number = number.map(|json| text(json).unwrap_or(json.into()));
        // A task of another session or another program's list is not known here, and nothing is known of it.
        let Some(&task) = number.and_then(|number| self.created.get(number.as_ref())) else {
            return Vec::new();
        };
        let before = &self.tasks[task].row.description;
        let (old_subject, old_rest) = before.split_once("\n\n").unwrap_or((before, ""));
        let subject = some_text(subject).unwrap_or(old_subject.into());
        let rest = some_text(description).unwrap_or(old_rest.into());
        let whole = match rest.is_empty() || rest == subject {
            true => subject.into_owned(),
            false => format!("{subject}\n\n{rest}"),
        };
        let now = self.now();
        self.tasks[task].describe(Some(&whole), some_text(active_form).as_deref(), now);
        match some_text(status) {
            Some(status) => self.set_status(task, status_of(&status)).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Moves a task to a status; None drops it from its list. Gives the task if it was completed without a
    /// span.
    fn set_status(&mut self, task: usize, status: Option<Status>) -> Option<usize> {
        let now = self.now();
        let before = self.tasks[task].row.status;
        if !self.tasks[task].set_status(status, now) {
            return None;
        }
        self.open.retain(|open| *open != task);
        if status == Some(Status::InProgress) {
            self.open.push(task);
        }
        (status == Some(Status::Completed) && before == Status::Pending).then_some(task)
    }

    fn correct(&mut self, concerned: &[usize]) {
        let now = self.now();
        for &task in concerned {
            self.tasks[task].correct(now.clone());
        }
    }

    fn now(&self) -> Option<String> {
        self.clock.as_ref().map(|(_, written)| written.clone())
    }
}
