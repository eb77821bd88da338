//! Images: whether one is there, and pulls, which all who want the same image share.

pub mod credentials;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::info;

use self::credentials::{Credential, CredentialFiles};
use crate::cri::v1::{Image, ImageSpec, ImageStatusRequest, PullImageRequest};
use crate::cri::{Client, Error, if_found};
use crate::translate::ImageUser;

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

type SharedPull = BoxFuture<'static, Result<LocalImage, ImageError>>;

/// Pulls images for all Pods of the node. A pull that nobody waits for any more is given up.
#[derive(Debug)]
pub struct Images {
    credentials: Arc<CredentialFiles>,
    under_way: Mutex<HashMap<String, WeakShared<SharedPull>>>,
}

impl Images {
    /// Pulls with these credentials.
    #[must_use]
    pub fn new(credentials: CredentialFiles) -> Self {
        Self {
            credentials: Arc::new(credentials),
            under_way: Mutex::default(),
        }
    }

    /// The pull of this image: the one that is under way, or a new one.
    pub fn pull(&self, client: &Client, image: &str) -> Shared<SharedPull> {
        // A panic while holding the lock cannot leave the map half changed.
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, pull| pull.upgrade().is_some_and(|p| p.peek().is_none()));
        if let Some(pull) = under_way.get(image).and_then(WeakShared::upgrade) {
            return pull;
        }
        let credentials = Arc::clone(&self.credentials);
        let pull = pull(client.clone(), image.to_owned(), credentials);
        let pull = pull.boxed().shared();
        if let Some(weak) = pull.downgrade() {
            under_way.insert(image.to_owned(), weak);
        }
        pull
    }
}

async fn pull(
    client: Client,
    image: String,
    files: Arc<CredentialFiles>,
) -> Result<LocalImage, ImageError> {
    info!(image, "Pulling image");
    let started = Instant::now();
    let (of, read) = (image.clone(), Arc::clone(&files));
    let credentials = spawn_blocking(move || read.for_image(&of)).await;
    // Only the end of the agent can keep the files from being read.
    let credentials = credentials.unwrap_or_default();
    fetch(&client, &image, &credentials, &files).await?;
    let took = started.elapsed();
    let local = local(&client, &image).await?;
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

/// Has the runtime fetch the image, with each of the credentials until one will do, then without.
async fn fetch(
    client: &Client,
    image: &str,
    credentials: &[Credential],
    files: &CredentialFiles,
) -> Result<(), ImageError> {
    let mut refusals = vec![];
    for credential in credentials.iter().map(Some).chain([None]) {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth: credential.map(|c| c.auth.clone()),
            sandbox_config: None,
        };
        let Err(error) = client.pull_image(request).await else {
            return Ok(());
        };
        let refusal = image_error(&error, "ErrImagePull");
        if matches!(error, Error::Unavailable { .. }) || refusal.reason == "InvalidImageName" {
            return Err(refusal);
        }
        refusals.push((credential, refusal.message));
    }
    Err(ImageError {
        reason: "ErrImagePull",
        message: refused(&refusals, files),
    })
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
