//! Who may do what: decided by the API server, or by the settings.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::cache::Cache;
use super::caller::{Caller, token};
use super::settings::{Authorization, Settings};
use super::target::Right;

/// Reviews that the API server is asked for at a time.
const REVIEWS: usize = 8;
/// An API server that takes longer than this is away.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: String,
}

/// Decides about requests.
pub(super) struct Guard {
    settings: Arc<Settings>,
    node_name: String,
    /// The way to the API server, while there is one.
    api: watch::Receiver<Option<kube::Client>>,
    reviews: Semaphore,
    /// By the token's digest, so that no token is kept.
    tokens: Cache<[u8; 32], Option<Caller>>,
    rights: Cache<(Caller, &'static str, &'static str), Result<(), String>>,
}

impl Guard {
    pub(super) fn new(
        settings: Arc<Settings>,
        node_name: String,
        api: watch::Receiver<Option<kube::Client>>,
    ) -> Self {
        Self {
            settings,
            node_name,
            api,
            reviews: Semaphore::new(REVIEWS),
            tokens: Cache::default(),
            rights: Cache::default(),
        }
    }

    /// Lets a request pass, or not. `certified` is who showed a certificate of our authority.
    ///
    /// # Errors
    /// Nobody knows who calls (401), he may not (403), or nobody can be asked just now (503).
    pub(super) async fn admit<B>(
        &self,
        request: &Request<B>,
        certified: Option<&Caller>,
    ) -> Result<(), Refusal> {
        let caller = match (certified, token(request.headers())) {
            (Some(caller), _) => Some(caller.clone()),
            (None, Some(token)) if self.settings.token_reviews => self.owner(token).await?,
            (None, _) => None,
        };
        let caller = match caller {
            Some(caller) => caller,
            None if self.settings.anonymous => Caller::anonymous(),
            None => {
                return Err(Refusal {
                    status: StatusCode::UNAUTHORIZED,
                    why: self.whom(),
                });
            }
        };
        match self.settings.authorization {
            Authorization::AlwaysAllow => Ok(()),
            Authorization::Webhook => {
                let (method, path) = (request.method(), request.uri().path());
                self.authorize(&caller, method, path).await
            }
        }
    }

    /// What it takes to be known here.
    fn whom(&self) -> String {
        let certificate = "a client certificate of the authority in --client-ca-file";
        let token = "a bearer token that the API server knows";
        let certificates = self.settings.client_ca_file.is_some();
        let expected = match (certificates, self.settings.token_reviews) {
            (true, true) => format!("{certificate}, or {token}"),
            (true, false) => certificate.to_owned(),
            (false, true) => token.to_owned(),
            (false, false) => "--client-ca-file to be set on the node: it knows nobody".to_owned(),
        };
        format!("nobody knows who calls: expected {expected}")
    }

    /// Whose a token is, if anybody's.
    async fn owner(&self, token: &str) -> Result<Option<Caller>, Refusal> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&digest) {
            return Ok(known);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let review: TokenReview = self.ask(path, &review).await?;
        let status = review.status.filter(|s| s.authenticated == Some(true));
        let user = status.and_then(|s| s.user);
        let caller = user.map(|user| Caller {
            name: user.username.unwrap_or_default(),
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        let holds = self.settings.token_ttl;
        self.tokens.put(digest, caller.clone(), holds);
        Ok(caller)
    }

    /// Whether he has the right, or one that will do in its place.
    async fn authorize(&self, caller: &Caller, method: &Method, path: &str) -> Result<(), Refusal> {
        let right = Right::of(method, path);
        let mut reasons = vec![];
        for subresource in &right.subresources {
            match self.review(caller, right.verb, subresource).await? {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons.retain(|reason| !reason.is_empty());
        reasons.dedup();
        let reasons = match reasons.as_slice() {
            [] => String::new(),
            reasons => format!(": {}", reasons.join("; ")),
        };
        let resources: Vec<String> = right
            .subresources
            .iter()
            .map(|subresource| format!("nodes/{subresource}"))
            .collect();
        Err(Refusal {
            status: StatusCode::FORBIDDEN,
            why: format!(
                "user {:?} may not {} {} of node {:?}; a ClusterRole can grant it{reasons}",
                caller.name,
                right.verb,
                resources.join(" or "),
                self.node_name
            ),
        })
    }

    /// Whether he has one right; if not, what the API server says about it.
    async fn review(
        &self,
        caller: &Caller,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<Result<(), String>, Refusal> {
        let question = (caller.clone(), verb, subresource);
        if let Some(known) = self.rights.get(&question) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: caller.uid.clone(),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let review: SubjectAccessReview = self.ask(path, &review).await?;
        let status = review.status.unwrap_or_default();
        let (verdict, holds) = match status.allowed {
            true => (Ok(()), self.settings.authorized_ttl),
            false => (
                Err(status.reason.unwrap_or_default()),
                self.settings.unauthorized_ttl,
            ),
        };
        self.rights.put(question, verdict.clone(), holds);
        Ok(verdict)
    }

    /// Has the API server review something.
    async fn ask<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        review: &T,
    ) -> Result<T, Refusal> {
        let away = |why: String| Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: format!("the API server cannot be asked who may call: {why}"),
        };
        let api = self.api.borrow().clone();
        let api = api.ok_or_else(|| away("there is no connection to one".to_owned()))?;
        let body = serde_json::to_vec(review).map_err(|e| away(e.to_string()))?;
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body).map_err(|e| away(e.to_string()))?;
        let ask = async {
            let _permit = self.reviews.acquire().await;
            api.request::<T>(request).await
        };
        match tokio::time::timeout(DEADLINE, ask).await {
            Ok(answer) => answer.map_err(|e| away(e.to_string())),
            Err(_) => Err(away(format!("no answer within {DEADLINE:?}"))),
        }
    }
}
