//! Credentials for registries: those of a Pod's `imagePullSecrets`, of the node's docker config files, and of the
//! kubelet's credential providers, in this order, as in the kubelet's keyring.
//!
//! They are read again at each pull, so that changes need no restart. Nothing of what is secret in them gets into a
//! message, a log line or a `Debug` form, and neither does anything that a program prints.

mod calls;
mod files;
mod helper;
mod hosts;
mod provider;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tracing::warn;

use self::files::CredentialFiles;
use self::helper::CredentialHelpers;
use self::hosts::Repository;
pub(crate) use self::hosts::split_port;
use self::provider::Provider;
pub use self::provider::{CacheKeyType, CredentialProvider};
use crate::cri::v1::AuthConfig;
use crate::host::blocking::pooled;
use crate::host::log_once::LogOnce;
use crate::manifest::docker_config::{Login, read_login, read_object, take_entries};
use crate::manifest::objects::PullSecret;
use crate::units::duration::format_duration;

/// Longest wait for the node's docker config files.
const FILES: Duration = Duration::from_secs(5);

/// Credentials that are for an image. Its `Debug` form does not show what is secret.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// The name of their entry, as it is written.
    pub entry: String,
    /// The place of the entry, for people.
    pub place: String,
    /// Credentials that the runtime shows to the registry.
    pub auth: AuthConfig,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.entry, self.place)
    }
}

/// A source of credentials, in the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// The Pod's Secrets.
    PullSecrets,
    /// The node's docker config files, and the programs that they name.
    Files,
    /// The kubelet's credential providers.
    Providers,
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PullSecrets => "the Pod's imagePullSecrets",
            Self::Files => "the node's docker config files and credential helpers",
            Self::Providers => "the credential providers",
        })
    }
}

impl CredentialSource {
    /// All of them in order.
    pub const ALL: [Self; 3] = [Self::PullSecrets, Self::Files, Self::Providers];
}

/// The credentials that a source has for an image.
#[derive(Debug, Default)]
pub struct FoundCredentials {
    /// The most specific ones first.
    pub credentials: Vec<Credential>,
    /// Reasons for which there may be more.
    pub failures: Vec<String>,
}

/// Entries that are for an image.
#[derive(Debug, Default)]
struct Candidates(Vec<(Repository, Credential)>);

impl Candidates {
    /// Adds those of these entries that are for an image. Returns what is wrong with entries.
    fn add(&mut self, place: &str, entries: &Map<String, Value>, image: &str) -> Vec<String> {
        let mut problems = vec![];
        let image = Repository::of_image(image);
        for (name, entry) in entries {
            match read_login(entry) {
                Ok(login) if login != Login::default() => {
                    self.add_login(place, name, login, &image);
                }
                Ok(_) => {}
                Err(message) => problems.push(format!("the entry {name:?}: {message}")),
            }
        }
        problems
    }

    fn add_login(&mut self, place: &str, name: &str, login: Login, image: &Repository) {
        let pattern = Repository::of_entry(name);
        if pattern.covers(image) {
            let (entry, place) = (name.to_owned(), place.to_owned());
            let auth = auth_of(login);
            self.0.push((pattern, Credential { entry, place, auth }));
        }
    }

    /// The most specific ones first: a longer path comes before a shorter one, and a name before a pattern.
    fn sorted(mut self) -> Vec<Credential> {
        self.0.sort_by(|(a, _), (b, _)| b.cmp(a));
        self.0.into_iter().map(|(_, found)| found).collect()
    }
}

fn auth_of(login: Login) -> AuthConfig {
    AuthConfig {
        username: login.username,
        password: login.password,
        identity_token: login.identity_token,
        registry_token: login.registry_token,
        ..AuthConfig::default()
    }
}

/// The credentials of a node.
#[derive(Debug)]
pub struct Credentials {
    files: Arc<CredentialFiles>,
    helpers: CredentialHelpers,
    providers: Vec<Provider>,
    /// Problems of the files, each a subject of its own.
    problems: Mutex<LogOnce>,
    /// Failures of programs, each a subject of its own.
    failures: Mutex<LogOnce>,
}

