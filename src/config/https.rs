//! The node's API over HTTPS: its address, TLS, authentication and authorization.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::bail;

use super::values::{Resolved, Values};
use crate::server::{Authorization, HttpsSettings, known_cipher_suites};

/// Settings of the node's API; `None` if its port is 0. By default it is served where there is an API server
/// that may call it.
///
/// # Errors
/// A setting is invalid, or the certificate or its key is given alone.
pub(super) fn load(values: &Values) -> anyhow::Result<Option<HttpsSettings>> {
    let port = values.get("port").number()?;
    let address = values.get("address");
    let address = if address.is_given() {
        address.address()?
    } else {
        // An API server is on another machine.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let duration = |flag| values.get(flag).duration();
    let settings = HttpsSettings {
        address: SocketAddr::new(address, port),
        certificate: certificate(values)?,
        only_tls13: values.get("tls-min-version").text() == "VersionTLS13",
        cipher_suites: cipher_suites(values.get("tls-cipher-suites"))?,
        client_ca_file: values.get("client-ca-file").optional_path()?,
        token_reviews: values.get("authentication-token-webhook").is_on(),
        token_ttl: duration("authentication-token-webhook-cache-ttl")?,
        anonymous: values.get("anonymous-auth").is_on(),
        authorization: match values.get("authorization-mode").text().as_str() {
            "AlwaysAllow" => Authorization::AlwaysAllow,
            _ => Authorization::Webhook,
        },
        authorized_ttl: duration("authorization-webhook-cache-authorized-ttl")?,
        unauthorized_ttl: duration("authorization-webhook-cache-unauthorized-ttl")?,
        idle_timeout: duration("streaming-connection-idle-timeout")?,
    };
    Ok((port != 0).then_some(settings))
}

/// A warning if the port lets anybody run commands in containers.
pub(super) fn warning(settings: &HttpsSettings) -> Option<String> {
    let open = settings.anonymous && settings.authorization == Authorization::AlwaysAllow;
    open.then(|| {
        format!(
            "--anonymous-auth with --authorization-mode=AlwaysAllow lets whoever reaches {} run commands \
             in every container of the node",
            settings.address
        )
    })
}

/// The serving certificate and its key: both or none.
fn certificate(values: &Values) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
    let certificate = values.get("tls-cert-file").optional_path()?;
    let key = values.get("tls-private-key-file").optional_path()?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => bail!("--tls-cert-file: expected --tls-private-key-file beside it"),
        (None, Some(_)) => bail!("--tls-private-key-file: expected --tls-cert-file beside it"),
    }
}

