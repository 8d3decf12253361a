//! Whether one text is another one, redacted: under whatever rules, which may be another device's or of another day.

use super::marks;
use super::rule::is_one_word;

/// How often a text may be looked through for the places where the parts between the marks fit. Only texts in which
/// such a part also stands inside of a secret need more than one round.
const ROUNDS_MAX: usize = 8;

/// Whether `redacted` is `text` with some parts of it replaced by marks. Equal texts fit too.
///
/// A mark stands for at least one character. The work is bounded by `ROUNDS_MAX` times the text; what would need more
/// does not fit.
pub fn fits(redacted: &str, text: &str) -> bool {
    let (literals, gaps) = parts(redacted);
    let (Some((first, rest)), Some(last)) = (literals.split_first(), literals.last()) else {
        return redacted == text;
    };
    if gaps.is_empty() {
        return redacted == text;
    }
    let Some(middle) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else {
        return false;
    };
    fits_between(&gaps, &rest[..rest.len() - 1], middle)
}

/// The texts around the gaps, one more than there are gaps.
fn parts(redacted: &str) -> (Vec<&str>, Vec<Gap>) {
    let (mut literals, mut gaps) = (Vec::new(), Vec::new());
    let mut end = 0;
    for (range, kind) in marks(redacted) {
        let gap = if is_one_word(kind) { Gap::OneWord } else { Gap::Any };
        match gaps.last_mut() {
            // Marks side by side are one gap.
            Some(Gap::Any) if range.start == end => {}
            Some(last) if range.start == end => *last = gap,
            Some(_) | None => {
                literals.push(&redacted[end..range.start]);
                gaps.push(gap);
            }
        }
        end = range.end;
    }
    literals.push(&redacted[end..]);
    (literals, gaps)
}

/// Whether `text` is gap, literal, gap, …, gap. Takes the first place that fits, and goes back where that was wrong.
fn fits_between(gaps: &[Gap], literals: &[&str], text: &str) -> bool {
    let after_one = |at: usize| text[at..].chars().next().map_or(at + 1, |c| at + c.len_utf8());
    let mut bytes_left = ROUNDS_MAX * (text.len() + 1);
    // For each gap where it begins, and from where its literal is looked for.
    let mut open = vec![(0, after_one(0))];
    while let Some((start, from)) = open.last().copied() {
        let gap = gaps[open.len() - 1];
        let Some(literal) = literals.get(open.len() - 1) else {
            if gap.may_hold(&text[start..]) {
                return true;
            }
            open.pop();
            continue;
        };
        let found = text
            .get(from..)
            .and_then(|rest| rest.find(literal))
            .map(|at| from + at);
        let scanned = found.unwrap_or(text.len()).saturating_sub(start) + literal.len();
        bytes_left = match bytes_left.checked_sub(scanned) {
            Some(left) => left,
            None => return false,
        };
        match found.filter(|at| gap.may_hold(&text[start..*at])) {
            Some(at) => {
                let depth = open.len() - 1;
                open[depth].1 = after_one(at);
                let next = at + literal.len();
                open.push((next, after_one(next)));
            }
            None => drop(open.pop()),
        }
    }
    false
}

/// What one mark, or several in a row, may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// The rules say that secrets of this kind hold no white space.
    OneWord,
    /// A kind of several lines, or an unknown one, from another device's own rules.
    Any,
}

impl Gap {
    fn may_hold(self, secret: &str) -> bool {
        match self {
            Gap::OneWord => !secret.is_empty() && !secret.contains(char::is_whitespace),
            Gap::Any => !secret.is_empty(),
        }
    }
}
