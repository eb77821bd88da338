//! Tests of Docker's credential helpers.

use super::*;
use serde_json::json;

fn names(config: &Value) -> (HelperNames, Vec<String>) {
    let mut problems = vec![];
    let fields = config.as_object().unwrap();
    let names = HelperNames::read(fields, &mut |problem| problems.push(problem));
    (names, problems)
}

fn call_for(config: &Value, image: &str) -> Option<(String, String)> {
    let (names, problems) = names(config);
    assert_eq!(problems, [""; 0]);
    let call = names.for_image(image, Path::new("/f"))?;
    Some((call.program, call.server))
}

#[test]
fn the_helper_of_a_registry_comes_before_the_store() {
    let config = json!({
        "credsStore": "pass",
        "credHelpers": {
            "reg.example:5000": "ecr-login", "gcr.io": "gcr", "none.example": "", "docker.io": "hub",
        },
    });
    for (image, expected) in [
        (
            "reg.example:5000/a/b:1",
            Some(("ecr-login", "reg.example:5000")),
        ),
        ("reg.example/a", Some(("pass", "reg.example"))),
        ("gcr.io/a", Some(("gcr", "gcr.io"))),
        ("none.example/a", None),
        ("busybox", Some(("hub", "docker.io"))),
    ] {
        let expected = expected.map(|(name, server): (&str, &str)| {
            (format!("docker-credential-{name}"), server.to_owned())
        });
        assert_eq!(call_for(&config, image), expected, "{image}");
    }
    let store = json!({"credsStore": "pass"});
    let hub = ("docker-credential-pass".to_owned(), DOCKER_HUB.to_owned());
    assert_eq!(call_for(&store, "busybox"), Some(hub));
    for none in [
        json!({}),
        json!({"credsStore": ""}),
        json!({"credsStore": null}),
    ] {
        assert_eq!(call_for(&none, "busybox"), None);
    }
}

#[test]
fn a_helper_is_a_name_and_no_path() {
    for name in ["../sh", "/bin/sh", "a b", "a;b", "é", &"a".repeat(300)] {
        let (names, problems) = names(&json!({"credsStore": name, "credHelpers": {"r": name}}));
        assert!(names.is_empty() && problems.len() == 2, "{name}: {names:?}");
        assert!(!problems.concat().contains(name), "{problems:?}");
    }
}

async fn ask_script(script: &str, time: Duration) -> CallResult<Option<Login>> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let call = HelperCall {
        program: "docker-credential-x".to_owned(),
        server: "reg.example".to_owned(),
        file: PathBuf::from("/f"),
    };
    ask(command, time, &call).await
}

#[tokio::test]
async fn a_helper_is_asked_for_the_registry_and_answers_with_a_user_or_a_token() {
    let script = r#"read server; echo "{\"ServerURL\": \"$server\", \"Username\": \"u $server\", \"Secret\": \"hush\"}""#;
    let found = ask_script(script, HELPER_TIME).await.unwrap().unwrap();
    assert_eq!(
        (found.username.as_str(), found.password.as_str()),
        ("u reg.example", "hush")
    );
    assert!(!format!("{found:?}").contains("hush"));
    let token = r#"echo '{"Username": "<token>", "Secret": "hush"}'"#;
    let found = ask_script(token, HELPER_TIME).await.unwrap().unwrap();
    assert_eq!(
        (found.username.as_str(), found.identity_token.as_str()),
        ("", "hush")
    );
    let none = "echo credentials not found in native keychain; exit 1";
    assert_eq!(ask_script(none, HELPER_TIME).await, Ok(None));
}

#[tokio::test]
async fn a_helper_that_fails_is_reported_without_what_it_prints() {
    for (script, expected) in [
        (
            "echo hush; echo hush >&2; exit 3",
            "failed, exit status: 3; to see what it prints",
        ),
        (
            "echo '{\"Secret\": \"hush\"}'",
            "printed something else than JSON",
        ),
        (
            "echo '{\"Username\": \"u\", \"Secret\": [\"hush\"]}'",
            "printed something else",
        ),
        ("yes hush", "printed more than 1048576 bytes and was killed"),
        (
            "echo hush; sleep 1000 & wait",
            "has not ended within 300ms and was killed",
        ),
    ] {
        let time = if script.contains("sleep") {
            Duration::from_millis(300)
        } else {
            HELPER_TIME
        };
        let error = ask_script(script, time).await.unwrap_err();
        assert!(
            error.contains(expected) && !error.contains("hush"),
            "{script}: {error}"
        );
    }
    let call = HelperCall {
        program: "docker-credential-of-nobody".to_owned(),
        server: "reg.example".to_owned(),
        file: PathBuf::from("/f"),
    };
    let error = CredentialHelpers::default().get(call).await.unwrap_err();
    assert!(error.starts_with("cannot be started: "), "{error}");
}

#[tokio::test]
async fn variables_of_systemd_are_not_passed_on() {
    let script = r#"test -n "$HOME$PATH" && test -z "$NOTIFY_SOCKET$WATCHDOG_USEC" && echo '{"Username": "u", "Secret": "s"}'"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("NOTIFY_SOCKET", "/x")
        .env("WATCHDOG_USEC", "1");
    assert!(
        run(command, vec![], HELPER_TIME)
            .await
            .unwrap()
            .status
            .success()
    );
}
