//! A transcript as a stream of JSON values, whatever happened to the file.
//!
//! A file holds one record a line, as a rule. In the wild two records share a line, a record is spliced into
//! the middle of another, runs of NUL bytes stand where a crash lost a block, and the last line is still
//! being written. So the file is cut into pieces at line ends and NUL bytes (JSON escapes both inside
//! strings, so neither is ever part of a record) and each piece is read as a sequence of values. Where a
//! piece does not parse, reading goes on at the next place from which a whole record parses; what was passed
//! over is reported with its offset. A value may also spread over several lines, if it was broken between two
//! tokens.
//!
//! Memory is bounded by the largest record that is read.

use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::value::RawValue;

use super::fields;
use super::pieces::Pieces;

/// How often reading may start anew in one piece without success. Each start can scan the rest of the piece,
/// so without this a piece of nothing but `{"` would take quadratic time.
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
    // The strict check is several times as fast as the one that mends, and nearly always all there is to do.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    };
    let offset_of = |place| pieces.offset() + place_before_mending(bytes, &text, place) as u64;
    let mut at = skip_blanks(&text, 0);
    while at < text.len() {
        let next = match first_value(&text[at..]) {
            Ok(json) => {
                let json = json.get();
                let offset = offset_of(at);
                take(Piece::Value { json, offset }).map_err(Stopped::Taker)?;
                let end = at + json.len();
                if matches!(text, Cow::Owned(_)) {
                    report_mending(pieces, offset, offset_of(end), take)?;
                }
                at = skip_blanks(&text, end);
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
    Ok((at < text.len()).then(|| place_before_mending(bytes, &text, at)))
}

/// A value that holds bytes which are no UTF-8 was read with replacements: it is kept, and the place is
/// reported.
fn report_mending<F, E>(
    pieces: &Pieces<'_, F>,
    begin: u64,
    end: u64,
    take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let place = |offset: u64| (offset - pieces.offset()) as usize;
    match std::str::from_utf8(&pieces.piece()[place(begin)..place(end)]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let first = begin + error.valid_up_to() as u64;
            let bytes = error.error_len().map_or(end - first, |bytes| bytes as u64);
            damage(take, first, bytes, "no UTF-8")
        }
    }
}

fn first_value(text: &str) -> serde_json::Result<&RawValue> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    values
        .next()
        .expect("a text that is not blank has a value or an error")
}

