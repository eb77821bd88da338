//! Authentication and authorization, by the API server or by the settings.

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
use super::caller::{Caller, ClientCertificate, token};
use super::refusal::Refusal;
use super::settings::{Authorization, HttpsSettings};
use super::target::Right;

/// Maximum number of concurrent reviews by the API server.
const REVIEWS: usize = 8;
/// Timeout of a review.
const DEADLINE: Duration = Duration::from_secs(10);

/// Authenticates and authorizes requests.
pub(super) struct Guard {
    settings: Arc<HttpsSettings>,
    node_name: String,
    /// Client of the API server, while there is one.
    api: watch::Receiver<Option<kube::Client>>,
    reviews: Semaphore,
    /// By the token's digest, so that no token is kept.
    tokens: Cache<[u8; 32], Option<Caller>>,
    rights: Cache<(Caller, &'static str, &'static str), AccessDecision>,
}

/// Decision of the API server on one right of a caller.
#[derive(Debug, Clone)]
enum AccessDecision {
    Allowed,
    /// With the reason, which may be empty.
    Denied(String),
}

impl Guard {
    pub(super) fn new(
        settings: Arc<HttpsSettings>,
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

    /// Authenticates and authorizes a request on a connection with this client certificate.
    ///
    /// # Errors
    /// The caller is not authenticated (401) or not authorized (403), or the API server cannot be reached
    /// (503).
    pub(super) async fn admit<B>(
        &self,
        request: &Request<B>,
        certificate: &ClientCertificate,
    ) -> Result<(), Refusal> {
        let caller = match (certificate, token(request.headers())) {
            (ClientCertificate::Of(caller), _) => Some(caller.clone()),
            // An invalid token, or certificate, is refused, and does not make an anonymous caller.
            (_, Some(token)) if self.settings.token_reviews => self.owner(token).await?,
            (ClientCertificate::Absent, _) if self.settings.anonymous => Some(Caller::anonymous()),
            _ => None,
        };
        let Some(caller) = caller else {
            return Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                reason: self.whom(),
            });
        };
        match self.settings.authorization {
            Authorization::AlwaysAllow => Ok(()),
            Authorization::Webhook => {
                let (method, path) = (request.method(), request.uri().path());
                self.authorize(&caller, method, path).await
            }
        }
    }

    /// The credentials that are accepted here.
    fn whom(&self) -> String {
        let certificate = "a client certificate of the authority in --client-ca-file";
        let token = "a bearer token that the API server knows";
        let certificates = self.settings.client_ca_file.is_some();
        let expected = match (certificates, self.settings.token_reviews) {
            (true, true) => format!("{certificate}, or {token}"),
            (true, false) => certificate.to_owned(),
            (false, true) => token.to_owned(),
            (false, false) => {
                "--client-ca-file to be set on the node: no authentication is configured".to_owned()
            }
        };
        format!("unauthenticated: expected {expected}")
    }

    /// Returns the user of a token, if it is valid.
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

    /// Checks that the caller has the right, or one that implies it.
    async fn authorize(&self, caller: &Caller, method: &Method, path: &str) -> Result<(), Refusal> {
        let right = Right::of(method, path);
        let mut reasons = vec![];
        for subresource in &right.subresources {
            match self.review(caller, right.verb, subresource).await? {
                AccessDecision::Allowed => return Ok(()),
                AccessDecision::Denied(reason) => reasons.push(reason),
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
            reason: format!(
                "user {:?} may not {} {} of node {:?}; a ClusterRole can grant it{reasons}",
                caller.name,
                right.verb,
                resources.join(" or "),
                self.node_name
            ),
        })
    }

    /// Returns the API server's decision on one right of the caller.
    async fn review(
        &self,
        caller: &Caller,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<AccessDecision, Refusal> {
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
        let (decision, holds) = if status.allowed {
            (AccessDecision::Allowed, self.settings.authorized_ttl)
        } else {
            let reason = status.reason.unwrap_or_default();
            (
                AccessDecision::Denied(reason),
                self.settings.unauthorized_ttl,
            )
        };
        self.rights.put(question, decision.clone(), holds);
        Ok(decision)
    }

    /// Creates a review at the API server.
    async fn ask<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        review: &T,
    ) -> Result<T, Refusal> {
        let unreachable = |reason: String| Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: format!(
                "API server is unreachable for authentication and authorization: {reason}"
            ),
        };
        let api = self.api.borrow().clone();
        let api = api.ok_or_else(|| unreachable("there is no connection to one".to_owned()))?;
        let body = serde_json::to_vec(review).map_err(|e| unreachable(e.to_string()))?;
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body).map_err(|e| unreachable(e.to_string()))?;
        let ask = async {
            let _permit = self.reviews.acquire().await;
            api.request::<T>(request).await
        };
        match tokio::time::timeout(DEADLINE, ask).await {
            Ok(review) => review.map_err(|e| unreachable(e.to_string())),
            Err(_) => Err(unreachable(format!("no response within {DEADLINE:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use hyper::Response;
    use hyper::body::Bytes;
    use serde_json::{Value, json};
    use std::convert::Infallible;
    use std::sync::Mutex;
    use tower::service_fn;

    /// The reviews that an API server received.
    type Asked = Arc<Mutex<Vec<Value>>>;

    /// An API server that knows one token, whose user may get metrics and nothing else.
    fn api(asked: &Asked) -> kube::Client {
        let asked = Arc::clone(asked);
        let service = service_fn(move |request: Request<kube::client::Body>| {
            let asked = Arc::clone(&asked);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                asked.lock().unwrap().push(review["spec"].clone());
                review["status"] = match &review["spec"]["token"] {
                    Value::String(token) if token == "good" => {
                        json!({"authenticated": true, "user": {"username": "bob", "groups": ["g"]}})
                    }
                    Value::String(_) => json!({"authenticated": false}),
                    _ => {
                        let right = &review["spec"]["resourceAttributes"];
                        let allowed = right["subresource"] == "metrics" && right["verb"] == "get";
                        json!({"allowed": allowed, "reason": "no rule"})
                    }
                };
                let body = Full::new(Bytes::from(review.to_string()));
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        kube::Client::new(service, "default")
    }

    fn settings() -> HttpsSettings {
        HttpsSettings {
            address: ([127, 0, 0, 1], 0).into(),
            certificate: None,
            only_tls13: false,
            cipher_suites: vec![],
            client_ca_file: None,
            token_reviews: true,
            token_ttl: Duration::from_secs(120),
            anonymous: false,
            authorization: Authorization::Webhook,
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
        }
    }

    fn guard(settings: HttpsSettings, api: Option<kube::Client>) -> Guard {
        let (_, api) = watch::channel(api);
        Guard::new(Arc::new(settings), "n1".to_owned(), api)
    }

    /// Status code and message of a refusal, or 200.
    async fn ask(guard: &Guard, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        ask_with(guard, request, &ClientCertificate::Absent).await
    }

    async fn ask_with(
        guard: &Guard,
        request: hyper::http::request::Builder,
        certificate: &ClientCertificate,
    ) -> (u16, String) {
        let request = request.body(()).unwrap();
        match guard.admit(&request, certificate).await {
            Ok(()) => (200, String::new()),
            Err(refusal) => (refusal.status.as_u16(), refusal.reason),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_decides_and_is_not_asked_the_same_again_for_a_while() {
        let asked = Asked::default();
        let guard = guard(settings(), Some(api(&asked)));
        let count = || asked.lock().unwrap().len();
        assert_eq!(ask(&guard, "/metrics", Some("good")).await.0, 200);
        let right = json!({
            "verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "n1",
        });
        let expected = json!({
            "user": "bob", "groups": ["g"], "extra": {}, "resourceAttributes": right,
        });
        assert_eq!(asked.lock().unwrap()[1], expected);
        assert_eq!(ask(&guard, "/metrics", Some("good")).await.0, 200);
        assert_eq!(count(), 2);

        let (code, reason) = ask(&guard, "/pods", Some("good")).await;
        assert_eq!(code, 403);
        assert_eq!(
            reason,
            "user \"bob\" may not get nodes/pods or nodes/proxy of node \"n1\"; a ClusterRole can grant \
             it: no rule"
        );
        assert_eq!(ask(&guard, "/pods", Some("good")).await.0, 403);
        assert_eq!(count(), 4);
        // The denial expires first, then the token's user.
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(ask(&guard, "/pods", Some("good")).await.0, 403);
        assert_eq!(count(), 6);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(ask(&guard, "/metrics", Some("good")).await.0, 200);
        assert_eq!(count(), 7);
    }

    #[tokio::test]
    async fn callers_without_credentials_are_refused_by_default() {
        let asked = Asked::default();
        let closed = guard(settings(), Some(api(&asked)));
        for token in [None, Some("bad")] {
            let (code, reason) = ask(&closed, "/metrics", token).await;
            assert_eq!(code, 401);
            assert!(reason.contains("expected a bearer token"), "{reason}");
        }
        let open = guard(
            HttpsSettings {
                anonymous: true,
                ..settings()
            },
            Some(api(&asked)),
        );
        assert_eq!(ask(&open, "/metrics", None).await.0, 200);
        let user = &asked.lock().unwrap().last().unwrap()["user"].clone();
        assert_eq!(user, "system:anonymous");
        assert_eq!(ask(&open, "/metrics", Some("bad")).await.0, 401);
        let nobody_asked = guard(
            HttpsSettings {
                anonymous: true,
                token_reviews: false,
                ..settings()
            },
            Some(api(&asked)),
        );
        assert_eq!(ask(&nobody_asked, "/metrics", Some("bad")).await.0, 200);
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_leaves_it_to_the_token() {
        let asked = Asked::default();
        let guard = guard(
            HttpsSettings {
                anonymous: true,
                ..settings()
            },
            Some(api(&asked)),
        );
        let request = |token: Option<&str>| {
            let request = Request::get("/metrics");
            match token {
                Some(token) => request.header("authorization", format!("Bearer {token}")),
                None => request,
            }
        };
        for (certificate, token, expected) in [
            (ClientCertificate::Invalid, Some("good"), 200),
            (ClientCertificate::Invalid, Some("bad"), 401),
            (ClientCertificate::Invalid, None, 401),
            (ClientCertificate::Absent, None, 200),
        ] {
            let (code, reason) = ask_with(&guard, request(token), &certificate).await;
            assert_eq!(code, expected, "{certificate:?} {token:?}: {reason}");
        }
        let user = asked.lock().unwrap()[1]["user"].clone();
        assert_eq!(user, "bob");
    }

    #[tokio::test]
    async fn without_an_api_server_tokens_are_refused() {
        let guard = guard(settings(), None);
        let (code, reason) = ask(&guard, "/metrics", Some("good")).await;
        assert_eq!(code, 503);
        assert!(reason.contains("API server is unreachable"), "{reason}");
    }
}
