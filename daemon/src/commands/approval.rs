//! Device login (RFC 8628): shows address and code, and waits until somebody has decided in a browser.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::fault_of;
use crate::client::Failure;
use crate::client::sign_in::{Codes, Polled, SignIn, next_interval};
use crate::credential::Tokens;
use crate::output::{self, Fault, remark};

/// Tokens for this device, once its login is approved. Stores nothing, whatever the end.
pub(super) async fn wait_for(sign_in: &SignIn, json: bool) -> Result<Tokens, Fault> {
    let begun = Instant::now();
    // Listened to before anybody can know that we wait.
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let codes = sign_in.begin(&device_name()).await.map_err(fault_of)?;
    show(&codes, json)?;
    tokio::select! {
        decided = poll(sign_in, &codes, begun) => decided,
        _ = interrupt.recv() => Err(Fault::failed("given up: nothing was stored, and the code ends by itself")),
    }
}

async fn poll(sign_in: &SignIn, codes: &Codes, begun: Instant) -> Result<Tokens, Fault> {
    let end = begun + Duration::from_secs(codes.expires_in);
    let mut interval = codes.first_interval();
    let mut away = None;
    while Instant::now() + interval < end {
        sleep_until(Instant::now() + interval).await;
        let polled = sign_in.poll(codes).await;
        interval = next_interval(interval, &polled);
        away = None;
        match polled {
            Ok(Polled::Tokens(tokens)) => return Ok(tokens),
            Ok(Polled::Pending | Polled::SlowDown) => {}
            Ok(Polled::Denied) => return Err(Fault::NotLoggedIn("the login was denied on the page".into())),
            Ok(Polled::Expired) => break,
            Ok(Polled::Gone) => {
                return Err(Fault::NotLoggedIn(
                    "the code is not good any more: log in again for a new one".into(),
                ));
            }
            Err(failure) if will_pass(&failure) => away = Some(failure),
            Err(failure) => return Err(fault_of(failure)),
        }
    }
    match away {
        Some(failure) => Err(fault_of(failure)),
        None => Err(Fault::NotLoggedIn(
            "nobody approved the login in time: log in again for a new code".into(),
        )),
    }
}

/// Whether the server may answer the next time.
fn will_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::Busy { .. } | Failure::Server { .. } => true,
        Failure::Unauthorized { .. }
        | Failure::Forbidden { .. }
        | Failure::TooLarge { .. }
        | Failure::Refused { .. } => false,
    }
}

fn show(codes: &Codes, json: bool) -> Result<(), Fault> {
    if json {
        return output::json(&json!({
            "verification_uri": codes.verification_uri,
            "verification_uri_complete": codes.verification_uri_complete,
            "user_code": codes.user_code,
            "expires_in": codes.expires_in,
        }));
    }
    let direct = match &codes.verification_uri_complete {
        Some(uri) => format!("\n\nor open {uri}"),
        None => String::new(),
    };
    remark(&format!(
        "to log this device in, open {}\nand enter the code  {}{direct}\n\nwaiting, for {} minutes at most; Ctrl-C gives up",
        codes.verification_uri,
        codes.user_code,
        codes.expires_in / 60
    ));
    Ok(())
}

/// As the person who approves knows this machine.
fn device_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
