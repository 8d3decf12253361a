//! A status in one line, for those who show no more: the service manager.

use super::{State, Status, counted};

/// Longest text of an error in the line.
const MESSAGE_CHARS_MAX: usize = 200;

/// `in sync`, `offline · 12 changes waiting · no connection to …`: never more than one line.
pub fn headline(status: &Status) -> String {
    let state = match status.state {
        State::Starting => "starting",
        State::NeedsLogin => "needs login",
        State::Syncing => "syncing",
        State::InSync => "in sync",
        State::Offline => "offline",
        State::Paused => "paused",
        State::ReadOnly => "read only",
        State::Blocked => "blocked",
    };
    let mut line = state.to_owned();
    let mut add = |part: String| {
        line.push_str(" · ");
        line.push_str(&part);
    };
    if status.outbox.pending > 0 {
        add(counted(
            status.outbox.pending,
            "change waiting",
            "changes waiting",
        ));
    }
    if status.outbox.quarantined > 0 {
        add(counted(status.outbox.quarantined, "row refused", "rows refused"));
    }
    if let Some(error) = &status.last_error {
        add(error.message.chars().take(MESSAGE_CHARS_MAX).collect());
    }
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::status::LastError;

    #[test]
    fn it_names_the_state_what_waits_and_what_is_wrong_on_one_line() {
        let mut status = Status::starting(std::path::Path::new("/c.db"), Timestamp::UNIX_EPOCH);
        status.state = State::InSync;
        assert_eq!(headline(&status), "in sync");
        status.state = State::Blocked;
        status.outbox.pending = 1_234;
        status.outbox.quarantined = 1;
        status.last_error = Some(LastError {
            code: "disk_full".into(),
            message: "no space left\non the disk".into(),
            at: Timestamp::UNIX_EPOCH,
            count: 1,
            retry_at: None,
        });
        assert_eq!(
            headline(&status),
            "blocked · 1,234 changes waiting · 1 row refused · no space left on the disk"
        );
    }
}
