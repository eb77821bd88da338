//! Polls the document, verifies it and puts it into force.
//!
//! The invariants: nothing of a document is parsed before its signature is verified, where one is
//! required; and the last good document stays in force until another one is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::accepted::{
    AcceptedObject, AcceptedObjects, AcceptedPods, AcceptedVersion, RefusedEntry, take,
    take_objects,
};
use super::copy::{self, Copy, Index, ObjectIndexEntry, StoredDocument, StoredDocuments, digest};
use super::fetch::{FetchError, FetchOutcome, Fetcher, Validators};
use super::schedule::Schedule;
use super::signature::Keys;
use super::{UrlSource, shown};
use crate::host::blocking::{blocking, limited};
use crate::host::log_once::LogOnce;
use crate::manifest::objects::{ObjectSet, attach_packed};
use crate::manifest::{self, PackedPod, Parsed, SourceKind};
use crate::source::log::publish;
use crate::source::{Desired, DesiredPod, LastRead, Origin, Refused};

/// A document that did not count, and is not to be fetched again while it stays.
#[derive(Debug)]
struct Rejected {
    validators: Validators,
    body: Vec<u8>,
}

/// State of one document's polls.
#[derive(Debug)]
pub(super) struct Poller {
    source: UrlSource,
    origin: Origin,
    fetcher: Fetcher,
    keys: Option<Keys>,
    /// Not there while it is being written.
    copy: Option<Copy>,
    index: Index,
    documents: StoredDocuments,
    accepted: AcceptedPods,
    objects: AcceptedObjects,
    refused_entries: Vec<RefusedEntry>,
    rejected: Option<Rejected>,
    /// No good document was ever there.
    unknown: bool,
    /// Reason why the document cannot be read.
    read_error: Option<String>,
    /// Failures to write the copy.
    problems: LogOnce,
}

impl Poller {
    pub(super) fn new(source: UrlSource, copy: Copy) -> Self {
        Self {
            origin: Origin::Url(shown(&source.url)),
            fetcher: Fetcher::new(source.request.clone()),
            keys: Keys::new(source.public_keys.clone()),
            copy: Some(copy),
            index: Index::new(digest(source.url.as_str().as_bytes())),
            documents: StoredDocuments::new(),
            accepted: AcceptedPods::new(),
            objects: AcceptedObjects::new(),
            refused_entries: vec![],
            rejected: None,
            unknown: true,
            read_error: None,
            problems: LogOnce::default(),
            source,
        }
    }

    /// Takes over what was kept, unless the keys to check it by do not answer.
    pub(super) async fn open(mut self, kept: Index, documents: StoredDocuments) -> Self {
        if let Some(keys) = self.keys.clone() {
            let readable = limited(KEYS, OPEN_LIMIT, move || keys.read()).await;
            if let Err(error) = readable {
                self.index.newest = kept.newest;
                self.report(format!(
                    "failed to read the keys for the stored document: {error}"
                ));
                return self;
            }
        }
        let restore = move || {
            self.restore(kept, documents);
            self
        };
        blocking(restore).await
    }

