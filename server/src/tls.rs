//! TLS of the server's own: 1.3 alone, with certificate and key from two files that are looked at again while it runs.
//!
//! A renewed pair counts for the next handshake; connections that stand go on with what they agreed upon. A pair that
//! cannot be used (half written, of two different keys, readable by others) leaves the old one in place and is logged
//! once.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use coditect_shared::hash::sha256;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::HANDSHAKES;
use crate::patience::{Impatient, Patience};

/// How often the files are looked at. Certificates are renewed days before they expire, so this may be calm; it is
/// their content that is compared, since a renewal may rename, swap a symbolic link (certbot, Kubernetes) or copy over.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Largest file that is read: a chain of ten certificates has some 20 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// First byte of whatever begins a TLS connection: a record of the type handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The server's side of TLS. Cheap to clone; clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    files: Files,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
}

/// Where certificate and key are.
#[derive(Clone, Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// A connection on which somebody has said the first word.
pub(crate) enum Entered {
    Secure(Box<TlsStream<Impatient<TcpStream>>>),
    /// Whatever it speaks, it is not TLS.
    Plain(Impatient<TcpStream>),
}

impl Tls {
    /// Reads certificate chain and key, both in PEM.
    ///
    /// # Errors
    /// If either cannot be used, or the key may be read by others; the text names file and remedy.
    pub fn load(cert: &Path, key: &Path) -> anyhow::Result<Tls> {
        let files = Files {
            cert: cert.to_path_buf(),
            key: key.to_path_buf(),
        };
        let (pair, digest) = files.read()?;
        let current = Arc::new(Current(RwLock::new((Arc::new(pair), digest))));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("setting up TLS 1.3")?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls {
            files,
            current,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        })
    }

    /// Takes over what the files hold, at a calm interval and at SIGHUP, for ever.
    pub async fn keep_current(&self, look_every: Duration) {
        let mut looks = interval(look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened to"))
            .ok();
        let mut complaint = None;
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = looks.tick() => {}
                _ = asked => complaint = None,
            }
            let own = self.clone();
            let Ok(looked) = tokio::task::spawn_blocking(move || own.look()).await else {
                continue;
            };
            let trouble = looked.err().map(|error| format!("{error:#}"));
            if let Some(trouble) = &trouble
                && complaint.as_ref() != Some(trouble)
            {
                tracing::error!("the TLS certificate stays the old one: {trouble}");
            }
            complaint = trouble;
        }
    }

    /// The first word of a client, and the handshake if it is one of TLS.
    ///
    /// # Errors
    /// If the client leaves, fails the handshake, or takes too long.
    pub(crate) async fn enter(&self, stream: TcpStream, patience: &Patience) -> io::Result<Entered> {
        let begun = timeout(patience.handshake, async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let stream = Impatient::new(stream, patience.write_pause);
            if first[0] != HANDSHAKE_RECORD {
                return Ok(Entered::Plain(stream));
            }
            let _permit = self.handshakes.acquire().await;
            let secure = self.acceptor.accept(stream).await?;
            Ok(Entered::Secure(Box::new(secure)))
        });
        begun
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes over what the files hold if it is another pair.
    fn look(&self) -> anyhow::Result<()> {
        let (pair, digest) = self.files.read()?;
        let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.1 != digest {
            *current = (Arc::new(pair), digest);
            tracing::info!(cert = %self.files.cert.display(), "took over the renewed TLS certificate");
        }
        Ok(())
    }
}

/// The pair that the next handshake uses, and the digest of the files it came from.
struct Current(RwLock<(Arc<CertifiedKey>, String)>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.0.clone())
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current(…)")
    }
}

/// The one provider of cryptography in the program, that of access tokens too.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// With the file's name.
pub(crate) fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    certificates(&read(path, Readers::Anybody)?)
        .with_context(|| format!("reading certificates from {}", path.display()))
}

