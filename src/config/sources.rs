//! The sources of manifests: a directory and a URL.

use std::path::Path;

use anyhow::bail;

use super::values::Values;
use crate::source::Sources;
use crate::source::directory::DirectorySource;
use crate::source::url::{Request, UrlSource};

/// Flags that say how the document of `--manifest-url` is requested.
const OF_URL: [&str; 6] = [
    "manifest-url-header",
    "manifest-url-ca-file",
    "manifest-url-client-cert-file",
    "manifest-url-client-key-file",
    "manifest-url-token-file",
    "manifest-url-public-key",
];

/// # Errors
/// A setting is invalid.
pub(super) fn load(values: &Values, node_name: &str, root: &Path) -> anyhow::Result<Sources> {
    Ok(Sources {
        directory: directory(values, node_name, root)?,
        url: url(values, node_name, root)?,
    })
}

/// # Errors
/// There is no source at all.
pub(super) fn require(sources: &Sources) -> anyhow::Result<()> {
    if sources.directory.is_none() && sources.url.is_none() {
        bail!(
            "there are no manifests to run: give --pod-manifest-path=DIRECTORY, --manifest-url=URL, or \
             a --config file with staticPodPath or staticPodURL"
        );
    }
    Ok(())
}

fn directory(
    values: &Values,
    node_name: &str,
    root: &Path,
) -> anyhow::Result<Option<DirectorySource>> {
    let path = values.get("pod-manifest-path").optional_path()?;
    let rescan = values.get("file-check-frequency").duration()?;
    Ok(path.map(|path| DirectorySource {
        path,
        node_name: node_name.to_owned(),
        rescan,
        state: Sources::directory_state(root),
    }))
}

fn url(values: &Values, node_name: &str, root: &Path) -> anyhow::Result<Option<UrlSource>> {
    let url = values.get("manifest-url").url()?;
    let file = |flag| values.get(flag).optional_path();
    let request = Request {
        ca_file: file("manifest-url-ca-file")?,
        client_cert: file("manifest-url-client-cert-file")?,
        client_key: file("manifest-url-client-key-file")?,
        token_file: file("manifest-url-token-file")?,
        headers: values.get("manifest-url-header").headers()?,
        ..Request::default()
    };
    let public_keys = values.get("manifest-url-public-key").paths()?;
    let period = values.get("http-check-frequency").duration()?;
    let Some(url) = url else {
        if let Some(flag) = OF_URL.iter().find(|flag| values.get(flag).is_flag()) {
            bail!("--{flag}: expected --manifest-url (or staticPodURL) beside it");
        }
        return Ok(None);
    };
    Ok(Some(UrlSource {
        url,
        request,
        public_keys,
        period,
        node_name: node_name.to_owned(),
        state: Sources::url_state(root),
    }))
}
