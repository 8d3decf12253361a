//! A client of the server's API that judges nothing: it sends what it is given and shows what comes back.

use coditect_shared::wire::{
    DEVICE_HEADER, DigestAnswer, ErrorBody, PullPage, PullQuery, PushAnswer, PushRequest, Verdict,
};
use coditect_shared::{DeviceId, LinkRecord, MessageRecord, Origin, RecordRef, TaskRecord};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

/// One device of one user at one server. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    /// `http://127.0.0.1:PORT`.
    pub base: String,
    pub token: String,
    pub device: DeviceId,
}

/// An answer, whatever it is.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Api {
    /// A device that the server has never seen.
    pub fn new(base: &str, token: &str) -> Api {
        Api {
            // No pool of idle connections: a server that a test restarts must not meet half-dead ones.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .expect("an HTTP client"),
            base: base.to_owned(),
            token: token.to_owned(),
            device: new_device(),
        }
    }

    /// The same user's next device.
    pub fn another_device(&self) -> Api {
        Api {
            device: new_device(),
            ..self.clone()
        }
    }

    /// The same user's device of this id.
    pub fn as_device(&self, device: DeviceId) -> Api {
        Api {
            device,
            ..self.clone()
        }
    }

    /// The same device with another token.
    pub fn with_token(&self, token: &str) -> Api {
        Api {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// A push that must succeed.
    pub async fn push(&self, batch: &PushRequest) -> PushAnswer {
        self.try_push(batch).await.ok()
    }

    pub async fn try_push(&self, batch: &PushRequest) -> Reply {
        let body = serde_json::to_string(batch).expect("a batch is JSON");
        self.push_text(&body).await
    }

    /// A push of whatever text.
    pub async fn push_text(&self, body: &str) -> Reply {
        let request = self
            .request(Method::POST, "/api/v1/context/push")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_owned());
        send(request).await
    }

    /// A pull that must succeed.
    pub async fn pull(&self, cursor: i64) -> PullPage {
        let query = PullQuery {
            cursor,
            ..PullQuery::default()
        };
        self.try_pull(&query).await.ok()
    }

    pub async fn try_pull(&self, query: &PullQuery) -> Reply {
        let Ok(Value::Object(fields)) = serde_json::to_value(query) else {
            panic!("{query:?} is no object");
        };
        let pairs = fields.iter().map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.as_str(), text)
        });
        let url = reqwest::Url::parse_with_params("http://any/api/v1/context/pull", pairs).expect("a URL");
        let query = url.query().unwrap_or_default();
        self.get(&format!("/api/v1/context/pull?{query}")).await
    }

    /// Every page from `cursor` on, as one.
    pub async fn pull_to_head(&self, cursor: i64) -> PullPage {
        let mut whole = PullPage {
            cursor,
            ..PullPage::default()
        };
        loop {
            let mut page = self.pull(whole.cursor).await;
            assert!(
                !page.has_more || page.cursor > whole.cursor,
                "a page that has more must move the cursor: {page:#?}"
            );
            let mut messages = std::mem::take(&mut whole.messages);
            let mut tasks = std::mem::take(&mut whole.tasks);
            let mut links = std::mem::take(&mut whole.task_messages);
            let mut own = std::mem::take(&mut whole.own);
            messages.append(&mut page.messages);
            tasks.append(&mut page.tasks);
            links.append(&mut page.task_messages);
            own.append(&mut page.own);
            whole = PullPage {
                messages,
                tasks,
                task_messages: links,
                own,
                ..page
            };
            if !whole.has_more {
                return whole;
            }
        }
    }

    pub async fn digest(&self) -> DigestAnswer {
        self.get("/api/v1/context/digest").await.ok()
    }

    /// `GET` of any path, which may carry a query.
    pub async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await
    }

    /// Sends a request that was built whole.
    pub async fn execute(&self, request: reqwest::Request) -> Reply {
        let answer = self.http.execute(request).await.expect("the server answers");
        read(answer).await
    }

    /// A request with this client's token and device, to be completed and sent with [`send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(DEVICE_HEADER, self.device.to_string())
    }

    /// A request that says nothing of who asks.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }
}

