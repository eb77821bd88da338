//! The runtime's streaming server: `Exec` and `Attach` answer with a URL, at which a connection that is
//! upgraded carries the streams.
//!
//! Whoever knows a URL may use it, once: neither it nor its address is ever logged or part of an error.

mod session;
mod spdy;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(crate) use session::{LocalStreams, StreamingError, TerminalSize, run};
pub(crate) use spdy::CHUNK;

/// Requests a stream at a URL of the streaming server. Its response may be upgraded.
///
/// # Errors
/// The server cannot be reached, or its response is invalid.
pub(crate) async fn request(
    url: &str,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Incoming>, String> {
    let url: Uri = url.parse().map_err(|_| "its URL is invalid".to_owned())?;
    let place = url.authority().filter(|_| url.scheme_str() == Some("http"));
    let place = place.ok_or_else(|| match url.scheme_str() {
        Some("https") => "turn TLS off for the runtime's streaming server".to_owned(),
        _ => "its URL is invalid".to_owned(),
    })?;
    let port = place.port_u16().unwrap_or(80);
    let host = place.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|e| e.to_string())?;
    // Keystrokes must not wait for each other. A failure of this does not end the stream.
    let _ = stream.set_nodelay(true);
    let wrong = |e: hyper::Error| e.to_string();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(wrong)?;
    tokio::spawn(connection.with_upgrades());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| "its URL is invalid".to_owned())?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(place.as_str()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(HOST, host);
    sender.send_request(request).await.map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_names_neither_address_nor_token() {
        for url in [
            "https://127.0.0.1:1/exec/secret",
            "http://127.0.0.1:1/exec/secret",
            "127.0.0.1:1/exec/secret",
            "http://127.0.0.1:1/exec/\u{7f}secret",
        ] {
            let error = request(url, Method::POST, HeaderMap::new()).await;
            let error = error.unwrap_err();
            let has_tls = url.starts_with("https:");
            assert_eq!(error.contains("TLS"), has_tls, "{error}");
            assert!(
                !error.contains("secret") && !error.contains("127"),
                "{error}"
            );
        }
    }
}
