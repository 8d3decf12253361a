//! What a command says: results on standard output, remarks on standard error, an exit code for how it ended.

mod pager;

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::screen::harmless;
pub use pager::Paged;

/// Why a command did not do what it was asked to, by its exit code.
#[derive(Debug)]
pub enum Fault {
    /// 1: it failed, or the answer is no.
    Failed(anyhow::Error),
    /// 2: it was asked in a wrong way.
    Usage(String),
    /// 3: the daemon or the server does not answer.
    NotReachable(String),
    /// 4: nobody is logged in, or the token is not accepted.
    NotLoggedIn(String),
    /// 0: whoever read our output has seen enough.
    OutputClosed,
}

impl Fault {
    pub fn exit_code(&self) -> u8 {
        match self {
            Fault::OutputClosed => 0,
            Fault::Failed(_) => 1,
            Fault::Usage(_) => 2,
            Fault::NotReachable(_) => 3,
            Fault::NotLoggedIn(_) => 4,
        }
    }

    /// A failure that is told in one sentence.
    pub fn failed(message: impl Into<String>) -> Fault {
        Fault::Failed(anyhow::Error::msg(message.into()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Failed(error) => write!(f, "{error:#}"),
            Fault::Usage(text) | Fault::NotReachable(text) | Fault::NotLoggedIn(text) => f.write_str(text),
            Fault::OutputClosed => f.write_str("standard output is closed"),
        }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Fault {
        Fault::Failed(error)
    }
}

/// Writes a result for people, and its last line end where that is missing.
pub fn text(text: &str) -> Result<(), Fault> {
    let mut shown = harmless(text).into_owned();
    if !shown.ends_with('\n') {
        shown.push('\n');
    }
    write_out(shown.as_bytes())
}

/// Writes text that holds control sequences of our own, and in which everything from elsewhere is harmless already.
pub fn raw(text: &str) -> Result<(), Fault> {
    write_out(text.as_bytes())
}

/// Writes a result for programs, on one line.
pub fn json(value: &impl Serialize) -> Result<(), Fault> {
    let mut line = serde_json::to_vec(value).map_err(|error| Fault::Failed(error.into()))?;
    line.push(b'\n');
    write_out(&line)
}

/// A remark beside the result. Lost if nobody can read it.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}

fn write_out(bytes: &[u8]) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Fault::OutputClosed),
        Err(error) => Err(Fault::Failed(
            anyhow::Error::new(error).context("writing the result"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_exit_codes() {
        let codes = [
            Fault::failed("x").exit_code(),
            Fault::Usage(String::new()).exit_code(),
            Fault::NotReachable(String::new()).exit_code(),
            Fault::NotLoggedIn(String::new()).exit_code(),
        ];
        assert_eq!(codes, [1, 2, 3, 4]);
    }
}
