//! Long results: on a terminal through the user's pager, as git does it, else straight to standard output.

use std::io::{self, BufWriter, Write};
use std::process::{Child, Command, Stdio};

use super::Fault;

/// What pages where `PAGER` says nothing. Options of git's: end if all of it fits, let colours through, leave it on the
/// screen.
const DEFAULT_PAGER: &str = "less";
const LESS_OPTIONS: &str = "FRX";

/// A result that is written piece by piece. Everything from elsewhere in it has to be harmless already.
pub struct Paged {
    to: Option<BufWriter<Box<dyn Write>>>,
    pager: Option<Child>,
    _interrupts: Option<Ignored>,
}

/// While a pager has the terminal, Ctrl-C is its business: it stops a search, and must not leave it without us.
struct Ignored {
    _runtime: tokio::runtime::Runtime,
    _signal: tokio::signal::unix::Signal,
}

impl Paged {
    /// `wanted`: somebody sits at a terminal and has not asked for no pager.
    pub fn open(wanted: bool) -> Paged {
        let pager = wanted.then(start).flatten();
        match pager {
            Some((child, stdin)) => Paged {
                to: Some(BufWriter::new(Box::new(stdin))),
                pager: Some(child),
                _interrupts: ignore_interrupts().ok(),
            },
            None => Paged {
                to: Some(BufWriter::new(Box::new(io::stdout()))),
                pager: None,
                _interrupts: None,
            },
        }
    }

    pub fn write(&mut self, text: &str) -> Result<(), Fault> {
        let Some(to) = &mut self.to else { return Ok(()) };
        told(to.write_all(text.as_bytes()))
    }

    /// Waits until the reader has seen enough.
    pub fn finish(mut self) -> Result<(), Fault> {
        let flushed = match &mut self.to {
            Some(to) => told(to.flush()),
            None => Ok(()),
        };
        drop(self);
        flushed
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        // The pager ends only when its input does.
        self.to = None;
        if let Some(pager) = &mut self.pager {
            let _ = pager.wait();
        }
    }
}

fn told(written: io::Result<()>) -> Result<(), Fault> {
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Fault::OutputClosed),
        Err(error) => Err(Fault::Failed(
            anyhow::Error::new(error).context("writing the result"),
        )),
    }
}

/// None: there is no pager, or the user wants none.
fn start() -> Option<(Child, std::process::ChildStdin)> {
    let pager = match std::env::var("PAGER") {
        Ok(pager) => pager,
        Err(_) => DEFAULT_PAGER.to_owned(),
    };
    if pager.trim().is_empty() || pager.trim() == "cat" {
        return None;
    }
    let program = pager.split_whitespace().next()?;
    if !is_there(program) {
        return None;
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", LESS_OPTIONS);
    }
    let mut child = command.spawn().ok()?;
    let stdin = child.stdin.take()?;
    Some((child, stdin))
}

/// The shell would only say that it is not, and the result would be lost.
fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).exists();
    }
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn ignore_interrupts() -> io::Result<Ignored> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    drop(entered);
    Ok(Ignored {
        _runtime: runtime,
        _signal: signal,
    })
}
