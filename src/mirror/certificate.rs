//! The node's client certificate: asked of the API server by a `CertificateSigningRequest`, kept as
//! the kubelet keeps it, and renewed in time (Kubernetes, TLS bootstrapping).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::config::{AuthInfo, Kubeconfig};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{debug, info};

use super::api::Api;
use super::error::{ApiError, ErrorKind, chain};
use super::{connection, kubeconfig};
use crate::hex::hex;
use crate::host::atomic_file;
use crate::units::time::Later;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The newest certificate with its key, a link to a file with a time in its name.
const CURRENT: &str = "kubelet-client-current.pem";
/// The key of a request that is not answered yet.
const ASKED_KEY: &str = "kubelet-client.key.tmp";
/// Interval between polls of a certificate signing request, at first and at most, and their total time.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// A certificate is renewed between these shares of its life.
const RENEW: (f64, f64) = (0.7, 0.9);

/// The file with the node's newest certificate in this folder.
pub(super) fn current(folder: &Path) -> PathBuf {
    folder.join(CURRENT)
}

/// The folder in which the certificates are kept: the one given, or that of a kubeconfig which names
/// one there, or else the one of this agent.
pub(super) fn folder(given: Option<&Path>, kubeconfig: &Path, own: PathBuf) -> PathBuf {
    let named = || {
        let mut found = kubeconfig::read(kubeconfig).ok()?;
        let path = connection::user(&mut found)?.client_certificate.clone()?;
        let path = PathBuf::from(path);
        (path.file_name()? == CURRENT).then(|| path.parent().map(Path::to_owned))?
    };
    given.map(Path::to_owned).or_else(named).unwrap_or(own)
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Validity {
    /// Of the first certificate in a PEM text.
    pub(super) fn of_pem(pem: &[u8]) -> Option<Self> {
        let found = x509_parser::pem::Pem::iter_from_buffer(pem);
        let found = found.flatten().find(|pem| pem.label == "CERTIFICATE")?;
        let certificate = found.parse_x509().ok()?;
        let validity = certificate.validity();
        // That a certificate never expires is written as the last second of 9999, which is after the last of
        // all timestamps (RFC 5280, 4.1.2.5).
        let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let time = |time: i64| Timestamp::from_second(time.clamp(first, last)).ok();
        Some(Self {
            from: time(validity.not_before.timestamp())?,
            until: time(validity.not_after.timestamp())?,
        })
    }

    /// Of a file.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        Self::of_pem(&fs::read(path).ok()?)
    }

    /// Time of its renewal; `chance` from 0 to 1 spreads the nodes of a fleet.
    fn renew_at(self, chance: f64) -> Timestamp {
        let life = self.until.duration_since(self.from).as_secs_f64();
        let part = life * (RENEW.0 + (RENEW.1 - RENEW.0) * chance);
        let part = jiff::SignedDuration::try_from_secs_f64(part);
        let at = self.from.saturating_add(part.unwrap_or_default());
        at.unwrap_or(self.until)
    }
}

/// The validity of the certificate that a kubeconfig shows; `None` where it shows none.
pub(super) fn shown(found: &mut Kubeconfig) -> Option<Validity> {
    let user = connection::user(found)?;
    let AuthInfo {
        client_certificate,
        client_certificate_data,
        ..
    } = user;
    let data = client_certificate_data.as_deref().map(str::trim);
    let found = kubeconfig::pem("client-certificate", data, client_certificate.as_ref());
    Validity::of_pem(&found.ok()??)
}

/// True if the kubeconfig exists and its client certificate, if it has one, is valid now.
pub(super) fn is_usable(kubeconfig: &Path) -> bool {
    let Ok(mut found) = kubeconfig::read(kubeconfig) else {
        return false;
    };
    let shows = connection::user(&mut found).is_some_and(|user| {
        user.client_certificate.is_some() || user.client_certificate_data.is_some()
    });
    let now = Timestamp::now();
    !shows || shown(&mut found).is_some_and(|validity| validity.until > now)
}

