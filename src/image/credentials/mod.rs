//! Credentials that the node shows to registries: the files that `docker login` writes,
//! in the places of the kubelet, and which of their entries are for an image (Kubernetes,
//! Images, "Configuring nodes to authenticate to a private registry").
//!
//! Files are read at each pull, so that changes need no restart. Nothing of what is secret in them gets
//! into a message, a log line or a `Debug` form.

mod hosts;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use tracing::warn;

use self::hosts::Repository;
use crate::cri::v1::AuthConfig;
use crate::host::log_once::LogOnce;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The layout of a credential file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `config.json`: the entries stand in `auths`.
    Config,
    /// `.dockercfg`: the entries stand at the top.
    Cfg,
}

/// The files in which a node's credentials for registries may stand.
#[derive(Debug)]
pub struct CredentialFiles {
    files: Vec<(PathBuf, Layout)>,
    /// Problems of the files, each a subject of its own.
    problems: Mutex<LogOnce>,
}

/// An entry of a file that is for an image. Its `Debug` form does not show what is secret.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// The entry's name, as the file has it.
    pub entry: String,
    /// The file.
    pub file: PathBuf,
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
        write!(f, "{:?} in {}", self.entry, self.file.display())
    }
}

impl CredentialFiles {
    /// The kubelet's places for them: `config.json` in the root directory, the working directory,
    /// `$HOME/.docker` and `/.docker`, then `.dockercfg` in the same directories or `$HOME` and `/`.
    #[must_use]
    pub fn of_node(root_dir: &Path) -> Self {
        let own = [Some(root_dir.to_owned()), std::env::current_dir().ok()];
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let homes = |below: &str| {
            let own = home.iter().map(|home| home.join(below));
            own.chain([Path::new("/").join(below)]).collect::<Vec<_>>()
        };
        let own = || own.iter().flatten().cloned();
        let configs = own().chain(homes(".docker"));
        let configs = configs.map(|folder| (folder.join("config.json"), Layout::Config));
        let cfgs = own().chain(homes(""));
        let cfgs = cfgs.map(|folder| (folder.join(".dockercfg"), Layout::Cfg));
        Self {
            files: configs.chain(cfgs).collect(),
            problems: Mutex::default(),
        }
    }

    /// Returns the paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The credentials for an image, the most specific ones first. As with the kubelet, the first file
    /// that has entries is the one that counts. Reads files.
    #[must_use]
    pub fn for_image(&self, image: &str) -> Vec<Credential> {
        let mut problems = BTreeSet::new();
        let mut found = vec![];
        for (path, layout) in &self.files {
            let mut report = |what: String| {
                problems.insert(format!("{}: {what}", path.display()));
            };
            match read(path, *layout, &mut report) {
                Ok(Some(entries)) => {
                    found = for_image(path, &entries, image, &mut report);
                    break;
                }
                Ok(None) => {}
                Err(message) => report(message),
            }
        }
        self.log(&problems);
        found
    }

    /// Logs the problems of one reading, each once while it lasts.
    fn log(&self, problems: &BTreeSet<String>) {
        // A panic while holding the lock leaves out a problem at most.
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|problem| problems.contains(problem));
        for problem in problems {
            if known.should_log(problem, Some(problem)) {
                warn!("credentials for registries: {problem}");
            }
        }
    }
}

/// The entries of a file; nothing where there is no such file, or it is another program's.
fn read(
    path: &Path,
    layout: Layout,
    report: &mut impl FnMut(String),
) -> Result<Option<Map<String, Value>>, String> {
    let Some(text) = read_text(path).map_err(|e| format!("cannot be read: {e}"))? else {
        return Ok(None);
    };
    // What the parser says of a text that is no JSON names its place, and none of its words.
    let value = serde_json::from_str(&text).map_err(|e| format!("is not JSON: {e}"))?;
    let Value::Object(mut fields) = value else {
        return Err("is no JSON object".to_owned());
    };
    if layout == Layout::Cfg {
        return Ok(Some(fields));
    }
    for field in ["credsStore", "credHelpers"] {
        if fields.contains_key(field) {
            report(format!(
                "{field}: programs that keep credentials are not asked"
            ));
        }
    }
    match fields.remove("auths") {
        Some(Value::Object(entries)) => Ok(Some(entries)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err("auths: expected an object with an entry for each registry".to_owned()),
    }
}

/// The text of a file, if there is one.
fn read_text(path: &Path) -> io::Result<Option<String>> {
    let known = match path.metadata() {
        Ok(known) => known,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(e) => return Err(e),
    };
    if !known.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let mut file = File::open(path)?.take(MAX_BYTES + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        let message = format!("it is larger than {MAX_BYTES} bytes, the most that is read");
        return Err(io::Error::other(message));
    }
    Ok(Some(text))
}

/// The entries that are for an image, the most specific ones first.
fn for_image(
    path: &Path,
    entries: &Map<String, Value>,
    image: &str,
    report: &mut impl FnMut(String),
) -> Vec<Credential> {
    let image = Repository::of_image(image);
    let mut found = vec![];
    for (name, entry) in entries {
        match auth(entry) {
            Ok(auth) => {
                let pattern = Repository::of_entry(name);
                if auth != AuthConfig::default() && pattern.covers(&image) {
                    let (entry, file) = (name.clone(), path.to_owned());
                    found.push((pattern, Credential { entry, file, auth }));
                }
            }
            Err(message) => report(format!("the entry {name:?}: {message}")),
        }
    }
    // A longer path comes before a shorter one, and a name before a pattern.
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, found)| found).collect()
}

/// Reads an entry; nothing where its credentials are kept elsewhere. No message shows any of it.
fn auth(entry: &Value) -> Result<AuthConfig, String> {
    let Value::Object(fields) = entry else {
        return Err("expected an object".to_owned());
    };
    let text = |field: &str| match fields.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{field}: expected a text")),
    };
    // A token stands for a user, whose name and password beside it are placeholders.
    let tokens = AuthConfig {
        identity_token: text("identitytoken")?,
        registry_token: text("registrytoken")?,
        ..AuthConfig::default()
    };
    if tokens != AuthConfig::default() {
        return Ok(tokens);
    }
    let (username, password) = match text("auth")?.as_str() {
        "" => (text("username")?, text("password")?),
        auth => user_and_password(auth).ok_or("auth: expected USER:PASSWORD in base64")?,
    };
    Ok(AuthConfig {
        username,
        password,
        ..AuthConfig::default()
    })
}

fn user_and_password(auth: &str) -> Option<(String, String)> {
    // The padding at the end may be left out.
    let padding = "=".repeat(auth.len().wrapping_neg() % 4);
    let bytes = STANDARD.decode(auth.to_owned() + &padding).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests;
