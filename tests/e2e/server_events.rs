//! Events: a device learns at once that its user's head moved, on whichever server it listens.

use coditect_server::app::{self, AppState};
use coditect_server::events::poll::{self, Seen};
use coditect_shared::wire::HeadEvent;
use coditect_tests::api::{Api, Pusher, message};
use coditect_tests::deadline::PATIENCE;
use coditect_tests::server::TestServer;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// A stream of events, read line by line.
struct Events {
    response: Response,
    unread: String,
}

impl Events {
    async fn open(api: &Api) -> Events {
        let response = api
            .request(Method::GET, "/api/v1/context/events")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        Events {
            response,
            unread: String::new(),
        }
    }

    /// The cursor of the next event; none at the end of the stream.
    async fn next(&mut self) -> Option<i64> {
        timeout(PATIENCE, async {
            loop {
                if let Some((event, rest)) = self.unread.split_once("\n\n") {
                    let event = event.to_owned();
                    self.unread = rest.to_owned();
                    // A comment keeps the connection alive and says nothing.
                    if !event.starts_with(':') {
                        let data = event
                            .strip_prefix("event: head\ndata: ")
                            .unwrap_or_else(|| panic!("{event:?}"));
                        return Some(serde_json::from_str::<HeadEvent>(data).unwrap().cursor);
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.unwrap()?;
                self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        })
        .await
        .expect("an event or the end of the stream")
    }

    /// Reads until the head has reached `cursor`: heads between may be told or not.
    async fn reach(&mut self, cursor: i64) {
        while self.next().await.expect("the stream goes on") < cursor {}
    }
}

#[tokio::test]
async fn the_head_is_told_at_once_and_whenever_it_moves_to_its_user_alone() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let other = server.user(caller.tenant, "b@acme.test", caller.role).await;
    let (mut mine, mut theirs) = (Events::open(&api).await, Events::open(&server.api(&other)).await);
    assert_eq!((mine.next().await, theirs.next().await), (Some(0), Some(0)));
    let mut pusher = Pusher::new(api.another_device());
    pusher.messages(vec![message("s", "1"), message("s", "2")]).await;
    assert_eq!(mine.next().await, Some(2));
    pusher.messages(vec![message("s", "2")]).await;
    pusher.messages(vec![message("s", "3")]).await;
    assert_eq!(mine.next().await, Some(3), "a batch of duplicates moves no head");
    assert_eq!(
        Events::open(&api).await.next().await,
        Some(3),
        "a new listener is told where things stand"
    );
    // The other user's next event is of his own push: none of the others came to him.
    Pusher::new(server.api(&other))
        .messages(vec![message("s", "theirs")])
        .await;
    assert_eq!(theirs.next().await, Some(4));
}

#[tokio::test]
async fn a_push_at_one_server_is_told_by_the_other_one() {
    let server = TestServer::start().await;
    let second = server.beside().await;
    let (_, api) = server.acme().await;
    let mut there = api.another_device();
    there.base.clone_from(&second.url);
    let (mut at_first, mut at_second) = (Events::open(&api).await, Events::open(&there).await);
    let mut pushers = [
        Pusher::new(api.another_device()),
        Pusher::new(there.another_device()),
    ];
    for n in 1..=20 {
        pushers[n % 2].messages(vec![message("s", &n.to_string())]).await;
    }
    at_first.reach(20).await;
    at_second.reach(20).await;
}

#[tokio::test]
async fn heads_travel_again_after_the_connection_that_carried_them_broke() {
    let server = TestServer::start().await;
    let second = server.beside().await;
    let (_, api) = server.acme().await;
    let mut there = api.another_device();
    there.base.clone_from(&second.url);
    let mut events = Events::open(&there).await;
    let mut pusher = Pusher::new(api.another_device());
    pusher.messages(vec![message("s", "before")]).await;
    events.reach(1).await;
    let look = server.database.look().await;
    let killed = look
        .query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", &[])
        .await
        .unwrap();
    assert!(!killed.is_empty());
    // Pushed again until the new connections stand: what was told while there were none is the poll's business.
    let mut n = 1;
    let mut push_on = async || loop {
        n += 1;
        let batch = coditect_tests::api::batch_of_messages(n, vec![message("s", &n.to_string())]);
        while pusher.api.try_push(&batch).await.status != 200 {}
    };
    tokio::select! {
        () = events.reach(2) => {}
        () = push_on() => {}
    }
}

#[tokio::test]
async fn a_head_of_which_no_notification_came_is_found_by_the_poll() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    // A server of the same database that hears nothing of the others.
    let state = AppState::new(
        server.state.pool.clone(),
        server.state.keys.clone(),
        server.state.instance_id,
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut there = api.another_device();
    there.base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(app::serve(listener, state.clone(), std::future::pending()));
    let mut events = Events::open(&there).await;
    assert_eq!(events.next().await, Some(0));

    let mut seen = Seen::default();
    let mut pusher = Pusher::new(api);
    for head in 1..=3 {
        pusher.messages(vec![message("s", &head.to_string())]).await;
        poll::round(&state, &mut seen).await.unwrap();
        assert_eq!(events.next().await, Some(head));
    }
}

#[tokio::test]
async fn streams_end_at_once_when_the_server_stops() {
    let server = TestServer::start().await;
    let second = server.beside().await;
    let (_, mut api) = server.acme().await;
    api.base.clone_from(&second.url);
    let mut events = Events::open(&api).await;
    assert_eq!(events.next().await, Some(0));
    drop(second);
    assert_eq!(events.next().await, None, "ended properly, not cut off");
}
