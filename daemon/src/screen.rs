//! What standard output can show, and text laid out for it: colours only on a terminal that wants them, lines broken
//! at its width, and nothing from files or servers that could steer it.
//!
//! In a pipe there is neither colour nor width, so that `grep` finds whole lines.

use std::borrow::Cow;
use std::io::IsTerminal;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Lines of text are hard to read beyond this, however wide the terminal is.
const READABLE_WIDTH: usize = 120;

/// Narrower than this, wrapping makes columns of single words; the terminal then breaks the lines itself.
const WRAP_WIDTH_MIN: usize = 20;

/// What standard output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// In columns; None where lines have no end.
    pub width: Option<usize>,
    /// In lines; None where nobody pages.
    pub height: Option<usize>,
    pub colours: bool,
}

/// What a colour means, not which one it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    /// Beside the point.
    Faint,
    Strong,
}

impl Screen {
    /// A pipe or a file.
    pub const PIPE: Screen = Screen {
        width: None,
        height: None,
        colours: false,
    };

    pub fn of_stdout() -> Screen {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Screen::PIPE;
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let cells = |cells: u16| (cells > 0).then_some(usize::from(cells));
        Screen {
            width: size.and_then(|size| cells(size.ws_col)),
            height: size.and_then(|size| cells(size.ws_row)),
            colours: wants_colours(),
        }
    }

    /// The text in a colour. It must be harmless already.
    pub fn paint<'a>(&self, paint: Paint, text: &'a str) -> Cow<'a, str> {
        let code = match paint {
            _ if !self.colours || text.is_empty() => return Cow::Borrowed(text),
            Paint::Plain => return Cow::Borrowed(text),
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "31",
            Paint::Faint => "2",
            Paint::Strong => "1",
        };
        Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
    }

    /// The text's lines, broken between words where the screen ends. `indent`: columns that stand before each of them.
    pub fn wrapped(&self, text: &str, indent: usize) -> Vec<String> {
        let room = self
            .width
            .map(|width| width.min(READABLE_WIDTH).saturating_sub(indent));
        match room {
            Some(room) if room >= WRAP_WIDTH_MIN => {
                text.split('\n').flat_map(|line| broken(line, room)).collect()
            }
            Some(_) | None => text.split('\n').map(str::to_owned).collect(),
        }
    }

    /// The text on one line, with an ellipsis where it is longer than the columns left beside `taken`.
    pub fn cut(&self, text: &str, taken: usize) -> String {
        match self.width {
            Some(width) => cut(text, width.saturating_sub(taken).max(WRAP_WIDTH_MIN)),
            None => text.to_owned(),
        }
    }
}

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub align: Align,
    /// Columns of the screen that it takes at most.
    pub max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

