//! Images: whether one is there, and pulls, which all who want the same image share.

pub mod credentials;
mod damaged;
mod records;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use self::credentials::{Credential, CredentialFiles};
use self::records::PullRecords;
pub use self::records::folder as pull_records_folder;
use crate::cri::v1::{Image, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, PullImageRequest};
use crate::cri::{Client, Error, if_found};
use crate::host::blocking::pooled;
use crate::translate::{ImageUser, Paths};
use crate::units::duration::format_duration;
use crate::units::time::Later;

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Its id, from which containers are made.
    pub reference: String,
    /// The user it wants to run as.
    pub user: ImageUser,
    /// Size in bytes.
    pub size: u64,
    /// Duration of its pull, where it was pulled.
    pub pulled: Option<Duration>,
}

/// The reason for which an image cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// Kubernetes' word for it.
    pub reason: &'static str,
    /// Error message.
    pub message: String,
}

/// Time before the end of a pull's timeout at which the runtime may notice it already.
const SLACK: Duration = Duration::from_secs(1);
/// Longest wait for what a pull wrote to be on disk.
const SYNC: Duration = Duration::from_secs(30);
/// Longest wait for a small file.
const RECORD: Duration = Duration::from_secs(5);

/// State of an image before its pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The runtime does not have it.
    Missing,
    /// The runtime may have it.
    Unknown,
    /// The runtime has it in part, and nothing can be made of it.
    Damaged {
        /// A pull has not mended it.
        pulled: bool,
    },
}

type SharedPull = BoxFuture<'static, Result<LocalImage, ImageError>>;

/// Pulls images for all Pods of the node. A pull that nobody waits for any more is given up.
#[derive(Debug)]
pub struct Images {
    credentials: Arc<CredentialFiles>,
    records: Arc<PullRecords>,
    owner_label: Arc<str>,
    timeout: Duration,
    under_way: Mutex<HashMap<String, WeakShared<SharedPull>>>,
}

impl Images {
    /// Pulls with the credentials of a node, whose agent has these paths, within `timeout` each.
    #[must_use]
    pub fn new(paths: &Paths, timeout: Duration) -> Self {
        Self {
            credentials: Arc::new(CredentialFiles::of_node(&paths.root)),
            records: Arc::new(PullRecords::new(&paths.root)),
            owner_label: paths.owner_label().into(),
            timeout,
            under_way: Mutex::default(),
        }
    }

    /// The image, if it is there and whole as far as that is known: one whose pull a power cut may have torn is
    /// removed first.
    ///
    /// # Errors
    /// The runtime does not understand the name, does not remove the image, or did not answer.
    pub async fn find(
        &self,
        client: &Client,
        image: &str,
    ) -> Result<Option<LocalImage>, ImageError> {
        find(client, &self.records, &self.owner_label, image).await
    }

    /// The pull of this image: the one that is under way, or a new one.
    pub fn pull(&self, client: &Client, image: &str, before: Before) -> Shared<SharedPull> {
        // A panic while holding the lock cannot leave the map half changed.
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, pull| pull.upgrade().is_some_and(|p| p.peek().is_none()));
        if let Some(pull) = under_way.get(image).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = ImagePull {
            client: client.clone(),
            image: image.to_owned(),
            files: Arc::clone(&self.credentials),
            records: Arc::clone(&self.records),
            owner_label: Arc::clone(&self.owner_label),
            timeout: self.timeout,
        };
        let pull = pull.run(before).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            under_way.insert(image.to_owned(), weak);
        }
        pull
    }
}

/// A pull of an image.
struct ImagePull {
    client: Client,
    image: String,
    files: Arc<CredentialFiles>,
    records: Arc<PullRecords>,
    owner_label: Arc<str>,
    timeout: Duration,
}

