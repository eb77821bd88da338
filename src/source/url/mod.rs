//! Manifests in a document on the web, polled.
//!
//! The last good document is kept on disk, and only a good one takes its place: whatever else the
//! server answers, or that it answers nothing, changes nothing on the node.

mod accepted;
mod copy;
mod fetch;
mod poller;
mod schedule;
mod signature;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::watch;

use super::log::publish;
use super::{Desired, LastRead};
use crate::host::blocking::blocking;
pub use accepted::repeated;
use copy::Copy;
pub(super) use copy::forget;
pub use fetch::{Patience, Request};
use poller::Poller;

/// URL of the document, and settings of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlSource {
    /// URL of the document: http or https.
    pub url: Url,
    /// Settings of the requests.
    pub request: Request,
    /// Files of minisign public keys; with any, only signed documents count.
    pub public_keys: Vec<PathBuf>,
    /// Poll interval; the kubelet's `httpCheckFrequency`.
    pub period: Duration,
    /// The node's name, in lower case.
    pub node_name: String,
    /// The folder where the last good document is kept over restarts; made when needed.
    pub state: PathBuf,
}

impl UrlSource {
    /// Follows the document until the last receiver is dropped.
    ///
    /// The channel gets its first value at once, from the kept copy, and then all that is wanted, each
    /// time that something changed. Without a copy, what is wanted is unknown until the first good
    /// document. `eager` polls at once even where a copy is there. Must run on a runtime with time and
    /// I/O.
    pub async fn run(self, sender: watch::Sender<Option<Desired>>, eager: bool) {
        self.run_recording(sender, eager, LastRead::default()).await;
    }

    /// The same, and records each successful response of the server.
    pub(super) async fn run_recording(
        self,
        sender: watch::Sender<Option<Desired>>,
        eager: bool,
        read: LastRead,
    ) {
        let state = self.state.clone();
        let (copy, kept) = blocking(|| Copy::open(state)).await;
        let mut poller = Poller::new(self, copy);
        if let Some((index, documents)) = kept {
            poller = poller.open(index, documents).await;
        }
        read.content_is_of(poller.content_time());
        publish(&sender, poller.desired());
        poller.poll_for_ever(&sender, eager, &read).await;
    }
}

/// The URL as it may be shown: without a password, and without its query, which may hold a token.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // A URL that cannot have a user has none.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if url.query().is_none() {
        return shown.into();
    }
    shown.set_query(None);
    format!("{shown}?…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for (url, expected) in [
            ("http://a/pods.yaml", "http://a/pods.yaml"),
            ("https://user:secret@a:8443/x", "https://a:8443/x"),
            ("https://a/x?token=secret#y", "https://a/x?…"),
        ] {
            assert_eq!(shown(&Url::parse(url).unwrap()), expected);
        }
    }
}
