//! Getting a document from a web server.
//!
//! A fetched document is whole, decoded and of a bounded size; otherwise there is an error. Files
//! (certificates, keys, tokens) are read again before each request, so that they can be renewed while the
//! agent runs.

#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::bufread::GzDecoder;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url, Version};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::shown;
use crate::host::blocking::{blocking, limited};

/// The largest document, decoded, in bytes; that of a file is the same.
pub(super) const MAX_DOCUMENT: usize = 10 * 1024 * 1024;
/// Redirects followed one after the other.
const MAX_REDIRECTS: usize = 5;
/// A connection is kept for the next poll, if that comes soon enough.
const KEEP_CONNECTION: Duration = Duration::from_secs(90);
/// The longest that a server may ask for patience.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The files that a request names, which may lie on a mount that does not answer.
const SECRETS: &str = "the manifest URL's certificate, key or token file";
/// The time in which they have to be read.
const SECRETS_LIMIT: Duration = Duration::from_secs(10);

/// Settings of requests for a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Headers to send, in this order.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// PEM certificates to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate, with its chain, to show the server.
    pub client_cert: Option<PathBuf>,
    /// PEM key of that certificate, if it does not stand in the same file.
    pub client_key: Option<PathBuf>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
    /// Time limits.
    pub patience: Patience,
}

/// Time limits for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next piece of an answer.
    pub piece: Duration,
    /// For all of it, redirects included.
    pub all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            piece: Duration::from_secs(15),
            all: Duration::from_secs(60),
        }
    }
}

/// Validators of a document, for conditional requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
}

/// A server's answer.
#[derive(Debug)]
pub(super) enum FetchOutcome {
    /// The document is the one with these validators.
    NotModified,
    /// The document, decoded.
    Document {
        body: Vec<u8>,
        validators: Validators,
    },
}

/// Failure to fetch a document.
#[derive(Debug)]
pub(super) struct FetchError {
    pub(super) message: String,
    /// The server answered with this code.
    pub(super) status: Option<StatusCode>,
    /// The server asked to be left alone for this long.
    pub(super) retry_after: Option<Duration>,
    /// Nothing listens there, on this very machine.
    pub(super) is_local_refusal: bool,
}

impl FetchError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: None,
            retry_after: None,
            is_local_refusal: false,
        }
    }
}

/// Content of the files that a request names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Secrets {
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
    token: Option<HeaderValue>,
}

/// A client that keeps its connection between polls.
#[derive(Debug)]
pub(super) struct Fetcher {
    request: Request,
    secrets: Secrets,
    client: Option<Client>,
}

impl Fetcher {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            secrets: Secrets::default(),
            client: None,
        }
    }

    /// Gets the document at `url`, unless it is still the one with these validators.
    pub(super) async fn fetch(
        &mut self,
        url: &Url,
        known: Option<&Validators>,
    ) -> Result<FetchOutcome, FetchError> {
        let client = self.client().await?;
        let patience = self.request.patience.all;
        let answer = timeout(patience, self.follow(&client, url, known)).await;
        answer.unwrap_or_else(|_| {
            Err(FetchError::new(format!(
                "no whole answer within {patience:?}"
            )))
        })
    }

    /// The client, created again when its certificates changed.
    async fn client(&mut self) -> Result<Client, FetchError> {
        let request = self.request.clone();
        let secrets = limited(SECRETS, SECRETS_LIMIT, move || read_secrets(&request)).await;
        let secrets = secrets.map_err(|error| FetchError::new(error.to_string()))??;
        let same_tls = secrets.ca == self.secrets.ca && secrets.identity == self.secrets.identity;
        self.secrets = secrets;
        if let Some(client) = self.client.as_ref().filter(|_| same_tls) {
            return Ok(client.clone());
        }
        self.client = None;
        let client = build_client(&self.request, &self.secrets)?;
        self.client = Some(client.clone());
        Ok(client)
    }

    async fn follow(
        &self,
        client: &Client,
        url: &Url,
        known: Option<&Validators>,
    ) -> Result<FetchOutcome, FetchError> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = client.get(at.clone()).headers(conditions(known)?);
            if same_host(url, &at) {
                request = request.headers(self.own_headers());
            }
            let response = request.send().await.map_err(|error| FetchError {
                is_local_refusal: is_loopback(&at) && is_refusal(&error),
                ..broken(&error)
            })?;
            let code = response.status();
            if !is_redirect(code) {
                return take(response, known.is_some()).await;
            }
            at = redirected(&at, &response)?;
        }
        let message = format!(
            "more than {MAX_REDIRECTS} redirects, the last to {}",
            shown(&at)
        );
        Err(FetchError::new(message))
    }

    /// The headers that are for this server alone.
    fn own_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.request.headers {
            headers.append(name.clone(), value.clone());
        }
        if let Some(token) = &self.secrets.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        headers
    }
}

