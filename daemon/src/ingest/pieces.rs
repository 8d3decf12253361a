//! Cuts a file into pieces at line ends and NUL bytes, with bounded memory.

use std::io::{self, Read};

/// Largest record that is read; a longer one is reported as damaged. The largest seen in real transcripts has
/// 1 MB, a pasted picture can bring one to several. It bounds the memory of ingest, which holds a record
/// about three times.
pub(super) const RECORD_MAX_BYTES: usize = 16 << 20;

/// How much is read from the file at once: enough to make system calls cheap, too little to matter for
/// memory.
const READ_BYTES: usize = 256 << 10;

/// A window on a file that moves from piece to piece.
pub(super) struct Pieces<'f, F> {
    file: &'f mut F,
    bytes: Vec<u8>,
    /// Where `bytes` begins in the file.
    pub(super) base: u64,
    /// The current piece, in `bytes`, and the byte behind it; None at the end of the file.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) delimiter: Option<u8>,
    /// Bytes of the current piece that were dropped, because it is too long.
    pub(super) lost: u64,
    begun: bool,
}

impl<'f, F> Pieces<'f, F> {
    pub(super) fn new(file: &'f mut F, base: u64) -> Self {
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

    pub(super) fn piece(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    pub(super) fn is_blank(&self) -> bool {
        self.lost == 0 && self.piece().iter().all(u8::is_ascii_whitespace)
    }
}

impl<F: Read> Pieces<'_, F> {
    /// Moves to the next piece; false at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<bool> {
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

    /// Lengthens the piece by the following lines, as long as they continue a value that is broken between
    /// two tokens. A line that begins like a record is one, and continues nothing. True if the value is
    /// closed then.
    pub(super) fn join_lines(&mut self) -> io::Result<bool> {
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