impl Credentials {
    /// The credentials of a node whose agent has this root directory and these credential providers.
    #[must_use]
    pub fn of_node(root_dir: &Path, providers: Vec<CredentialProvider>) -> Self {
        Self {
            files: Arc::new(CredentialFiles::of_node(root_dir)),
            helpers: CredentialHelpers::default(),
            providers: providers.into_iter().map(Provider::new).collect(),
            problems: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Returns the places in which credentials are looked for, with these Secrets.
    #[must_use]
    pub fn places(&self, secrets: &[PullSecret]) -> Vec<String> {
        let secrets = secrets.iter().map(PullSecret::to_string);
        let files = self.files.paths().map(|path| path.display().to_string());
        secrets.chain(files).collect()
    }

    /// Finds the credentials that a source has for an image.
    pub async fn find(
        &self,
        source: CredentialSource,
        image: &str,
        secrets: &[PullSecret],
    ) -> FoundCredentials {
        match source {
            CredentialSource::PullSecrets => FoundCredentials {
                credentials: of_secrets(secrets, image),
                failures: vec![],
            },
            CredentialSource::Files => self.of_files(image).await,
            CredentialSource::Providers => self.of_providers(image).await,
        }
    }

    async fn of_files(&self, image: &str) -> FoundCredentials {
        let (files, of) = (Arc::clone(&self.files), image.to_owned());
        let found = pooled("docker config files", FILES, move || files.for_image(&of)).await;
        let mut all = FoundCredentials::default();
        let Ok(found) = found else {
            let within = format_duration(FILES);
            let failure = format!("the node's docker config files were not read within {within}");
            all.failures.push(self.log_failure(failure));
            return all;
        };
        self.log_files(found.problems);
        if let Some(call) = found.helper {
            match self.helpers.get(call.clone()).await {
                Ok(login) => all.credentials.extend(login.map(|login| Credential {
                    entry: call.server.clone(),
                    place: call.to_string(),
                    auth: auth_of(login),
                })),
                Err(error) => all
                    .failures
                    .push(self.log_failure(format!("{call}: {error}"))),
            }
        }
        all.credentials.extend(found.candidates.sorted());
        all
    }

    async fn of_providers(&self, image: &str) -> FoundCredentials {
        let repository = Repository::of_image(image);
        let asked = self.providers.iter().filter(|p| p.is_for(&repository));
        let asked: Vec<&Provider> = asked.collect();
        let answers = join_all(asked.iter().map(|p| p.provide(&repository))).await;
        let (mut candidates, mut failures) = (Candidates::default(), vec![]);
        for (provider, answer) in asked.into_iter().zip(answers) {
            let place = provider.to_string();
            match answer {
                Ok(entries) => {
                    for (name, login) in entries.iter() {
                        candidates.add_login(&place, name, login.clone(), &repository);
                    }
                }
                Err(error) => failures.push(self.log_failure(format!("{place}: {error}"))),
            }
        }
        FoundCredentials {
            credentials: candidates.sorted(),
            failures,
        }
    }

    /// Logs the problems of one reading of the files, each once while it lasts.
    fn log_files(&self, problems: Vec<String>) {
        let problems: BTreeSet<String> = problems.into_iter().collect();
        // A panic while holding the lock leaves out a problem at most.
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|problem| problems.contains(problem));
        for problem in &problems {
            if known.should_log(problem, Some(problem)) {
                warn!("credentials for registries: {problem}");
            }
        }
    }

    /// Logs a failure of a program, each kind once while it lasts, and gives it back.
    fn log_failure(&self, failure: String) -> String {
        let mut known = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if known.should_log(&failure, Some(&failure)) {
            warn!("credentials for registries: {failure}");
        }
        failure
    }
}

/// The credentials that Secrets have for an image. They were checked when their manifests were read.
fn of_secrets(secrets: &[PullSecret], image: &str) -> Vec<Credential> {
    let mut candidates = Candidates::default();
    for secret in secrets {
        let entries = secret.text().and_then(|(text, layout)| {
            let entries = take_entries(read_object(text)?, layout)?;
            Ok(entries.unwrap_or_default())
        });
        if let Ok(entries) = entries {
            candidates.add(&secret.to_string(), &entries, image);
        }
    }
    candidates.sorted()
}

#[cfg(test)]
mod tests;
