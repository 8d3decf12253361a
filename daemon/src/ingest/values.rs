//! A transcript as a stream of JSON values, whatever happened to the file.
//!
//! A file holds one record a line, as a rule. In the wild two records share a line, a record is spliced into the
//! middle of another, runs of NUL bytes stand where a crash lost a block, and the last line is still being written. So
//! the file is cut into pieces at line ends and NUL bytes (JSON escapes both inside strings, so neither is ever part
//! of a record) and each piece is read as a sequence of values. Where a piece does not parse, reading goes on at the
//! next place from which a whole record parses; what was passed over is reported with its offset. A value may also
//! spread over several lines, if it was broken between two tokens.
//!
//! Memory is bounded by the largest record that is read.

use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::value::RawValue;

use super::fields;
use super::pieces::Pieces;

/// How often reading may start anew in one piece without success. Each start can scan the rest of the piece, so
/// without this a piece of nothing but `{"` would take quadratic time.
const RESYNC_FAILURES_MAX: usize = 64;

/// What a transcript is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A whole JSON value and where it begins.
    Value { json: &'a str, offset: u64 },
    /// A part that is no JSON value, or is one only after mending.
    Damage(Damage),
}

/// A damaged part of a file: where it begins and how long it is, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) reason: &'static str,
}

/// How far a file was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadTo {
    /// Where to go on when the file has grown: behind the last whole value.
    pub(super) offset: u64,
    /// Length of the unfinished record that stands there, in bytes; 0 at a clean end.
    pub(super) unfinished: u64,
}

/// Why reading stopped early: the file, or whoever takes the pieces.
#[derive(Debug)]
pub(super) enum Stopped<E> {
    File(io::Error),
    Taker(E),
}

