//! TLS to a container: encrypted, but nobody is verified, as Kubernetes defines it for probes and hooks
//! (a Pod's certificate seldom names the Pod's address).

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::words;

/// Failure of a TLS handshake.
#[derive(Debug)]
pub(super) enum TlsError {
    /// The server does not speak TLS.
    PlainHttp,
    /// Any other reason.
    Other(String),
}

/// Speaks TLS with the server at the other end.
pub(super) async fn handshake(
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, TlsError> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(config()));
    let name = match host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Other(format!("found {host:?}, expected a host's name")))?,
    };
    let connector = TlsConnector::from(Arc::clone(&CONFIG));
    let done = connector.connect(name, stream).await;
    done.map_err(|error| explain(&error))
}

fn config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = NoVerification::new(Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // ring has cipher suites for every version that rustls knows, which is all that is asked here.
        .expect("ring lacks a TLS version");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // Each probe is to see a whole handshake, and there may be many servers.
    config.resumption = Resumption::disabled();
    config
}

fn explain(error: &io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        // What does not even begin like TLS is, where HTTPS is expected, plain HTTP.
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => TlsError::PlainHttp,
        Some(error) => TlsError::Other(format!("tls: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => TlsError::Other("EOF".to_owned()),
        None => TlsError::Other(words(error)),
    }
}

/// Takes every certificate and every signature, weak and outdated ones too.
#[derive(Debug)]
pub(crate) struct NoVerification(Arc<CryptoProvider>);

impl NoVerification {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
