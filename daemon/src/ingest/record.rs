//! What one record of a transcript says: a pure reading of its JSON.
//!
//! | in the record | role | source_type | content |
//! |---|---|---|---|
//! | text of the user, also a queued one | `user` | `user` | the text |
//! | text that the tool put in for the user (`isMeta`) | `user` | `meta` | the text |
//! | text of the assistant | `assistant` | `assistant` | the text |
//! | thinking | `assistant` | `thinking` | the thoughts |
//! | tool call | `assistant` | `tool_use` | the tool's name, then the input, a line `key: value` for each string or number |
//! | tool result | `tool` | `tool_result` | its texts |
//! | picture, document | that of the record | `image`, `document` | `[image image/png, 1234 bytes, sha256 …]` |
//! | summary of a session or of what was compacted | `system` | `summary` | the text |
//! | notice of the program | `system` | `system` | the text |
//!
//! The bytes of pictures are not kept: they are no text, and base64 of them would be most of the database.
//! Strings in a tool's input stand unescaped, so that a search finds them as they were. Thoughts that are
//! only a signature have no text and are left out, as are records that only serve the program (progress,
//! hooks, file snapshots); their kinds are counted.

use std::borrow::Cow;

use base64::Engine;
use coditect_shared::hash::sha256;

use super::fields::{is_true, items, pick, readable, some_text, text};

/// How a tool result begins that the user refused to let happen, in the words of several versions.
const REJECTIONS: [&str; 4] = [
    "The user doesn't want to proceed with this tool use",
    "The user doesn't want to take this action right now",
    "The agent proposed a plan that was rejected by the user",
    "[Request interrupted by user",
];

/// How a text begins that stands for the user having pressed the key that stops the assistant.
const INTERRUPTION: &str = "[Request interrupted by user";

/// One record.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Record<'a> {
    /// `type`, and `subtype` or the like behind a slash: for the count of what was skipped.
    pub(super) kind: String,
    pub(super) session: Option<Cow<'a, str>>,
    pub(super) timestamp: Option<Cow<'a, str>>,
    pub(super) cwd: Option<Cow<'a, str>>,
    pub(super) agent: Option<Cow<'a, str>>,
    pub(super) sidechain: bool,
    pub(super) uuid: Option<Cow<'a, str>>,
    pub(super) parent: Option<Cow<'a, str>>,
    pub(super) said: Vec<Said<'a>>,
    /// Kinds of parts that hold no text to keep.
    pub(super) skipped: Vec<String>,
}

/// One message of a record.
#[derive(Debug, PartialEq)]
pub(super) struct Said<'a> {
    pub(super) role: &'static str,
    pub(super) source_type: &'static str,
    pub(super) content: Cow<'a, str>,
    pub(super) event: Event<'a>,
}

/// What a message means to the tasks in whose span it stands.
#[derive(Debug, PartialEq)]
pub(super) enum Event<'a> {
    Nothing,
    /// A tool was called with this input (raw JSON).
    Call {
        id: Option<Cow<'a, str>>,
        tool: Cow<'a, str>,
        input: &'a str,
    },
    /// A tool answered; `details` is the raw JSON of `toolUseResult`.
    Result {
        call: Option<Cow<'a, str>>,
        failed: bool,
        details: Option<&'a str>,
    },
    /// The user refused a tool call, which therefore has no result.
    Rejection,
    /// The user stopped the assistant; `in_tool` if he did so by refusing a tool call, which stands before.
    Interruption {
        in_tool: bool,
    },
}

/// Reads a record. None if the JSON is no object.
pub(super) fn read(json: &str) -> Option<Record<'_>> {
    // All at once, since each picking reads the whole text.
    #[rustfmt::skip]
    let [kind, subtype, session, timestamp, cwd, agent, sidechain, uuid, parent,
         message, meta, summarises, denial, details, summary, content, attachment] = pick(json, [
        "type", "subtype", "sessionId", "timestamp", "cwd", "agentId", "isSidechain", "uuid", "parentUuid",
        "message", "isMeta", "isCompactSummary", "toolDenialKind", "toolUseResult", "summary", "content", "attachment",
    ])?;
    let kind = some_text(kind).unwrap_or(Cow::Borrowed("(no type)"));
    let mut record = Record {
        session: some_text(session),
        timestamp: some_text(timestamp),
        cwd: some_text(cwd),
        agent: some_text(agent),
        sidechain: is_true(sidechain),
        uuid: some_text(uuid),
        parent: some_text(parent),
        ..Record::default()
    };
    match kind.as_ref() {
        "user" | "assistant" => {
            let turn = Turn {
                meta: is_true(meta),
                summary: is_true(summarises),
                denied: some_text(denial).is_some_and(|kind| kind.starts_with("user")),
                details,
            };
            read_turn(message, &kind, &turn, &mut record);
        }
        "summary" => record.say("system", "summary", some_text(summary)),
        "system" => record.say("system", "system", some_text(content)),
        "attachment" => read_attachment(attachment, &mut record),
        "tool_use" | "tool_result" => read_block(json, "assistant", &Turn::default(), &mut record),
        _ => {}
    }
    record.kind = match some_text(subtype) {
        Some(subtype) => format!("{kind}/{subtype}"),
        None if record.kind.is_empty() => kind.into_owned(),
        None => record.kind,
    };
    Some(record)
}

