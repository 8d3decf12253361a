//! What `agent_context` of a message holds: a JSON object of who said it and for which project.

use serde::{Deserialize, Serialize};

/// How rows of former versions name a side chain without a subagent of its own.
const SIDECHAIN: &str = "sidechain";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentContext {
    /// The subagent that said it; None for the main conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// A side chain, whose subagent is not named.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sidechain: bool,
    /// The project that the session worked in, as tasks name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

impl AgentContext {
    /// As it stands in the column; None where there is nothing to say.
    pub fn render(&self) -> Option<String> {
        if *self == AgentContext::default() {
            return None;
        }
        Some(serde_json::to_string(self).expect("texts and a flag are JSON"))
    }

    /// Reads the column. A text that is no such object is the bare name of a subagent, as former versions wrote it; the
    /// objects of other programs are read as far as they say the same.
    pub fn parse(text: &str) -> AgentContext {
        if text.starts_with('{') {
            return serde_json::from_str(text).unwrap_or_default();
        }
        AgentContext {
            agent: Some(text.to_owned()).filter(|name| !name.is_empty() && name != SIDECHAIN),
            sidechain: text == SIDECHAIN,
            project: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_reads_as_it_was_written_and_nothing_is_written_of_nothing() {
        let context = AgentContext {
            agent: Some("a1".into()),
            sidechain: false,
            project: Some("shop \"x\"".into()),
        };
        let text = context.render().unwrap();
        assert_eq!(text, r#"{"agent":"a1","project":"shop \"x\""}"#);
        assert_eq!(AgentContext::parse(&text), context);
        assert_eq!(AgentContext::default().render(), None);
    }

    #[test]
    fn what_former_versions_and_other_programs_wrote_is_read() {
        let cases = [
            ("a4f19c03", (Some("a4f19c03"), false, None)),
            ("sidechain", (None, true, None)),
            ("", (None, false, None)),
            (r#"{"project":"shop","model":7}"#, (None, false, Some("shop"))),
            (r#"{"project":7}"#, (None, false, None)),
            ("{broken", (None, false, None)),
        ];
        for (text, (agent, sidechain, project)) in cases {
            let read = AgentContext::parse(text);
            let read = (read.agent.as_deref(), read.sidechain, read.project.as_deref());
            assert_eq!(read, (agent, sidechain, project), "{text}");
        }
    }
}