    /// Takes over what was kept, as far as it counts by today's keys and rules. A copy from another
    /// URL stays in force until this one gives a document.
    fn restore(&mut self, kept: Index, documents: StoredDocuments) {
        self.index.newest = kept.newest;
        let mut entries = BTreeMap::new();
        for (digest, document) in documents {
            if let Err(why) = self.verify_kept(&document) {
                self.report(format!("stored document cannot be verified: {why}"));
                continue;
            }
            let parsed = manifest::parse_all(&document.body, &self.source.node_name, KIND);
            match parsed {
                Ok(parsed) => {
                    entries.insert(digest.clone(), parsed);
                    self.documents.insert(digest, document);
                }
                Err(problems) => {
                    let why = problems
                        .first()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    self.report(format!("stored document is no longer accepted: {why}"));
                }
            }
        }
        self.restore_objects(kept.objects, &entries);
        for pod in &kept.pods {
            let of_document = entries.get(&pod.document).into_iter();
            let of_document = of_document.flat_map(|parsed| &parsed.pods);
            let mut accepted = of_document.filter_map(|entry| entry.result.as_ref().ok());
            if let Some(accepted) = accepted.find(|accepted| accepted.pod.uid == pod.uid) {
                let version = AcceptedVersion {
                    pod: PackedPod::from(&accepted.pod),
                    warnings: accepted.warnings.clone(),
                    document: pod.document.clone(),
                };
                self.accepted.insert(accepted.pod.key.clone(), version);
            } else {
                warn!(
                    uid = pod.uid.as_str(),
                    "Stored Pod of the manifest URL is no longer accepted"
                );
            }
        }
        let Some(current) = kept.current else {
            return;
        };
        if let Some(parsed) = entries.remove(&current) {
            self.take(parsed, &current);
            // Whatever of it could not be read is not known to be unwanted.
            self.unknown = self.read_error.is_some();
            self.index.current = Some(current);
            self.index.changed = kept.changed;
            if kept.url == self.index.url {
                self.index.validators = kept.validators;
            }
        }
    }

    /// Takes over the objects that were in force.
    fn restore_objects(&mut self, kept: Vec<ObjectIndexEntry>, entries: &BTreeMap<String, Parsed>) {
        for ObjectIndexEntry { key, document } in kept {
            let of_document = entries.get(&document).into_iter();
            let of_document = of_document.flat_map(|parsed| &parsed.objects);
            let mut accepted = of_document.filter_map(|entry| entry.result.as_ref().ok());
            if let Some(accepted) = accepted.find(|accepted| accepted.key == key) {
                let content = accepted.content.clone();
                let object = AcceptedObject { content, document };
                self.objects.insert(key, object);
            } else {
                warn!(%key, "Stored object of the manifest URL is no longer accepted");
            }
        }
    }

    /// Takes over what a good document says.
    fn take(&mut self, parsed: Parsed, digest: &str) {
        (self.accepted, self.refused_entries) = take(&self.accepted, parsed.pods, digest);
        let (objects, refused_entries) = take_objects(&self.objects, parsed.objects, digest);
        self.objects = objects;
        self.refused_entries.extend(refused_entries);
    }

    fn verify_kept(&self, document: &StoredDocument) -> Result<(), String> {
        let Some(keys) = &self.keys else {
            return Ok(());
        };
        let signature = document.signature.as_deref();
        let signature = signature.ok_or_else(|| "it is not signed".to_owned())?;
        keys.verify(&document.body, signature).map(drop)
    }

    fn report(&mut self, why: impl AsRef<str>) {
        self.read_error = Some(format!("{}: {}", self.origin, why.as_ref()));
    }

    pub(super) fn desired(&self) -> Desired {
        let objects = self.objects.iter();
        let objects: ObjectSet = objects
            .map(|(key, object)| (key.clone(), object.content.clone()))
            .collect();
        let wanted = |version: &AcceptedVersion| DesiredPod {
            pod: attach_packed(&version.pod, &objects, None),
            origin: self.origin.clone(),
            warnings: version.warnings.clone(),
        };
        let refused = |refused_entries: &RefusedEntry| Refused {
            origin: self.origin.clone(),
            problems: refused_entries.problems.clone(),
            keeps: refused_entries.keeps.clone(),
        };
        let accepted = self.accepted.iter();
        let pods: BTreeMap<_, _> = accepted.map(|(key, v)| (key.clone(), wanted(v))).collect();
        Desired {
            pods: Arc::new(pods),
            refused: self.refused_entries.iter().map(refused).collect(),
            unreadable: self.read_error.clone().into_iter().collect(),
            web_unknown: self.unknown,
            ..Desired::default()
        }
    }

