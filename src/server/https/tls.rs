//! The serving certificate, and the authority of client certificates. Both are reloaded when their files
//! change; files that cannot be read leave the ones before in force.
//!
//! A client may show a certificate of any authority: one that is not of ours is worth nothing, and the caller has to
//! be known by a token, as with the kubelet.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, SupportedCipherSuite,
};
use tracing::{debug, info, warn};

use super::caller::{Caller, ClientCertificate};
use super::settings::HttpsSettings;
use crate::host::atomic_file;

/// Directory of the self-signed certificate, below the root directory.
const FOLDER: &str = "pki";
const CERTIFICATE: &str = "kubelet.crt";
const KEY: &str = "kubelet.key";

/// TLS configuration of the port.
#[derive(Debug)]
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca_file: Option<PathBuf>,
    only_tls13: bool,
    cipher_suites: Vec<String>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Stamps of the files when they were last read.
    files: Option<Vec<Option<Stamp>>>,
    config: Option<Arc<ServingConfig>>,
}

/// Configuration of connections, and what tells whom a client's certificate names.
#[derive(Debug)]
pub(super) struct ServingConfig {
    pub(super) server: Arc<ServerConfig>,
    /// Verifier of client certificates; `None` if none is requested.
    authority: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServingConfig {
    /// Returns whom the client's certificate names, if it is of our authority.
    pub(super) fn client(&self, connection: &ServerConnection) -> ClientCertificate {
        let shown = connection.peer_certificates().and_then(<[_]>::split_first);
        let (Some((first, rest)), Some(authority)) = (shown, &self.authority) else {
            return ClientCertificate::Absent;
        };
        match authority.verify_client_cert(first, rest, UnixTime::now()) {
            Ok(_) => Caller::of_certificate(first)
                .map_or(ClientCertificate::Absent, ClientCertificate::Of),
            Err(error) => {
                debug!(%error, "Client certificate is not valid here");
                ClientCertificate::Invalid
            }
        }
    }
}

/// Stamp of a file's content: device, inode, size, and time of change.
type Stamp = (u64, u64, u64, i64, i64);

impl Tls {
    /// Loads the configuration; creates a self-signed certificate for these names if none is configured and
    /// none exists.
    ///
    /// # Errors
    /// The certificate cannot be created or written.
    pub(super) fn new(
        settings: &HttpsSettings,
        root: &Path,
        names: &[String],
    ) -> anyhow::Result<Self> {
        let (certificate, key) = match settings.certificate.clone() {
            Some(given) => given,
            None => own_certificate(&root.join(FOLDER), names)?,
        };
        Ok(Self {
            certificate,
            key,
            client_ca_file: settings.client_ca_file.clone(),
            only_tls13: settings.only_tls13,
            cipher_suites: settings.cipher_suites.clone(),
            kept: Mutex::default(),
        })
    }

    /// Returns the current configuration.
    ///
    /// # Errors
    /// The files could not be read yet.
    pub(super) fn config(&self) -> anyhow::Result<Arc<ServingConfig>> {
        let files = [
            Some(&self.certificate),
            Some(&self.key),
            self.client_ca_file.as_ref(),
        ];
        let files: Vec<_> = files.into_iter().flatten().map(|f| stamp(f)).collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.files.as_ref() != Some(&files) {
            let again = kept.config.is_some();
            match self.read() {
                Ok(config) => {
                    kept.config = Some(Arc::new(config));
                    if again {
                        info!("Reloaded the serving certificate and client CA");
                    }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(
                        error,
                        "Failed to load the serving certificate or client CA, retrying on change"
                    );
                }
            }
            kept.files = Some(files);
        }
        let config = kept.config.clone();
        config.context("the certificates could not be read yet")
    }

    fn read(&self) -> anyhow::Result<ServingConfig> {
        let provider = Arc::new(provider(&self.cipher_suites));
        let versions: &[_] = if self.only_tls13 {
            &[&TLS13]
        } else {
            &[&TLS13, &TLS12]
        };
        let certificates = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.with_context(|| format!("no key in {}", self.key.display()))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?;
        let authority = self.client_ca_file.as_ref();
        let authority = authority.map(|file| verifier(file, provider)).transpose()?;
        let builder = builder.with_client_cert_verifier(match &authority {
            Some(authority) => Arc::new(AnyAuthority(Arc::clone(authority))),
            None => Arc::new(NoClientAuth),
        });
        let config = builder.with_single_cert(certificates, key);
        let mut config = config.with_context(|| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            format!("{certificate} and {key} cannot be used")
        })?;
        // Streams are upgraded connections, which only this version has.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ServingConfig {
            server: Arc::new(config),
            authority,
        })
    }
}