/// Reads a file from an offset to its end and hands on what it is made of, in order.
pub(super) fn read_values<E>(
    file: &mut (impl Read + Seek),
    from: u64,
    mut take: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<ReadTo, Stopped<E>> {
    file.seek(SeekFrom::Start(from)).map_err(Stopped::File)?;
    let mut pieces = Pieces::new(file, from);
    let mut nuls = Nuls::default();
    while pieces.next().map_err(Stopped::File)? {
        if !pieces.is_blank() {
            nuls.end(&mut take)?;
        }
        if let Some(read_to) = read_piece(&mut pieces, &mut take)? {
            return Ok(read_to);
        }
        if pieces.delimiter == Some(0) {
            nuls.add(pieces.base + pieces.end as u64);
        }
    }
    nuls.end(&mut take)?;
    Ok(ReadTo {
        offset: pieces.offset(),
        unfinished: 0,
    })
}

/// Reads the current piece. Some only if the file ends in the middle of a record.
fn read_piece<F: Read, E>(
    pieces: &mut Pieces<'_, F>,
    take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<Option<ReadTo>, Stopped<E>> {
    if pieces.lost > 0 {
        let bytes = pieces.lost + pieces.piece().len() as u64;
        damage(take, pieces.offset() - pieces.lost, bytes, "longer than 16 MiB")?;
        return Ok(None);
    }
    let Some(rest) = parse(pieces, take)? else {
        return Ok(None);
    };
    pieces.start += rest;
    if pieces.delimiter.is_none() {
        // The writer has not finished this record yet, or never will: only a later read can tell.
        return Ok(Some(ReadTo {
            offset: pieces.offset(),
            unfinished: pieces.piece().len() as u64,
        }));
    }
    if pieces.join_lines().map_err(Stopped::File)? {
        let Some(rest) = parse(pieces, take)? else {
            return Ok(None);
        };
        pieces.start += rest;
    }
    damage(take, pieces.offset(), pieces.piece().len() as u64, "cut off")?;
    Ok(None)
}

/// Reads the values of a piece. Some is where a record begins that the piece ends in the middle of.
fn parse<F, E>(
    pieces: &Pieces<'_, F>,
    take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<Option<usize>, Stopped<E>> {
    let bytes = pieces.piece();
    let text = String::from_utf8_lossy(bytes);
    let offset_of = |place| pieces.offset() + place_before_mending(bytes, &text, place) as u64;
    let mut at = skip_blanks(&text, 0);
    while at < text.len() {
        let next = match first_value(&text[at..]) {
            Ok(json) => {
                let (json, offset) = (json.get(), offset_of(at));
                take(Piece::Value { json, offset }).map_err(Stopped::Taker)?;
                at = skip_blanks(&text, at + json.len());
                continue;
            }
            Err(error) => match next_record(&text, at + 1) {
                Some(next) => next,
                // At the end of the file even a syntax error may only be half a number.
                None if error.is_eof() || pieces.delimiter.is_none() => break,
                None => text.len(),
            },
        };
        damage(take, offset_of(at), offset_of(next) - offset_of(at), "no JSON")?;
        at = next;
    }
    // What is not UTF-8 was replaced. In a record that is not finished yet that may still be half a character.
    let read = place_before_mending(bytes, &text, at);
    if let (Cow::Owned(_), Err(error)) = (&text, std::str::from_utf8(&bytes[..read])) {
        let first = error.valid_up_to();
        damage(
            take,
            pieces.offset() + first as u64,
            (read - first) as u64,
            "no UTF-8",
        )?;
    }
    Ok((at < text.len()).then_some(read))
}

fn first_value(text: &str) -> serde_json::Result<&RawValue> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    values
        .next()
        .expect("a text that is not blank has a value or an error")
}

/// Where the next whole record begins. A damaged record leaves its inner objects whole, so an object counts as a
/// record only if it names its type and what it belongs to.
fn next_record(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    let mut failures = 0;
    loop {
        while !text.is_char_boundary(at) {
            at += 1;
        }
        at += text[at..].find("{\"")?;
        match first_value(&text[at..]) {
            Ok(json) if is_record(json.get()) => return Some(at),
            Ok(json) => at += json.get().len(),
            Err(_) if failures == RESYNC_FAILURES_MAX => return None,
            Err(_) => {
                failures += 1;
                at += 1;
            }
        }
    }
}

fn is_record(json: &str) -> bool {
    fields::pick(json, ["type", "sessionId", "leafUuid", "messageId"]).is_some_and(
        |[kind, session, leaf, message]| kind.is_some() && (session.or(leaf).or(message)).is_some(),
    )
}

fn skip_blanks(text: &str, at: usize) -> usize {
    // A byte order mark is blank as well: some editors begin a file with it.
    text.len()
        - text[at..]
            .trim_start_matches([' ', '\t', '\r', '\n', '\u{feff}'])
            .len()
}

/// The place in the bytes that a place in their mended text stands for.
fn place_before_mending(bytes: &[u8], text: &Cow<'_, str>, place: usize) -> usize {
    if matches!(text, Cow::Borrowed(_)) {
        return place;
    }
    let (mut before, mut after) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        if place <= after + chunk.valid().len() {
            return before + (place - after);
        }
        before += chunk.valid().len() + chunk.invalid().len();
        after += chunk.valid().len() + char::REPLACEMENT_CHARACTER.len_utf8();
    }
    bytes.len()
}

fn damage<E>(
    take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    offset: u64,
    bytes: u64,
    reason: &'static str,
) -> Result<(), Stopped<E>> {
    take(Piece::Damage(Damage {
        offset,
        bytes,
        reason,
    }))
    .map_err(Stopped::Taker)
}

/// A run of NUL bytes, reported as one damage.
#[derive(Default)]
struct Nuls {
    offset: u64,
    bytes: u64,
}

impl Nuls {
    fn add(&mut self, offset: u64) {
        if self.bytes == 0 {
            self.offset = offset;
        }
        self.bytes += 1;
    }

    fn end<E>(&mut self, take: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), Stopped<E>> {
        if self.bytes > 0 {
            damage(take, self.offset, self.bytes, "NUL bytes")?;
            self.bytes = 0;
        }
        Ok(())
    }
}