    /// Polls until nobody listens any more; never ends while something is being written.
    pub(super) async fn poll_for_ever(
        &mut self,
        sender: &watch::Sender<Option<Desired>>,
        eager: bool,
        read: &LastRead,
    ) {
        let rng = fastrand::Rng::new();
        let mut schedule = Schedule::new(self.source.period, rng);
        let mut wait = schedule.first(!self.unknown && !eager);
        loop {
            let outcome = tokio::select! {
                () = sender.closed() => return,
                outcome = async {
                    sleep(wait).await;
                    self.poll().await
                } => outcome,
            };
            if outcome.is_ok() {
                read.now();
            }
            read.content_is_of(self.content_time());
            publish(sender, self.desired());
            self.keep().await;
            wait = match outcome {
                Ok(()) => schedule.after_success(),
                Err(failure) if failure.is_local_refusal => {
                    schedule.after_local_refusal(!self.unknown)
                }
                Err(failure) => schedule.after_failure(!self.unknown, failure.retry_after),
            };
            debug!(source = %self.origin, ?wait, "Polled manifest URL");
        }
    }

    /// Time at which the document in force was signed, or last changed where none is signed.
    pub(super) fn content_time(&self) -> Option<i64> {
        let time = self
            .keys
            .as_ref()
            .map_or(self.index.changed, |_| self.index.newest);
        time.filter(|_| self.index.current.is_some())
    }

    /// Asks the server once. An error is for the server to get over.
    async fn poll(&mut self) -> Result<(), FetchError> {
        let known = match &self.rejected {
            Some(rejected) => Some(&rejected.validators),
            None => self.index.current.as_ref().map(|_| &self.index.validators),
        };
        let answer = self.fetcher.fetch(&self.source.url, known).await;
        let failed = match answer {
            Ok(FetchOutcome::NotModified) => match self.rejected.take() {
                None => {
                    self.read_error = None;
                    return Ok(());
                }
                // Its signature may have come meanwhile.
                Some(rejected) => self.consider(rejected.body, rejected.validators).await,
            },
            Ok(FetchOutcome::Document { body, validators }) => {
                self.consider(body, validators).await
            }
            Err(failure) => Err(failure),
        };
        failed.inspect_err(|failure| self.report(&failure.message))
    }

    /// Takes a document into force, if it is good. Nothing of it is parsed before its signature, where
    /// one is asked for.
    async fn consider(&mut self, body: Vec<u8>, validators: Validators) -> Result<(), FetchError> {
        let body = Arc::new(body);
        let share = Arc::clone(&body);
        let digest = blocking(move || digest(&share)).await;
        if self.index.current.as_ref() == Some(&digest) {
            self.index.validators = validators;
            self.rejected = None;
            self.read_error = None;
            return Ok(());
        }
        let judged = match self.verify(&body).await {
            Ok(signature) => self.parse(&body).await.map(|parsed| (signature, parsed)),
            Err(RejectReason::Failed(failure)) => return Err(failure),
            Err(RejectReason::Rejected(why)) => Err(why),
        };
        let body = Arc::unwrap_or_clone(body);
        let (signature, parsed) = match judged {
            Ok(good) => good,
            Err(why) => {
                self.report(why);
                self.rejected = Some(Rejected { validators, body });
                return Ok(());
            }
        };
        let (signature, signed_at) = signature.unzip();
        self.take(parsed, &digest);
        self.rejected = None;
        self.read_error = None;
        self.unknown = false;
        self.index.current = Some(digest.clone());
        self.index.validators = validators;
        self.index.newest = signed_at.or(self.index.newest);
        self.index.changed = Some(jiff::Timestamp::now().as_second());
        self.documents
            .insert(digest, Arc::new(StoredDocument { body, signature }));
        Ok(())
    }

    /// Fetches and verifies the signature of a document, and returns the time when it was made; `None` if
    /// none is
    /// required.
    async fn verify(
        &mut self,
        body: &Arc<Vec<u8>>,
    ) -> Result<Option<(Vec<u8>, i64)>, RejectReason> {
        let Some(keys) = self.keys.clone() else {
            return Ok(None);
        };
        let signature = match fetch_signature(&mut self.fetcher, &self.source.url).await {
            Ok(found) => found,
            Err(failure) if failure.status.is_some_and(|code| code.is_client_error()) => {
                let why = format!("the document is not signed: {}", failure.message);
                return Err(RejectReason::Rejected(why));
            }
            Err(failure) => return Err(RejectReason::Failed(failure)),
        };
        let body = Arc::clone(body);
        let verify = move || (keys.verify(&body, &signature), signature);
        let verified = limited(KEYS, KEYS_LIMIT, verify).await;
        let (verdict, signature) =
            verified.map_err(|error| RejectReason::Failed(FetchError::new(error.to_string())))?;
        let time = verdict.and_then(|time| not_older(time, self.index.newest));
        time.map(|time| Some((signature, time)))
            .map_err(RejectReason::Rejected)
    }

