//! Tests of connections to an API server.

use super::*;
use crate::mirror::plugin::PLUGIN_TIME;
use tempfile::TempDir;

/// Writes a kubeconfig with this user, in place of the one before.
fn write(folder: &TempDir, user: &str) -> PathBuf {
    let path = folder.path().join("kubeconfig");
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         current-context: x\nusers: [{{name: u, user: {user}}}]\n"
    );
    let new = folder.path().join("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

#[test]
fn a_kubeconfig_that_is_too_deep_or_grows_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    let laughs = (1..20).fold(first, |text, i| {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text + &format!("a{i}: &a{i} [{aliases}]\n")
    });
    let texts = [
        "[".repeat(1 << 20),
        "{a: ".repeat(1 << 18),
        "{\"a\":".repeat(1 << 18),
        "- ".repeat(1 << 19),
        "? ".repeat(1 << 19),
        "a: &a [*a]\n".to_owned(),
        format!("users: {}", "[".repeat(1 << 20)),
        format!("{laughs}users: *a19\n"),
        format!("clusters: [{{name: c, cluster: {}", "{a: ".repeat(1 << 18)),
    ];
    for text in texts {
        fs::write(&path, &text).unwrap();
        let is_read = read(&path).is_ok();
        assert!(!is_read || text.len() < 1 << 16, "{}", &text[..20]);
    }
}

/// Begins to connect by a plugin that hangs for as long as the folder is there, and waits until it does.
async fn hanging(folder: &TempDir) -> tokio::task::JoinHandle<Result<(), ApiError>> {
    let begun = folder.path().join("begun");
    let script = format!(
        ": > {0}; while [ -e {0} ]; do sleep 0.1; done",
        begun.display()
    );
    let user = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: Never, \
         args: [-c, '{script}']}}}}"
    );
    let path = write(folder, &user);
    let opened = tokio::spawn(async move {
        let opened = Connection::open(&path, None, None, Arc::default()).await;
        opened.map(|_| ())
    });
    while !begun.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    opened
}

#[tokio::test]
async fn a_plugin_that_hangs_is_given_up_when_the_kubeconfig_changes() {
    let folder = tempfile::tempdir().unwrap();
    let opened = hanging(&folder).await;
    write(&folder, "{token: t}");
    assert_eq!(opened.await.unwrap(), Ok(()));
    drop(folder);
}

#[tokio::test]
async fn a_plugin_that_hangs_is_given_up_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let opened = hanging(&folder).await;
    tokio::time::pause();
    tokio::time::advance(PLUGIN_TIME).await;
    let error = opened.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("the exec plugin has not answered"),
        "{error}"
    );
    drop(folder);
}

/// An API server whose every response begins so and never ends; gives its port.
async fn endless(begin: &'static str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut chunk =
                    format!("{begin}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
                while stream.write_all(&chunk).await.is_ok() {
                    chunk = [b"10000\r\n", &vec![b'x'; 0x10000][..], b"\r\n"].concat();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_response_that_never_ends_is_not_read_on_and_is_told_of() {
    use futures_util::StreamExt;
    use serde_json::Value;

    use crate::mirror::error::ErrorKind;
    for begin in ["HTTP/1.1 200 OK", "HTTP/1.1 500 Internal Server Error"] {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "{token: t}");
        let port = endless(begin).await;
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("127.0.0.1:1", &format!("127.0.0.1:{port}")),
        )
        .unwrap();
        let connection = Connection::open(&path, None, None, Arc::default())
            .await
            .unwrap();
        let api = &connection.api;
        let object = api.get::<Value>("/api/v1/nodes/n").await.unwrap_err();
        let list = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
        let list_error = api.get::<Value>(list).await.unwrap_err();
        let watched = match api.watch::<Value>(&format!("{list}&watch=true")).await {
            Ok(mut events) => events.next().await.unwrap().unwrap_err(),
            Err(error) => error,
        };
        for error in [object, list_error, watched] {
            assert_eq!(error.kind, ErrorKind::Refused(413), "{begin}: {error}");
            assert!(error.message.contains("found more than"), "{error}");
        }
        // Reviews of callers go the same way.
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let review = Request::post(path).body(vec![]).unwrap();
        let error = api.client().request::<Value>(review).await.unwrap_err();
        let error = ApiError::from(error);
        assert!(error.message.contains("more than 1048576 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_provider_of_old_is_refused_and_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let user = format!(
        "{{auth-provider: {{name: gcp, config: {{cmd-path: touch, cmd-args: {}}}}}}}",
        ran.display()
    );
    let opened = Connection::open(&write(&folder, &user), None, None, Arc::default()).await;
    let error = opened.map(drop).unwrap_err().to_string();
    assert!(
        error.contains("auth-provider \"gcp\", expected none"),
        "{error}"
    );
    assert!(!ran.exists());
}

#[test]
fn the_token_in_a_file_counts_where_there_are_two() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "f").unwrap();
    for (user, kept) in [
        ("{token: t, tokenFile: file}", false),
        ("{token: t, tokenFile: none}", true),
        ("{token: t}", true),
    ] {
        let mut found = read(&write(&folder, user)).unwrap();
        prefer_token_file(&mut found);
        let user_found = super::user(&mut found).unwrap();
        assert_eq!(user_found.token.is_some(), kept, "{user}");
    }
}
