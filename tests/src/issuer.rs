//! An issuer of access tokens that a test leads: it publishes keys over real HTTP, changes them, goes down, stalls, and
//! says nonsense.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What tokens of this issuer are meant for, where a test says nothing else.
pub const AUDIENCE: &str = "coditect-test";

/// Dropped, it is down.
pub struct StandIn {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    said: Arc<Mutex<Said>>,
    fetches: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Said {
    /// A discovery document and these keys.
    Keys(Vec<Value>),
    /// A discovery document of another issuer.
    Foreign,
    Status(u16),
    Nonsense,
    /// Without end.
    Flood,
    /// Nothing, on a connection that stays.
    Silence,
}

/// A key pair with the algorithm that it signs by.
pub struct Signer {
    pub kid: String,
    pub algorithm: Algorithm,
    pub key: EncodingKey,
    pem: String,
}

impl StandIn {
    pub async fn start(said: Said) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listening");
        let address = listener.local_addr().expect("a bound socket has an address");
        let url = format!("http://{address}");
        let said = Arc::new(Mutex::new(said));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (says, counts, own) = (said.clone(), fetches.clone(), url.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let said = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(answer(stream, said, own.clone(), counts.clone()));
            }
        });
        StandIn {
            url,
            said,
            fetches,
            serving,
        }
    }

    /// Says something else from now on.
    pub fn say(&self, said: Said) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// How often its keys were fetched.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Claims of a good token: an hour for a subject of a tenant.
    pub fn claims(&self, subject: &str, tenant: &str) -> Value {
        let now = Timestamp::now().as_second();
        json!({"iss": self.url, "aud": AUDIENCE, "sub": subject, "tenant": tenant, "iat": now, "exp": now + 3600,
               "email": format!("{subject}@acme.test")})
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: TcpStream, said: Said, url: String, fetches: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let of_keys = head.starts_with(b"GET /keys ");
    if of_keys {
        fetches.fetch_add(1, Ordering::Relaxed);
    }
    let discovery = |issuer: &str| json!({"issuer": issuer, "jwks_uri": format!("{url}/keys")}).to_string();
    let (status, body) = match said {
        Said::Keys(keys) if of_keys => (200, json!({"keys": keys}).to_string()),
        Said::Keys(_) => (200, discovery(&url)),
        Said::Foreign => (200, discovery("https://elsewhere.test")),
        Said::Status(status) => (status, "{}".to_owned()),
        Said::Nonsense => (200, "<html>Welcome to the hotel</html>".to_owned()),
        Said::Flood => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .await;
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            return;
        }
        Said::Silence => {
            // Until the other side has had enough.
            let _ = stream.read_u8().await;
            return;
        }
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

impl Signer {
    pub fn new(kid: &str, algorithm: Algorithm) -> Signer {
        let rsa = matches!(algorithm, Algorithm::RS256 | Algorithm::PS256);
        let made = |kind| KeyPair::generate_for(kind).expect("making a key").serialize_pem();
        let pem = if rsa {
            made(&PKCS_RSA_SHA256)
        } else if algorithm == Algorithm::ES256 {
            made(&PKCS_ECDSA_P256_SHA256)
        } else {
            ed25519_pem()
        };
        let key = if rsa {
            EncodingKey::from_rsa_pem(pem.as_bytes())
        } else if algorithm == Algorithm::ES256 {
            EncodingKey::from_ec_pem(pem.as_bytes())
        } else {
            EncodingKey::from_ed_pem(pem.as_bytes())
        };
        Signer {
            kid: kid.to_owned(),
            algorithm,
            key: key.expect("reading a key that was just made"),
            pem,
        }
    }

    /// The public key as it is published.
    pub fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("deriving a public key");
        jwk.common.key_id = Some(self.kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = None::<KeyAlgorithm>;
        serde_json::to_value(jwk).expect("a key is JSON")
    }

    /// The key pair's file, as a thief of the public half would misuse it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        header
    }

    /// With whatever header.
    pub fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).expect("signing")
    }
}

/// In the older form of PKCS#8, without the public half: the only one that `jsonwebtoken` derives a public key from.
fn ed25519_pem() -> String {
    const PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let seed: [u8; 32] = rand::random();
    let der = STANDARD.encode([PREFIX.as_slice(), &seed].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")
}
