//! A transcript as a stream of JSON values, whatever happened to the file.
//!
//! A file holds one record a line, as a rule. In the wild two records share a line, a record is spliced into the
//! middle of another, runs of NUL bytes stand where a crash lost a block, and the last line is still being written. So
//! the file is cut into pieces at line ends and NUL bytes (JSON escapes both inside strings, so neither is ever part
//! of a record) and each piece is read as a sequence of values. Where a piece does not parse, reading goes on at the
//! next place from which a whole record parses; what was passed over is reported with its offset. A value may also
//! spread over several lines, if it was broken between two tokens.
//!
//! Memory is bounded by the largest record, [`RECORD_MAX_BYTES`].

use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::value::RawValue;

use super::fields;

/// Largest record that is read; a longer one is reported as damaged. The largest seen in real transcripts has 1 MB, a
/// pasted picture can bring one to several. It bounds the memory of ingest, which holds a record about three times.
pub(super) const RECORD_MAX_BYTES: usize = 16 << 20;

/// How much is read from the file at once: enough to make system calls cheap, too little to matter for memory.
const READ_BYTES: usize = 256 << 10;

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

/// A window on a file that moves from piece to piece.
struct Pieces<'f, F> {
    file: &'f mut F,
    bytes: Vec<u8>,
    /// Where `bytes` begins in the file.
    base: u64,
    /// The current piece, in `bytes`, and the byte behind it; None at the end of the file.
    start: usize,
    end: usize,
    delimiter: Option<u8>,
    /// Bytes of the current piece that were dropped, because it is too long.
    lost: u64,
    begun: bool,
}

impl<'f, F> Pieces<'f, F> {
    fn new(file: &'f mut F, base: u64) -> Self {
        Pieces {
            file,
            bytes: Vec::new(),
            base,
            start: 0,
            end: 0,
            delimiter: None,
            lost: 0,
            begun: false,
        }
    }

    fn piece(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    fn is_blank(&self) -> bool {
        self.lost == 0 && self.piece().iter().all(u8::is_ascii_whitespace)
    }
}

impl<F: Read> Pieces<'_, F> {
    /// Moves to the next piece; false at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        if self.begun && self.delimiter.is_none() {
            self.start = self.end;
            return Ok(false);
        }
        self.start = self.end + usize::from(self.begun);
        self.begun = true;
        self.lost = 0;
        if self.bytes.capacity() > RECORD_MAX_BYTES / 4 && self.bytes.len() - self.start <= READ_BYTES {
            self.forget_what_was_read();
            self.bytes.shrink_to(READ_BYTES);
        }
        self.find_end(self.start)?;
        Ok(true)
    }

    /// Lengthens the piece by the following lines, as long as they continue a value that is broken between two tokens. A
    /// line that begins like a record is one, and continues nothing. True if the value is closed then.
    fn join_lines(&mut self) -> io::Result<bool> {
        let mut nesting = Nesting::default();
        nesting.follow(self.piece());
        let mut joined = false;
        while nesting.is_open() && self.delimiter == Some(b'\n') && self.piece().len() < RECORD_MAX_BYTES {
            let before = self.piece().len();
            if self.next_line_begins_like_a_record()? {
                return Ok(false);
            }
            self.find_end(self.end + 1)?;
            if self.lost > 0 {
                return Ok(false);
            }
            nesting.follow(&self.piece()[before..]);
            joined = true;
        }
        Ok(joined && !nesting.is_open())
    }

    fn next_line_begins_like_a_record(&mut self) -> io::Result<bool> {
        while self.bytes.len() < self.end + 3 {
            if self.read_more()? == 0 {
                return Ok(false);
            }
        }
        Ok(self.bytes[self.end + 1..].starts_with(b"{\""))
    }

    /// Looks for the end of the piece from a place in `bytes` on.
    fn find_end(&mut self, mut from: usize) -> io::Result<()> {
        loop {
            if let Some(found) = memchr::memchr2(b'\n', 0, &self.bytes[from..]) {
                self.end = from + found;
                self.delimiter = Some(self.bytes[self.end]);
                return Ok(());
            }
            from = self.bytes.len();
            if from - self.start > RECORD_MAX_BYTES {
                self.lost += (from - self.start) as u64;
                self.start = from;
            }
            let forgotten = self.forget_what_was_read();
            from -= forgotten;
            if self.read_more()? == 0 {
                self.end = self.bytes.len();
                self.delimiter = None;
                return Ok(());
            }
        }
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let had = self.bytes.len();
        self.bytes.resize(had + READ_BYTES, 0);
        loop {
            match self.file.read(&mut self.bytes[had..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.bytes.truncate(had + read);
                    return Ok(read);
                }
            }
        }
    }

    /// Drops what lies before the piece and gives its length. `end` is found anew afterwards.
    fn forget_what_was_read(&mut self) -> usize {
        let forgotten = self.start;
        self.bytes.drain(..forgotten);
        self.base += forgotten as u64;
        self.start = 0;
        forgotten
    }
}

/// Whether a text of JSON ends inside an object or array, between two tokens.
#[derive(Default)]
struct Nesting {
    depth: i64,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    fn follow(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
            }
        }
    }

    fn is_open(&self) -> bool {
        self.depth > 0 && !self.in_string
    }
}