impl ImagePull {
    async fn run(self, before: Before) -> Result<LocalImage, ImageError> {
        let Self { client, image, .. } = &self;
        info!(image, "Pulling image");
        let is_new = self.prepare(before).await;
        let started = Instant::now();
        let (of, read) = (image.clone(), Arc::clone(&self.files));
        let credentials = spawn_blocking(move || read.for_image(&of)).await;
        // Only the end of the agent can keep the files from being read.
        let credentials = credentials.unwrap_or_default();
        self.fetch(&credentials).await?;
        let took = started.elapsed();
        let local = local(client, image).await?;
        if is_new {
            self.sync().await;
        }
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        info!(image, took_ms, "Pulled image");
        let pulled = |local| LocalImage {
            pulled: Some(took),
            ..local
        };
        local.map(pulled).ok_or_else(|| ImageError {
            reason: "ErrImagePull",
            message: "the runtime pulled the image but does not have it".to_owned(),
        })
    }

    /// Records the pull of an image that is not there. Returns true if it is not.
    async fn prepare(&self, before: Before) -> bool {
        let remove = |images| damaged::remove(&self.client, &self.owner_label, images);
        self.records.discard_all_torn(remove).await;
        match before {
            Before::Missing => {}
            // One that is there is not to be lost with a boot.
            Before::Unknown => {
                let found = find(&self.client, &self.records, &self.owner_label, &self.image).await;
                if !matches!(found, Ok(None)) {
                    return false;
                }
            }
            Before::Damaged { pulled } => {
                if pulled {
                    for (image, error) in remove(vec![self.image.clone()]).await {
                        warn!(image, %error, "Failed to remove a damaged image");
                    }
                }
            }
        }
        let (records, image) = (Arc::clone(&self.records), self.image.clone());
        let recorded = pooled("records of pulls", RECORD, move || records.begin(&image)).await;
        if let Ok(Err(error)) = recorded {
            warn!(image = self.image, %error, "Failed to record a pull");
        }
        true
    }

    /// Has the runtime fetch the image, with each of the credentials until one will do, then without.
    async fn fetch(&self, credentials: &[Credential]) -> Result<(), ImageError> {
        let mut refusals = vec![];
        let end = Instant::now().later(self.timeout);
        for credential in credentials.iter().map(Some).chain([None]) {
            let request = PullImageRequest {
                image: Some(spec(&self.image)),
                auth: credential.map(|c| c.auth.clone()),
                sandbox_config: None,
            };
            let left = end.saturating_duration_since(Instant::now());
            let Err(error) = self.client.pull_image(request, left).await else {
                return Ok(());
            };
            let refusal = image_error(&error, "ErrImagePull");
            // The runtime has timeouts of its own, which say more.
            let is_late = Instant::now().later(SLACK) >= end;
            if is_late && matches!(error, Error::Deadline { .. }) {
                let within = format_duration(self.timeout);
                let message =
                    format!("Timed out after {within} pulling the image (--image-pull-timeout)");
                return Err(ImageError { message, ..refusal });
            }
            if matches!(error, Error::Unavailable { .. }) || refusal.reason == "InvalidImageName" {
                return Err(refusal);
            }
            refusals.push((credential, refusal.message));
        }
        Err(ImageError {
            reason: "ErrImagePull",
            message: refused(&refusals, &self.files),
        })
    }

    /// Has the kernel write to disk what the pull has written, and removes its record then.
    async fn sync(&self) {
        let answer = self.client.image_fs_info(ImageFsInfoRequest {}).await;
        let systems = answer.map(|answer| answer.image_filesystems);
        let ids = systems
            .into_iter()
            .flatten()
            .filter_map(|system| system.fs_id);
        let folders: Vec<PathBuf> = ids.map(|id| id.mountpoint.into()).collect();
        let (records, image) = (Arc::clone(&self.records), self.image.clone());
        let sync = move || {
            // A file system that is not seen from here cannot be waited for.
            for folder in folders.iter().filter_map(|folder| File::open(folder).ok()) {
                if let Err(error) = rustix::fs::syncfs(&folder) {
                    warn!(%error, "Failed to sync the file system of images");
                }
            }
            records.end(&image);
        };
        // A disk that takes longer keeps no Pod from its start, and the record is removed when it is done.
        if let Err(error) = pooled("file system of images", SYNC, sync).await {
            warn!(image = self.image, %error, "Pulled image is not on disk yet");
        }
    }
}