/// Requests a certificate of an authority and accepts any other, or none. That the client has its key is verified.
#[derive(Debug)]
struct AnyAuthority(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyAuthority {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _first: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Returns the names of the supported cipher suites, as `tlsCipherSuites` has them.
#[must_use]
pub fn known_cipher_suites() -> Vec<String> {
    ring::ALL_CIPHER_SUITES.iter().map(name_of).collect()
}

fn name_of(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

/// Returns the provider with only these cipher suites, or all if none is named. Those of TLS 1.3 cannot be
/// chosen: all of them are safe (Go, `crypto/tls`, as with the kubelet).
fn provider(names: &[String]) -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        names.is_empty() || suite.tls13().is_some() || names.contains(&name_of(suite))
    });
    provider
}

/// Returns a verifier of certificates of an authority in this file.
fn verifier(
    file: &Path,
    provider: Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.with_context(|| format!("{} has an invalid certificate", file.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(verifier.build()?)
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || -> anyhow::Result<Vec<_>> {
        Ok(CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?)
    };
    let found = read().with_context(|| format!("cannot read {}", file.display()))?;
    if found.is_empty() {
        bail!(
            "{}: found no certificate, expected one in PEM",
            file.display()
        );
    }
    Ok(found)
}

/// Returns the existing self-signed certificate, or creates one for these names.
fn own_certificate(folder: &Path, names: &[String]) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    if certificates(&certificate).is_ok() && key.exists() {
        return Ok((certificate, key));
    }
    let wrong = || format!("cannot make a certificate in {}", folder.display());
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700);
    folders.create(folder).with_context(wrong)?;
    // It does not expire: clients that trust it have pinned it, and cannot learn of another.
    let mut parameters = CertificateParams::new(names).with_context(wrong)?;
    let name = names.first().map_or("podkeeper", String::as_str);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let pair = KeyPair::generate().with_context(wrong)?;
    let made = parameters.self_signed(&pair).with_context(wrong)?;
    atomic_file::write(&key, pair.serialize_pem().as_bytes()).with_context(wrong)?;
    atomic_file::write(&certificate, made.pem().as_bytes()).with_context(wrong)?;
    Ok((certificate, key))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), changed.0, changed.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(folder: &Path, client_ca_file: Option<PathBuf>) -> Tls {
        let (certificate, key) =
            own_certificate(folder, &["n1".into(), "10.0.0.1".into()]).unwrap();
        Tls {
            certificate,
            key,
            client_ca_file,
            only_tls13: false,
            cipher_suites: vec![],
            kept: Mutex::default(),
        }
    }

    #[test]
    fn only_the_cipher_suites_that_are_named_are_taken_with_tls_1_2() {
        let named = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned();
        assert!(known_cipher_suites().contains(&named));
        let all = provider(&[]).cipher_suites;
        assert_eq!(all.len(), known_cipher_suites().len());
        let found = provider(std::slice::from_ref(&named)).cipher_suites;
        let old: Vec<String> = found
            .iter()
            .filter(|suite| suite.tls13().is_none())
            .map(name_of)
            .collect();
        assert_eq!(old, [named]);
        assert!(found.iter().any(|suite| suite.tls13().is_some()));
    }

    #[tokio::test]
    async fn tls_1_2_is_accepted_by_default() {
        let folder = tempfile::tempdir().unwrap();
        for (only_tls13, version, is_taken) in [
            (false, &TLS12, true),
            (false, &TLS13, true),
            (true, &TLS12, false),
            (true, &TLS13, true),
        ] {
            let mut tls = tls(folder.path(), None);
            tls.only_tls13 = only_tls13;
            let mut roots = RootCertStore::empty();
            roots
                .add(certificates(&tls.certificate).unwrap().remove(0))
                .unwrap();
            let client = rustls::ClientConfig::builder_with_provider(Arc::new(provider(&[])))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let (near, far) = tokio::io::duplex(1 << 16);
            let server = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.config().unwrap().server))
                .accept(far);
            let client = tokio_rustls::TlsConnector::from(Arc::new(client));
            let client = client.connect("n1".try_into().unwrap(), near);
            let (server, client) = tokio::join!(server, client);
            let taken = server.is_ok() && client.is_ok();
            assert_eq!(taken, is_taken, "{only_tls13} {version:?}");
        }
    }

    /// A certificate for this name, by its authority or by itself, and its key.
    fn certificate(
        name: &str,
        authority: Option<&rcgen::CertifiedIssuer<'_, KeyPair>>,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let made = match authority {
            Some(authority) => parameters.signed_by(&key, authority),
            None => parameters.self_signed(&key),
        };
        let made = made.unwrap().der().clone();
        (made, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    #[tokio::test]
    async fn only_a_certificate_of_the_authority_names_a_user_and_none_ends_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
        let file = folder.path().join("ca.crt");
        fs::write(&file, authority.pem()).unwrap();
        let tls = tls(folder.path(), Some(file));
        let mut roots = RootCertStore::empty();
        roots
            .add(certificates(&tls.certificate).unwrap().remove(0))
            .unwrap();
        for (shown, expected) in [
            (Some(certificate("bob", Some(&authority))), Some("bob")),
            (Some(certificate("bob", None)), Some("invalid")),
            (None, None),
        ] {
            let client = rustls::ClientConfig::builder_with_provider(Arc::new(provider(&[])))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(roots.clone());
            let client = match shown {
                Some((shown, key)) => {
                    let key = ring::default_provider().key_provider.load_private_key(key);
                    let key = rustls::sign::CertifiedKey::new(vec![shown], key.unwrap());
                    client.with_client_cert_resolver(Arc::new(Always(Arc::new(key))))
                }
                None => client.with_no_client_auth(),
            };
            let (near, far) = tokio::io::duplex(1 << 16);
            let config = tls.config().unwrap();
            let server = tokio_rustls::TlsAcceptor::from(Arc::clone(&config.server)).accept(far);
            let client = tokio_rustls::TlsConnector::from(Arc::new(client));
            let client = client.connect("n1".try_into().unwrap(), near);
            let (server, client) = tokio::join!(server, client);
            client.unwrap();
            let found = match config.client(server.unwrap().get_ref().1) {
                ClientCertificate::Of(caller) => Some(caller.name),
                ClientCertificate::Invalid => Some("invalid".to_owned()),
                ClientCertificate::Absent => None,
            };
            assert_eq!(found.as_deref(), expected);
        }
    }

    /// Shows a certificate whatever authorities the server names.
    #[derive(Debug)]
    struct Always(Arc<rustls::sign::CertifiedKey>);

    impl rustls::client::ResolvesClientCert for Always {
        fn resolve(
            &self,
            _authorities: &[&[u8]],
            _schemes: &[SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[test]
    fn the_self_signed_certificate_is_created_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["n1".to_owned()];
        let (certificate, key) = own_certificate(folder.path(), &names).unwrap();
        let before = fs::read(&certificate).unwrap();
        own_certificate(folder.path(), &names).unwrap();
        assert_eq!(fs::read(&certificate).unwrap(), before);
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        fs::write(&certificate, "broken").unwrap();
        own_certificate(folder.path(), &names).unwrap();
        assert_ne!(fs::read(&certificate).unwrap(), before);
    }

    #[test]
    fn changed_files_are_read_again_and_broken_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let tls = tls(folder.path(), None);
        let first = tls.config().unwrap();
        assert!(Arc::ptr_eq(&first, &tls.config().unwrap()));
        fs::write(&tls.certificate, "broken").unwrap();
        assert!(Arc::ptr_eq(&first, &tls.config().unwrap()));
        own_certificate(folder.path(), &["n2".into()]).unwrap();
        assert!(!Arc::ptr_eq(&first, &tls.config().unwrap()));
    }

    #[test]
    fn without_its_files_nothing_is_served_until_they_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("ca.crt");
        let tls = tls(folder.path(), Some(authority.clone()));
        assert!(tls.config().is_err());
        fs::copy(&tls.certificate, &authority).unwrap();
        tls.config().unwrap();
    }
}
