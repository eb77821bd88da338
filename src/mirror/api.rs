//! Requests to the API server: each with a deadline, its answer decoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use kube::Client;
use kube::core::WatchEvent;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::watch;

use super::error::{ApiError, ErrorKind};

/// A server that takes longer than this to show something is unreachable.
const DEADLINE: Duration = Duration::from_secs(10);
/// A change passes admission, which may ask others first: each webhook has 30 seconds at most.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);

/// Format of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchType {
    /// Objects are merged, all else is replaced.
    Merge,
    /// As the types' own definitions say: lists of objects are merged by a key.
    Strategic,
}

/// The API server.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    requests: Arc<AtomicU64>,
    answered: watch::Sender<bool>,
}

impl Api {
    /// `requests` counts what is asked.
    pub(super) fn new(client: Client, requests: Arc<AtomicU64>) -> Self {
        Self {
            client,
            requests,
            answered: watch::channel(false).0,
        }
    }

    /// The way to the server, for requests that are none of ours.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits until the server has answered anything.
    pub(super) async fn answered(&self) {
        let mut answered = self.answered.subscribe();
        // Its other end is in `self`.
        let _ = answered.wait_for(|answered| *answered).await;
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.ask(Method::GET, path, None, vec![]).await
    }

    pub(super) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &impl Serialize,
    ) -> Result<T, ApiError> {
        let json = Some("application/json");
        self.ask(Method::POST, path, json, body(object)?).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: PatchType,
        change: &impl Serialize,
    ) -> Result<T, ApiError> {
        let kind = match kind {
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
        };
        self.ask(Method::PATCH, path, Some(kind), body(change)?)
            .await
    }

    /// Deletes the object at once if it is still the one with this UID.
    pub(super) async fn delete_now(&self, path: &str, uid: &str) -> Result<(), ApiError> {
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        });
        let json = Some("application/json");
        let options = body(&options)?;
        let gone: Result<IgnoredAny, ApiError> =
            self.ask(Method::DELETE, path, json, options).await;
        gone.map(|_| ())
    }

    /// Watches the objects at a path; the stream ends when the server ends it.
    pub(super) async fn watch<T: DeserializeOwned + Clone + 'static>(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>, ApiError>> + Unpin + use<T>, ApiError>
    {
        let request = request(Method::GET, path, None, vec![])?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let stream = self.client.request_events::<T>(request);
        let stream = tokio::time::timeout(DEADLINE, stream).await;
        let stream = stream.map_err(|_| late(DEADLINE))??;
        let stream = stream.map(|event| event.map_err(ApiError::from));
        Ok(stream.boxed())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let is_change = method != Method::GET;
        let deadline = if is_change { CHANGE_DEADLINE } else { DEADLINE };
        let request = request(method, path, content_type, body)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = self.client.request::<T>(request);
        let answer = tokio::time::timeout(deadline, answer).await;
        let answer = answer.map_err(|_| late(deadline))?.map_err(ApiError::from);
        // That it is too busy may be said by something in front of it.
        let is_unreachable =
            |error: &ApiError| matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Busy(_));
        if !answer.as_ref().is_err_and(is_unreachable) {
            self.answered
                .send_if_modified(|answered| !std::mem::replace(answered, true));
        }
        answer
    }
}

fn late(deadline: Duration) -> ApiError {
    ApiError::unreachable(format!("no answer within {deadline:?}"))
}

fn body(object: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(object)
        .map_err(|e| ApiError::unreachable(format!("cannot write a request: {e}")))
}

fn request(
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, ApiError> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let request = request.body(body);
    request.map_err(|e| ApiError::unreachable(format!("cannot make a request for {path}: {e}")))
}
