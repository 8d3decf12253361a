//! Whether what stands where a secret would stand is one: not a placeholder, not code, not a number or a time.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;

/// What a rule asks of a value besides its form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    /// Nothing.
    #[default]
    Form,
    /// No placeholder.
    Credential,
    /// Letters with digits or signs.
    Password,
    /// Long, mixed and of high entropy.
    Random,
    /// Base64 of `user:password`.
    Basic,
    /// Some encoded bytes inside.
    KeyBlock,
}

/// A value that a rule's form fits.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'t> {
    pub text: &'t str,
    pub range: Range<usize>,
    /// Where the match begins: in or behind the name of what the value belongs to.
    pub name_start: usize,
    pub is_quoted: bool,
}

/// Shortest value that counts as random: keys of 64 bits, written in hexadecimal.
const RANDOM_CHARS_MIN: usize = 16;

/// Bits a character, by Shannon, over the value itself. Random hexadecimal digits reach 3.2 and more from 16
/// characters on, Base64 3.7; words and identifiers of such length lie below 3.5, but they are refused as words.
const RANDOM_ENTROPY_MIN: f64 = 3.0;

/// Of a value without digits: only mixed case can make it random.
const LETTERS_CHARS_MIN: usize = 24;
const LETTERS_ENTROPY_MIN: f64 = 4.0;

/// Shortest run of Base64 in a key block that is more than an ellipsis.
const KEY_BLOCK_RUN_MIN: usize = 16;

impl Check {
    pub(super) fn accepts(self, candidate: &Candidate<'_>) -> bool {
        let value = &candidate.text[candidate.range.clone()];
        match self {
            Check::Form => true,
            Check::Credential => !is_placeholder(value),
            Check::Password => {
                is_password(value)
                    && !is_placeholder(value)
                    && !is_other(candidate)
                    && !is_harmless(candidate)
            }
            Check::Random => {
                is_random(value)
                    && !is_placeholder(value)
                    && !is_words(value)
                    && !is_other(candidate)
                    && !is_harmless(candidate)
            }
            Check::Basic => is_basic(value),
            Check::KeyBlock => has_encoded_bytes(value),
        }
    }
}

fn is_password(value: &str) -> bool {
    let has = |is: fn(char) -> bool| value.contains(is);
    has(char::is_alphabetic) && (has(|c| c.is_ascii_digit()) || has(|c| "!@#$%^&*+=?~".contains(c)))
}

fn is_random(value: &str) -> bool {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "+/=_-.~:%!@#$^&*|?".contains(c);
    if value.len() < RANDOM_CHARS_MIN || !value.chars().all(is_token) {
        return false;
    }
    let has = |is: fn(u8) -> bool| value.bytes().any(is);
    let (digits, lower, upper) = (
        has(|c| c.is_ascii_digit()),
        has(|c| c.is_ascii_lowercase()),
        has(|c| c.is_ascii_uppercase()),
    );
    match digits {
        true => (lower || upper) && entropy(value) >= RANDOM_ENTROPY_MIN,
        false => lower && upper && value.len() >= LETTERS_CHARS_MIN && entropy(value) >= LETTERS_ENTROPY_MIN,
    }
}

/// Bits a byte.
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = f64::from(u32::try_from(value.len()).unwrap_or(u32::MAX));
    counts
        .into_iter()
        .filter(|count| *count > 0)
        .map(|count| {
            let share = f64::from(count) / total;
            -share * share.log2()
        })
        .sum()
}

/// What documentation and templates write where the secret goes.
fn is_placeholder(value: &str) -> bool {
    const PARTS: [&str; 22] = [
        "your",
        "example",
        "placeholder",
        "changeme",
        "change-me",
        "change_me",
        "replace",
        "insert",
        "dummy",
        "redacted",
        "xxxx",
        "****",
        "....",
        "...",
        "…",
        "${",
        "$(",
        "{{",
        "%(",
        "<",
        "[redacted",
        "secret_here",
    ];
    const WORDS: [&str; 16] = [
        "password",
        "passwd",
        "pass",
        "pwd",
        "passphrase",
        "secret",
        "token",
        "test",
        "admin",
        "user",
        "root",
        "foo",
        "bar",
        "none",
        "null",
        "undefined",
    ];
    let lower = value.to_lowercase();
    let bare = lower.trim_matches(|c: char| !c.is_alphabetic());
    let first = value.chars().next().unwrap_or_default();
    PARTS.iter().any(|part| lower.contains(part))
        || WORDS.contains(&bare)
        || bare.is_empty() && value.chars().all(|c| c == first)
        || value.chars().all(|c| "x*.-_•?".contains(c.to_ascii_lowercase()))
        || is_variable(value)
}

/// `$NAME`, `%NAME%`, `{name}`, `@name`.
fn is_variable(value: &str) -> bool {
    let name = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    };
    value.strip_prefix('$').is_some_and(name)
        || value
            .strip_prefix('%')
            .is_some_and(|rest| rest.strip_suffix('%').is_some_and(name) || rest.len() == 1)
        || value.starts_with('{') && value.ends_with('}')
}

/// A path, an address, a time, a sentence, or code that gives the secret when it runs.
fn is_other(candidate: &Candidate<'_>) -> bool {
    let value = &candidate.text[candidate.range.clone()];
    let next = candidate.text[candidate.range.end..].chars().next();
    let is_path = value.starts_with(['/', '~']) || value.starts_with("./") || value.starts_with("../");
    let is_time = value.len() >= 10
        && value.bytes().take(10).enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_path
        || is_time
        || value.contains("://")
        || value.starts_with("arn:")
        || value.contains(char::is_whitespace)
        || !candidate.is_quoted && (next.is_some_and(|c| "([{<".contains(c)) || is_expression(value))
}

