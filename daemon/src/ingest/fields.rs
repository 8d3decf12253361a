//! Lenient access to the fields of a JSON text.
//!
//! Transcripts come from a hundred versions of their writer: a field may be missing, of another type, or
//! given twice. So nothing here fails on a whole record because of one field. Fields are picked as raw JSON
//! and interpreted where they are used; what is not picked is skipped without being copied.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Stands for U+0000, which PostgreSQL cannot store in a text: the picture of the character (SYMBOL FOR
/// NULL).
pub(super) const NUL_PICTURE: &str = "\u{2400}";

/// How deep [`readable`] goes before it leaves a value as the JSON it is; deeper input exists only to
/// overflow stacks.
const READABLE_DEPTH: usize = 16;

/// The named fields of a JSON object, each as raw JSON; of a field given twice the last counts, and `null` is
/// absent.
///
/// None if the text is no JSON object.
pub(super) fn pick<'a, const N: usize>(json: &'a str, names: [&str; N]) -> Option<[Option<&'a str>; N]> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Pick(names).deserialize(&mut deserializer).ok()
}

/// The text of a JSON string, as it can be stored: a lone surrogate is replaced by U+FFFD, U+0000 by U+2400.
///
/// None if the JSON is no string.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    // No escapes: the text stands there as it is. JSON has no other way to write U+0000 than an escape.
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let text = serde_json::Deserializer::from_str(json)
        .deserialize_bytes(TextBytes)
        .ok()?;
    Some(Cow::Owned(match text.contains('\0') {
        true => text.replace('\0', NUL_PICTURE),
        false => text,
    }))
}

/// The text of an optional field; None where it is absent, empty or no string.
pub(super) fn some_text(json: Option<&str>) -> Option<Cow<'_, str>> {
    json.and_then(text).filter(|text| !text.is_empty())
}

/// Whether an optional field is `true`.
pub(super) fn is_true(json: Option<&str>) -> bool {
    json == Some("true")
}

/// The items of a JSON array, each as raw JSON; empty if the JSON is no array.
pub(super) fn items(json: &str) -> Vec<&str> {
    let items: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
    items.into_iter().map(RawValue::get).collect()
}

/// A JSON value as a text to read and to search: every string in it stands there unescaped, in the order of
/// the source.
///
/// `{"command": "ls", "edits": [{"old": "a\"b"}]}` becomes `command: ls` and `edits[0].old: a"b`, a line
/// each.
pub(super) fn readable(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    render(json, &mut String::new(), READABLE_DEPTH, &mut out);
    out
}

/// The text, cut to a number of characters.
pub(super) fn cut(text: &str, max_chars: usize) -> &str {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

fn render(json: &str, path: &mut String, depth: usize, out: &mut String) {
    let before = path.len();
    match json.as_bytes().first() {
        Some(b'{') if depth > 0 => {
            let fields = entries(json);
            if fields.is_empty() {
                line(path, json, out);
            }
            for (key, value) in fields {
                if before > 0 {
                    path.push('.');
                }
                path.push_str(&key);
                render(value, path, depth - 1, out);
                path.truncate(before);
            }
        }
        Some(b'[') if depth > 0 => {
            let items = items(json);
            if items.is_empty() {
                line(path, json, out);
            }
            for (index, value) in items.into_iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                render(value, path, depth - 1, out);
                path.truncate(before);
            }
        }
        Some(_) | None => line(path, &text(json).unwrap_or(Cow::Borrowed(json)), out),
    }
}

fn line(path: &str, value: &str, out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
    if !path.is_empty() {
        out.push_str(path);
        out.push_str(": ");
    }
    out.push_str(value);
}

/// All fields of an object in their order.
fn entries(json: &str) -> Vec<(String, &str)> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Entries).unwrap_or_default()
}

struct Pick<'n, const N: usize>([&'n str; N]);

impl<'a, const N: usize> DeserializeSeed<'a> for Pick<'_, N> {
    type Value = [Option<&'a str>; N];

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a, const N: usize> Visitor<'a> for Pick<'_, N> {
    type Value = [Option<&'a str>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(KeyPlace(&self.0))? {
            match place {
                Some(place) => {
                    let value: &'a RawValue = map.next_value()?;
                    found[place] = Some(value.get()).filter(|json| *json != "null");
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Finds a key among the wanted names. Keys are read as bytes, since a key too may hold a lone surrogate.
struct KeyPlace<'n>(&'n [&'n str]);

impl<'a> DeserializeSeed<'a> for KeyPlace<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for KeyPlace<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

struct Entries;

impl<'a> Visitor<'a> for Entries {
    type Value = Vec<(String, &'a str)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(TextBytes)? {
            let value: &'a RawValue = map.next_value()?;
            entries.push((key.replace('\0', NUL_PICTURE), value.get()));
        }
        Ok(entries)
    }
}

/// Reads a JSON string as bytes, the one form in which serde_json lets lone surrogates through.
struct TextBytes;

impl<'a> DeserializeSeed<'a> for TextBytes {
    type Value = String;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for TextBytes {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(without_surrogates(bytes.to_vec()))
    }
}

/// A lone surrogate arrives as three bytes (ED A0..BF xx) that are no UTF-8; U+FFFD has three bytes as well.
fn without_surrogates(bytes: Vec<u8>) -> String {
    let mut bytes = match String::from_utf8(bytes) {
        Ok(text) => return text,
        Err(error) => error.into_bytes(),
    };
    for start in 0..bytes.len().saturating_sub(2) {
        if bytes[start] == 0xED && bytes[start + 1] >= 0xA0 {
            bytes[start..start + 3].copy_from_slice("\u{FFFD}".as_bytes());
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_picked_whatever_else_the_object_holds() {
        let json = r#"{"a":1,"x":{"a":[1,2]},"b":"t","a":"last","c":null,"\ud800":0}"#;
        assert_eq!(
            pick(json, ["a", "b", "c", "d"]),
            Some([Some("\"last\""), Some("\"t\""), None, None])
        );
        assert_eq!(pick("[1]", ["a"]), None);
        assert_eq!(pick(r#"{"a":"#, ["a"]), None);
    }

    #[test]
    fn a_text_is_unescaped_and_what_cannot_be_stored_is_replaced() {
        assert_eq!(text(r#""plain é""#).as_deref(), Some("plain é"));
        assert_eq!(text(r#""a\nb\"c""#).as_deref(), Some("a\nb\"c"));
        assert_eq!(text(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
        assert_eq!(
            text(r#""x\ud83dy\udc00é""#).as_deref(),
            Some("x\u{FFFD}y\u{FFFD}é")
        );
        assert_eq!(text(r#""a\u0000b""#).as_deref(), Some("a\u{2400}b"));
        assert_eq!(text("42"), None);
    }

    #[test]
    fn a_readable_value_holds_every_string_unescaped_and_in_order() {
        let json = r#"{"command":"echo \"hi\"\nls","z":[1,{"old":"a\\b"}],"empty":{},"flag":true}"#;
        assert_eq!(
            readable(json),
            "command: echo \"hi\"\nls\nz[0]: 1\nz[1].old: a\\b\nempty: {}\nflag: true"
        );
        assert_eq!(readable("\"just a text\""), "just a text");
    }

    #[test]
    fn a_deeply_nested_value_overflows_nothing() {
        let json = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(readable(&json).starts_with("a[0][0]"));
    }

    #[test]
    fn a_cut_counts_characters_not_bytes() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
