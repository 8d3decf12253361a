//! `show`: one session, to be read. It is read from the file piece by piece, so that its length costs no memory.

mod page;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::browse::{Browser, Found, Message, Session, SessionFilter, Task, TaskFilter};
use crate::cli::{self, Setup};
use crate::output::{Fault, Paged};
use crate::screen::Screen;
use page::Page;

/// Sessions that are named where an id is not enough.
const CANDIDATES_MAX: usize = 20;

pub(super) fn run(args: &cli::Show, setup: &Setup) -> Result<(), Fault> {
    let browser = Browser::open(&setup.paths.context_db)?.ok_or_else(|| {
        Fault::failed(format!(
            "there are no sessions: {} holds nothing yet",
            setup.paths.context_db.display()
        ))
    })?;
    let id = match &args.session {
        Some(prefix) => resolve(&browser, prefix, setup)?,
        None => browser
            .last_session()
            .map_err(anyhow::Error::new)?
            .ok_or_else(|| Fault::failed("there are no sessions yet"))?,
    };
    let tasks = browser
        .tasks(&TaskFilter {
            session: Some(id.clone()),
            ..TaskFilter::default()
        })
        .map_err(anyhow::Error::new)?;
    let session = browser
        .sessions(&SessionFilter::default())
        .map_err(anyhow::Error::new)?
        .into_iter()
        .find(|session| session.session_id == id)
        .ok_or_else(|| Fault::failed(format!("session {id} has just been removed")))?;
    match args.json {
        true => as_json(&browser, &session, &tasks),
        false => {
            let screen = Screen::of_stdout();
            let out = Paged::open(screen.width.is_some() && !args.no_pager);
            as_page(&browser, &session, &tasks, args.full, screen, out)
        }
    }
}

/// The whole id of the one session that begins so.
pub(super) fn resolve(browser: &Browser, prefix: &str, setup: &Setup) -> Result<String, Fault> {
    match browser.find_session(prefix).map_err(anyhow::Error::new)? {
        Found::One(id) => Ok(id),
        Found::None => Err(Fault::failed(format!(
            "no session begins with {prefix:?}; `{}` lists them",
            setup.command("sessions")
        ))),
        Found::Many(ids) => {
            let mut text = format!("{} sessions begin with {prefix:?}; which one?", ids.len());
            for id in ids.iter().take(CANDIDATES_MAX) {
                text.push_str(&format!("\n  {id}"));
            }
            if ids.len() > CANDIDATES_MAX {
                text.push_str(&format!("\n  and {} more", ids.len() - CANDIDATES_MAX));
            }
            Err(Fault::Usage(text))
        }
    }
}

fn as_page(
    browser: &Browser,
    session: &Session,
    tasks: &[Task],
    full: bool,
    screen: Screen,
    mut out: Paged,
) -> Result<(), Fault> {
    let mut page = Page::new(screen, full, tasks, TimeZone::system());
    out.write(&page.head(session))?;
    each_message(browser, &session.session_id, |message| {
        out.write(&page.message(message))
    })?;
    out.write(&page.end())?;
    out.finish()
}

fn as_json(browser: &Browser, session: &Session, tasks: &[Task]) -> Result<(), Fault> {
    let mut out = Paged::open(false);
    out.write(&format!(
        "{{\"session\":{},\"tasks\":{},\"messages\":[",
        rendered(session)?,
        rendered(&tasks)?
    ))?;
    let mut comma = "";
    each_message(browser, &session.session_id, |message| {
        out.write(comma)?;
        comma = ",\n";
        out.write(&rendered(message)?)
    })?;
    out.write("]}\n")?;
    out.finish()
}

fn each_message(
    browser: &Browser,
    session: &str,
    mut act: impl FnMut(&Message) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut after = Some(i64::MIN);
    while let Some(from) = after {
        let chunk = browser
            .messages_after(session, from)
            .map_err(anyhow::Error::new)?;
        for message in &chunk.messages {
            act(message)?;
        }
        after = chunk.next;
    }
    Ok(())
}

fn rendered(value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Failed(error.into()))
}
