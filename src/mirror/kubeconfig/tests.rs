//! Tests of reading kubeconfigs.

use super::*;

fn read_text(text: &str) -> Result<Kubeconfig, ApiError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    fs::write(&path, text).unwrap();
    read(&path)
}

fn user(text: &str) -> AuthInfo {
    let text = format!("users: [{{name: u, user: {text}}}]");
    let found = read_text(&text).unwrap().auth_infos.remove(0);
    found.auth_info.unwrap()
}

/// The header that a user's requests have.
fn header(text: &str) -> Result<Option<String>, ApiError> {
    let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
    config.auth_info = user(text);
    authorize(&mut config)?;
    let header = config.headers.pop().map(|(name, value)| {
        assert_eq!(name, AUTHORIZATION);
        assert!(value.is_sensitive());
        value.to_str().unwrap().to_owned()
    });
    Ok(header)
}

#[test]
fn texts_need_no_quotes() {
    let user = user(
        "{username: yes, password: 0123, token: 1e3, exec: {command: x, provideClusterInfo: true}}",
    );
    assert_eq!(user.username.as_deref(), Some("yes"));
    assert_eq!(user.password.unwrap().expose_secret(), "0123");
    assert_eq!(user.token.unwrap().expose_secret(), "1e3");
    assert!(user.exec.unwrap().provide_cluster_info);
}

#[test]
fn booleans_and_extensions_stay_what_they_are() {
    let text = "clusters: [{name: 1, cluster: {server: s, insecure-skip-tls-verify: true, \
                extensions: [{name: e, extension: {n: 1, b: true}}]}}]";
    let named = read_text(text).unwrap().clusters.remove(0);
    assert_eq!(named.name, "1");
    let cluster = named.cluster.unwrap();
    assert_eq!(cluster.insecure_skip_tls_verify, Some(true));
    let extension = cluster.extensions.unwrap().remove(0).extension;
    assert_eq!(extension, serde_json::json!({"n": 1, "b": true}));
}

#[test]
fn paths_are_meant_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let text = "clusters: [{name: c, cluster: {certificate-authority: ca.pem}}]\n\
                users: [{name: u, user: {client-certificate: /c.pem, client-key: ../k.pem, tokenFile: t, \
                exec: {command: bin/plugin}}}, {name: v, user: {exec: {command: plugin}}}]";
    fs::write(&path, text).unwrap();
    let mut found = read(&path).unwrap();
    let below = |name: &str| Some(folder.path().join(name).display().to_string());
    let cluster = found.clusters.remove(0).cluster.unwrap();
    assert_eq!(cluster.certificate_authority, below("ca.pem"));
    let user = found.auth_infos.remove(0).auth_info.unwrap();
    assert_eq!(user.client_certificate.as_deref(), Some("/c.pem"));
    assert_eq!(user.client_key, below("../k.pem"));
    assert_eq!(user.token_file, below("t"));
    assert_eq!(user.exec.unwrap().command, below("bin/plugin"));
    let user = found.auth_infos.remove(0).auth_info.unwrap();
    assert_eq!(user.exec.unwrap().command.as_deref(), Some("plugin"));
}

#[test]
fn several_documents_are_merged_and_none_is_empty() {
    let text = "users: [{name: u, user: {token: a}}]\n---\nusers: [{name: u}, {name: v}]\n\
                current-context: x\n";
    let found = read_text(text).unwrap();
    assert_eq!(found.auth_infos.len(), 2);
    assert!(found.auth_infos[0].auth_info.is_some());
    assert_eq!(found.current_context.as_deref(), Some("x"));
    assert!(read_text("").unwrap().auth_infos.is_empty());
}

#[test]
fn what_is_no_kubeconfig_is_refused_without_what_it_holds() {
    for text in [
        "users: hush-hush",
        "users: [{name: u, user: hush-hush}]",
        "users: [{name: u, user: {token: [hush-hush]}}]",
        "users: []\nusers: []\n",
        "users: [",
    ] {
        let error = read_text(text).unwrap_err().to_string();
        assert!(error.contains("/kubeconfig: "), "{text}: {error}");
        assert!(!error.contains("hush-hush"), "{text}: {error}");
    }
}

#[test]
fn the_password_comes_before_the_token_and_that_before_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "from-file\n").unwrap();
    let file = file.display();
    for (user, expected) in [
        (
            format!("{{username: u, password: p, token: t, tokenFile: {file}}}"),
            Some("Basic dTpw"),
        ),
        (
            format!("{{username: u, token: t, tokenFile: {file}}}"),
            Some("Bearer t"),
        ),
        (format!("{{tokenFile: {file}}}"), Some("Bearer from-file")),
        ("{}".to_owned(), None),
    ] {
        assert_eq!(header(&user).unwrap().as_deref(), expected, "{user}");
    }
    assert!(header("{tokenFile: /does-not-exist}").is_err());
    let error = header(r#"{token: "hush\nhush"}"#).unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
}
