//! Images: whether one is there, and pulls, which all who want the same image share.

pub mod credentials;
mod damaged;
mod fetch;
mod records;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;
use tracing::{info, warn};

use self::credentials::{CredentialProvider, Credentials};
use self::records::PullRecords;
pub use self::records::folder as pull_records_folder;
use crate::cri::v1::{Image, ImageFsInfoRequest, ImageSpec, ImageStatusRequest};
use crate::cri::{Client, Error, if_found};
use crate::host::blocking::pooled;
use crate::manifest::objects::PullSecrets;
use crate::translate::{ImageUser, Paths};

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

/// An image and the Secrets that its pull is made with. Pods with other Secrets may be given other images.
type PullKey = (String, PullSecrets);

/// Pulls images for all Pods of the node. A pull that nobody waits for any more is given up.
#[derive(Debug)]
pub struct Images {
    credentials: Arc<Credentials>,
    records: Arc<PullRecords>,
    owner_label: Arc<str>,
    timeout: Duration,
    under_way: Mutex<BTreeMap<PullKey, WeakShared<SharedPull>>>,
}

impl Images {
    /// Pulls with the credentials of a node, whose agent has these paths and credential providers, within `timeout`
    /// each.
    #[must_use]
    pub fn new(paths: &Paths, timeout: Duration, providers: Vec<CredentialProvider>) -> Self {
        Self {
            credentials: Arc::new(Credentials::of_node(&paths.root, providers)),
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

    /// The pull of this image with these Secrets: the one that is under way, or a new one.
    pub fn pull(
        &self,
        client: &Client,
        image: &str,
        secrets: PullSecrets,
        before: Before,
    ) -> Shared<SharedPull> {
        // A panic while holding the lock cannot leave the map half changed.
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, pull| pull.upgrade().is_some_and(|p| p.peek().is_none()));
        let key = (image.to_owned(), secrets.clone());
        if let Some(pull) = under_way.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = ImagePull {
            client: client.clone(),
            image: image.to_owned(),
            secrets,
            credentials: Arc::clone(&self.credentials),
            records: Arc::clone(&self.records),
            owner_label: Arc::clone(&self.owner_label),
            timeout: self.timeout,
        };
        let pull = pull.run(before).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            under_way.insert(key, weak);
        }
        pull
    }
}

/// A pull of an image.
struct ImagePull {
    client: Client,
    image: String,
    secrets: PullSecrets,
    credentials: Arc<Credentials>,
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
        self.fetch().await?;
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
