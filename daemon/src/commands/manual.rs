//! `completions` and `man`: what shells and `man` know of this program, made from its own command line.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, Completions, Man};
use crate::output::{self, Fault};

const PROGRAM: &str = "coditect-sync";

pub(crate) fn completions(args: &Completions) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    output::raw(&String::from_utf8_lossy(&script))
}

pub(crate) fn man(args: &Man) -> Result<(), Fault> {
    match &args.dir {
        Some(dir) => Ok(pages(dir).with_context(|| format!("writing man pages to {}", dir.display()))?),
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(program()).render(&mut page);
            rendered.context("rendering the man page")?;
            output::raw(&with_examples(&String::from_utf8_lossy(&page)))
        }
    }
}

/// A page for the program and one for each command.
fn pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(program(), dir)?;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with(PROGRAM) && name.ends_with(".1")) {
            let page = std::fs::read_to_string(&path)?;
            std::fs::write(&path, with_examples(&page))?;
        }
    }
    Ok(())
}

fn program() -> clap::Command {
    Cli::command().disable_help_subcommand(true)
}

/// Lines of examples stand as they are written: filled and justified they could not be copied.
fn with_examples(page: &str) -> String {
    page.replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n")
}
