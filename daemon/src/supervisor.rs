//! What the service manager that started us is told: that we are up, how things stand, that the loop is alive, that we
//! stop. The words are systemd's (sd_notify(3)); started by anybody else, nobody is told and nothing is done.
//!
//! The signs of life come from the loop itself and from nothing else: if it hangs they end, and the manager starts us
//! again. A step that rightly takes long has a limit of its own, and within that it counts as alive.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::status::{Status, headline};

/// How often a start that takes its time is said to be under way, where no watchdog sets the pace. Managers wait 90 s.
const STARTING_EVERY: Duration = Duration::from_secs(15);

/// Between two lines on how things stand: counts change with every batch, and nobody reads faster.
const LINE_EVERY: Duration = Duration::from_millis(250);

/// The service manager, or its absence.
#[derive(Debug)]
pub(crate) struct Supervisor {
    socket: Option<UnixDatagram>,
    /// After how long without a sign of life we are taken for stuck.
    watchdog: Option<Duration>,
    is_up: bool,
    alive_at: Option<Instant>,
    line: String,
    line_at: Option<Instant>,
}

impl Supervisor {
    /// The one that the environment names.
    pub(crate) fn from_environment() -> Self {
        let socket = connect()
            .inspect_err(
                |error| tracing::warn!(%error, "the service manager cannot be told how things stand"),
            )
            .unwrap_or_default();
        Self {
            watchdog: sd_notify::watchdog_enabled().filter(|_| socket.is_some()),
            socket,
            is_up: false,
            alive_at: None,
            line: String::new(),
            line_at: None,
        }
    }

    /// One turn of the loop: the file is open or it is not (the socket is, or there would be no loop).
    ///
    /// While the file cannot be opened we are not up, but starting, and the line says why: a manager that took us for
    /// up would be told wrong, and one that took us for failed would give us up before the user has mended the file.
    pub(crate) fn turn(&mut self, is_open: bool, status: &Status) {
        if self.socket.is_none() {
            return;
        }
        let now = Instant::now();
        if self.line_at.is_none_or(|at| now >= at + LINE_EVERY) {
            let line = headline(status);
            if line != self.line && self.send(&NotifyState::Status(&line)) {
                (self.line, self.line_at) = (line, Some(now));
            }
        }
        if is_open && !self.is_up {
            self.is_up = self.send(&NotifyState::Ready);
            self.alive_at = None;
        }
        let due = self.due_at(now);
        if due.is_some_and(|at| at.checked_sub(self.calm()).unwrap_or(at) <= now) {
            self.sign_of_life();
        }
    }

    /// The settings are about to be read anew: a manager that asked for it, by SIGHUP, waits for [`Supervisor::reloaded`].
    pub(crate) fn reloading(&mut self) {
        if self.is_up
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            let told = format!("{}\n{now}", NotifyState::Reloading);
            self.send_text(&told);
        }
    }

    pub(crate) fn reloaded(&mut self) {
        if self.is_up {
            self.send(&NotifyState::Ready);
        }
    }

    /// Resolves when the next sign of life is due; never, if nobody waits for one.
    pub(crate) async fn due(&self) {
        match self.due_at(Instant::now()) {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Tells that the loop is alive.
    pub(crate) fn sign_of_life(&mut self) {
        let sent = match (self.is_up, self.watchdog) {
            (true, Some(_)) => self.send(&NotifyState::Watchdog),
            (true, None) => return,
            (false, _) => {
                // Twice the distance: one that comes late must not end the start.
                let more = u32::try_from((2 * self.every()).as_micros()).unwrap_or(u32::MAX);
                self.send(&NotifyState::ExtendTimeoutUsec(more))
            }
        };
        if sent {
            self.alive_at = Some(Instant::now());
        }
    }

    /// Waits for a piece of work and tells meanwhile that the loop is alive, but no longer than the work may take.
    pub(crate) async fn during<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> T {
        let until = Instant::now() + limit;
        let mut is_late = false;
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.due(), if !is_late => {
                    is_late = Instant::now() >= until;
                    if is_late {
                        tracing::error!("stuck for {} s; no longer calling this alive", limit.as_secs());
                    } else {
                        self.sign_of_life();
                    }
                }
            }
        }
    }

    fn due_at(&self, now: Instant) -> Option<Instant> {
        let awaited = self.socket.is_some() && (!self.is_up || self.watchdog.is_some());
        awaited.then(|| self.alive_at.map_or(now, |at| at + self.every()))
    }

    /// Half of what the manager waits, as its manual asks for.
    fn every(&self) -> Duration {
        self.watchdog.map_or(STARTING_EVERY, |patience| patience / 2)
    }

    /// A loop that turns anyway gives its sign this much before it is due, so that no timer has to wake it.
    fn calm(&self) -> Duration {
        self.every() / 2
    }

    /// Whether it went out. A manager that does not read must not stop the loop; what was lost is said again.
    fn send(&self, state: &NotifyState<'_>) -> bool {
        self.send_text(&state.to_string())
    }

    fn send_text(&self, text: &str) -> bool {
        let Some(socket) = &self.socket else { return false };
        let sent = socket.send(text.as_bytes());
        sent.inspect_err(|error| tracing::debug!(%error, "the service manager was not told"))
            .is_ok()
    }
}