impl<'a> Record<'a> {
    fn say(&mut self, role: &'static str, source_type: &'static str, content: Option<Cow<'a, str>>) {
        if let Some(content) = content {
            self.said.push(Said {
                role,
                source_type,
                content,
                event: Event::Nothing,
            });
        }
    }
}

/// What a turn says of all its parts.
#[derive(Default)]
struct Turn<'a> {
    meta: bool,
    summary: bool,
    denied: bool,
    details: Option<&'a str>,
}

fn read_turn<'a>(message: Option<&'a str>, kind: &str, turn: &Turn<'a>, record: &mut Record<'a>) {
    let own_role = if kind == "user" { "user" } else { "assistant" };
    let Some(message) = message else {
        return;
    };
    let Some([role, content]) = pick(message, ["role", "content"]) else {
        // Not an object: at least one old program wrote the bare text.
        return say_text(some_text(Some(message)), own_role, turn, record);
    };
    let role = match some_text(role).as_deref() {
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("system") => "system",
        Some(_) | None => own_role,
    };
    read_content(content, role, turn, record);
}

/// Content is a text, or a list of blocks and sometimes texts.
fn read_content<'a>(content: Option<&'a str>, role: &'static str, turn: &Turn<'a>, record: &mut Record<'a>) {
    let Some(content) = content else {
        return;
    };
    if content.starts_with('[') {
        for item in items(content) {
            match item.starts_with('"') {
                true => say_text(some_text(Some(item)), role, turn, record),
                false => read_block(item, role, turn, record),
            }
        }
    } else {
        say_text(some_text(Some(content)), role, turn, record);
    }
}

/// A message that the user typed while the assistant worked arrives as an attachment.
fn read_attachment<'a>(attachment: Option<&'a str>, record: &mut Record<'a>) {
    let Some([kind, prompt]) = attachment.and_then(|json| pick(json, ["type", "prompt"])) else {
        return;
    };
    let kind = some_text(kind).unwrap_or_default();
    if kind == "queued_command" {
        read_content(prompt, "user", &Turn::default(), record);
    }
    record.kind = format!("attachment/{kind}");
}

fn say_text<'a>(content: Option<Cow<'a, str>>, role: &'static str, turn: &Turn<'_>, record: &mut Record<'a>) {
    let (role, source_type) = match role {
        _ if turn.summary => ("system", "summary"),
        "user" if turn.meta => ("user", "meta"),
        role => (role, role),
    };
    record.say(role, source_type, content);
    if let (Some(said), "user") = (record.said.last_mut(), source_type)
        && said.content.starts_with(INTERRUPTION)
    {
        said.event = Event::Interruption {
            in_tool: said.content.contains("for tool use"),
        };
    }
}