/// Sends a request and reads the answer to its end.
pub async fn send(request: RequestBuilder) -> Reply {
    let answer = request.send().await.expect("the server answers");
    read(answer).await
}

async fn read(answer: reqwest::Response) -> Reply {
    Reply {
        status: answer.status(),
        headers: answer.headers().clone(),
        body: answer.text().await.expect("the answer's body arrives"),
    }
}

impl Reply {
    /// The body of a 200.
    ///
    /// # Panics
    /// If it is none, with all that came.
    pub fn ok<T: DeserializeOwned>(self) -> T {
        assert_eq!(self.status, StatusCode::OK, "{self:#?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The contract's error, of the status expected.
    ///
    /// # Panics
    /// If the status differs or the body has another form.
    pub fn error(&self, status: u16) -> ErrorBody {
        assert_eq!(self.status.as_u16(), status, "{self:#?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A device that counts its pushes.
pub struct Pusher {
    pub api: Api,
    /// Of the last push.
    pub push_seq: i64,
}

impl Pusher {
    pub fn new(api: Api) -> Pusher {
        Pusher { api, push_seq: 0 }
    }

    /// The next push; epoch and push_seq are filled in. It must succeed.
    pub async fn push(&mut self, batch: PushRequest) -> PushAnswer {
        self.push_seq += 1;
        let batch = PushRequest {
            epoch: 1,
            push_seq: self.push_seq,
            ..batch
        };
        self.api.push(&batch).await
    }

    pub async fn messages(&mut self, messages: Vec<MessageRecord>) -> PushAnswer {
        self.push(batch_of_messages(0, messages)).await
    }

    pub async fn tasks(&mut self, tasks: Vec<TaskRecord>) -> PushAnswer {
        self.push(PushRequest {
            tasks,
            ..PushRequest::default()
        })
        .await
    }

    pub async fn links(&mut self, task_messages: Vec<LinkRecord>) -> PushAnswer {
        self.push(PushRequest {
            task_messages,
            ..PushRequest::default()
        })
        .await
    }
}

/// What became of the record at this place, such as `messages[0]`, in a batch whose records name no reference.
pub fn verdict(answer: &PushAnswer, place: &str) -> Verdict {
    let reference = RecordRef::Text(place.to_owned());
    let named = answer
        .verdicts
        .iter()
        .find(|verdict| verdict.reference == reference);
    named.map_or(Verdict::Stored, |verdict| verdict.verdict)
}

pub fn new_device() -> DeviceId {
    DeviceId(Uuid::new_v4())
}

/// A batch of messages alone.
pub fn batch_of_messages(push_seq: i64, messages: Vec<MessageRecord>) -> PushRequest {
    PushRequest {
        epoch: 1,
        push_seq,
        messages,
        ..PushRequest::default()
    }
}

/// A message of a user, the first with this text in its session.
pub fn message(session: &str, content: &str) -> MessageRecord {
    MessageRecord {
        session_id: session.to_owned(),
        role: "user".to_owned(),
        content: content.to_owned(),
        ..MessageRecord::default()
    }
}

/// A pending task.
pub fn task(id: Uuid, description: &str) -> TaskRecord {
    TaskRecord {
        id: id.hyphenated().to_string(),
        task_id: "1".to_owned(),
        description: description.to_owned(),
        session_id: Some("s".to_owned()),
        status: "pending".to_owned(),
        ..TaskRecord::default()
    }
}

/// A link from a task to a message.
pub fn link(task: Uuid, message: Origin) -> LinkRecord {
    LinkRecord {
        reference: None,
        task_id: task.hyphenated().to_string(),
        message,
        sequence: Some(1),
        base: None,
        stamp: None,
        sync_cursor: None,
        synced_at: None,
    }
}
