//! The kubelet's credential providers: `--image-credential-provider-config`, a `CredentialProviderConfig` or a directory
//! of them, and `--image-credential-provider-bin-dir` (reference: kubelet `CredentialProviderConfig`, v1).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::file::place;
use super::values::Values;
use crate::image::credentials::{CredentialProvider, split_port};
use crate::manifest::document::{self, Document};
use crate::manifest::{Problem, path};
use crate::units::duration::{format_duration, parse_duration};
use crate::units::time::Later;

/// The setting with the path of the configuration.
const CONFIG: &str = "image-credential-provider-config";
/// The setting with the directory of the programs.
const BIN_DIR: &str = "image-credential-provider-bin-dir";
const KIND: &str = "CredentialProviderConfig";
/// Longest wait for a look at the programs.
const LOOK: Duration = Duration::from_secs(2);
/// Versions of the configuration.
const VERSIONS: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
/// Versions of requests and answers.
const API_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// The fields of a provider.
const FIELDS: [&str; 7] = [
    "name",
    "matchImages",
    "defaultCacheDuration",
    "apiVersion",
    "args",
    "env",
    "tokenAttributes",
];
/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the providers, in the order of the files.
///
/// # Errors
/// A file cannot be read, or a field is invalid: every problem of a file with its place.
pub(super) fn load(values: &Values) -> anyhow::Result<Vec<CredentialProvider>> {
    let config = values.get(CONFIG).optional_path()?;
    let bin_dir = values.get(BIN_DIR).optional_path()?;
    let (config, bin_dir) = match (config, bin_dir) {
        (None, None) => return Ok(vec![]),
        (Some(config), Some(bin_dir)) => (config, bin_dir),
        (Some(_), None) => bail!("--{CONFIG}: --{BIN_DIR} must be given beside it"),
        (None, Some(_)) => bail!("--{BIN_DIR}: --{CONFIG} must be given beside it"),
    };
    let mut providers: Vec<CredentialProvider> = vec![];
    for file in files(&config)? {
        let mut reader = ConfigReader::default();
        let read = read_file(&file).with_context(|| format!("--{CONFIG}: {}", file.display()))?;
        match document::read_one(&read, KIND) {
            Ok(document) => reader.read(&document, &bin_dir, &providers),
            Err(problems) => reader.problems = problems,
        }
        if !reader.problems.is_empty() {
            let lines = reader.problems.iter().map(|problem| place(&file, problem));
            bail!("{}", lines.collect::<Vec<_>>().join("\n"));
        }
        providers.append(&mut reader.providers);
    }
    Ok(providers)
}

/// Returns warnings of programs that are not there.
pub(super) fn warnings(providers: &[CredentialProvider]) -> Vec<String> {
    let programs: Vec<PathBuf> = providers.iter().map(|p| p.program.clone()).collect();
    let (sender, receiver) = mpsc::channel();
    // They may lie on a mount that does not answer, which keeps no agent from starting either.
    thread::spawn(move || {
        for program in programs {
            let _ = sender.send(problem_of(&program));
        }
    });
    let end = Instant::now().later(LOOK);
    let hangs = || {
        let within = format_duration(LOOK);
        Some(format!("does not answer within {within}"))
    };
    let missing = providers.iter().filter_map(|provider| {
        let left = end.saturating_duration_since(Instant::now());
        let what = receiver.recv_timeout(left).unwrap_or_else(|_| hangs())?;
        let CredentialProvider { name, program, .. } = provider;
        Some(format!(
            "--{BIN_DIR}: {} {what}; the credential provider {name} gives no credentials",
            program.display()
        ))
    });
    missing.collect()
}

