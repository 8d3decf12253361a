//! `paths`: where everything is.

use crate::cli::Setup;
use crate::output::{self, Fault};

pub(super) fn run(json: bool, setup: &Setup) -> Result<(), Fault> {
    let paths = &setup.paths;
    if json {
        return output::json(paths);
    }
    let mut text = String::new();
    let lines = [
        ("config", &paths.config),
        ("context_db", &paths.context_db),
        ("state_db", &paths.state_db),
        ("account", &paths.account),
        ("credentials", &paths.credentials),
        ("socket", &paths.socket),
        ("lock", &paths.lock),
        ("log_dir", &paths.log_dir),
    ];
    for (name, path) in lines {
        text.push_str(&format!("{name:<12} {}\n", path.display()));
    }
    if let Some(note) = &paths.socket_note {
        text.push_str(&format!("note         the socket is elsewhere: {note}\n"));
    }
    output::text(&text)
}
