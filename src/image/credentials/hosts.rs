//! Matching an image with the entries of a credential file: by registry host, its wildcards and port,
//! and the path.

use std::fmt;
use std::net::Ipv6Addr;

/// As long as a host's name may be, in bytes, and as long as a pattern of them that is matched.
const MAX_HOST: usize = 253;

const MAX_PATTERN: usize = 1024;

/// The registry of images that name none, and its other names.
const DOCKER_HUB: &str = "docker.io";

const DOCKER_HUB_TOO: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// A registry and a path there: an image's without its tag, or an entry's pattern of them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Repository {
    pub(super) host: String,
    /// Empty, or `:` and the number.
    pub(super) port: String,
    /// Empty, or from `/` on.
    pub(super) path: String,
}

impl Repository {
    fn new(host_and_port: &str, path: &str) -> Self {
        let (host, port) = split_port(host_and_port);
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
    pub(super) fn of_image(image: &str) -> Self {
        let name = image.split('@').next().unwrap_or(image);
        let tag = name.rfind(':').filter(|at| !name[*at..].contains('/'));
        let name = &name[..tag.unwrap_or(name.len())];
        // As Docker and containerd tell a registry from the first part of a path.
        let is_registry = |first: &str| {
            first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase)
        };
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

    /// Of a pattern of the kubelet's credential providers: an entry's name without a scheme or the path of an API.
    pub(super) fn of_pattern(pattern: &str) -> Self {
        let (host, path) = pattern.split_at(pattern.find('/').unwrap_or(pattern.len()));
        Self::new(host, path)
    }

    /// The registry: host and port.
    pub(super) fn registry(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]{port}")
        } else {
            format!("{host}{port}")
        }
    }

    /// Of an entry's name: a host, with `*`, `?` and `[…]` in its parts, maybe a port and a path, maybe
    /// written as a URL. The paths `/v1/` and `/v2/` are those of the registry's API.
    pub(super) fn of_entry(name: &str) -> Self {
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

    /// Returns true if an image's repository is one of this pattern's: the host part by part, the same port,
    /// and a path that begins like this one's.
    pub(super) fn covers(&self, image: &Self) -> bool {
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

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.registry(), self.path)
    }
}

/// Splits a host and `:` with a port, where there is one. An IPv6 address loses its brackets.
pub(crate) fn split_port(host_and_port: &str) -> (&str, &str) {
    let bracketed = host_and_port.strip_prefix('[');
    let bracketed = bracketed.and_then(|rest| rest.split_once(']'));
    if let Some((address, port)) = bracketed.filter(|(a, _)| a.parse::<Ipv6Addr>().is_ok()) {
        return (address, port);
    }
    match host_and_port.rfind(':') {
        Some(at) => host_and_port.split_at(at),
        None => (host_and_port, ""),
    }
}

/// Returns true if a name is one of a pattern's: `*` is any text, `?` any character, `[a-c]` one of these and
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

/// Returns the rest of both, if the name's first character is one of what stands first in the pattern.
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