fn read_block<'a>(json: &'a str, role: &'static str, turn: &Turn<'a>, record: &mut Record<'a>) {
    #[rustfmt::skip]
    let Some([kind, text, thinking, id, name, input, answers, content, is_error, output, source]) = pick(json, [
        "type", "text", "thinking", "id", "name", "input", "tool_use_id", "content", "is_error", "output", "source",
    ]) else {
        return record.skipped.push("content/(no object)".to_owned());
    };
    let kind = some_text(kind).unwrap_or_default();
    match kind.as_ref() {
        "thinking" => {
            let thinking = some_text(thinking);
            if thinking.is_none() {
                record.skipped.push("content/thinking without text".to_owned());
            }
            record.say("assistant", "thinking", thinking);
        }
        "tool_use" | "server_tool_use" | "mcp_tool_use" => {
            let tool = some_text(name).unwrap_or_default();
            let input = input.unwrap_or("{}");
            record.said.push(Said {
                role: "assistant",
                source_type: "tool_use",
                content: call_text(&tool, input).into(),
                event: Event::Call {
                    id: some_text(id),
                    tool,
                    input,
                },
            });
        }
        "image" => record.say(role, "image", Some(placeholder("image", source))),
        "document" => record.say(role, "document", Some(placeholder("document", source))),
        kind if kind.ends_with("tool_result") => {
            let content = content.or(output).map(result_text).unwrap_or_default();
            let failed = is_true(is_error);
            let refused = failed && REJECTIONS.iter().any(|words| content.starts_with(words));
            record.said.push(Said {
                role: "tool",
                source_type: "tool_result",
                content,
                event: match turn.denied || refused {
                    true => Event::Rejection,
                    false => Event::Result {
                        call: some_text(answers),
                        failed,
                        details: turn.details,
                    },
                },
            });
        }
        kind => match some_text(text) {
            Some(text) => say_text(Some(text), role, turn, record),
            None => record.skipped.push(format!("content/{kind} without text")),
        },
    }
}

fn call_text(tool: &str, input: &str) -> String {
    match input {
        "{}" => tool.to_owned(),
        input => format!("{tool}\n{}", readable(input)),
    }
}

fn result_text(json: &str) -> Cow<'_, str> {
    if !json.starts_with('[') {
        return text(json).unwrap_or_else(|| readable(json).into());
    }
    let mut parts = items(json).into_iter().map(part_text);
    match (parts.next(), parts.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(only), None) => only,
        (Some(first), Some(second)) => {
            let mut all = format!("{first}\n{second}");
            for part in parts {
                all.push('\n');
                all.push_str(&part);
            }
            all.into()
        }
    }
}

fn part_text(json: &str) -> Cow<'_, str> {
    if let Some(text) = text(json) {
        return text;
    }
    let [kind, words, source] = pick(json, ["type", "text", "source"]).unwrap_or_default();
    match some_text(kind).as_deref() {
        Some("text") => words.and_then(text).unwrap_or_default(),
        Some("image") => placeholder("image", source),
        Some("document") => placeholder("document", source),
        Some(_) | None => readable(json).into(),
    }
}

