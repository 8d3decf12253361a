//! A device that signs in (RFC 8628) without our daemon, and people who approve it.

use coditect_shared::DeviceId;
use coditect_shared::wire::DEVICE_HEADER;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use crate::api::new_device;
use crate::server::ServerProcess;
use crate::visitor::Visitor;

/// The password of everybody.
pub const PASSWORD: &str = "correct horse battery";

/// A device in the middle of its login.
#[derive(Clone)]
pub struct Device {
    http: reqwest::Client,
    base: String,
    pub id: DeviceId,
}

/// An answer of an OAuth route.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Device {
    pub fn new(base: &str) -> Device {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client");
        Device {
            http,
            base: base.to_owned(),
            id: new_device(),
        }
    }

    /// The same with another id.
    pub fn another(&self) -> Device {
        Device {
            id: new_device(),
            ..self.clone()
        }
    }

    /// Asks for codes.
    pub async fn begin(&self, name: &str) -> Value {
        self.post("device", &[("device_name", name)]).await.ok()
    }

    /// Asks for tokens with a device code.
    pub async fn poll(&self, codes: &Value) -> Answer {
        let code = codes["device_code"].as_str().expect("a device code");
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        self.post("token", &[("grant_type", grant), ("device_code", code)])
            .await
    }

    /// Asks for tokens with the refresh token of others.
    pub async fn refresh(&self, tokens: &Value) -> Answer {
        let token = tokens["refresh_token"].as_str().expect("a refresh token");
        self.post(
            "token",
            &[("grant_type", "refresh_token"), ("refresh_token", token)],
        )
        .await
    }

    /// `POST /api/v1/auth/…` of a form.
    pub async fn post(&self, route: &str, fields: &[(&str, &str)]) -> Answer {
        let body = reqwest::Url::parse_with_params("http://any/", fields).expect("a URL");
        let request = self
            .http
            .post(format!("{}/api/v1/auth/{route}", self.base))
            .header(DEVICE_HEADER, self.id.to_string())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned());
        let answer = request.send().await.expect("the server answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.expect("the answer arrives");
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Answer {
            status,
            headers,
            body,
        }
    }
}

impl Answer {
    /// The body of a 200 that no cache keeps.
    ///
    /// # Panics
    /// If it is none.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(self.headers["cache-control"], "no-store");
        self.body
    }

    /// The error of a 400.
    ///
    /// # Panics
    /// If it is none.
    pub fn error(&self) -> &str {
        assert_eq!(self.status, StatusCode::BAD_REQUEST, "{self:?}");
        self.body["error"].as_str().expect("an error is a word")
    }
}

/// Gives a user of the tenant `acme`, or of another, the [`PASSWORD`].
pub async fn set_password(server: &ServerProcess, email: &str, tenant: &str) {
    let link = server
        .cli(&["user", "invite", email, "--tenant", tenant])
        .await
        .ok();
    let mut visitor = Visitor::new(&server.url());
    let page = visitor.open(link.trim()).await.expect(200);
    visitor
        .send(&page, &[("password", PASSWORD), ("again", PASSWORD)])
        .await
        .expect(200);
}

/// A device that signed in, approved by the operator, with its tokens.
pub async fn signed_in(server: &ServerProcess, email: &str) -> (Device, Value) {
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let code = codes["user_code"].as_str().expect("a user code");
    server
        .cli(&["device", "approve", code, "--user", email])
        .await
        .ok();
    let tokens = device.poll(&codes).await.ok();
    (device, tokens)
}
