//! Server-sent events, as far as the server uses them: named events with one line of data.

/// Longest line that is kept of the server's events, which are short.
const LINE_MAX_BYTES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// Takes the stream in pieces, wherever they are cut.
///
/// Memory is bounded: the rest of an overlong line is dropped, and its event with it.
#[derive(Debug)]
pub struct EventReader {
    line_max_bytes: usize,
    line: Vec<u8>,
    /// The line is longer than we keep: drop the rest of it.
    overlong: bool,
    name: String,
    data: Option<String>,
}

impl Default for EventReader {
    fn default() -> EventReader {
        EventReader::with_line_max(LINE_MAX_BYTES)
    }
}

impl EventReader {
    pub fn with_line_max(line_max_bytes: usize) -> EventReader {
        EventReader {
            line_max_bytes,
            line: Vec::new(),
            overlong: false,
            name: String::new(),
            data: None,
        }
    }

    /// Adds a piece of the stream and returns the events that it completes.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in piece {
            if byte != b'\n' {
                if self.line.len() < self.line_max_bytes {
                    self.line.push(byte);
                } else {
                    self.overlong = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.overlong) {
                let text = String::from_utf8_lossy(&line);
                events.extend(self.end_of_line(text.trim_end_matches('\r')));
            }
        }
        events
    }

    fn end_of_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment (an empty field name: the keep-alive), or a field that we have no use for.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(data: &str) -> Event {
        Event {
            name: "head".into(),
            data: data.into(),
        }
    }

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let stream = b": hello\n\nevent: head\ndata: {\"cursor\": 1}\n\nevent:head\r\ndata:2\r\n\r\n";
        for cut in 0..stream.len() {
            let mut reader = EventReader::default();
            let mut events = reader.feed(&stream[..cut]);
            events.extend(reader.feed(&stream[cut..]));
            assert_eq!(events, [head("{\"cursor\": 1}"), head("2")], "cut at {cut}");
        }
    }

    #[test]
    fn an_event_cut_off_by_the_end_is_none() {
        assert!(EventReader::default().feed(b"event: head\ndata: 1\n").is_empty());
    }

    #[test]
    fn a_stream_without_line_ends_does_not_grow_in_memory() {
        let mut reader = EventReader::default();
        for _ in 0..100 {
            reader.feed(&[b'x'; 1000]);
        }
        assert!(reader.line.len() <= LINE_MAX_BYTES);
        let events = reader.feed(b"\nevent: head\ndata: 1\n\n");
        assert_eq!(events, [head("1")]);
    }
}