/// Returns true if the runtime's error says that it has an image in part only, as after a power cut: its content is
/// gone, cut off, or another.
#[must_use]
pub fn is_damaged(error: &Error) -> bool {
    let message = error.message();
    let has = |words: &str| message.contains(words);
    let of_content = [
        "content digest",
        "unpacking image",
        "extract layer",
        "content store",
    ];
    let of_snapshot = has("snapshot") && has("does not exist");
    let what = of_content.into_iter().any(has);
    let how = [
        "not found",
        "EOF",
        "failed size validation",
        "unexpected",
        "invalid",
    ];
    of_snapshot || what && how.into_iter().any(has)
}

/// Returns the error of an image that could not be pulled with any of these.
fn refused(refusals: &[(Option<&Credential>, String)], files: &CredentialFiles) -> String {
    if let [(None, message)] = refusals {
        if !wants_credentials(message) {
            return message.clone();
        }
        let paths: Vec<_> = files
            .paths()
            .map(|path| path.display().to_string())
            .collect();
        let paths = paths.join(", ");
        return format!("{message}; there are no credentials for it, looked for in {paths}");
    }
    let tries = refusals
        .iter()
        .map(|(credential, message)| match credential {
            Some(credential) => format!("with the credentials of {credential}: {message}"),
            None => format!("without credentials: {message}"),
        });
    tries.collect::<Vec<_>>().join("; ")
}

/// Returns true if the registry seems to want to know who asks.
fn wants_credentials(message: &str) -> bool {
    let message = message.to_lowercase();
    let words = ["401", "403", "authoriz", "authentic", "denied", "forbidden"];
    words.iter().any(|word| message.contains(word))
}

async fn find(
    client: &Client,
    records: &PullRecords,
    owner_label: &str,
    image: &str,
) -> Result<Option<LocalImage>, ImageError> {
    let remove = |images| damaged::remove(client, owner_label, images);
    let discarded = records.discard_torn(image, remove).await;
    discarded.map_err(|error| image_error(&error, "ImageInspectError"))?;
    local(client, image).await
}

/// The image, if it is there.
///
/// # Errors
/// The runtime does not understand the name, or did not answer.
pub async fn local(client: &Client, image: &str) -> Result<Option<LocalImage>, ImageError> {
    let request = ImageStatusRequest {
        image: Some(spec(image)),
        verbose: false,
    };
    match if_found(client.image_status(request).await) {
        Ok(answer) => Ok(answer.and_then(|answer| answer.image).map(local_image)),
        Err(error) => {
            let refusal = image_error(&error, "ImageInspectError");
            let message = match refusal.reason {
                // As the kubelet has it, in the status too.
                "ImageInspectError" => error.rpc_error(),
                _ => refusal.message,
            };
            Err(ImageError { message, ..refusal })
        }
    }
}

fn local_image(image: Image) -> LocalImage {
    let user = match image.uid {
        Some(uid) => ImageUser::Uid(uid.value),
        None if !image.username.is_empty() => ImageUser::Name(image.username),
        None => ImageUser::default(),
    };
    LocalImage {
        reference: image.id,
        user,
        size: image.size,
        pulled: None,
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}

fn image_error(error: &Error, reason: &'static str) -> ImageError {
    let message = error.message();
    let unreadable_name = ["invalid reference format", "parse image reference"];
    let invalid = unreadable_name.iter().any(|words| message.contains(words));
    ImageError {
        reason: if invalid { "InvalidImageName" } else { reason },
        message,
    }
}