/// Waits until the certificate in a file is due to be renewed. The clock of a machine may jump, so it
/// is asked often.
pub(super) async fn wait_until_due(validity: Validity, chance: f64) {
    let at = validity.renew_at(chance);
    while Timestamp::now() < at {
        let left = at.duration_since(Timestamp::now()).unsigned_abs();
        tokio::time::sleep(left.clamp(Duration::from_millis(100), Duration::from_secs(60))).await;
    }
}

/// Asks for a certificate for the node and keeps it in the folder. Asked again, it is the same request
/// for as long as there is no certificate: one that was denied is not followed by others, until the
/// API server has forgotten it.
///
/// # Errors
/// It is not given, or cannot be kept.
pub(super) async fn ask(api: &Api, folder: &Path, node: &str) -> Result<(), ApiError> {
    let key = asked_key(folder)?;
    let name = format!("node-csr-{}", fingerprint(&key));
    let request = request(&name, &key, node)?;
    debug!(request = name, "Waiting for client certificate");
    let until = Instant::now().later(PATIENCE);
    let mut interval = POLL_INTERVAL;
    let certificate = loop {
        match answer(api, &name, &request).await {
            Ok(Some(certificate)) => break certificate,
            Ok(None) if Instant::now() < until => {
                tokio::time::sleep(interval).await;
                interval = interval.saturating_mul(2).min(POLL_INTERVAL_MAX);
            }
            Ok(None) => {
                return Err(ApiError {
                    kind: ErrorKind::Fault,
                    message: format!("nobody has signed the request {name} yet"),
                });
            }
            Err(error) => return Err(error),
        }
    };
    keep(folder, &certificate, &key)
        .map_err(|e| cannot("keep the client certificate", folder, &e))?;
    info!(folder = %folder.display(), "Received client certificate");
    Ok(())
}