/// Tells that this process stops on purpose. Said by whoever took the signal, since the loop may be busy.
pub(crate) fn stopping() {
    if let Ok(Some(socket)) = connect() {
        // Lost, it costs nothing but the word `stopping` in what the manager shows.
        let _ = socket.send(NotifyState::Stopping.to_string().as_bytes());
    }
}

/// The manager's socket, which never makes us wait; none where nobody is to be told.
fn connect() -> io::Result<Option<UnixDatagram>> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.connect_addr(&address).map(|()| Some(socket));
    }
    socket.connect(&name)?;
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervised(watchdog: Option<Duration>) -> (Supervisor, UnixDatagram) {
        let (ours, managers) = UnixDatagram::pair().unwrap();
        managers.set_nonblocking(true).unwrap();
        let supervisor = Supervisor {
            socket: Some(ours),
            watchdog,
            is_up: false,
            alive_at: None,
            line: String::new(),
            line_at: None,
        };
        (supervisor, managers)
    }

    fn told(manager: &UnixDatagram) -> Vec<String> {
        let mut told = Vec::new();
        let mut datagram = [0; 1024];
        while let Ok(n) = manager.recv(&mut datagram) {
            told.push(String::from_utf8_lossy(&datagram[..n]).into_owned());
        }
        told
    }

    fn starting() -> Status {
        Status::starting(std::path::Path::new("/c.db"), jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn it_is_up_when_the_file_is_open_and_says_so_once() {
        let (mut supervisor, manager) = supervised(Some(Duration::from_secs(60)));
        supervisor.turn(false, &starting());
        assert_eq!(
            told(&manager),
            ["STATUS=starting", "EXTEND_TIMEOUT_USEC=60000000"]
        );
        supervisor.turn(true, &starting());
        assert_eq!(told(&manager), ["READY=1", "WATCHDOG=1"]);
        supervisor.turn(true, &starting());
        assert!(told(&manager).is_empty(), "nothing is new and nothing is due");
    }

    #[test]
    fn without_a_watchdog_nothing_is_said_once_it_is_up() {
        let (mut supervisor, manager) = supervised(None);
        supervisor.turn(false, &starting());
        supervisor.turn(true, &starting());
        assert_eq!(
            told(&manager),
            ["STATUS=starting", "EXTEND_TIMEOUT_USEC=30000000", "READY=1"]
        );
        assert_eq!(supervisor.due_at(Instant::now()), None);
    }

    #[test]
    fn it_tells_when_it_reads_the_settings_anew_and_when_it_has() {
        let (mut supervisor, manager) = supervised(None);
        supervisor.reloading();
        supervisor.reloaded();
        assert!(told(&manager).is_empty(), "who starts is not up by that");
        supervisor.is_up = true;
        supervisor.reloading();
        supervisor.reloaded();
        let told = told(&manager);
        assert!(told[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told:?}");
        assert_eq!(told[1..], ["READY=1"]);
    }

    #[tokio::test]
    async fn work_counts_as_alive_within_its_limit_and_not_after_it() {
        let (mut in_time, hears_it) = supervised(Some(Duration::from_millis(2)));
        let (mut too_late, hears_nothing) = supervised(Some(Duration::from_millis(2)));
        (in_time.is_up, too_late.is_up) = (true, true);
        let never = std::future::pending::<()>;
        let heard = async {
            let mut signs = 0;
            while signs < 5 {
                signs += told(&hears_it).len();
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = in_time.during(Duration::from_secs(3_600), never()) => unreachable!(),
            () = too_late.during(Duration::ZERO, never()) => unreachable!(),
            () = heard => {}
        }
        assert!(told(&hears_nothing).is_empty());
    }

    #[test]
    fn a_manager_that_does_not_read_stops_nobody() {
        let (mut supervisor, _manager) = supervised(Some(Duration::from_nanos(2)));
        supervisor.socket.as_ref().unwrap().set_nonblocking(true).unwrap();
        supervisor.is_up = true;
        // More than any socket queues.
        for _ in 0..10_000 {
            supervisor.sign_of_life();
        }
    }
}
