//! How a transcript looks: who said what when, thoughts marked as such, tool calls folded, tasks where the work on them
//! begins, subagents indented.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::super::sessions::name_of;
use super::super::tasks::paint_of_status;
use crate::browse::{Message, Session, Task, moment};
use crate::screen::{Paint, Screen, cut, harmless};
use crate::status::{counted, grouped};

/// Lines of a tool call and of its result that are shown folded.
const CALL_LINES: usize = 4;
const RESULT_LINES: usize = 3;

/// Columns of such a line where the screen has no end: a result may be one line of a megabyte.
const FOLDED_COLUMNS: usize = 160;

/// Columns before a text, and what is added for a subagent.
const INDENT: usize = 2;
const AGENT_INDENT: usize = 4;

pub(super) struct Page {
    screen: Screen,
    full: bool,
    zone: TimeZone,
    /// By the first message of the work on them; those without one come at the end.
    tasks: BTreeMap<i64, Vec<String>>,
    idle_tasks: Vec<String>,
    day: Option<Date>,
    agent: Option<String>,
}

/// What a message is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Said,
    Thought,
    Call,
    Result,
}

impl Page {
    pub(super) fn new(screen: Screen, full: bool, tasks: &[Task], zone: TimeZone) -> Page {
        let mut page = Page {
            screen,
            full,
            zone,
            tasks: BTreeMap::new(),
            idle_tasks: Vec::new(),
            day: None,
            agent: None,
        };
        for task in tasks {
            let line = page.task(task);
            match task.first_message {
                Some(first) => page.tasks.entry(first).or_default().push(line),
                None => page.idle_tasks.push(line),
            }
        }
        page
    }

    pub(super) fn head(&self, session: &Session) -> String {
        let mut text = String::new();
        for piece in self.screen.wrapped(&harmless(&session.title), 0) {
            text.push_str(&self.screen.paint(Paint::Strong, &piece));
            text.push('\n');
        }
        let from: Vec<String> = session
            .devices
            .iter()
            .map(|device| format!("{} {}", grouped(device.rows), device.name()))
            .collect();
        let tasks = match session.tasks.all() {
            0 => "none".to_owned(),
            all => format!(
                "{} of {} completed",
                grouped(session.tasks.completed),
                grouped(all)
            ),
        };
        let when = [&session.first_at, &session.last_at].map(|at| {
            let local = moment(at.as_deref()).map(|at| at.to_zoned_datetime(self.zone.clone()));
            match local {
                Some(local) => local.strftime("%Y-%m-%d %H:%M").to_string(),
                None => at.clone().unwrap_or_else(|| "unknown".into()),
            }
        });
        for (label, value) in [
            ("session", session.session_id.clone()),
            (
                "project",
                session.project.clone().unwrap_or_else(|| "none".into()),
            ),
            ("when", when.join(" to ")),
            (
                "messages",
                format!("{} ({})", grouped(session.messages), from.join(", ")),
            ),
            ("tasks", tasks),
            ("sync", name_of(session.sync.state).to_owned()),
        ] {
            text.push_str(&self.screen.paint(Paint::Faint, &format!("{label:<9} ")));
            text.push_str(&harmless(&value));
            text.push('\n');
        }
        text
    }

    pub(super) fn message(&mut self, message: &Message) -> String {
        let mut text = String::new();
        for line in self.tasks.remove(&message.id).unwrap_or_default() {
            text.push_str(&line);
        }
        if self.agent != message.agent {
            self.agent.clone_from(&message.agent);
            let whose = match &message.agent {
                Some(agent) => format!("subagent {agent}"),
                None => "main conversation".into(),
            };
            text.push_str(&format!(
                "\n{}\n",
                self.screen.paint(Paint::Strong, &harmless(&whose))
            ));
        }
        let indent = if message.agent.is_some() { AGENT_INDENT } else { 0 };
        text.push_str(&match kind(message) {
            Kind::Said => self.said(message, &message.role, Paint::Plain, indent),
            Kind::Thought => self.said(message, "thinking", Paint::Faint, indent),
            Kind::Call => self.tool(message, ">", CALL_LINES, indent),
            Kind::Result => self.tool(message, "<", RESULT_LINES, indent),
        });
        text
    }

