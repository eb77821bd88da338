//! TLS to the API server, as a kubeconfig configures it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use kube::Config;
use kube::config::AuthInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;

use super::error::ApiError;
use super::kubeconfig::pem;
use crate::probe::NoVerification;

/// A client certificate with those that it was issued by, and its key.
type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Wraps the connector in TLS for servers with `https`.
///
/// # Errors
/// A certificate or a key cannot be read or makes no sense.
pub(super) fn connector(
    config: &Config,
    connector: HttpConnector,
) -> Result<HttpsConnector<HttpConnector>, ApiError> {
    let tls = client_config(config).map_err(ApiError::unreachable)?;
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone());
        let name =
            name.map_err(|error| ApiError::unreachable(format!("tls-server-name: {error}")))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().wrap_connector(connector))
}

fn client_config(config: &Config) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if config.accept_invalid_certs {
        let verifier = Arc::new(NoVerification::new(provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    } else if let Some(authorities) = &config.root_cert {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let added = roots.add(CertificateDer::from(authority.clone()));
            added.map_err(|error| format!("certificate-authority: {error}"))?;
        }
        builder.with_root_certificates(roots)
    } else {
        // Those of the system, as for client-go.
        let builder = builder.with_platform_verifier();
        builder.map_err(|error| format!("the system's certificate authorities: {error}"))?
    };
    match identity(&config.auth_info)? {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("client-key: {error}")),
    }
}

/// The client certificate that a user of a kubeconfig has.
fn identity(user: &AuthInfo) -> Result<Option<ClientIdentity>, String> {
    let key = user
        .client_key_data
        .as_ref()
        .map(ExposeSecret::expose_secret);
    let certificate = user.client_certificate_data.as_deref();
    let certificate = pem(
        "client-certificate",
        certificate,
        user.client_certificate.as_ref(),
    )?;
    let key = pem("client-key", key, user.client_key.as_ref())?;
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => {
            return Err("found client-certificate alone, expected client-key too".into());
        }
        (None, Some(_)) => {
            return Err("found client-key alone, expected client-certificate too".into());
        }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|error| format!("client-certificate: {error}"))?;
    if chain.is_empty() {
        return Err("client-certificate: found no certificate, expected one in PEM form".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&key);
    let key = key.map_err(|error| format!("client-key: {error}"))?;
    Ok(Some((chain, key)))
}
