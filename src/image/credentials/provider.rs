//! The kubelet's credential providers: programs that give credentials for images, each for those of its patterns
//! (Kubernetes, Configure a kubelet image credential provider).
//!
//! Answers are kept as long as the provider says, as the kubelet does: for an image, for a registry, or for all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

use super::calls::{CallResult, SharedCalls, run};
use super::hosts::Repository;
use crate::manifest::docker_config::Login;
use crate::units::duration::parse_duration;
use crate::units::time::Later;

/// Time that a provider may take, the kubelet's.
const PROVIDER_TIME: Duration = Duration::from_secs(60);
/// Answers that are kept of one provider.
const MAX_CACHED: usize = 1000;
/// The kind of a provider's answers.
const RESPONSE: &str = "CredentialProviderResponse";

/// A credential provider as the configuration has it. Its `Debug` form shows neither arguments nor variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CredentialProvider {
    /// Name of the program.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Patterns of the images that it is asked about.
    pub match_images: Vec<String>,
    /// Time for which an answer without a duration is kept.
    pub default_cache_duration: Duration,
    /// Version of requests and answers.
    pub api_version: String,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Variables of the program besides the agent's.
    pub env: Vec<(String, String)>,
}

impl fmt::Debug for CredentialProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialProvider")
            .field("program", &self.program)
            .field("match_images", &self.match_images)
            .finish_non_exhaustive()
    }
}

/// Images that an answer of a provider is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum CacheKeyType {
    /// The image that it was asked about.
    Image,
    /// All images of the registry.
    Registry,
    /// All images of the provider's patterns.
    Global,
}

/// An answer of a provider.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProviderResponse {
    api_version: String,
    kind: String,
    cache_key_type: CacheKeyType,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, ProviderAuth>>,
}

/// Credentials of a provider's answer.
#[derive(Deserialize)]
struct ProviderAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Credentials by pattern of images.
pub(super) type ProvidedLogins = Arc<BTreeMap<String, Login>>;

/// An answer, as it is kept.
#[derive(Clone)]
struct CachedAnswer {
    logins: ProvidedLogins,
    expires: Instant,
}

/// Key of an answer that is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum CacheKey {
    Image(String),
    Registry(String),
    Global,
}

/// Answers that are kept.
#[derive(Default)]
struct AnswerCache(BTreeMap<CacheKey, CachedAnswer>);

impl AnswerCache {
    /// The answer for an image, the most specific one.
    fn get(&self, image: &Repository, now: Instant) -> Option<ProvidedLogins> {
        let keys = [
            CacheKey::Image(image.to_string()),
            CacheKey::Registry(image.registry()),
            CacheKey::Global,
        ];
        let mut found = keys.iter().filter_map(|key| self.0.get(key));
        let valid = found.find(|answer| answer.expires > now)?;
        Some(Arc::clone(&valid.logins))
    }

    /// Keeps an answer. Of too many, the one that expires first makes room.
    fn insert(&mut self, key: CacheKey, answer: CachedAnswer, now: Instant) {
        self.0.retain(|_, answer| answer.expires > now);
        if self.0.len() >= MAX_CACHED && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, answer)| answer.expires);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.0.remove(&first);
            }
        }
        self.0.insert(key, answer);
    }
}

/// A credential provider that runs when it is needed.
pub(super) struct Provider {
    settings: Arc<CredentialProvider>,
    patterns: Vec<Repository>,
    cache: Arc<Mutex<AnswerCache>>,
    calls: SharedCalls<ProvidedLogins>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credential provider {}", self.settings.name)
    }
}

impl Provider {
    pub(super) fn new(settings: CredentialProvider) -> Self {
        let patterns = settings.match_images.iter();
        Self {
            patterns: patterns.map(|p| Repository::of_pattern(p)).collect(),
            settings: Arc::new(settings),
            cache: Arc::default(),
            calls: SharedCalls::default(),
        }
    }

    /// Returns true if it is to be asked about an image.
    pub(super) fn is_for(&self, image: &Repository) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(image))
    }

    /// Returns the credentials for an image: those that are kept, or new ones.
    ///
    /// # Errors
    /// It fails, takes too long, or prints something else.
    pub(super) async fn provide(&self, image: &Repository) -> CallResult<ProvidedLogins> {
        let kept = lock(&self.cache).get(image, Instant::now());
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let name = image.to_string();
        let call = ask(
            Arc::clone(&self.settings),
            Arc::clone(&self.cache),
            name.clone(),
            image.registry(),
        );
        // It goes on where nobody waits any more, so that the next one has its answer.
        let call = async {
            tokio::spawn(call)
                .await
                .map_err(|error| error.to_string())?
        };
        self.calls.join(&name, call).await
    }
}

fn lock(cache: &Mutex<AnswerCache>) -> std::sync::MutexGuard<'_, AnswerCache> {
    // A panic while holding the lock loses an answer at most.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(
    settings: Arc<CredentialProvider>,
    cache: Arc<Mutex<AnswerCache>>,
    image: String,
    registry: String,
) -> CallResult<ProvidedLogins> {
    let mut command = Command::new(&settings.program);
    command.args(&settings.args);
    command.envs(settings.env.iter().cloned());
    let request = json!({
        "apiVersion": settings.api_version,
        "kind": "CredentialProviderRequest",
        "image": image,
    });
    let input = format!("{request}\n").into_bytes();
    let ended = run(command, input, PROVIDER_TIME).await?;
    if !ended.status.success() {
        return Err(format!(
            "{} failed, {}; what it prints is not shown, since it may be secret",
            settings.program.display(),
            ended.status
        ));
    }
    let response = parse_response(&ended.stdout, &settings.api_version)?;
    let kept_for = match &response.cache_duration {
        None => settings.default_cache_duration,
        Some(text) => cache_duration(text)?,
    };
    let logins = response.auth.into_iter().flatten().map(|(name, auth)| {
        let login = Login {
            username: auth.username,
            password: auth.password,
            ..Login::default()
        };
        (name, login)
    });
    let logins: ProvidedLogins = Arc::new(logins.collect());
    if !kept_for.is_zero() {
        let key = match response.cache_key_type {
            CacheKeyType::Image => CacheKey::Image(image),
            CacheKeyType::Registry => CacheKey::Registry(registry),
            CacheKeyType::Global => CacheKey::Global,
        };
        let now = Instant::now();
        let answer = CachedAnswer {
            logins: Arc::clone(&logins),
            expires: now.later(kept_for),
        };
        lock(&cache).insert(key, answer, now);
    }
    Ok(logins)
}

/// Reads an answer. No error shows any of it.
fn parse_response(printed: &[u8], api_version: &str) -> Result<ProviderResponse, String> {
    let response: ProviderResponse = serde_json::from_slice(printed).map_err(|_| {
        format!("printed something else than a {RESPONSE} in JSON with a cacheKeyType of Image, Registry or Global")
    })?;
    if response.api_version != api_version || response.kind != RESPONSE {
        return Err(format!(
            "printed an answer of another kind or version, expected a {RESPONSE} of {api_version}"
        ));
    }
    Ok(response)
}

/// Reads the duration of an answer; a negative one is over at once.
fn cache_duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    parse_duration(text)
        .map_err(|_| "printed a cacheDuration that is none, expected one such as 6h".to_owned())
}

#[cfg(test)]
mod tests;