/// Returns what is wrong with a program, if anything is.
fn problem_of(program: &Path) -> Option<String> {
    match fs::metadata(program) {
        Ok(known) if !known.is_file() => Some("is no file".to_owned()),
        Ok(known) if known.permissions().mode() & 0o111 == 0 => {
            Some("is not executable".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(format!("cannot be found: {error}")),
    }
}

/// Returns the files of the configuration: itself, or those of the directory, by name.
fn files(config: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let wrong = || format!("--{CONFIG}: cannot read {}", config.display());
    if !fs::metadata(config).with_context(wrong)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut files = vec![];
    for entry in fs::read_dir(config).with_context(wrong)? {
        let path = entry.with_context(wrong)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_named = matches!(extension, Some("json" | "yaml" | "yml"));
        if is_named && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let found = config.display();
        bail!("--{CONFIG}: found no *.json, *.yaml or *.yml in {found}, expected a {KIND}");
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(file)?.len();
    if size > MAX_BYTES {
        bail!("is larger than {MAX_BYTES} bytes, the most that is read");
    }
    Ok(fs::read(file)?)
}

/// Reader of one file.
#[derive(Default)]
struct ConfigReader {
    providers: Vec<CredentialProvider>,
    problems: Vec<Problem>,
}

impl ConfigReader {
    fn refuse(&mut self, document: &Document, field: &str, message: impl Into<String>) {
        self.problems.push(document.spans.problem(field, message));
    }

    fn read(&mut self, document: &Document, bin_dir: &Path, before: &[CredentialProvider]) {
        let Value::Object(fields) = &document.value else {
            let message = format!("expected a {KIND} (an object with apiVersion and kind)");
            return self.refuse(document, "", message);
        };
        for (field, expected) in [("apiVersion", &VERSIONS[..]), ("kind", &[KIND])] {
            let found = fields.get(field).unwrap_or(&Value::Null);
            if !found
                .as_str()
                .is_some_and(|found| expected.contains(&found))
            {
                self.unexpected(document, field, found, expected);
            }
        }
        for field in fields.keys() {
            if !["apiVersion", "kind", "providers"].contains(&field.as_str()) {
                self.unknown(document, field, &["providers"]);
            }
        }
        match fields.get("providers") {
            Some(Value::Array(list)) if !list.is_empty() => {
                for (i, provider) in list.iter().enumerate() {
                    self.provider(
                        document,
                        &path::index("providers", i),
                        provider,
                        bin_dir,
                        before,
                    );
                }
            }
            _ => self.refuse(
                document,
                "providers",
                "expected a list of one provider or more",
            ),
        }
    }

    fn provider(
        &mut self,
        document: &Document,
        at: &str,
        value: &Value,
        bin_dir: &Path,
        before: &[CredentialProvider],
    ) {
        let Value::Object(fields) = value else {
            return self.refuse(document, at, "expected an object");
        };
        for field in fields
            .keys()
            .filter(|field| !FIELDS.contains(&field.as_str()))
        {
            self.unknown(document, &path::key(at, field), &FIELDS);
        }
        if fields
            .get("tokenAttributes")
            .is_some_and(|value| !value.is_null())
        {
            let message = "static Pods have no service accounts, whose tokens could be passed on";
            self.refuse(document, &path::key(at, "tokenAttributes"), message);
        }
        let name = self.name(document, &path::key(at, "name"), fields.get("name"));
        let is_known = |known: &CredentialProvider| known.name == name;
        if before.iter().chain(&self.providers).any(is_known) && !name.is_empty() {
            let message = format!("found {name:?} twice, expected each name once");
            self.refuse(document, &path::key(at, "name"), message);
        }
        let api_version = fields.get("apiVersion").unwrap_or(&Value::Null);
        let version = api_version.as_str().unwrap_or_default();
        if !API_VERSIONS.contains(&version) {
            let field = path::key(at, "apiVersion");
            self.unexpected(document, &field, api_version, &API_VERSIONS);
        }
        let provider = CredentialProvider {
            program: bin_dir.join(&name),
            name,
            match_images: self.match_images(document, at, fields),
            default_cache_duration: self.duration(document, at, fields),
            api_version: version.to_owned(),
            args: self.texts(document, &path::key(at, "args"), fields.get("args")),
            env: self.env(document, &path::key(at, "env"), fields.get("env")),
        };
        self.providers.push(provider);
    }

    fn name(&mut self, document: &Document, at: &str, value: Option<&Value>) -> String {
        let name = value.and_then(Value::as_str).unwrap_or_default();
        let is_name = !name.is_empty() && ![".", ".."].contains(&name);
        if !is_name || name.contains(['/', ' ']) {
            let message = "expected the name of a program, without '/' and blanks";
            self.refuse(document, at, message);
            return String::new();
        }
        name.to_owned()
    }

    fn match_images(
        &mut self,
        document: &Document,
        at: &str,
        fields: &Map<String, Value>,
    ) -> Vec<String> {
        let field = path::key(at, "matchImages");
        let patterns = self.texts(document, &field, fields.get("matchImages"));
        if patterns.is_empty() {
            let message = "expected one pattern of images or more, such as registry.example.com";
            self.refuse(document, &field, message);
        }
        for (i, pattern) in patterns.iter().enumerate() {
            let host = pattern.split('/').next().unwrap_or_default();
            let (_, port) = split_port(host);
            let port = port.strip_prefix(':').unwrap_or(port);
            let has_blank = |c: char| c.is_whitespace() || c.is_control();
            if pattern.contains(has_blank) || !port.chars().all(|c| c.is_ascii_digit()) {
                let message =
                    format!("found {pattern:?}, expected a host with an optional port and path");
                self.refuse(document, &path::index(&field, i), message);
            }
        }
        patterns
    }

    fn duration(&mut self, document: &Document, at: &str, fields: &Map<String, Value>) -> Duration {
        let field = path::key(at, "defaultCacheDuration");
        let parsed = match fields.get("defaultCacheDuration") {
            Some(Value::String(text)) => parse_duration(text),
            None | Some(Value::Null) => Err("missing, expected a duration such as 12h".to_owned()),
            Some(found) => Err(format!("found {found}, expected a duration such as 12h")),
        };
        parsed.unwrap_or_else(|message| {
            self.refuse(document, &field, message);
            Duration::ZERO
        })
    }

    fn texts(&mut self, document: &Document, at: &str, value: Option<&Value>) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => return vec![],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.refuse(document, at, "expected a list of texts");
                return vec![];
            }
        };
        let mut texts = vec![];
        for (i, value) in list.iter().enumerate() {
            match value.as_str() {
                Some(text) if !text.contains('\0') => texts.push(text.to_owned()),
                _ => self.refuse(document, &path::index(at, i), "expected a text"),
            }
        }
        texts
    }

    /// Reads variables. No message shows their values, which may be secret.
    fn env(
        &mut self,
        document: &Document,
        at: &str,
        value: Option<&Value>,
    ) -> Vec<(String, String)> {
        let list = match value {
            None | Some(Value::Null) => return vec![],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.refuse(
                    document,
                    at,
                    "expected a list of variables, each with name and value",
                );
                return vec![];
            }
        };
        let mut env = vec![];
        for (i, variable) in list.iter().enumerate() {
            let fields = variable.as_object();
            let text = |field: &str| fields.and_then(|fields| fields.get(field)?.as_str());
            let is_name = |name: &&str| !name.is_empty() && !name.contains(['=', '\0']);
            let has_others = fields.is_some_and(|fields| {
                let mut names = fields.keys();
                names.any(|field| !["name", "value"].contains(&field.as_str()))
            });
            match (text("name").filter(is_name), text("value")) {
                (Some(name), Some(value)) if !has_others && !value.contains('\0') => {
                    env.push((name.to_owned(), value.to_owned()));
                }
                _ => {
                    let message = "expected the texts name and value of a variable";
                    self.refuse(document, &path::index(at, i), message);
                }
            }
        }
        env
    }

    fn unexpected(&mut self, document: &Document, at: &str, found: &Value, expected: &[&str]) {
        let expected = expected.join(", ");
        let message = match found {
            Value::Null => format!("missing, expected one of {expected}"),
            found => format!("found {found}, expected one of {expected}"),
        };
        self.refuse(document, at, message);
    }

    fn unknown(&mut self, document: &Document, at: &str, fields: &[&str]) {
        let message = format!("unknown field, expected one of {}", fields.join(", "));
        self.problems
            .push(document.spans.problem_with_key(at, message));
    }
}

#[cfg(test)]
mod tests;