impl Screen {
    /// Rows under their names, as wide as what stands in them; the last column gets what is left of the screen. The
    /// cells are made harmless here.
    pub fn table(&self, columns: &[Column], rows: &[Vec<(String, Paint)>]) -> String {
        let last = columns.len().saturating_sub(1);
        let rows: Vec<Vec<(String, Paint)>> = rows
            .iter()
            .map(|row| {
                row.iter()
                    .zip(columns)
                    .map(|((cell, paint), column)| {
                        let cell = one_line(cell);
                        (self.cell(&cell, column.max), *paint)
                    })
                    .collect()
            })
            .collect();
        let width = |index: usize| {
            let cells = rows.iter().filter_map(|row| row.get(index));
            let widest = cells.map(|(cell, _)| cell.width()).max().unwrap_or(0);
            widest.max(columns[index].name.width())
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let taken: usize = widths.iter().take(last).map(|width| width + 2).sum();
        let mut text = String::new();
        let head: Vec<(String, Paint)> = columns
            .iter()
            .map(|column| (column.name.to_owned(), Paint::Faint))
            .collect();
        for row in std::iter::once(&head).chain(&rows) {
            let mut line = String::new();
            for (index, (cell, paint)) in row.iter().enumerate() {
                let shown = match (index == last, columns[index].align) {
                    (true, _) => self.cut(cell, taken),
                    (false, Align::Left) => padded(cell, widths[index]),
                    (false, Align::Right) => {
                        format!("{}{cell}", " ".repeat(widths[index].saturating_sub(cell.width())))
                    }
                };
                line.push_str(&self.paint(*paint, &shown));
                if index < last {
                    line.push_str("  ");
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// In a pipe nothing is cut.
    fn cell(&self, text: &str, max: usize) -> String {
        match self.width {
            Some(_) => cut(text, max),
            None => text.to_owned(),
        }
    }
}

/// Text from elsewhere with its control characters made visible, since they would steer the user's terminal, and those
/// that would show it in another order than it has. Line ends and tabs stay.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let steers = |c: char| (c.is_control() && c != '\n' && c != '\t') || turns(c);
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    // A line end of Windows is a line end.
    let visible = text.replace("\r\n", "\n");
    let picture = |c: char| match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        // What is above 0x7F has no picture of its own.
        _ => '\u{fffd}',
    };
    Cow::Owned(
        visible
            .chars()
            .map(|c| if steers(c) { picture(c) } else { c })
            .collect(),
    )
}

/// The same for a name: it cannot begin a line of its own either.
pub fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// The first `columns` columns, the last of them an ellipsis where something is left out.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut taken = 0;
    let mut short = String::new();
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken + 1 > columns {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// The text, filled with blanks up to a number of columns.
pub fn padded(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(missing))
}

fn wants_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // https://no-color.org
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// Breaks one line between words; a word that is longer than the room goes on in the next line. What indents the line
/// stays before its first piece.
fn broken(line: &str, room: usize) -> Vec<String> {
    if line.width() <= room {
        return vec![line.to_owned()];
    }
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for word in line.split_inclusive(' ') {
        if piece.width() + word.trim_end().width() > room && !piece.trim().is_empty() {
            pieces.push(std::mem::take(&mut piece).trim_end().to_owned());
        }
        for c in word.chars() {
            if piece.width() + c.width().unwrap_or(0) > room && c != ' ' {
                pieces.push(std::mem::take(&mut piece));
            }
            piece.push(c);
        }
    }
    pieces.push(piece.trim_end().to_owned());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(width: usize) -> Screen {
        Screen {
            width: Some(width),
            height: None,
            colours: true,
        }
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal_and_hides_nothing() {
        assert_eq!(harmless("a\x1b[2Jb\tc\r\n\u{9b}d\re"), "a␛[2Jb\tc\n\u{fffd}d␍e");
        assert!(matches!(harmless("plain\n\tö"), Cow::Borrowed(_)));
        let turned = harmless("ada\u{202e}x\u{2066}y\u{2069}").into_owned();
        assert_eq!(turned, "ada\u{fffd}x\u{fffd}y\u{fffd}");
        assert_eq!(
            one_line("ada\nin all 0 rows\t\x1b[A\u{202a}"),
            "ada in all 0 rows ␛[A\u{fffd}"
        );
    }

    #[test]
    fn a_pipe_gets_neither_colours_nor_broken_lines() {
        let long = "word ".repeat(100);
        assert_eq!(Screen::PIPE.wrapped(&long, 10), std::slice::from_ref(&long));
        assert_eq!(Screen::PIPE.paint(Paint::Bad, "x"), "x");
        assert_eq!(Screen::PIPE.cut(&long, 0), long);
    }

    #[test]
    fn lines_break_between_words_and_words_only_where_they_must() {
        let screen = wide(30);
        assert_eq!(
            screen.wrapped("one two three four five six seven\nend", 10),
            ["one two three four", "five six seven", "end"]
        );
        assert_eq!(
            screen.wrapped(&"x".repeat(45), 10),
            ["x".repeat(20), "x".repeat(20), "x".repeat(5)]
        );
        let text = "漢字 ".repeat(9);
        for line in screen.wrapped(&text, 10) {
            assert!(line.width() <= 20, "{line}");
        }
    }

    #[test]
    fn a_cut_counts_columns_not_characters() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello!", 5), "hell…");
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(padded("漢", 4), "漢  ");
    }

    #[test]
    fn a_table_is_aligned_and_its_last_column_ends_with_the_screen() {
        let columns = [
            Column {
                name: "NAME",
                align: Align::Left,
                max: 6,
            },
            Column {
                name: "N",
                align: Align::Right,
                max: 9,
            },
            Column {
                name: "TITLE",
                align: Align::Left,
                max: usize::MAX,
            },
        ];
        let row = |name: &str, number: &str, title: &str| {
            [name, number, title]
                .map(|cell| (cell.to_owned(), Paint::Plain))
                .to_vec()
        };
        let rows = [
            row("short", "7", "one\ntwo\x1b[2J"),
            row("longer than that", "1,234", &"x".repeat(60)),
        ];
        let screen = Screen {
            colours: false,
            ..wide(40)
        };
        let expected = format!(
            "NAME        N  TITLE\nshort       7  one two␛[2J\nlonge…  1,234  {}…\n",
            "x".repeat(24)
        );
        assert_eq!(screen.table(&columns, &rows), expected);
        assert!(Screen::PIPE.table(&columns, &rows).contains(&"x".repeat(60)));
    }

    #[test]
    fn a_colour_ends_where_its_text_ends() {
        assert_eq!(wide(80).paint(Paint::Good, "ok"), "\x1b[32mok\x1b[0m");
        assert_eq!(wide(80).paint(Paint::Good, ""), "");
    }
}