/// Returns the outcome of a certificate signing request; creates the request if it does not exist.
async fn answer(
    api: &Api,
    name: &str,
    request: &CertificateSigningRequest,
) -> Result<Option<Vec<u8>>, ApiError> {
    let path = format!("{REQUESTS}/{name}");
    let found = match api.get::<CertificateSigningRequest>(&path).await {
        Err(error) if error.kind == ErrorKind::NotFound => {
            info!(request = name, "Requesting client certificate");
            api.create::<CertificateSigningRequest>(REQUESTS, request)
                .await
        }
        found => found,
    };
    let status = match found {
        Ok(found) => found.status.unwrap_or_default(),
        // It may do better soon.
        Err(error) if matches!(error.kind, ErrorKind::Busy(_) | ErrorKind::Fault) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let conditions = status.conditions.iter().flatten();
    let mut no = conditions.filter(|c| c.type_ == "Denied" || c.type_ == "Failed");
    if let Some(no) = no.next() {
        let why = no.message.as_deref().unwrap_or_default();
        return Err(ApiError {
            kind: ErrorKind::Refused(403),
            message: format!("{name} is {}: {why}", no.type_.to_lowercase()),
        });
    }
    Ok(status.certificate.map(|c| c.0).filter(|c| !c.is_empty()))
}

fn request(name: &str, key: &KeyPair, node: &str) -> Result<CertificateSigningRequest, ApiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{node}"));
    let request = params.serialize_request(key).and_then(|r| r.pem());
    let request = request.map_err(|e| ApiError::unreachable(chain(&e)))?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec![
                "digital signature".to_owned(),
                "client auth".to_owned(),
            ]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

/// Names a key.
fn fingerprint(key: &KeyPair) -> String {
    hex(&Sha256::digest(key.der_bytes())[..16])
}

/// The key of the request that is under way, or a new one.
fn asked_key(folder: &Path) -> Result<KeyPair, ApiError> {
    let path = folder.join(ASKED_KEY);
    let known = fs::read_to_string(&path).ok();
    if let Some(key) = known.and_then(|pem| KeyPair::from_pem(&pem).ok()) {
        return Ok(key);
    }
    let key = KeyPair::generate().map_err(|e| ApiError::unreachable(chain(&e)))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let written = made.and_then(|()| atomic_file::write(&path, key.serialize_pem().as_bytes()));
    written.map_err(|e| cannot("keep the key of a client certificate", &path, &e))?;
    Ok(key)
}

/// Keeps a certificate with its key, and makes it the newest.
fn keep(folder: &Path, certificate: &[u8], key: &KeyPair) -> io::Result<()> {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
    let name = format!("kubelet-client-{time}.pem");
    let mut pem = certificate.to_vec();
    if !pem.ends_with(b"\n") {
        pem.push(b'\n');
    }
    pem.extend(key.serialize_pem().into_bytes());
    atomic_file::write(&folder.join(&name), &pem)?;
    let link = folder.join("kubelet-client-current.pem.new");
    atomic_file::replace_symlink(Path::new(&name), &link, &current(folder))?;
    atomic_file::sync_folder(folder)?;
    fs::remove_file(folder.join(ASKED_KEY))
}

/// Writes the kubeconfig of a node that gets its certificate by the bootstrap kubeconfig: the same server,
/// and the certificate in the folder. It is written before the certificate is asked for, as by the
/// kubelet: where it cannot be written, a certificate would be requested again and again without effect.
/// Returns true if there is a valid certificate already.
///
/// # Errors
/// The one cannot be read, or the other not written.
pub(super) fn write_kubeconfig(
    bootstrap: &Path,
    kubeconfig: &Path,
    folder: &Path,
) -> Result<bool, ApiError> {
    let found = kubeconfig::read(bootstrap)?;
    let context = found.contexts.iter();
    let mut context = context.filter(|c| Some(&c.name) == found.current_context.as_ref());
    let context = context.next().and_then(|c| c.context.as_ref());
    let mut clusters = found.clusters.iter();
    let cluster = clusters.find(|c| Some(&c.name) == context.map(|c| &c.cluster));
    let cluster = cluster.and_then(|c| c.cluster.as_ref()).ok_or_else(|| {
        let path = bootstrap.display();
        ApiError::unreachable(format!("{path}: found no cluster of the current context"))
    })?;
    let certificate = current(folder);
    let text = serde_yaml::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "users": [{"name": "default-auth", "user": {
            "client-certificate": certificate,
            "client-key": certificate,
        }}],
        "contexts": [{"name": "default-context", "context": {
            "cluster": "default-cluster",
            "user": "default-auth",
        }}],
        "current-context": "default-context",
    }));
    let text = text.map_err(|e| ApiError::unreachable(chain(&e)))?;
    if fs::read_to_string(kubeconfig).ok().as_ref() != Some(&text) {
        let parent = kubeconfig.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        let written = made.and_then(|()| atomic_file::write(kubeconfig, text.as_bytes()));
        written.map_err(|e| cannot("write", kubeconfig, &e))?;
    }
    Ok(is_usable(kubeconfig))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ApiError {
    ApiError::unreachable(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn certificate(node: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 11);
        params.distinguished_name.push(DnType::CommonName, node);
        (params.self_signed(&key).unwrap().pem(), key)
    }

    #[test]
    fn a_certificate_is_renewed_after_70_to_90_percent_of_its_life() {
        let (pem, _) = certificate("n");
        let validity = Validity::of_pem(pem.as_bytes()).unwrap();
        // 100 days.
        for (chance, date) in [
            (0.0, "2026-03-12"),
            (0.5, "2026-03-22"),
            (1.0, "2026-04-01"),
        ] {
            let at = validity.renew_at(chance).to_string();
            assert!(at.starts_with(date), "{chance}: {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_may_be_valid_at_any_time_or_at_none() {
        let key = KeyPair::generate().unwrap();
        for (from, until) in [
            (0, 0),
            (0, 9999),
            (1949, 1950),
            (1969, 1970),
            (2026, 9999),
            (2049, 2050),
            (9998, 9999),
            (9999, 0),
        ] {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 12, 31);
            let pem = params.self_signed(&key).unwrap().pem();
            let Some(validity) = Validity::of_pem(pem.as_bytes()) else {
                // A time before those of certificates is not read.
                assert!(from.min(until) < 1950, "{from} to {until}");
                continue;
            };
            for chance in [0.0, 0.5, 1.0] {
                let at = validity.renew_at(chance);
                let (least, most) = (
                    validity.from.min(validity.until),
                    validity.from.max(validity.until),
                );
                assert!((least..=most).contains(&at), "{from} to {until}: {at}");
            }
            // What is over is renewed at once, and what is far off is waited for.
            let due =
                tokio::time::timeout(Duration::from_secs(3600), wait_until_due(validity, 0.5));
            let is_due = validity.renew_at(0.5) <= Timestamp::now();
            assert_eq!(due.await.is_ok(), is_due, "{from} to {until}");
        }
    }

    #[test]
    fn the_newest_certificate_stands_under_one_name_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let asked = asked_key(folder.path()).unwrap();
        let again = asked_key(folder.path()).unwrap();
        assert_eq!(
            fingerprint(&asked),
            fingerprint(&again),
            "one request at a time"
        );
        let (pem, _) = certificate("n");
        keep(folder.path(), pem.as_bytes(), &asked).unwrap();
        let current = current(folder.path());
        let kept = fs::read_to_string(&current).unwrap();
        assert!(kept.starts_with(&pem) && kept.contains("PRIVATE KEY"));
        assert_eq!(
            fs::metadata(&current).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(fs::read_link(&current).unwrap().is_relative());
        assert!(!folder.path().join(ASKED_KEY).exists());
        assert!(Validity::of_file(&current).is_some());
    }

    #[test]
    fn a_kubeconfig_whose_certificate_is_over_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        assert!(!is_usable(&path), "there is none");
        let write = |user: &str| {
            let text = format!(
                "clusters: [{{name: c, cluster: {{server: 'https://h'}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
                 current-context: x\nusers: [{{name: u, user: {user}}}]\n"
            );
            fs::write(&path, text).unwrap();
        };
        write("{token: t}");
        assert!(is_usable(&path), "it shows no certificate");
        write("{client-certificate: c.pem, client-key: c.pem}");
        assert!(!is_usable(&path), "the file is not there");
        let mut params = CertificateParams::default();
        let key = KeyPair::generate().unwrap();
        for (year, expected) in [(2020, false), (4000, true)] {
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let pem = params.clone().self_signed(&key).unwrap().pem();
            fs::write(folder.path().join("c.pem"), pem).unwrap();
            assert_eq!(is_usable(&path), expected, "{year}");
        }
    }

    #[test]
    fn the_kubeconfig_is_written_before_the_certificate_is_there_and_takes_one_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let text = "clusters: [{name: c, cluster: {server: 'https://h'}}]\n\
                    contexts: [{name: x, context: {cluster: c, user: u}}]\n\
                    current-context: x\nusers: [{name: u, user: {token: t}}]\n";
        fs::write(at("bootstrap"), text).unwrap();
        let write = |kubeconfig: &Path| write_kubeconfig(&at("bootstrap"), kubeconfig, &at("pki"));
        let error = write(&at("bootstrap/in-a-file")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write "), "{error}");

        let kubeconfig = at("not/there/kubeconfig");
        assert_eq!(write(&kubeconfig), Ok(false), "there is no certificate");
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&kubeconfig).unwrap().ino()
        };
        let before = inode();
        let key = asked_key(&at("pki")).unwrap();
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(4000, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        keep(&at("pki"), pem.as_bytes(), &key).unwrap();
        assert_eq!(write(&kubeconfig), Ok(true), "it is valid");
        assert_eq!(inode(), before, "a file that says the same stays");
    }
}
