//! `status --watch`: live, over restarts of the daemon.
//!
//! On a terminal the page is drawn in place, in the terminal's other screen, which is left as it was found. In a pipe
//! every change is a page of its own, or a line of JSON.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::super::daemon::Daemon;
use super::without_daemon;
use crate::cli::Setup;
use crate::output::{self, Fault};
use crate::screen::Screen;
use crate::status::{Status, render};

/// How often a daemon that has stopped is looked for.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);

/// Ages on the page grow by the second.
const REDRAW_EVERY: Duration = Duration::from_secs(1);

/// The other screen of a terminal, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal shows what stands between these at once, if it knows them.
const BEGIN_UPDATE: &str = "\x1b[?2026h\x1b[H";
const END_UPDATE: &str = "\x1b[J\x1b[?2026l";

/// What the connection to the daemon brings. The newest counts: what came before it is of no use any more.
#[derive(Debug)]
enum News {
    Status(Box<Status>),
    Stopped,
}

/// Follows until interrupted. Without a daemon in the beginning it fails as every command does.
pub(super) async fn run(json: bool, daemon: &Daemon, setup: &Setup) -> Result<(), Fault> {
    let first = daemon.status().await?;
    let (tell, mut news) = watch::channel(News::Status(Box::new(first)));
    news.mark_changed();
    let showing = async {
        match (json, Screen::of_stdout().width) {
            (true, _) => lines(news).await,
            (false, None) => pages(news, setup).await,
            (false, Some(_)) => live(news, setup).await,
        }
    };
    tokio::select! {
        never = follow(daemon, tell) => match never {},
        ended = showing => ended,
    }
}

/// Connects anew as often as the daemon stops.
async fn follow(daemon: &Daemon, tell: watch::Sender<News>) -> Infallible {
    loop {
        let watching = daemon.watch(|status| {
            tell.send_if_modified(|news| match news {
                News::Status(before) if **before == status => false,
                News::Status(_) | News::Stopped => {
                    *news = News::Status(Box::new(status));
                    true
                }
            });
            Ok(())
        });
        // A daemon that answered once and does not now has stopped, or is about to: it may hang up on us in the middle.
        let _ = watching.await;
        tell.send_if_modified(|news| match news {
            News::Stopped => false,
            News::Status(_) => {
                *news = News::Stopped;
                true
            }
        });
        tokio::time::sleep(RECONNECT_EVERY).await;
    }
}

async fn lines(mut news: watch::Receiver<News>) -> Result<(), Fault> {
    while news.changed().await.is_ok() {
        match &*news.borrow_and_update() {
            News::Status(status) => output::json(status)?,
            News::Stopped => output::remark("the daemon has stopped; waiting for it"),
        }
    }
    Ok(())
}

async fn pages(mut news: watch::Receiver<News>, setup: &Setup) -> Result<(), Fault> {
    while news.changed().await.is_ok() {
        let page = match &*news.borrow_and_update() {
            News::Status(status) => render(status, Timestamp::now(), &Screen::PIPE),
            News::Stopped => without_daemon(setup, &Screen::PIPE),
        };
        output::raw(&format!("{page}\n"))?;
    }
    Ok(())
}

async fn live(news: watch::Receiver<News>, setup: &Setup) -> Result<(), Fault> {
    output::raw(ENTER)?;
    let ended = draw(news, setup).await;
    output::raw(LEAVE)?;
    ended
}

/// Draws until somebody wants it to end. Signals are taken here, so that the terminal is given back in order.
async fn draw(mut news: watch::Receiver<News>, setup: &Setup) -> Result<(), Fault> {
    let listen = |kind| signal(kind).map_err(|error| Fault::Failed(error.into()));
    let mut resized = listen(SignalKind::window_change())?;
    let mut interrupted = listen(SignalKind::interrupt())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let mut hung_up = listen(SignalKind::hangup())?;
    let mut clock = interval(REDRAW_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return Ok(());
            },
            _ = resized.recv() => {}
            _ = clock.tick() => {}
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        }
        let screen = Screen::of_stdout();
        let page = match &*news.borrow_and_update() {
            News::Status(status) => render(status, Timestamp::now(), &screen),
            News::Stopped => without_daemon(setup, &screen),
        };
        output::raw(&frame(&page, &screen))?;
    }
}

/// The page over what is drawn already: each line clears its rest, and only as many as the terminal has lines.
fn frame(page: &str, screen: &Screen) -> String {
    let mut frame = BEGIN_UPDATE.to_owned();
    for (index, line) in page.lines().take(screen.height.unwrap_or(usize::MAX)).enumerate() {
        if index > 0 {
            frame.push_str("\r\n");
        }
        frame.push_str(line);
        frame.push_str("\x1b[K");
    }
    frame.push_str(END_UPDATE);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_overwrites_the_one_before_and_never_scrolls() {
        let screen = Screen {
            width: Some(80),
            height: Some(2),
            colours: false,
        };
        let drawn = frame("one\ntwo\nthree\n", &screen);
        assert_eq!(drawn, "\x1b[?2026h\x1b[Hone\x1b[K\r\ntwo\x1b[K\x1b[J\x1b[?2026l");
    }
}
