//! The node's API over HTTPS: where it is served, and to whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::flags::Mode;
use super::{Flags, Given, Resolver, ports, text};
use crate::server::{Authorization, HttpsSettings, known_cipher_suites};

/// The kubelet's port.
const PORT: u16 = 10250;
/// The kubelet's times.
const TOKEN_TTL: Duration = Duration::from_secs(120);
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// How the node's API is served; `None` if it is not. It is where there is an API server that may ask, or
/// where it is asked for.
pub(super) fn load(
    from: &mut Resolver,
    flags: &Flags,
    has_api_server: bool,
) -> anyhow::Result<Option<HttpsSettings>> {
    let (port, at) = from.pick("port", flags.port, Some("port"), ports::port)?;
    let port = port.unwrap_or(if has_api_server { PORT } else { 0 });
    from.note("port", port, &at);
    let (address, _) = ports::address(from, flags)?;
    // An API server is on another machine.
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut shown = from.settings.iter_mut();
    if let Some(shown) = shown.find(|s| s.name == "address" && port != 0) {
        // In place of the other port's, which is open to this machine only unless told otherwise.
        shown.value = address.to_string();
    }
    let settings = HttpsSettings {
        address: SocketAddr::new(address, port),
        certificate: certificate(from, flags)?,
        only_tls13: only_tls13(from, flags)?,
        cipher_suites: cipher_suites(from, flags)?,
        client_ca_file: from.optional_path(
            "client-ca-file",
            flags.client_ca_file.clone(),
            Some("authentication.x509.clientCAFile"),
        )?,
        token_reviews: from.switch(
            "authentication-token-webhook",
            flags.authentication_token_webhook,
            "authentication.webhook.enabled",
            has_api_server,
        )?,
        token_ttl: from.period(
            "authentication-token-webhook-cache-ttl",
            flags.authentication_token_webhook_cache_ttl,
            "authentication.webhook.cacheTTL",
            TOKEN_TTL,
        )?,
        anonymous: from.switch(
            "anonymous-auth",
            flags.anonymous_auth,
            "authentication.anonymous.enabled",
            false,
        )?,
        authorization: authorization(from, flags)?,
        authorized_ttl: from.period(
            "authorization-webhook-cache-authorized-ttl",
            flags.authorization_webhook_cache_authorized_ttl,
            "authorization.webhook.cacheAuthorizedTTL",
            AUTHORIZED_TTL,
        )?,
        unauthorized_ttl: from.period(
            "authorization-webhook-cache-unauthorized-ttl",
            flags.authorization_webhook_cache_unauthorized_ttl,
            "authorization.webhook.cacheUnauthorizedTTL",
            UNAUTHORIZED_TTL,
        )?,
        idle_timeout: from.period(
            "streaming-connection-idle-timeout",
            flags.streaming_connection_idle_timeout,
            "streamingConnectionIdleTimeout",
            IDLE_TIMEOUT,
        )?,
    };
    Ok((port != 0).then_some(settings))
}

/// What there is to say of a port that lets others do what only the node's owner should.
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
fn certificate(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
    let given = flags.tls_cert_file.clone();
    let certificate = from.optional_path("tls-cert-file", given, Some("tlsCertFile"))?;
    let given = flags.tls_private_key_file.clone();
    let key = from.optional_path("tls-private-key-file", given, Some("tlsPrivateKeyFile"))?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => bail!("--tls-cert-file: expected --tls-private-key-file beside it"),
        (None, Some(_)) => bail!("--tls-private-key-file: expected --tls-cert-file beside it"),
    }
}

/// Whether TLS 1.2 is not taken.
fn only_tls13(from: &mut Resolver, flags: &Flags) -> anyhow::Result<bool> {
    let (given, flag) = (flags.tls_min_version.clone(), "tls-min-version");
    let (version, at) = from.pick(flag, given, Some("tlsMinVersion"), |given| Ok(text(given)))?;
    let version = version.unwrap_or_else(|| "VersionTLS12".to_owned());
    from.note(flag, &version, &at);
    Ok(version == "VersionTLS13")
}

/// The names of cipher suites that are taken; empty for all.
fn cipher_suites(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Vec<String>> {
    let (given, flag) = (flags.tls_cipher_suites.clone(), "tls-cipher-suites");
    let given = Some(given).filter(|given| !given.is_empty());
    let read = |given: &Given| {
        let texts = given.value.as_array().into_iter().flatten();
        Ok(texts.filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let (names, at) = from.pick(flag, given, Some("tlsCipherSuites"), read)?;
    let names: Vec<String> = names.unwrap_or_default();
    from.note(flag, names.join(","), &at);
    let known = known_cipher_suites();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        let at = at.or_flag(flag);
        bail!(
            "{at}: found {unknown:?}, expected some of {}",
            known.join(", ")
        );
    }
    Ok(names)
}

fn authorization(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Authorization> {
    let field = Some("authorization.mode");
    let read = |given: &Given| match text(given).as_str() {
        "AlwaysAllow" => Ok(Mode::AlwaysAllow),
        _ => Ok(Mode::Webhook),
    };
    let (mode, at) = from.pick("authorization-mode", flags.authorization_mode, field, read)?;
    let (mode, name) = match mode {
        Some(Mode::AlwaysAllow) => (Authorization::AlwaysAllow, "AlwaysAllow"),
        Some(Mode::Webhook) | None => (Authorization::Webhook, "Webhook"),
    };
    from.note("authorization-mode", name, &at);
    Ok(mode)
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
    fn the_port_is_open_where_an_api_server_may_ask_or_where_told() {
        for (flags, fields, expected) in [
            ("", "", None),
            ("--kubeconfig=/k", "", Some("0.0.0.0:10250")),
            ("--kubeconfig=/k --port=0", "", None),
            ("--port=1 --address=::1", "", Some("[::1]:1")),
            ("", "port: 2\naddress: 10.0.0.1", Some("10.0.0.1:2")),
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
    fn everybody_is_asked_unless_told_otherwise() {
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
        assert!(!alone.unwrap().token_reviews, "nobody could be asked");
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
