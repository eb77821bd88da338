//! Tests of TLS to an API server.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// A certificate that signs itself, and its key, both as PEM.
fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["api.example".into()]).unwrap();
    (
        parameters.self_signed(&key).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn config(user: AuthInfo) -> Config {
    let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
    config.auth_info = user;
    config
}

fn with_data(certificate: Option<&str>, key: Option<&str>) -> AuthInfo {
    AuthInfo {
        client_certificate_data: certificate.map(|pem| STANDARD.encode(pem)),
        client_key_data: key.map(|pem| STANDARD.encode(pem).into()),
        ..AuthInfo::default()
    }
}

fn error(user: AuthInfo) -> String {
    client_config(&config(user)).unwrap_err()
}

#[test]
fn a_client_certificate_is_shown_from_data_or_one_file_for_both() {
    let (certificate, key) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("both.pem");
    fs::write(&file, format!("{certificate}{key}")).unwrap();
    let file = Some(file.display().to_string());
    let from_file = AuthInfo {
        client_certificate: file.clone(),
        client_key: file,
        ..AuthInfo::default()
    };
    for user in [with_data(Some(&certificate), Some(&key)), from_file] {
        let tls = client_config(&config(user)).unwrap();
        assert!(tls.client_auth_cert_resolver.has_certs());
    }
    let tls = client_config(&config(AuthInfo::default())).unwrap();
    assert!(!tls.client_auth_cert_resolver.has_certs());
}

#[test]
fn half_a_client_certificate_is_refused_by_its_field() {
    let (certificate, key) = certificate();
    let alone = error(with_data(Some(&certificate), None));
    assert!(alone.contains("expected client-key too"), "{alone}");
    let alone = error(with_data(None, Some(&key)));
    assert!(alone.contains("expected client-certificate too"), "{alone}");
    let swapped = error(with_data(Some(&key), Some(&certificate)));
    assert!(swapped.contains("found no certificate"), "{swapped}");
    let missing = error(AuthInfo {
        client_certificate: Some("/does-not-exist".into()),
        ..AuthInfo::default()
    });
    assert!(missing.contains("/does-not-exist"), "{missing}");
}

#[test]
fn authorities_and_server_names_that_make_no_sense_are_refused() {
    let mut config = config(AuthInfo::default());
    config.root_cert = Some(vec![b"no certificate".to_vec()]);
    let error = client_config(&config).unwrap_err();
    assert!(error.contains("certificate-authority"), "{error}");
    config.accept_invalid_certs = true;
    config.tls_server_name = Some("no name".into());
    let error = connector(&config, HttpConnector::new()).unwrap_err();
    assert!(error.message.contains("tls-server-name"), "{error}");
}