/// Where the next whole record begins. A damaged record leaves its inner objects whole, so an object counts
/// as a record only if it names its type and what it belongs to.
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
fn place_before_mending(bytes: &[u8], text: &str, place: usize) -> usize {
    // A text that needed no mending is the bytes themselves.
    if std::ptr::eq(bytes, text.as_bytes()) {
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Read {
        values: Vec<String>,
        damage: Vec<(u64, u64, &'static str)>,
        offset: u64,
        unfinished: u64,
    }

    fn read(bytes: &[u8]) -> Read {
        read_from(&mut Cursor::new(bytes), 0)
    }

    fn read_from(file: &mut (impl io::Read + Seek), from: u64) -> Read {
        let mut read = Read::default();
        let end = read_values(file, from, |piece| -> Result<(), ()> {
            match piece {
                Piece::Value { json, .. } => read.values.push(json.to_owned()),
                Piece::Damage(damage) => read.damage.push((damage.offset, damage.bytes, damage.reason)),
            }
            Ok(())
        })
        .unwrap();
        (read.offset, read.unfinished) = (end.offset, end.unfinished);
        read
    }

    const A: &str = r#"{"type":"user","sessionId":"s","message":{"content":"a {\"b\":1} é"}}"#;
    const B: &str = r#"{"type":"user","sessionId":"s","message":{"content":[{"type":"text","text":"b"}]}}"#;

    #[test]
    fn records_are_read_one_a_line_two_on_a_line_and_over_several_lines() {
        let spread = "{\n  \"type\": \"user\",\n  \"list\": [\n    1\n  ]\n}";
        let text = format!("\u{feff}{A}\r\n\n{A}{B}\n{spread}\n{B}");
        let read = read(text.as_bytes());
        assert_eq!(read.values, [A, A, B, spread, B]);
        assert_eq!((read.damage.as_slice(), read.unfinished), ([].as_slice(), 0));
        assert_eq!(read.offset, text.len() as u64);
    }

    #[test]
    fn a_record_cut_off_by_another_is_damage_and_the_other_is_read() {
        for cut in 1..A.len() {
            if !A.is_char_boundary(cut) {
                continue;
            }
            let text = format!("{B}\n{}{B}\n{B}\n", &A[..cut]);
            let read = read(text.as_bytes());
            assert_eq!(
                read.values.iter().filter(|value| *value == B).count(),
                3,
                "cut at {cut}"
            );
            let damaged: u64 = read.damage.iter().map(|damage| damage.1).sum();
            assert_eq!(damaged, cut as u64, "cut at {cut}: {:?}", read.damage);
        }
    }

    #[test]
    fn a_record_without_its_end_does_not_swallow_the_next_line() {
        for cut in 1..A.len() {
            let mut bytes = A.as_bytes()[..cut].to_vec();
            bytes.extend(format!("\n{B}\n").as_bytes());
            let read = read(&bytes);
            assert_eq!(read.values, [B], "cut at {cut}");
            assert!(read.damage.iter().any(|damage| damage.0 == 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_run_of_nul_bytes_is_one_damage_and_hides_nothing() {
        let text = format!("{A}\n\0\0\0{B}\0\0\n{A}\n");
        let read = read(text.as_bytes());
        assert_eq!(read.values, [A, B, A]);
        let first = A.len() as u64 + 1;
        let second = first + 3 + B.len() as u64;
        assert_eq!(read.damage, [(first, 3, "NUL bytes"), (second, 2, "NUL bytes")]);
    }

    #[test]
    fn an_unfinished_last_record_is_where_the_next_reading_begins() {
        let whole = format!("{A}\n{B}{A}\n");
        for cut in 0..whole.len() {
            let first = read(&whole.as_bytes()[..cut]);
            let second = read_from(&mut Cursor::new(whole.as_bytes()), first.offset);
            let values = [first.values, second.values].concat();
            assert_eq!(values, [A, B, A], "cut at {cut}");
            assert_eq!((first.damage, second.damage), (vec![], vec![]), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_of_nothing_but_beginnings_is_given_up_soon() {
        let text = format!("{}\n{A}\n", "{\"a".repeat(300_000));
        assert_eq!(read(text.as_bytes()).values, [A]);
    }

    /// Gives a few bytes at a time, as a pipe or a busy file system may.
    struct Trickle<'a>(Cursor<&'a [u8]>, usize);

    impl io::Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    impl Seek for Trickle<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    proptest! {
        #[test]
        fn any_damage_inside_leaves_the_records_around_it_whole(
            damage in prop::collection::vec(any::<u8>(), 0..200),
            before in 0_usize..5,
            after in 0_usize..5,
        ) {
            let mut bytes = format!("{A}\n").repeat(before).into_bytes();
            bytes.extend(&damage);
            bytes.extend(format!("\n{B}\n").repeat(after.max(1)).as_bytes());
            let read = read(&bytes);
            prop_assert!(read.values[..before].iter().all(|value| value == A));
            let last = read.values.len() - after.max(1);
            prop_assert!(read.values[last..].iter().all(|value| value == B));
        }

        #[test]
        fn a_splice_of_records_at_any_place_never_panics_and_keeps_other_lines(
            cut in 0_usize..60, from in 0_usize..60, overwrite in any::<Option<u8>>(),
        ) {
            let mut middle = A.as_bytes()[..cut].to_vec();
            middle.extend(overwrite);
            middle.extend(&B.as_bytes()[from..]);
            let mut bytes = format!("{A}\n").into_bytes();
            bytes.extend(&middle);
            bytes.extend(format!("\n{A}\n").as_bytes());
            let read = read(&bytes);
            prop_assert_eq!(read.values.first().map(String::as_str), Some(A));
            prop_assert_eq!(read.values.last().map(String::as_str), Some(A));
        }

        #[test]
        fn the_pieces_are_the_same_however_the_file_is_read(
            bytes in prop::collection::vec(
                prop_oneof![Just(A.as_bytes().to_vec()), Just(b"\n".to_vec()), Just(b"\0".to_vec()), Just(b"{\n".to_vec()),
                            Just(b"}".to_vec()), prop::collection::vec(any::<u8>(), 0..4)],
                0..12,
            ),
            step in 1_usize..9,
        ) {
            let bytes = bytes.concat();
            let trickled = read_from(&mut Trickle(Cursor::new(&bytes), step), 0);
            prop_assert_eq!(read(&bytes), trickled);
        }
    }
}