    async fn parse(&self, body: &Arc<Vec<u8>>) -> Result<Parsed, String> {
        let (body, node_name) = (Arc::clone(body), self.source.node_name.clone());
        let parsed = blocking(move || manifest::parse_all(&body, &node_name, KIND)).await;
        parsed.map_err(|problems| {
            let why: Vec<_> = problems.iter().map(ToString::to_string).collect();
            format!("the document is refused as a whole: {}", why.join("; "))
        })
    }

    /// Brings the kept copy in line with what is in force.
    async fn keep(&mut self) {
        let accepted = self.accepted.values();
        let pods = accepted.map(|version| copy::IndexEntry {
            uid: version.pod.uid.clone(),
            document: version.document.clone(),
        });
        self.index.pods = pods.collect();
        let objects = self.objects.iter();
        let objects = objects.map(|(key, object)| ObjectIndexEntry {
            key: key.clone(),
            document: object.document.clone(),
        });
        self.index.objects = objects.collect();
        let differs = self
            .copy
            .as_ref()
            .is_some_and(|copy| copy.differs(&self.index));
        if self.index.current.is_none() || !differs {
            return;
        }
        let index = &self.index;
        let needed = index.documents();
        self.documents.retain(|digest, _| needed.contains(digest));
        let (index, documents) = (self.index.clone(), self.documents.clone());
        let Some(mut copy) = self.copy.take() else {
            return;
        };
        let written = spawn_blocking(move || {
            let written = copy.keep(&index, &documents);
            (copy, written)
        });
        // Its only other end is that the whole agent ends.
        let Ok((copy, written)) = written.await else {
            return;
        };
        self.copy = Some(copy);
        if let Some(error) = self.problems.record("copy", &written) {
            warn!(error, "Failed to write the document of the manifest URL");
        }
    }
}

/// Reason why a document is not put into force.
#[derive(Debug)]
enum RejectReason {
    /// The document itself.
    Rejected(String),
    /// Something that the server, or the node, may get over.
    Failed(FetchError),
}

/// The files of public keys, which may lie on a mount that does not answer.
const KEYS: &str = "the manifest URL's public key files";
/// The time in which a signature has to be checked by them.
const KEYS_LIMIT: Duration = Duration::from_secs(30);
/// The same at the start, where all manifests wait for it.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

const KIND: SourceKind = SourceKind::Http;

/// The signature that stands beside the document, under its name with `.minisig`.
async fn fetch_signature(fetcher: &mut Fetcher, url: &Url) -> Result<Vec<u8>, FetchError> {
    let mut signature_url = url.clone();
    signature_url.set_path(&format!("{}.minisig", url.path()));
    match fetcher.fetch(&signature_url, None).await {
        Ok(FetchOutcome::Document { body, .. }) => Ok(body),
        Ok(FetchOutcome::NotModified) => {
            Err(FetchError::new("the server answered 304 to no condition"))
        }
        Err(failure) => Err(FetchError {
            message: format!("{}: {}", shown(&signature_url), failure.message),
            ..failure
        }),
    }
}

fn not_older(time: i64, newest: Option<i64>) -> Result<i64, String> {
    match newest {
        Some(newest) if time < newest => {
            let date = |seconds| {
                let time = jiff::Timestamp::from_second(seconds);
                time.map_or_else(|_| seconds.to_string(), |time| time.to_string())
            };
            Err(format!(
                "the document is older than one that counted before: signed {}, expected {} or later",
                date(time),
                date(newest)
            ))
        }
        _ => Ok(time),
    }
}