/// Names of the accepted cipher suites; empty for all.
fn cipher_suites(setting: &Resolved) -> anyhow::Result<Vec<String>> {
    let names = setting.texts();
    let known = known_cipher_suites();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!(
            "{}: found {unknown:?}, expected some of {}",
            setting.place(),
            known.join(", ")
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::with_fields;

    /// The settings and warnings of flags, and of fields of a file.
    fn load(flags: &str, fields: &str) -> anyhow::Result<(Option<HttpsSettings>, Vec<String>)> {
        let config = with_fields(flags, fields)?;
        Ok((config.https, config.warnings))
    }

    #[test]
    fn the_port_is_open_with_a_kubeconfig_or_if_configured() {
        for (flags, fields, expected) in [
            ("", "", None),
            ("--kubeconfig=/k", "", Some("0.0.0.0:10250")),
            ("--kubeconfig=/k --port=0", "", None),
            ("--port=1 --address=::1", "", Some("[::1]:1")),
            ("", "port: 2\naddress: 10.0.0.1", Some("10.0.0.1:2")),
            // As the kubelet alone on its machine is set up: callers can be told apart, or need not be.
            (
                "",
                "authentication: {x509: {clientCAFile: /ca}}",
                Some("0.0.0.0:10250"),
            ),
            (
                "",
                "authentication: {anonymous: {enabled: true}}\nauthorization: {mode: AlwaysAllow}",
                Some("0.0.0.0:10250"),
            ),
            ("--anonymous-auth", "", None),
            ("", "authorization: {mode: AlwaysAllow}", None),
            (
                "--port=0",
                "authentication: {x509: {clientCAFile: /ca}}",
                None,
            ),
        ] {
            let config = with_fields(flags, fields).unwrap();
            let found = config.https.map(|settings| settings.address);
            let written = found.map(|address| address.to_string());
            assert_eq!(written.as_deref(), expected, "{flags} {fields}");
            let shown = config.settings.iter().find(|s| s.name == "address");
            let address = found.map_or("127.0.0.1".to_owned(), |a| a.ip().to_string());
            assert_eq!(shown.unwrap().value, address, "{flags} {fields}");
        }
    }

    #[test]
    fn callers_are_authenticated_and_authorized_by_default() {
        let (found, _) = load("--kubeconfig=/k", "").unwrap();
        let found = found.unwrap();
        assert!(found.token_reviews && !found.anonymous);
        assert_eq!(found.authorization, Authorization::Webhook);
        assert_eq!((found.client_ca_file, found.certificate), (None, None));
        assert!(!found.only_tls13 && found.cipher_suites.is_empty());
        let times = [
            found.token_ttl,
            found.authorized_ttl,
            found.unauthorized_ttl,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [120, 300, 30]);
        assert_eq!(found.idle_timeout.as_secs(), 4 * 3600);
        let (alone, _) = load("--port=1", "").unwrap();
        assert!(
            !alone.unwrap().token_reviews,
            "there is no API server to review tokens"
        );
    }

    /// As kubeadm writes it, and with more.
    const FIELDS: &str = "\
authentication:
  anonymous: {enabled: true}
  webhook: {cacheTTL: 1m, enabled: false}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: AlwaysAllow
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 1s}
tlsCertFile: /c
tlsPrivateKeyFile: /k
tlsMinVersion: VersionTLS13
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256]
streamingConnectionIdleTimeout: 5m";

    #[test]
    fn the_kubelets_fields_are_carried_out_and_flags_win() {
        let (found, warnings) = load("--port=1", FIELDS).unwrap();
        let found = found.unwrap();
        assert!(!found.token_reviews && found.anonymous);
        assert_eq!(found.authorization, Authorization::AlwaysAllow);
        let authority = found.client_ca_file.unwrap();
        assert_eq!(authority, PathBuf::from("/etc/kubernetes/pki/ca.crt"));
        assert_eq!(found.certificate, Some(("/c".into(), "/k".into())));
        assert!(found.only_tls13);
        let suites = found.cipher_suites.join(" ");
        let expected = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 TLS_AES_128_GCM_SHA256";
        assert_eq!(suites, expected);
        let times = [
            found.token_ttl,
            found.authorized_ttl,
            found.unauthorized_ttl,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [60, 300, 1]);
        assert_eq!(found.idle_timeout.as_secs(), 300);
        assert!(
            warnings[0].contains("lets whoever reaches 0.0.0.0:1 run commands"),
            "{warnings:?}"
        );

        let flags = "--port=1 --anonymous-auth=false --authorization-mode=Webhook \
                     --authentication-token-webhook --client-ca-file=/ca";
        let (found, warnings) = load(flags, FIELDS).unwrap();
        let found = found.unwrap();
        assert!(found.token_reviews && !found.anonymous);
        assert_eq!(found.authorization, Authorization::Webhook);
        assert_eq!(found.client_ca_file, Some("/ca".into()));
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        for (flags, expected) in [
            (
                "--tls-cert-file=/c",
                "--tls-cert-file: expected --tls-private-key-file",
            ),
            (
                "--tls-private-key-file=/k",
                "--tls-private-key-file: expected --tls-cert-file",
            ),
        ] {
            let error = load(flags, "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (field, expected) in [
            (
                "tlsMinVersion: VersionTLS11",
                "expected one of VersionTLS12, VersionTLS13",
            ),
            (
                "tlsCipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]",
                "tlsCipherSuites: found \"TLS_RSA_WITH_AES_128_CBC_SHA\", expected some of TLS_",
            ),
        ] {
            let error = load("", field).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = load("", "authorization: {mode: Node}")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected one of AlwaysAllow, Webhook"),
            "{error}"
        );
    }
}
