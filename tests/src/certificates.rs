//! A certificate authority of one test, and what it signs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

/// An authority that nobody but this test trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

/// Files of a certificate and its key, which only their owner may read.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("making a key");
        let certificate = params.self_signed(&key).expect("signing one's own certificate");
        let folder = tempfile::tempdir().expect("making a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("writing a certificate");
        Authority {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// Its own certificate, as a PEM file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What a client needs to trust it.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate.clone())
            .expect("the authority's certificate can be trusted");
        Arc::new(roots)
    }

    /// Signs a certificate for some names or addresses into a new folder.
    pub fn sign(&self, names: &[&str]) -> Pair {
        let folder = tempfile::tempdir_in(self.folder.path())
            .expect("making a folder")
            .keep();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).expect("these are names");
        let key = KeyPair::generate().expect("making a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signing");
        let pair = Pair {
            cert: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        };
        std::fs::write(&pair.cert, certificate.pem()).expect("writing a certificate");
        std::fs::write(&pair.key, key.serialize_pem()).expect("writing a key");
        std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600))
            .expect("closing a key to others");
        pair
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

/// The first certificate of a PEM file.
pub fn certificate_of(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("reading a certificate")
}