/// What stands for a picture or document: enough to recognise it, none of its bytes. A document of text is
/// kept.
fn placeholder<'a>(what: &str, source: Option<&'a str>) -> Cow<'a, str> {
    let [kind, media_type, data, url] = source
        .and_then(|source| pick(source, ["type", "media_type", "data", "url"]))
        .unwrap_or_default();
    if let (Some("text"), Some(data)) = (some_text(kind).as_deref(), some_text(data)) {
        return data;
    }
    let media_type = some_text(media_type).unwrap_or(Cow::Borrowed("of an unknown type"));
    match (some_text(data), some_text(url)) {
        (Some(data), _) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data.as_bytes());
            let bytes = bytes.unwrap_or_else(|_| data.as_bytes().to_vec());
            format!(
                "[{what} {media_type}, {} bytes, sha256 {}]",
                bytes.len(),
                sha256(&bytes)
            )
            .into()
        }
        (None, Some(url)) => format!("[{what} {media_type}, {url}]").into(),
        (None, None) => format!("[{what} {media_type}]").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Role, source type and content of what a record says.
    fn said(json: &str) -> Vec<(&'static str, &'static str, String)> {
        let record = read(json).unwrap();
        record
            .said
            .into_iter()
            .map(|said| (said.role, said.source_type, said.content.into_owned()))
            .collect()
    }

    fn turn(kind: &str, content: &str) -> String {
        format!(r#"{{"type":"{kind}","message":{{"role":"{kind}","content":{content}}}}}"#)
    }

    #[test]
    fn every_part_of_a_turn_is_a_message_of_its_kind() {
        let blocks = r#"[{"type":"thinking","thinking":"hm"},{"type":"text","text":"let me see"},"bare",
            {"type":"tool_use","id":"t1","name":"Bash","input":{"command":"echo \"a\"\nls"}}]"#;
        assert_eq!(
            said(&turn("assistant", blocks)),
            [
                ("assistant", "thinking", "hm".to_owned()),
                ("assistant", "assistant", "let me see".to_owned()),
                ("assistant", "assistant", "bare".to_owned()),
                (
                    "assistant",
                    "tool_use",
                    "Bash\ncommand: echo \"a\"\nls".to_owned()
                ),
            ]
        );
        assert_eq!(
            said(&turn("user", r#""hello""#)),
            [("user", "user", "hello".to_owned())]
        );
    }

    #[test]
    fn a_result_is_its_texts_and_an_empty_one_is_kept() {
        let result = |content: &str| {
            let json = turn(
                "user",
                &format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":{content}}}]"#),
            );
            let (role, source_type, content) = said(&json).remove(0);
            assert_eq!((role, source_type), ("tool", "tool_result"));
            content
        };
        assert_eq!(result(r#""plain\ntext""#), "plain\ntext");
        assert_eq!(
            result(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#),
            "a\nb"
        );
        assert_eq!(
            result(r#"[{"type":"tool_reference","tool_name":"x"}]"#),
            "type: tool_reference\ntool_name: x"
        );
        assert_eq!(result("null"), "");
        assert_eq!(result("[]"), "");
    }

    #[test]
    fn a_picture_is_named_and_its_bytes_are_not_kept() {
        let image =
            r#"[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGVsbG8="}}]"#;
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let text = format!("[image image/png, 5 bytes, sha256 {hash}]");
        assert_eq!(said(&turn("user", image)), [("user", "image", text)]);
        let text_document =
            r#"[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"all of it"}}]"#;
        assert_eq!(said(&turn("user", text_document))[0].2, "all of it");
        let linked = r#"[{"type":"image","source":{"type":"url","url":"https://example.test/a.png"}}]"#;
        assert_eq!(
            said(&turn("user", linked))[0].2,
            "[image of an unknown type, https://example.test/a.png]"
        );
    }

    #[test]
    fn what_the_program_says_is_set_apart_from_what_the_user_says() {
        let cases = [
            (
                r#"{"type":"summary","summary":"all","leafUuid":"x"}"#,
                ("system", "summary"),
            ),
            (
                r#"{"type":"system","subtype":"info","content":"notice"}"#,
                ("system", "system"),
            ),
            (
                r#"{"type":"user","isMeta":true,"message":{"content":"caveat"}}"#,
                ("user", "meta"),
            ),
            (
                r#"{"type":"user","isCompactSummary":true,"message":{"content":"so far"}}"#,
                ("system", "summary"),
            ),
            (r#"{"type":"user","message":"old"}"#, ("user", "user")),
            (
                r#"{"type":"attachment","attachment":{"type":"queued_command","prompt":"next"}}"#,
                ("user", "user"),
            ),
            (
                r#"{"type":"tool_use","name":"bash","input":{}}"#,
                ("assistant", "tool_use"),
            ),
            (
                r#"{"type":"tool_result","output":"done"}"#,
                ("tool", "tool_result"),
            ),
        ];
        for (json, expected) in cases {
            let said = said(json);
            assert_eq!(said.len(), 1, "{json}");
            assert_eq!((said[0].0, said[0].1), expected, "{json}");
        }
    }

    #[test]
    fn what_holds_no_text_is_named_by_its_kind() {
        let kind = |json: &str| read(json).unwrap().kind;
        assert_eq!(
            kind(r#"{"type":"system","subtype":"turn_duration"}"#),
            "system/turn_duration"
        );
        assert_eq!(
            kind(r#"{"type":"attachment","attachment":{"type":"file"}}"#),
            "attachment/file"
        );
        assert_eq!(kind("{}"), "(no type)");
        let record = turn(
            "assistant",
            r#"[{"type":"thinking","thinking":"","signature":"x"},{"type":"fallback"},7]"#,
        );
        let record = read(&record).unwrap();
        assert_eq!(record.said, []);
        assert_eq!(record.skipped.len(), 3);
    }

    #[test]
    fn refusals_in_all_their_words_are_told_from_errors() {
        let event = |more: &str, text: &str, failed: bool| {
            let content = format!(r#"[{{"type":"tool_result","content":"{text}","is_error":{failed}}}]"#);
            let json = format!(r#"{{"type":"user"{more},"message":{{"content":{content}}}}}"#);
            matches!(read(&json).unwrap().said[0].event, Event::Rejection)
        };
        assert!(event(
            "",
            "The user doesn't want to proceed with this tool use. The",
            true
        ));
        assert!(event("", "[Request interrupted by user for tool use]", true));
        assert!(event(r#","toolDenialKind":"user-rejected""#, "no", true));
        assert!(!event(r#","toolDenialKind":"hook""#, "no", true));
        assert!(!event(
            "",
            "The user doesn't want to proceed with this tool use, says the file",
            false
        ));
        assert!(!event("", "Exit code 1", true));
    }
}