    /// What is left to say after the last message.
    pub(super) fn end(&mut self) -> String {
        let mut left: Vec<String> = std::mem::take(&mut self.tasks).into_values().flatten().collect();
        left.append(&mut self.idle_tasks);
        left.concat()
    }

    fn said(&mut self, message: &Message, who: &str, paint: Paint, indent: usize) -> String {
        let kind = message.source_type.as_deref().unwrap_or_default();
        let named = match kind {
            "" | "thinking" => String::new(),
            kind if kind == message.role => String::new(),
            kind => format!(" ({kind})"),
        };
        let title = format!("{who}{named}");
        let colour = match message.role.as_str() {
            _ if paint == Paint::Faint => Paint::Faint,
            "user" => Paint::Good,
            _ => Paint::Strong,
        };
        let time = self.time(message);
        let mut text = format!(
            "\n{}{}{}\n",
            " ".repeat(indent),
            self.screen.paint(colour, &harmless(&title)),
            self.screen.paint(Paint::Faint, &time)
        );
        let indent = indent + INDENT;
        for line in self.screen.wrapped(&harmless(&message.content), indent) {
            self.push(&mut text, indent, paint, &line);
        }
        text
    }

    /// A call's first line is the tool's name; a result has none.
    fn tool(&mut self, message: &Message, mark: &str, lines_max: usize, indent: usize) -> String {
        let content = harmless(&message.content);
        let lines: Vec<&str> = content.trim_end().split('\n').collect();
        let shown = if self.full || lines.len() <= lines_max + 1 {
            lines.len()
        } else {
            lines_max
        };
        let indent = indent + INDENT;
        let mut text = String::from("\n");
        for (index, line) in lines.iter().take(shown).enumerate() {
            let before = if index == 0 { mark } else { " " };
            let start = format!("{}{before} ", " ".repeat(indent));
            let paint = if index == 0 && mark == ">" {
                Paint::Warning
            } else {
                Paint::Faint
            };
            let pieces = match self.full {
                true => self.screen.wrapped(line, indent + 2),
                false => vec![self.folded(line, indent + 2)],
            };
            for (index, piece) in pieces.iter().enumerate() {
                let start = if index == 0 {
                    start.clone()
                } else {
                    " ".repeat(indent + 2)
                };
                let painted = self.screen.paint(paint, piece);
                text.push_str(format!("{start}{painted}").trim_end());
                text.push('\n');
            }
        }
        if shown < lines.len() {
            let more = counted((lines.len() - shown) as u64, "more line", "more lines");
            self.push(&mut text, indent + 2, Paint::Faint, &format!("… {more}"));
        }
        text
    }

    fn folded(&self, line: &str, indent: usize) -> String {
        match self.screen.width {
            Some(_) => self.screen.cut(line, indent),
            None => cut(line, FOLDED_COLUMNS),
        }
    }

    fn task(&self, task: &Task) -> String {
        let outcome = task.outcome.iter().map(|outcome| format!(", {outcome}"));
        let state = format!("{}{}", task.status, outcome.collect::<String>());
        let line = format!("task ({state}): {}", task.description);
        let mut text = String::from("\n");
        for piece in self.screen.wrapped(&harmless(&line), 0) {
            text.push_str(&self.screen.paint(paint_of_status(&task.status), &piece));
            text.push('\n');
        }
        text
    }

    /// The time of day, and the day where it is another one than before.
    fn time(&mut self, message: &Message) -> String {
        let Some(at) = moment(message.timestamp.as_deref()) else {
            return String::new();
        };
        let local = at.to_zoned_datetime(self.zone.clone());
        let is_new_day = self.day.replace(local.date()) != Some(local.date());
        let format = if is_new_day {
            "  %Y-%m-%d %H:%M:%S"
        } else {
            "  %H:%M:%S"
        };
        local.strftime(format).to_string()
    }