fn read_secrets(request: &Request) -> Result<Secrets, FetchError> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| FetchError::new(format!("cannot read {}: {error}", path.display())))
    };
    let ca = request.ca_file.as_deref().map(read).transpose()?;
    let mut identity = request.client_cert.as_deref().map(read).transpose()?;
    if let (Some(pem), Some(key)) = (&mut identity, &request.client_key) {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    let token = match &request.token_file {
        None => None,
        Some(path) => {
            let text = read(path)?;
            let value = [b"Bearer ", text.trim_ascii()].concat();
            let value = HeaderValue::from_bytes(&value);
            let mut value = value
                .ok()
                .filter(|_| !text.trim_ascii().is_empty())
                .ok_or_else(|| {
                    FetchError::new(format!(
                        "{} holds no token: expected one line of text",
                        path.display()
                    ))
                })?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok(Secrets {
        ca,
        identity,
        token,
    })
}

fn build_client(request: &Request, secrets: &Secrets) -> Result<Client, FetchError> {
    // Another call of this process may have been first; the provider is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("podkeeper/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(request.patience.connect)
        .read_timeout(request.patience.piece)
        .pool_idle_timeout(KEEP_CONNECTION)
        .pool_max_idle_per_host(1);
    let name = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    if let Some(pem) = &secrets.ca {
        let file = name(&request.ca_file).unwrap_or_default();
        let wrong = || FetchError::new(format!("{file}: expected certificates in PEM form"));
        let certificates = Certificate::from_pem_bundle(pem).map_err(|_| wrong())?;
        if certificates.is_empty() {
            return Err(wrong());
        }
        builder = builder.tls_certs_only(certificates);
    }
    if let Some(pem) = &secrets.identity {
        let file = name(&request.client_cert).unwrap_or_default();
        let identity = Identity::from_pem(pem).map_err(|error| {
            let why = deepest(&error);
            FetchError::new(format!(
                "{file}: expected a certificate and its key in PEM form: {why}"
            ))
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| broken(&error))
}

fn conditions(known: Option<&Validators>) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let types = "application/yaml, application/json, text/*;q=0.9, */*;q=0.8";
    headers.insert(header::ACCEPT, HeaderValue::from_static(types));
    let value =
        |text: &str| HeaderValue::from_str(text).map_err(|e| FetchError::new(e.to_string()));
    if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
        headers.insert(header::IF_NONE_MATCH, value(etag)?);
    }
    if let Some(time) = known.and_then(|known| known.last_modified.as_deref()) {
        headers.insert(header::IF_MODIFIED_SINCE, value(time)?);
    }
    Ok(headers)
}

fn is_redirect(code: StatusCode) -> bool {
    matches!(code.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect.
fn redirected(from: &Url, response: &Response) -> Result<Url, FetchError> {
    let place = response.headers().get(header::LOCATION);
    let place = place.and_then(|place| place.to_str().ok());
    let to = place.and_then(|place| from.join(place).ok());
    let to = to.ok_or_else(|| FetchError::new("a redirect without a place to go to"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err(FetchError::new(format!(
            "a redirect from https to http, which is not followed: {}",
            shown(&to)
        ))),
        (_, "http" | "https") => Ok(to),
        (_, other) => Err(FetchError::new(format!(
            "a redirect to {other:?}, expected http or https"
        ))),
    }
}

/// True if headers for one server may be sent to the other: it is the same, or the same with TLS.
fn same_host(own: &Url, other: &Url) -> bool {
    let secured = own.scheme() == "http" && own.port().is_none() && other.port().is_none();
    own.host_str() == other.host_str()
        && (own.port_or_known_default() == other.port_or_known_default() || secured)
}

/// Reads the answer to its end.
async fn take(mut response: Response, conditional: bool) -> Result<FetchOutcome, FetchError> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if conditional => return Ok(FetchOutcome::NotModified),
        code => {
            return Err(FetchError {
                message: format!("the server answered {code}"),
                status: Some(code),
                retry_after: retry_after(response.headers(), SystemTime::now()),
                is_local_refusal: false,
            });
        }
    }
    let headers = response.headers();
    let text = |name: HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let validators = Validators {
        etag: text(header::ETAG),
        last_modified: text(header::LAST_MODIFIED),
    };
    let encoding = text(header::CONTENT_ENCODING).unwrap_or_default();
    // Without a length, a body that was cut looks like a whole one.
    let has_end = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING);
    if response.version() < Version::HTTP_2 && !has_end {
        return Err(FetchError::new(
            "the answer does not tell its length, so that it may be cut; expected Content-Length or \
             chunks",
        ));
    }
    if response
        .content_length()
        .is_some_and(|length| length > MAX_DOCUMENT as u64)
    {
        return Err(too_large());
    }
    let mut body = vec![];
    while let Some(piece) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len().saturating_add(piece.len()) > MAX_DOCUMENT {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    let body = match encoding.to_ascii_lowercase().as_str() {
        "" | "identity" => body,
        "gzip" | "x-gzip" => {
            // Unpacking takes far longer than the packed size suggests.
            blocking(move || unpack(&body)).await?
        }
        other => {
            let message = format!("the answer is encoded as {other:?}, expected gzip or nothing");
            return Err(FetchError::new(message));
        }
    };
    Ok(FetchOutcome::Document { body, validators })
}

fn too_large() -> FetchError {
    FetchError::new(format!("the document is larger than {MAX_DOCUMENT} bytes"))
}

/// Unpacks a gzip of one member, as servers send it.
fn unpack(packed: &[u8]) -> Result<Vec<u8>, FetchError> {
    let mut plain = vec![];
    let mut decoder = GzDecoder::new(packed);
    let mut bounded = Read::by_ref(&mut decoder).take((MAX_DOCUMENT as u64).saturating_add(1));
    bounded
        .read_to_end(&mut plain)
        .map_err(|error| FetchError::new(format!("the answer is no whole gzip: {error}")))?;
    if plain.len() > MAX_DOCUMENT {
        return Err(too_large());
    }
    match decoder.into_inner().len() {
        0 => Ok(plain),
        more => Err(FetchError::new(format!(
            "the answer has {more} bytes after its gzip, expected a gzip of one member and nothing else"
        ))),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .ok()?,
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Describes a failed request, without the URL, which may hold a secret.
fn broken(error: &reqwest::Error) -> FetchError {
    let why = deepest(error);
    FetchError::new(if error.is_timeout() {
        "the server does not answer in time".to_owned()
    } else if error.is_connect() {
        format!("cannot connect: {why}")
    } else if error.is_body() || error.is_decode() {
        format!("the answer broke off: {why}")
    } else {
        why
    })
}

/// True when the URL leads to this machine itself, whatever it resolves to.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

fn is_refusal(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn deepest(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else {
        return "the request cannot be made".to_owned();
    };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
