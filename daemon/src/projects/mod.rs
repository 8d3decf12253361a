//! Consent: what of this file belongs to which project, and which projects may leave the machine.
//!
//! - Rows of an excluded project are never sent: they end in `sync_excluded`, wait there, and are judged again when the
//!   settings change or their session's project is named.
//! - What was pushed before stays in the cloud until it is removed on purpose. Later edits of it stay here; a version
//!   pulled from elsewhere is applied over them, as over a quarantined row.
//! - All rows of a session belong to one project: the first that a row of it names.

mod edit;
pub mod excluded;
mod filter;
mod overview;
mod place;
mod rejudge;
mod session;

pub use edit::{List, with_patterns};
pub use filter::{BadPattern, ProjectFilter, Standing, check_pattern};
pub use overview::{Counts, Overview, Project, open};
pub use place::{NONE, Place};
pub use rejudge::{Rejudge, is_due, step, was_judged};
pub use session::{
    judged_message, judged_task, of_message, of_session, of_sessions, of_task, searched_message,
    searched_task,
};
use session::{note_sessions, note_tasks};
