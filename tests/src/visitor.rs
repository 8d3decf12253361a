//! A visitor of the server's pages without a browser: keeps cookies, fills in forms, follows where it is sent.

use std::collections::BTreeMap;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Method, RequestBuilder, StatusCode};

/// Who visits one server. Its cookies may be taken away.
pub struct Visitor {
    http: reqwest::Client,
    base: String,
    pub cookies: BTreeMap<String, String>,
}

/// What a visitor sees.
#[derive(Debug)]
pub struct Seen {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where it came from, after all that was followed.
    pub path: String,
    pub html: String,
}

impl Visitor {
    pub fn new(base: &str) -> Visitor {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client");
        Visitor {
            http,
            base: base.to_owned(),
            cookies: BTreeMap::new(),
        }
    }

    /// Opens a page of the server, by path or whole address.
    pub async fn open(&mut self, address: &str) -> Seen {
        let path = address.strip_prefix(&self.base).unwrap_or(address).to_owned();
        let request = self.request(Method::GET, &path);
        self.follow(path, request).await
    }

    /// Sends the form of a page with these fields, beside the hidden ones that it has.
    pub async fn send(&mut self, page: &Seen, fields: &[(&str, &str)]) -> Seen {
        self.send_to(page, &page.action(), fields).await
    }

    /// [`Visitor::send`] to another path.
    pub async fn send_to(&mut self, page: &Seen, path: &str, fields: &[(&str, &str)]) -> Seen {
        let hidden = page.hidden();
        let given = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // A field that is given replaces a hidden one of its name.
        let all: BTreeMap<String, String> = hidden.into_iter().chain(given).collect();
        self.post(path, &all.into_iter().collect::<Vec<_>>()).await
    }

    /// Posts exactly these fields.
    pub async fn post(&mut self, path: &str, fields: &[(String, String)]) -> Seen {
        let body = reqwest::Url::parse_with_params("http://any/", fields).expect("a URL");
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned());
        self.follow(path.to_owned(), request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let pairs: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let request = self.http.request(method, format!("{}{path}", self.base));
        if pairs.is_empty() {
            request
        } else {
            request.header(COOKIE, pairs.join("; "))
        }
    }

    async fn follow(&mut self, mut path: String, mut request: RequestBuilder) -> Seen {
        loop {
            let answer = request.send().await.expect("the server answers");
            for set in answer.headers().get_all(SET_COOKIE) {
                self.keep(set.to_str().expect("a cookie is text"));
            }
            let Some(to) = answer.headers().get(LOCATION) else {
                let (status, headers) = (answer.status(), answer.headers().clone());
                let html = answer.text().await.expect("the page arrives");
                return Seen {
                    status,
                    headers,
                    path,
                    html,
                };
            };
            assert_eq!(answer.status(), StatusCode::SEE_OTHER, "a form leads on by 303");
            path = to.to_str().expect("a location is text").to_owned();
            assert!(path.starts_with('/'), "we are sent to {path}");
            request = self.request(Method::GET, &path);
        }
    }

    fn keep(&mut self, set: &str) {
        let (pair, attributes) = set.split_once(';').unwrap_or((set, ""));
        let (name, value) = pair.split_once('=').expect("a cookie has a name");
        assert!(
            attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"),
            "{set}"
        );
        if attributes.contains("Max-Age=0") {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}

impl Seen {
    /// What stands between two texts, for the first time.
    pub fn between(&self, before: &str, after: &str) -> Option<&str> {
        let (_, rest) = self.html.split_once(before)?;
        Some(rest.split_once(after)?.0)
    }

    /// Where the page's form goes; without an own address, to the page's.
    fn action(&self) -> String {
        self.between("action=\"", "\"")
            .map_or_else(|| self.path.clone(), str::to_owned)
    }

    fn hidden(&self) -> Vec<(String, String)> {
        let inputs = self
            .html
            .split("<input ")
            .skip(1)
            .filter(|input| input.starts_with("type=\"hidden\""));
        let of = |input: &str, name: &str| {
            let (_, rest) = input.split_once(&format!(" {name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        inputs
            .filter_map(|input| Some((of(input, "name")?, of(input, "value")?)))
            .collect()
    }

    /// The page of a status.
    ///
    /// # Panics
    /// If it has another, with all that came; or if a header that protects pages is missing.
    pub fn expect(self, status: u16) -> Seen {
        assert_eq!(self.status.as_u16(), status, "{self:#?}");
        let header = |name: &str| {
            self.headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap_or_default())
        };
        assert!(header("content-type").starts_with("text/html"), "{self:#?}");
        assert_eq!(header("cache-control"), "no-store", "{self:#?}");
        assert_eq!(header("x-frame-options"), "DENY", "{self:#?}");
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{self:#?}"
        );
        assert!(
            !policy.contains("unsafe") && !self.html.contains("<script"),
            "{self:#?}"
        );
        self
    }
}
