//! What the node shows to registries that want to know who asks: the files that `docker login` writes,
//! found where the kubelet looks for them, and which of their entries are for an image (Kubernetes,
//! Images, "Configuring nodes to authenticate to a private registry").
//!
//! Files are read at each pull, so that changes need no restart. Nothing of what is secret in them gets
//! into a message, a log line or a `Debug` form.

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

use crate::cri::v1::AuthConfig;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// As long as a host's name may be, in bytes, and as long as a pattern of them that is looked at.
const MAX_HOST: usize = 253;
const MAX_PATTERN: usize = 1024;

/// The registry of images that name none, and its other names.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_TOO: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// How a file is laid out.
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
    /// What was wrong with them when they were last read, and has been logged.
    complaints: Mutex<BTreeSet<String>>,
}

/// An entry of a file that is for an image. Its `Debug` form does not show what is secret.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// The entry's name, as the file has it.
    pub entry: String,
    /// The file.
    pub file: PathBuf,
    /// What the runtime is to show to the registry.
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
            complaints: Mutex::default(),
        }
    }

    /// Where credentials would be found.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The credentials for an image, the most specific ones first. As with the kubelet, the first file
    /// that has entries is the one that counts. Reads files.
    #[must_use]
    pub fn for_image(&self, image: &str) -> Vec<Credential> {
        let mut complaints = BTreeSet::new();
        let mut found = vec![];
        for (path, layout) in &self.files {
            let mut complain = |what: String| {
                complaints.insert(format!("{}: {what}", path.display()));
            };
            match read(path, *layout, &mut complain) {
                Ok(Some(entries)) => {
                    found = for_image(path, &entries, image, &mut complain);
                    break;
                }
                Ok(None) => {}
                Err(message) => complain(message),
            }
        }
        self.report(complaints);
        found
    }

    /// Logs what is wrong, unless it was when the files were last read.
    fn report(&self, complaints: BTreeSet<String>) {
        // A panic while holding the lock cannot leave the set half changed.
        let known = self.complaints.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        for complaint in complaints.difference(&known) {
            warn!("credentials for registries: {complaint}");
        }
        *known = complaints;
    }
}

/// The entries of a file; nothing where there is no such file, or it is another program's.
fn read(
    path: &Path,
    layout: Layout,
    complain: &mut impl FnMut(String),
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
            complain(format!(
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
    complain: &mut impl FnMut(String),
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
            Err(message) => complain(format!("the entry {name:?}: {message}")),
        }
    }
    // A longer path comes before a shorter one, and a name before a pattern.
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, found)| found).collect()
}

/// What an entry says; nothing where its credentials are kept elsewhere. No message shows any of it.
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

/// A registry and a path there: an image's without its tag, or an entry's pattern of them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Repository {
    host: String,
    /// Empty, or `:` and the number.
    port: String,
    /// Empty, or from `/` on.
    path: String,
}

