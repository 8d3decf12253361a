//! Headless Chromium, driven by ChromeDriver over WebDriver's plain HTTP: for what only a browser can show, such as which
//! headers it obeys and how a page looks.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::deadline::until;

/// The name under which WebDriver hands elements over.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window of a browser with a profile of its own. Dropped, it is closed.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Opens one, if Chromium and ChromeDriver are here; says so if they are not.
    pub async fn open() -> Option<Browser> {
        let missing = ["chromedriver", "chromium"]
            .into_iter()
            .find(|name| on_path(name).is_none());
        if let Some(missing) = missing {
            eprintln!("skipped: {missing} is missing (apt-get install chromium chromium-driver)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("a free port")
            .local_addr()
            .expect("its address")
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("starting chromedriver");
        let profile = tempfile::tempdir().expect("making a profile");
        let mut browser = Browser {
            driver,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("an HTTP client"),
            session: format!("http://127.0.0.1:{port}"),
            _profile: profile,
        };
        until(
            "chromedriver is ready",
            async || browser.is_ready().await,
            |ready| *ready,
        )
        .await;
        // As root Chromium has no sandbox; it opens only our own pages here.
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.ask(Method::POST, "/session", Some(wanted)).await;
        let id = made["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("{}/session/{id}", browser.session);
        Some(browser)
    }

    /// Opens an address and waits for the page.
    pub async fn go(&self, url: &str) {
        self.ask(Method::POST, "/url", Some(json!({"url": url}))).await;
    }

    /// Types into the field of this selector.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.ask(
            Method::POST,
            &format!("/element/{element}/value"),
            Some(json!({"text": text})),
        )
        .await;
    }

    /// Clicks, and waits for the page that follows.
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.ask(
            Method::POST,
            &format!("/element/{element}/click"),
            Some(json!({})),
        )
        .await;
    }

    /// Waits until the page has this title.
    pub async fn wait_for_title(&self, title: &str) {
        until(
            &format!("the title {title:?}"),
            async || self.ask(Method::GET, "/title", None).await,
            |seen| seen.as_str().is_some_and(|seen| seen.starts_with(title)),
        )
        .await;
    }

    /// Waits until a person reads this on the page.
    pub async fn wait_for_text(&self, wanted: &str) {
        until(
            &format!("the text {wanted:?}"),
            async || self.run("return document.body.innerText").await,
            |seen| seen.as_str().is_some_and(|seen| seen.contains(wanted)),
        )
        .await;
    }

    /// What a person reads.
    pub async fn text(&self) -> String {
        let element = self.find("main").await;
        let text = self
            .ask(Method::GET, &format!("/element/{element}/text"), None)
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// A property that the browser computed for an element.
    pub async fn style(&self, selector: &str, property: &str) -> String {
        let element = self.find(selector).await;
        let value = self
            .ask(Method::GET, &format!("/element/{element}/css/{property}"), None)
            .await;
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script in the page, as its developer tools would.
    pub async fn run(&self, script: &str) -> Value {
        self.ask(
            Method::POST,
            "/execute/sync",
            Some(json!({"script": script, "args": []})),
        )
        .await
    }

    /// Makes the window so wide.
    pub async fn resize(&self, width: u32, height: u32) {
        self.ask(
            Method::POST,
            "/window/rect",
            Some(json!({"width": width, "height": height})),
        )
        .await;
    }

    /// Shows pages as somebody with a dark screen sees them.
    pub async fn prefer_dark(&self) {
        let features = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.ask(Method::POST, "/goog/cdp/execute", Some(command)).await;
    }

    /// What the browser complained of since it was asked last: refused content, broken pages.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self
            .ask(Method::POST, "/se/log", Some(json!({"type": "browser"})))
            .await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// A picture of the window, kept in `CODITECT_SCREENSHOTS` if that names a folder.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("CODITECT_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        let picture = self.ask(Method::GET, "/screenshot", None).await;
        let bytes = STANDARD
            .decode(picture.as_str().unwrap_or_default())
            .expect("a picture is base64");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("keeping a picture");
    }

    async fn find(&self, selector: &str) -> String {
        let query = json!({"using": "css selector", "value": selector});
        let found = self.ask(Method::POST, "/element", Some(query)).await;
        found[ELEMENT]
            .as_str()
            .unwrap_or_else(|| panic!("there is no {selector}: {found}"))
            .to_owned()
    }

    async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/status", self.session)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("chromedriver answers");
        let ok = answer.status().is_success();
        let mut body: Value = answer.json().await.expect("chromedriver speaks JSON");
        assert!(ok, "{path}: {body}");
        body["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // ChromeDriver takes its browser along only when asked; its group would outlive a kill.
        let session = self.session.clone();
        let closed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            runtime.block_on(async {
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .timeout(std::time::Duration::from_secs(10))
                    .build();
                client.ok()?.delete(session).send().await.ok()
            })
        });
        let _ = closed.join();
        let _ = self.driver.start_kill();
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
}
