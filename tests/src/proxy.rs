//! A faulty network between one workstation and the server: an HTTP/1.1 relay that fails on demand.
//!
//! Each request gets a connection of its own to the server and is relayed whole. A rule says what befalls the requests
//! that it matches; without a rule the relay is transparent, event streams included.

use std::sync::{Arc, Mutex};

use coditect_shared::ContentHash;
use coditect_shared::hash::sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::deadline::until;

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server gets it, acts and answers; the answer is lost.
    LoseAnswer,
    /// Half of the answer arrives.
    CutAnswer,
    /// Half of the answer arrives, the rest when the rules change.
    HoldAnswer,
    /// It never reaches the server: the connection closes.
    Refuse,
    /// It waits, unanswered, until the rules change; then it is relayed.
    Hold,
    /// A captive portal: 200 with HTML.
    Portal,
    /// Some status with the body that a load balancer would send, `Retry-After: 1` included.
    Status(u16),
}

/// A request that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /api/v1/context/push`, with the query.
    pub line: String,
    pub body: ContentHash,
    /// The body, unpacked where it was packed.
    pub text: Arc<[u8]>,
    pub fault: Option<Fault>,
}

impl Seen {
    pub fn holds(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        self.text.windows(bytes.len()).any(|window| window == bytes) || self.line.contains(text)
    }
}

/// The relay. Dropped, it listens no more.
pub struct Proxy {
    /// What the workstation takes for the server.
    pub url: String,
    shared: Arc<Shared>,
    listening: tokio::task::JoinHandle<()>,
}

struct Shared {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Counts changes of the rules, so that held requests look again.
    changes: watch::Sender<u64>,
}

struct Rule {
    /// Start of the request line.
    start: String,
    fault: Fault,
    /// How many requests it still befalls; none: every one.
    left: Option<u32>,
}

impl Proxy {
    /// A relay to a server at `http://ADDRESS`.
    pub async fn before(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listening");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            upstream: server.trim_start_matches("http://").to_owned(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        let relaying = shared.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = relaying.clone();
                // A connection that breaks is what this relay is for.
                tokio::spawn(async move { drop(relay(&shared, client).await) });
            }
        });
        Proxy {
            url: format!("http://{address}"),
            shared,
            listening,
        }
    }

    /// The next request whose line starts so fails; later rules go first.
    pub fn once(&self, start: &str, fault: Fault) {
        self.add(start, fault, Some(1));
    }

    /// All such requests fail until [`Proxy::heal`].
    pub fn always(&self, start: &str, fault: Fault) {
        self.add(start, fault, None);
    }

    /// Lifts all rules.
    pub fn heal(&self) {
        self.shared.rules.lock().expect("no holder panics").clear();
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Requests that came by and whose line starts so.
    pub fn seen(&self, start: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().expect("no holder panics");
        seen.iter()
            .filter(|seen| seen.line.starts_with(start))
            .cloned()
            .collect()
    }

    /// Requests that held this text.
    pub fn carried(&self, text: &str) -> usize {
        self.seen("").iter().filter(|seen| seen.holds(text)).count()
    }

    /// Waits until so many of them have met a fault.
    pub async fn wait_for_faults(&self, start: &str, count: usize) {
        until(
            &format!("{count} faults of {start}"),
            async || {
                self.seen(start)
                    .iter()
                    .filter(|seen| seen.fault.is_some())
                    .count()
            },
            |faults| *faults >= count,
        )
        .await;
    }

    fn add(&self, start: &str, fault: Fault, left: Option<u32>) {
        let rule = Rule {
            start: start.to_owned(),
            fault,
            left,
        };
        self.shared
            .rules
            .lock()
            .expect("no holder panics")
            .insert(0, rule);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Shared {
    fn fault_for(&self, line: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("no holder panics");
        let rule = rules
            .iter_mut()
            .find(|rule| line.starts_with(&rule.start) && rule.left != Some(0))?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.fault)
    }
}

async fn relay(shared: &Shared, mut client: TcpStream) -> std::io::Result<()> {
    let Some((head, body)) = read_request(&mut client).await? else {
        return Ok(());
    };
    let line = head.lines().next().unwrap_or_default().to_owned();
    let mut changes = shared.changes.subscribe();
    let mut fault = shared.fault_for(&line);
    shared.seen.lock().expect("no holder panics").push(Seen {
        line: line.clone(),
        body: sha256(&body),
        text: unpacked(&body).into(),
        fault,
    });
    while fault == Some(Fault::Hold) {
        if changes.changed().await.is_err() {
            return Ok(());
        }
        fault = shared.fault_for(&line);
    }
    match fault {
        Some(Fault::Refuse | Fault::Hold) => return Ok(()),
        Some(Fault::Portal) => {
            return answer(
                &mut client,
                200,
                "text/html",
                "<html>Sign in to the hotel's network</html>",
            )
            .await;
        }
        Some(Fault::Status(status)) => return answer(&mut client, status, "text/plain", "no").await,
        Some(Fault::LoseAnswer | Fault::CutAnswer | Fault::HoldAnswer) | None => {}
    }
    let mut server = TcpStream::connect(&shared.upstream).await?;
    // One request a connection: every one of them must meet the rules.
    let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    server
        .write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes())
        .await?;
    server.write_all(&body).await?;
    match fault {
        None => pass_on(&mut server, &mut client).await,
        Some(Fault::CutAnswer) => {
            let mut whole = Vec::new();
            server.read_to_end(&mut whole).await?;
            client.write_all(&whole[..whole.len() / 2]).await
        }
        Some(Fault::HoldAnswer) => {
            let mut whole = Vec::new();
            server.read_to_end(&mut whole).await?;
            let (first, rest) = whole.split_at(whole.len() / 2);
            client.write_all(first).await?;
            let _ = changes.changed().await;
            client.write_all(rest).await
        }
        Some(_) => {
            let mut whole = Vec::new();
            server.read_to_end(&mut whole).await.map(drop)
        }
    }
}

fn unpacked(body: &[u8]) -> Vec<u8> {
    zstd::decode_all(body).unwrap_or_else(|_| body.to_vec())
}

/// Head (with the empty line at its end) and body of a request; none if the client went away before it.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    // The relay asks the server to close; what the client wants of the connection is no concern of the server.
    let head = head
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    Ok(Some((head, body)))
}

/// Passes on as it comes, until either side is done.
async fn pass_on(server: &mut TcpStream, client: &mut TcpStream) -> std::io::Result<()> {
    let mut from_server = vec![0; 16 << 10];
    let mut from_client = [0; 1];
    loop {
        tokio::select! {
            read = server.read(&mut from_server) => match read? {
                0 => return client.shutdown().await,
                n => client.write_all(&from_server[..n]).await?,
            },
            read = client.read(&mut from_client) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn answer(client: &mut TcpStream, status: u16, kind: &str, body: &str) -> std::io::Result<()> {
    let text = format!(
        "HTTP/1.1 {status} Because\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}