    fn push(&self, text: &mut String, indent: usize, paint: Paint, line: &str) {
        if !line.is_empty() {
            text.push_str(&" ".repeat(indent));
            text.push_str(&self.screen.paint(paint, line));
        }
        text.push('\n');
    }
}

/// A program that knows no kinds of texts still has roles.
fn kind(message: &Message) -> Kind {
    match message.source_type.as_deref() {
        Some("thinking") => Kind::Thought,
        Some("tool_use") => Kind::Call,
        Some("tool_result") => Kind::Result,
        Some(_) | None if message.role == "tool" => Kind::Result,
        Some(_) | None => Kind::Said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: i64, source_type: &str, content: &str) -> Message {
        Message {
            id,
            role: match source_type {
                "user" => "user",
                "tool_result" => "tool",
                _ => "assistant",
            }
            .into(),
            source_type: Some(source_type.into()),
            timestamp: Some(format!("2026-11-24T10:00:{id:02}Z")),
            agent: None,
            content: content.into(),
        }
    }

    fn shown(full: bool, messages: &[Message]) -> String {
        let mut page = Page::new(Screen::PIPE, full, &[], TimeZone::UTC);
        messages.iter().map(|message| page.message(message)).collect()
    }

    #[test]
    fn what_is_said_stands_in_full_and_what_tools_did_is_folded() {
        let lines = |count: usize| (1..=count).map(|n| format!("line {n}\n")).collect::<String>();
        let messages = [
            message(1, "user", &lines(12)),
            message(2, "thinking", "hm"),
            message(3, "tool_use", "Bash\ncommand: ls"),
            message(4, "tool_result", &lines(40)),
            message(5, "assistant", "done"),
        ];
        let text = shown(false, &messages);
        assert!(text.contains("user  2026-11-24 10:00:01\n  line 1\n"), "{text}");
        assert!(text.contains("\n  line 12\n"), "{text}");
        assert!(text.contains("\nthinking  10:00:02\n  hm\n"), "{text}");
        assert!(text.contains("\n  > Bash\n    command: ls\n"), "{text}");
        assert!(
            text.contains("\n  < line 1\n    line 2\n    line 3\n    … 37 more lines\n"),
            "{text}"
        );
        assert!(text.contains("\nassistant  10:00:05\n  done\n"), "{text}");
        assert!(shown(true, &messages).contains("    line 40\n"));
    }

    #[test]
    fn a_fold_hides_more_than_it_costs_and_cuts_long_lines() {
        let text = shown(false, &[message(1, "tool_result", "1\n2\n3\n4")]);
        assert!(text.contains("4") && !text.contains('…'), "{text}");
        let text = shown(false, &[message(1, "tool_result", &"x".repeat(1_000_000))]);
        assert!(text.len() < 1_000, "{} bytes", text.len());
    }

    #[test]
    fn a_transcript_cannot_steer_the_terminal() {
        for source_type in ["user", "thinking", "tool_use", "tool_result"] {
            let text = shown(true, &[message(1, source_type, "a\x1b]0;owned\x07b")]);
            assert!(text.contains("a␛]0;owned␇b"), "{text}");
        }
    }

    #[test]
    fn a_subagent_is_named_and_set_apart() {
        let said = Message {
            agent: Some("a4f19c03".into()),
            ..message(2, "assistant", "found it")
        };
        let text = shown(
            false,
            &[message(1, "user", "go"), said, message(3, "user", "thanks")],
        );
        assert!(
            text.contains("\nsubagent a4f19c03\n\n    assistant  10:00:02\n      found it\n"),
            "{text}"
        );
        assert!(text.contains("\nmain conversation\n\nuser"), "{text}");
    }
}