/// `config.password2`, `Secret::new`, `new_password2`, `&token2`: an identifier made of words, or a path of them.
fn is_expression(value: &str) -> bool {
    let named = value.trim_start_matches(['&', '*', '!', '@']);
    let is_reference = named.len() < value.len();
    let value = named.trim_end_matches(['?', '!', '.', ':']);
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '$')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    let parts: Vec<&str> = value.split(['.', ':']).filter(|part| !part.is_empty()).collect();
    let names_a_secret = || {
        let lower = value.to_ascii_lowercase();
        ["pass", "pwd", "secret", "token", "key", "cred"]
            .iter()
            .any(|name| lower.contains(name))
    };
    parts.iter().all(|part| is_identifier(part))
        && is_words(value)
        && (is_reference || parts.len() > 1 || names_a_secret())
}

/// Whether a value is made of words, as a slug, a path of identifiers or a camel-case name is.
fn is_words(value: &str) -> bool {
    /// Anything may stand between words, if it is so short: `v2`, `cl100k`, `4o`.
    const FILLER_CHARS_MAX: usize = 6;

    let (mut words, mut others) = (0, 0);
    for part in value.split(|c: char| !c.is_ascii_alphanumeric()) {
        let has_digit = part.bytes().any(|byte| byte.is_ascii_digit());
        if is_camel_case(part) {
            words += part.len();
        } else if !is_number(part) && part.len() <= FILLER_CHARS_MAX {
            others += if has_digit { part.len() } else { 0 };
        } else if !is_number(part) {
            return false;
        }
    }
    words >= others
}

/// Words in a row, each but the first with a capital letter.
fn is_camel_case(part: &str) -> bool {
    /// Random letters fall apart into shorter pieces.
    const PIECE_CHARS_MEAN_MIN: usize = 4;

    let mut pieces = 0;
    let are_words = camel_pieces(part).all(|piece| {
        pieces += 1;
        is_word(piece)
    });
    pieces > 0 && are_words && part.len() >= pieces * PIECE_CHARS_MEAN_MIN
}

/// `word`, `Word`, `WORD`, with up to four digits behind.
fn is_word(piece: &str) -> bool {
    let letters = piece.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_upper = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase());
    !letters.is_empty()
        && piece.len() - letters.len() <= 4
        && (is_upper(letters) || is_lower(letters.get(1..).unwrap_or_default()))
}

/// A number, or a date's worth of digits.
fn is_number(part: &str) -> bool {
    part.len() <= 8 && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn camel_pieces(part: &str) -> impl Iterator<Item = &str> {
    let bytes = part.as_bytes();
    let mut start = 0;
    (1..=part.len()).filter_map(move |at| {
        let ends = at == part.len()
            || bytes[at].is_ascii_uppercase() && !bytes[at - 1].is_ascii_uppercase()
            || bytes[at].is_ascii_alphabetic() && bytes[at - 1].is_ascii_digit();
        ends.then(|| {
            let piece = &part[start..at];
            start = at;
            piece
        })
    })
}

/// Names of what is no secret although a word in them says so: counts, cursors, names of secrets, public halves.
fn is_harmless(candidate: &Candidate<'_>) -> bool {
    const WORDS: [&str; 53] = [
        "count",
        "counts",
        "limit",
        "usage",
        "max",
        "min",
        "num",
        "total",
        "type",
        "name",
        "id",
        "ids",
        "url",
        "uri",
        "endpoint",
        "file",
        "path",
        "dir",
        "expires",
        "expiry",
        "expiration",
        "expire",
        "at",
        "time",
        "ttl",
        "len",
        "length",
        "size",
        "page",
        "continuation",
        "cursor",
        "pagination",
        "public",
        "pub",
        "publishable",
        "hash",
        "checksum",
        "cache",
        "primary",
        "foreign",
        "sort",
        "index",
        "budget",
        "regex",
        "pattern",
        "header",
        "field",
        "label",
        "ref",
        "arn",
        "version",
        "algorithm",
        "format",
    ];
    let (name, before) = name_of(candidate);
    // `${NAME:-default}` names it for another to fill in.
    before.ends_with("${")
        || name
            .split(['_', '-'])
            .flat_map(camel_pieces)
            .any(|word| WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// The identifier that the value is given to, from its beginning, which may lie before the match, to the sign; and what
/// stands before it.
fn name_of<'t>(candidate: &Candidate<'t>) -> (&'t str, &'t str) {
    const NAME_CHARS_MAX: usize = 60;

    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let before = &candidate.text[..candidate.name_start];
    let start = before
        .char_indices()
        .rev()
        .take(NAME_CHARS_MAX)
        .take_while(|(_, c)| in_name(*c))
        .last()
        .map_or(candidate.name_start, |(at, _)| at);
    let matched = &candidate.text[candidate.name_start..candidate.range.start];
    let end = matched
        .char_indices()
        .find(|(at, c)| *at > 0 && !in_name(*c) && *c != '.')
        .map_or(candidate.range.start, |(at, _)| candidate.name_start + at);
    (&candidate.text[start..end], &candidate.text[..start])
}

fn is_basic(value: &str) -> bool {
    let whole = value.trim_end_matches('=');
    let quads = &whole[..whole.len() / 4 * 4];
    STANDARD_NO_PAD.decode(quads).is_ok_and(|bytes| {
        bytes.contains(&b':') && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
    })
}

fn has_encoded_bytes(block: &str) -> bool {
    let body = block.split_once("KEY").map_or(block, |(_, body)| body);
    let body = body.split("-----END").next().unwrap_or_default();
    let in_run = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    body.split(|c| !in_run(c))
        .any(|run| run.len() >= KEY_BLOCK_RUN_MIN)
}