impl Repository {
    fn new(host_and_port: &str, path: &str) -> Self {
        let (host, port) = match host_and_port.rfind(':') {
            Some(at) => host_and_port.split_at(at),
            None => (host_and_port, ""),
        };
        let host = if DOCKER_HUB_TOO.contains(&host) {
            DOCKER_HUB
        } else {
            host
        };
        Self {
            host: host.to_owned(),
            port: port.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Of the image's name as containerd and the kubelet complete it: `busybox:1` is
    /// `docker.io/library/busybox`.
    fn of_image(image: &str) -> Self {
        let name = image.split('@').next().unwrap_or(image);
        let tag = name.rfind(':').filter(|at| !name[*at..].contains('/'));
        let name = &name[..tag.unwrap_or(name.len())];
        let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
        match name.split_once('/').filter(|(first, _)| is_registry(first)) {
            Some((registry, rest)) => {
                let repository = Self::new(registry, &format!("/{rest}"));
                let bare = repository.host == DOCKER_HUB && !rest.contains('/');
                let library = || Self::new(DOCKER_HUB, &format!("/library/{rest}"));
                if bare { library() } else { repository }
            }
            None if name.contains('/') => Self::new(DOCKER_HUB, &format!("/{name}")),
            None => Self::new(DOCKER_HUB, &format!("/library/{name}")),
        }
    }

    /// Of an entry's name: a host, with `*`, `?` and `[…]` in its parts, maybe a port and a path, maybe
    /// written as a URL. The paths `/v1/` and `/v2/` are those of the registry's API.
    fn of_entry(name: &str) -> Self {
        let schemes = ["https://", "http://"];
        let bare = schemes.iter().find_map(|scheme| name.strip_prefix(scheme));
        let bare = bare.unwrap_or(name);
        let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
        let mut versions = ["/v1", "/v2"].into_iter();
        let below = |version| {
            let rest: Option<&str> = path.strip_prefix(version);
            rest.filter(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let path = versions.find_map(below).unwrap_or(path);
        Self::new(host, if path == "/" { "" } else { path })
    }

    /// Whether an image's repository is one of this pattern's: the host part by part, the same port,
    /// and a path that begins like this one's.
    fn covers(&self, image: &Self) -> bool {
        if self.host.len() > MAX_PATTERN || image.host.len() > MAX_HOST {
            return false;
        }
        let parts = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (patterns, names) = (parts(&self.host), parts(&image.host));
        self.port == image.port
            && image.path.starts_with(&self.path)
            && patterns.len() == names.len()
            && patterns.iter().zip(&names).all(|(p, n)| matches(p, n))
    }
}

/// Whether a name is one of a pattern's: `*` is any text, `?` any character, `[a-c]` one of these and
/// `[^a-c]` one of the others. Only the last star is ever tried with another text: what the earlier ones
/// stand for need not be longer than it has to.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // Behind the last star, and the name from where it is tried next.
    let mut star: Option<(&str, &str)> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix('*') {
            star = Some((rest, name));
            pattern = rest;
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        if let Some((rest, left)) = matches_one(pattern, name) {
            (pattern, name) = (rest, left);
            continue;
        }
        let Some((rest, from)) = star else {
            return false;
        };
        let mut left = from.chars();
        if left.next().is_none() {
            return false;
        }
        star = Some((rest, left.as_str()));
        (pattern, name) = (rest, left.as_str());
    }
}

/// What is left of both, if the name's first character is one of what stands first in the pattern.
fn matches_one<'a>(pattern: &'a str, name: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut rest, mut left) = (pattern.chars(), name.chars());
    let (first, c) = (rest.next()?, left.next()?);
    match first {
        '?' => Some((rest.as_str(), left.as_str())),
        '[' => {
            let (class, rest) = rest.as_str().split_once(']')?;
            is_of(class, c).then_some((rest, left.as_str()))
        }
        first => (first == c).then_some((rest.as_str(), left.as_str())),
    }
}

fn is_of(class: &str, c: char) -> bool {
    let (class, others) = match class.strip_prefix('^') {
        Some(class) => (class, true),
        None => (class, false),
    };
    let mut chars = class.chars().peekable();
    let mut found = false;
    while let Some(from) = chars.next() {
        let mut to = from;
        if chars.next_if_eq(&'-').is_some() {
            to = chars.next().unwrap_or(from);
        }
        found |= (from..=to).contains(&c);
    }
    found != others
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_covers_the_images_below_it() {
        for (entry, image, covered) in [
            ("reg.example", "reg.example/a", true),
            ("reg.example", "reg.example/a/b:1", true),
            ("reg.example", "reg.example/a@sha256:00", true),
            ("reg.example", "reg.example:5000/a", false),
            ("reg.example:5000", "reg.example:5000/a:1", true),
            ("reg.example:5000", "reg.example/a:5000", false),
            ("https://reg.example", "reg.example/a", true),
            ("http://reg.example/v2/", "reg.example/a", true),
            ("https://reg.example/v1/", "reg.example/a", true),
            ("https://reg.example/v2", "reg.example/a", true),
            ("reg.example/v2x", "reg.example/a", false),
            ("reg.example/team", "reg.example/team/a", true),
            ("reg.example/team", "reg.example/other/a", false),
            ("reg.example/team/", "reg.example/team/a", true),
            ("*.example", "reg.example/a", true),
            ("*.example", "a.reg.example/a", false),
            ("*.example", "example/a", false),
            ("*.*.example", "a.reg.example/a", true),
            ("reg.*", "reg.example/a", true),
            ("reg-*.example:80", "reg-7.example:80/a", true),
            ("reg-*.example", "reg.example/a", false),
            ("reg-?.example", "reg-7.example/a", true),
            ("reg-[1-3].example", "reg-2.example/a", true),
            ("reg-[1-3].example", "reg-4.example/a", false),
            ("reg-[^1-3].example", "reg-4.example/a", true),
            ("127.0.0.1:5000", "127.0.0.1:5000/a", true),
            ("localhost", "localhost/a", true),
            ("https://index.docker.io/v1/", "busybox", true),
            ("https://index.docker.io/v1/", "team/app:1", true),
            (
                "https://index.docker.io/v1/",
                "docker.io/library/busybox",
                true,
            ),
            ("docker.io", "busybox:1", true),
            ("docker.io/team", "team/app", true),
            ("docker.io/team", "busybox", false),
            ("docker.io/library", "docker.io/busybox", true),
            ("https://index.docker.io/v1/", "reg.example/busybox", false),
            ("", "busybox", false),
            ("[", "busybox", false),
            ("r*g*e*.example", "registry-one.example/a", true),
            ("*[a-c]*?.example", "xbyz.example/a", true),
            ("*[a-c]?.example", "xbyz.example/a", false),
            ("***.example", "reg.example/a", true),
            ("*a*b.example", "aabab.example/a", true),
            ("*a*b.example", "aabac.example/a", false),
        ] {
            let covers = Repository::of_entry(entry).covers(&Repository::of_image(image));
            assert_eq!(covers, covered, "{entry} {image}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_longer_than_another() {
        let stars = "a*".repeat(100);
        for (name, covered) in [("a".repeat(240), false), ("a".repeat(239) + "b", true)] {
            let pattern = Repository::of_entry(&format!("{stars}b"));
            let image = Repository::of_image(&format!("{name}:80/a"));
            let image = Repository {
                port: String::new(),
                ..image
            };
            assert_eq!(pattern.covers(&image), covered);
        }
        let long = Repository::of_entry(&"*".repeat(2000));
        assert!(!long.covers(&Repository::of_image("busybox")));
    }

    fn auths(file: &str) -> Map<String, Value> {
        let value: Value = serde_json::from_str(file).unwrap();
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_most_specific_entry_comes_first_and_all_are_given() {
        let entries = auths(
            r#"{
                "*.example": {"username": "any", "password": "p"},
                "reg.example": {"username": "host", "password": "p"},
                "reg.example/a/b": {"username": "deep", "password": "p"},
                "reg.example/a": {"username": "path", "password": "p"},
                "other.example": {"username": "other", "password": "p"},
                "reg.example/a/c": {}
            }"#,
        );
        let mut nothing = |what: String| panic!("{what}");
        let found = for_image(
            Path::new("f"),
            &entries,
            "reg.example/a/b/c:1",
            &mut nothing,
        );
        let users: Vec<_> = found.iter().map(|c| c.auth.username.as_str()).collect();
        assert_eq!(users, ["deep", "path", "host", "any"]);
    }

    #[test]
    fn every_way_to_write_credentials_is_read() {
        let user = |username: &str, password: &str| AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        };
        let identity = AuthConfig {
            identity_token: "t".to_owned(),
            ..AuthConfig::default()
        };
        let registry = AuthConfig {
            registry_token: "t".to_owned(),
            ..AuthConfig::default()
        };
        for (entry, expected) in [
            (json!({"username": "u", "password": "p"}), user("u", "p")),
            (json!({"auth": "dTpw", "email": "x"}), user("u", "p")),
            (json!({"auth": "dTpwOnA="}), user("u", "p:p")),
            (json!({"auth": "dTpwOnA"}), user("u", "p:p")),
            (
                json!({"auth": "dTpw", "username": "x", "password": "y"}),
                user("u", "p"),
            ),
            (
                json!({"auth": "PHRva2VuPjo=", "identitytoken": "t"}),
                identity,
            ),
            (json!({"registrytoken": "t"}), registry),
            (json!({}), AuthConfig::default()),
            (json!({"auth": null}), AuthConfig::default()),
        ] {
            assert_eq!(auth(&entry), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for (text, expected) in [
            (
                "{\"auths\": {\"r\": {\"auth\": \"c2VjcmV0\"}}}",
                "auth: expected USER:PASSWORD",
            ),
            (
                "{\"auths\": {\"r\": {\"auth\": \"c2VjcmV0!\"}}}",
                "auth: expected USER:PASSWORD",
            ),
            (
                "{\"auths\": {\"r\": {\"password\": [\"secret\"]}}}",
                "password: expected a text",
            ),
            (
                "{\"auths\": {\"r\": \"secret\"}}",
                "the entry \"r\": expected an object",
            ),
            ("{\"auths\": \"secret\"}", "auths: expected an object"),
            ("[\"secret\"]", "is no JSON object"),
            (
                "{\"auths\": {\"r\": {\"password\": \"secret\"",
                "is not JSON: EOF while parsing",
            ),
            (
                "{\"auths\": {\"r\": {\"password\": secret}}}",
                "is not JSON: expected value at line 1",
            ),
            ("{\"credsStore\": \"secret\"}", "credsStore: programs"),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut told = vec![];
            match read(&path, Layout::Config, &mut |what| told.push(what)) {
                Ok(Some(entries)) => {
                    let found = for_image(&path, &entries, "r/a", &mut |what| told.push(what));
                    assert_eq!(found, []);
                }
                Ok(None) => {}
                Err(message) => told.push(message),
            }
            let told = told.join("\n");
            assert!(told.contains(expected), "{text}: {told}");
            assert!(
                !told.contains("secret") && !told.contains("c2VjcmV0"),
                "{told}"
            );
        }
    }

    #[test]
    fn nothing_secret_is_in_a_debug_form() {
        let entries = auths(r#"{"reg.example": {"username": "u", "password": "hush"}}"#);
        let found = for_image(Path::new("/f"), &entries, "reg.example/a", &mut |_| {});
        assert_eq!(found[0].auth.password, "hush");
        let shown = format!("{found:?} {:?}", found[0].auth);
        assert!(
            shown.contains("\"reg.example\" in /f") && !shown.contains("hush"),
            "{shown}"
        );
    }

    /// Files in a folder of the test's own, in this order.
    fn files(folder: &Path, files: &[(&str, Layout)]) -> CredentialFiles {
        let place = |(name, layout): &(&str, Layout)| (folder.join(name), *layout);
        CredentialFiles {
            files: files.iter().map(place).collect(),
            complaints: Mutex::default(),
        }
    }

    #[test]
    fn the_first_file_with_entries_counts_and_changes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            ("a/config.json", Layout::Config),
            ("b/config.json", Layout::Config),
            (".dockercfg", Layout::Cfg),
        ];
        let all = files(folder.path(), &all);
        let user = || {
            let mut found = all.for_image("reg.example/a");
            found.pop().map(|found| found.auth.username)
        };
        let entry =
            |user: &str| format!(r#""reg.example": {{"username": "{user}", "password": "p"}}"#);
        let put = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(user(), None);
        put(".dockercfg", format!("{{{}}}", entry("cfg")));
        assert_eq!(user().as_deref(), Some("cfg"));
        put(
            "b/config.json",
            format!("{{\"auths\": {{{}}}}}", entry("b")),
        );
        assert_eq!(user().as_deref(), Some("b"));
        put("a/config.json", "{\"another\": \"program's\"}".to_owned());
        assert_eq!(user().as_deref(), Some("b"));
        put("a/config.json", "half wri".to_owned());
        assert_eq!(user().as_deref(), Some("b"));
        put("a/config.json", "{\"auths\": {}}".to_owned());
        assert_eq!(user(), None);
    }

    #[test]
    fn files_are_looked_for_where_the_kubelet_looks() {
        let paths: Vec<PathBuf> = CredentialFiles::of_node(Path::new("/root-dir"))
            .paths()
            .map(Path::to_owned)
            .collect();
        let working = std::env::current_dir().unwrap();
        let home = std::env::home_dir().unwrap();
        let expected = [
            PathBuf::from("/root-dir/config.json"),
            working.join("config.json"),
            home.join(".docker/config.json"),
            PathBuf::from("/.docker/config.json"),
            PathBuf::from("/root-dir/.dockercfg"),
            working.join(".dockercfg"),
            home.join(".dockercfg"),
            PathBuf::from("/.dockercfg"),
        ];
        assert_eq!(paths, expected);
    }
}
