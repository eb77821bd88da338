//! Tests of exec plugins.

use super::*;
use std::fs;
use std::path::Path;

fn exec(script: &str) -> ExecConfig {
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", script],
        "env": [{"name": "GIVEN", "value": "x"}],
        "interactiveMode": "Never",
    });
    serde_json::from_value(exec).unwrap()
}

async fn error(script: &str) -> String {
    run(&exec(script)).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_plugin_prints_a_credential_in_json_or_yaml() {
    let json = r#"{"kind": "ExecCredential", "status": {"token": "t", "expirationTimestamp": "2026-01-01T00:00:00Z"}}"#;
    let found = run(&exec(&format!("echo '{json}'"))).await.unwrap();
    assert_eq!(found.token.as_deref(), Some("t"));
    assert_eq!(found.expires, "2026-01-01T00:00:00Z".parse().ok());
    let script = "printf 'status:\\n  clientCertificateData: c\\n  clientKeyData: k\\n'";
    let found = run(&exec(script)).await.unwrap();
    assert_eq!(found.client_certificate_data.as_deref(), Some("c"));
    // It is told who asks, and nobody answers it.
    let script = r#"read x; case "$KUBERNETES_EXEC_INFO" in *'"interactive":false'*) echo "status: {token: '$GIVEN$x'}";; esac"#;
    let found = run(&exec(script)).await.unwrap();
    assert_eq!(found.token.as_deref(), Some("x"));
}

#[test]
fn a_credential_may_be_over_at_any_time_or_never() {
    for (time, expected) in [
        ("9999-12-31T23:59:59Z", Some(Timestamp::MAX)),
        (
            "9999-12-30T22:00:00Z",
            Timestamp::from_second(Timestamp::MAX.as_second()).ok(),
        ),
        ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z".parse().ok()),
        (
            "-009999-01-03T00:00:00Z",
            "-009999-01-03T00:00:00Z".parse().ok(),
        ),
        ("99999-01-01T00:00:00Z", None),
        ("9223372036854775807", None),
        ("-1", None),
        ("", None),
    ] {
        let printed = format!("status: {{token: t, expirationTimestamp: {time:?}}}");
        let expires = PluginCredential::parse(printed.as_bytes()).map(|found| found.expires);
        match expected {
            Some(expected) => assert_eq!(expires.unwrap(), Some(expected), "{time}"),
            None => assert!(expires.is_err(), "{time}"),
        }
    }
    for number in ["-1", "0", "1e300", "9223372036854775808"] {
        let printed = format!("status: {{token: t, expirationTimestamp: {number}}}");
        let error = PluginCredential::parse(printed.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains("ExecCredential"), "{error}");
    }
}

#[test]
fn a_credential_that_is_too_deep_or_grows_without_end_is_refused() {
    let first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    let laughs = (1..20).fold(first, |text, i| {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text + &format!("a{i}: &a{i} [{aliases}]\n")
    });
    for text in [
        "[".repeat(MAX_OUTPUT),
        "{\"status\":".repeat(MAX_OUTPUT / 10),
        "- ".repeat(MAX_OUTPUT / 2),
        "status: &a {token: *a}".to_owned(),
        format!("{laughs}status: *a19\n"),
    ] {
        assert!(
            PluginCredential::parse(text.as_bytes()).is_err(),
            "{}",
            &text[..20]
        );
    }
}

#[tokio::test]
async fn a_plugin_that_gives_no_credential_is_told_of() {
    for (script, expected) in [
        (
            "echo cannot log in >&2; exit 3",
            "exit status: 3: cannot log in",
        ),
        ("echo '{}'", "expected status.token, or both"),
        (
            "echo 'status: {clientKeyData: k}'",
            "expected status.token, or both",
        ),
        ("echo '{'", "printed no ExecCredential"),
        (
            "echo 'status: {token: t, expirationTimestamp: x}'",
            "status.expirationTimestamp",
        ),
        ("yes", "printed more than"),
        (
            "yes >&2 & sleep 0.2; kill $!; exit 1",
            "the exec plugin failed",
        ),
    ] {
        let error = error(script).await;
        assert!(
            error.contains(expected) && error.len() < 2000,
            "{script}: {error}"
        );
    }
    let mut none = exec("");
    none.command = Some("/no/such/plugin".to_owned());
    none.install_hint = Some("install it".to_owned());
    let error = run(&none).await.unwrap_err().to_string();
    assert!(
        error.contains("\"/no/such/plugin\"") && error.ends_with("install it"),
        "{error}"
    );
}

fn runs(pid: &str) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    state.is_ok_and(|state| !state.contains(") Z "))
}

#[tokio::test]
async fn plugins_that_hang_are_killed_with_what_they_started_and_keep_no_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let begun = |number: usize| folder.path().join(number.to_string());
    let plugins = (0..4).map(|number| {
        let file = begun(number);
        let script = format!(
            "sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        tokio::spawn(async move { run(&exec(&script)).await.map(drop) })
    });
    let plugins: Vec<_> = plugins.collect();
    while !(0..4).all(|number| begun(number).exists()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::pause();
    tokio::time::advance(PLUGIN_TIME).await;
    for plugin in plugins {
        let error = plugin.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("has not answered within 60s"), "{error}");
    }
    tokio::time::resume();
    for number in 0..4 {
        let pids = fs::read_to_string(begun(number)).unwrap();
        for pid in pids.split_whitespace() {
            while runs(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let good = run(&exec("echo 'status: {token: t}'")).await.unwrap();
    assert_eq!(good.token.as_deref(), Some("t"));
}

#[tokio::test]
async fn a_plugin_whose_child_holds_its_output_is_over_when_it_is() {
    let script = "sleep 1000 & echo $! >&2; echo \"status: {token: '$!'}\"";
    let found = run(&exec(script)).await.unwrap();
    let pid: i32 = found.token.unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}
