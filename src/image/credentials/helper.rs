//! Docker's credential helpers: programs `docker-credential-NAME` that keep credentials, which `credsStore` and
//! `credHelpers` of a `config.json` name (Docker, `docker login`, "Credential helper protocol").

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::process::Command;

use super::calls::{CallResult, SharedCalls, run};
use super::hosts::Repository;
use crate::manifest::docker_config::Login;

/// Time that a helper may take.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// The name of Docker Hub for helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";
/// Words of a helper that has no credentials for the registry, for which it fails.
const NOT_FOUND: &str = "credentials not found";

/// The helpers that a file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HelperNames {
    store: Option<String>,
    /// By registry; `None` where the registry has none.
    by_registry: BTreeMap<String, Option<String>>,
}

impl HelperNames {
    /// Reads them, and reports invalid ones.
    pub(super) fn read(fields: &Map<String, Value>, report: &mut impl FnMut(String)) -> Self {
        let mut names = Self::default();
        let expected =
            "expected the name of a credential helper: letters, digits, '-', '_' and '.'";
        match fields.get("credsStore").map(helper_name) {
            None => {}
            Some(Ok(name)) => names.store = name,
            Some(Err(())) => report(format!("credsStore: {expected}")),
        }
        match fields.get("credHelpers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(helpers)) => {
                for (registry, name) in helpers {
                    match helper_name(name) {
                        Ok(name) => {
                            names.by_registry.insert(registry.clone(), name);
                        }
                        Err(()) => report(format!("credHelpers[{registry:?}]: {expected}")),
                    }
                }
            }
            Some(_) => report(
                "credHelpers: expected an object with the name of a helper for each registry"
                    .to_owned(),
            ),
        }
        names
    }

    /// True if there are none.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The call that gives the credentials for an image: of its registry's helper, else of the store.
    pub(super) fn for_image(&self, image: &str, file: &Path) -> Option<HelperCall> {
        let image = Repository::of_image(image);
        let is_of = |registry: &str| {
            let of = Repository::of_entry(registry);
            (&of.host, &of.port) == (&image.host, &image.port)
        };
        let mut own = self.by_registry.iter();
        let own = own.find(|(registry, _)| is_of(registry));
        let (server, name) = if let Some((registry, name)) = own {
            (registry.clone(), name.as_ref())
        } else {
            let server = match image.registry() {
                hub if hub == "docker.io" => DOCKER_HUB.to_owned(),
                registry => registry,
            };
            (server, self.store.as_ref())
        };
        Some(HelperCall {
            program: format!("docker-credential-{}", name?),
            server,
            file: file.to_owned(),
        })
    }
}

/// Reads the name of a helper, which is no path; `None` where it is empty.
fn helper_name(value: &Value) -> Result<Option<String>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::String(name) if name.is_empty() => Ok(None),
        Value::String(name) => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let is_name = name.len() <= 200 && name.chars().all(is_plain);
            is_name.then(|| Some(name.clone())).ok_or(())
        }
        _ => Err(()),
    }
}

/// A call of a helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HelperCall {
    /// The program, which is looked for in `PATH`.
    pub(super) program: String,
    /// The registry, as the helper knows it.
    pub(super) server: String,
    /// The file that names the helper.
    file: PathBuf,
}

impl fmt::Display for HelperCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, file, .. } = self;
        write!(f, "credential helper {program} of {}", file.display())
    }
}

/// The answer of a helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The helpers of a node.
#[derive(Debug, Default)]
pub(super) struct CredentialHelpers {
    calls: SharedCalls<Option<Login>>,
}

impl CredentialHelpers {
    /// Asks a helper for the credentials of a registry; `None` where it has none.
    ///
    /// # Errors
    /// It fails, takes too long, or prints something else.
    pub(super) async fn get(&self, call: HelperCall) -> CallResult<Option<Login>> {
        let about = format!("{} {}", call.program, call.server);
        self.calls.join(&about, get(call)).await
    }
}

async fn get(call: HelperCall) -> CallResult<Option<Login>> {
    let mut command = Command::new(&call.program);
    command.arg("get");
    ask(command, HELPER_TIME, &call).await
}

async fn ask(command: Command, time: Duration, call: &HelperCall) -> CallResult<Option<Login>> {
    let HelperCall {
        program, server, ..
    } = call;
    let input = format!("{server}\n").into_bytes();
    let ended = run(command, input, time).await?;
    if !ended.status.success() {
        if String::from_utf8_lossy(&ended.stdout).contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(format!(
            "failed, {}; to see what it prints: echo REGISTRY | {program} get",
            ended.status
        ));
    }
    let answer: HelperAnswer = serde_json::from_slice(&ended.stdout).map_err(|_| {
        "printed something else than JSON with the texts Username and Secret".to_owned()
    })?;
    let HelperAnswer { username, secret } = answer;
    let login = if username == TOKEN_USER {
        Login {
            identity_token: secret,
            ..Login::default()
        }
    } else {
        Login {
            username,
            password: secret,
            ..Login::default()
        }
    };
    Ok(Some(login).filter(|login| *login != Login::default()))
}

#[cfg(test)]
mod tests;