impl Files {
    fn read(&self) -> anyhow::Result<(CertifiedKey, String)> {
        let cert = read(&self.cert, Readers::Anybody)?;
        let key = read(&self.key, Readers::OwnerAlone)?;
        let chain = certificates(&cert)
            .with_context(|| format!("reading certificates from {}", self.cert.display()))?;
        let private = PrivateKeyDer::from_pem_slice(&key).with_context(|| {
            format!(
                "{} holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)",
                self.key.display()
            )
        })?;
        let pair = CertifiedKey::from_der(chain, private, &provider()).with_context(|| {
            format!(
                "certificate {} and key {} cannot be used together",
                self.cert.display(),
                self.key.display()
            )
        })?;
        let both = [sha256(&cert).to_string(), sha256(&key).to_string()].concat();
        Ok((pair, both))
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .context("this is no PEM")?;
    ensure!(!chain.is_empty(), "there is none in PEM");
    Ok(chain)
}

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Anybody,
    OwnerAlone,
}

fn read(path: &Path, readers: Readers) -> anyhow::Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    let file = File::open(path).with_context(doing)?;
    // Of the opened file, so that nobody swaps it between the look and the reading.
    let metadata = file.metadata().with_context(doing)?;
    if readers == Readers::OwnerAlone {
        refuse_if_others_may_read(path, metadata.mode(), metadata.uid())?;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(doing)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    }
    Ok(bytes)
}

/// A key is for its owner alone; one of root may be shared with a group, as Debian's `ssl-cert` and Kubernetes do.
fn refuse_if_others_may_read(path: &Path, mode: u32, owner: u32) -> anyhow::Result<()> {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        bail!(
            "the private key {path} may be read by others (mode {mode:o}): run `chmod 600 {path}` (root's may also be 640)",
            path = path.display(),
            mode = mode & 0o777,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Certificate and key of their own, in a folder.
    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (cert, key) = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        write(&cert, &made.cert.pem(), 0o644);
        write(&key, &made.signing_key.serialize_pem(), 0o600);
        (cert, key)
    }

    fn refusal(cert: &Path, key: &Path) -> String {
        match Tls::load(cert, key) {
            Ok(_) => panic!("{} was taken", key.display()),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn p15_a_key_that_others_may_read_is_refused_with_the_remedy() {
        for (mode, owner, good) in [
            (0o600, 1000, true),
            (0o400, 1000, true),
            (0o640, 0, true),
            (0o640, 1000, false),
            (0o604, 1000, false),
            (0o644, 0, false),
            (0o660, 0, false),
        ] {
            let looked = refuse_if_others_may_read(Path::new("k"), 0o100_000 | mode, owner);
            assert_eq!(looked.is_ok(), good, "{mode:o} of {owner}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(folder.path(), "a.test");
        assert!(Tls::load(&cert, &key).is_ok());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = refusal(&cert, &key);
        assert!(
            error.contains("mode 644") && error.contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(folder.path(), "a.test");
        let (_, other) = pair(folder.path(), "b.test");
        let error = refusal(&cert, &other);
        assert!(error.contains("b.test.key cannot be used together"), "{error}");
        let missing = folder.path().join("missing");
        assert!(refusal(&missing, &key).contains("missing"));
        let nonsense = folder.path().join("nonsense");
        write(&nonsense, "nothing of use", 0o600);
        assert!(refusal(&nonsense, &key).contains("nonsense: there is none in PEM"));
        assert!(refusal(&cert, &nonsense).contains("nonsense holds no private key"));
    }

    #[test]
    fn a_renewed_pair_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(folder.path(), "a.test");
        let (new_cert, new_key) = pair(folder.path(), "b.test");
        let tls = Tls::load(&cert, &key).unwrap();
        let current = || tls.current.0.read().unwrap().0.cert[0].clone();
        let first = current();
        tls.look().unwrap();
        assert_eq!(current(), first);
        // The certificate is renamed into its place first: half a renewal.
        std::fs::rename(&new_cert, &cert).unwrap();
        assert!(tls.look().is_err());
        assert_eq!(current(), first);
        std::fs::rename(&new_key, &key).unwrap();
        tls.look().unwrap();
        assert_ne!(current(), first);
    }
}
