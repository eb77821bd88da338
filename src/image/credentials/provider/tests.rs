//! Tests of credential providers.

use super::*;
use std::fs;
use std::path::Path;

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A provider whose program is this script.
fn provider(script: &str) -> Provider {
    Provider::new(CredentialProvider {
        name: "one".to_owned(),
        program: "sh".into(),
        match_images: vec!["*.example".to_owned()],
        default_cache_duration: Duration::from_secs(3600),
        api_version: VERSION.to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("GIVEN".to_owned(), "hush".to_owned())],
    })
}

/// A script that prints an answer with these fields, and counts its runs in a file.
fn answer(runs: &Path, fields: &str) -> String {
    format!(
        r#"echo >> {}; read request
        case "$request" in *'"kind":"CredentialProviderRequest"'*) ;; *) exit 4;; esac
        image=${{request#*\"image\":\"}}; image=${{image%%\"*}}
        echo "{{\"apiVersion\": \"{VERSION}\", \"kind\": \"CredentialProviderResponse\", \"auth\": {{\"*.example\": {{\"username\": \"$image\", \"password\": \"$GIVEN\"}}}}, {fields}}}""#,
        runs.display()
    )
}

fn image(name: &str) -> Repository {
    Repository::of_image(name)
}

async fn user(provider: &Provider, name: &str) -> String {
    let logins = provider.provide(&image(name)).await.unwrap();
    let login = logins.get("*.example").unwrap();
    assert_eq!(login.password, "hush");
    login.username.clone()
}

#[test]
fn a_provider_is_asked_about_images_of_its_patterns() {
    for (pattern, name, expected) in [
        ("reg.example", "reg.example/a:1", true),
        ("reg.example", "reg.example:5000/a", false),
        ("*.example", "reg.example/a", true),
        ("*.example", "a.reg.example/a", false),
        ("*.*.example:80/team", "a.reg.example:80/team/a", true),
        ("reg.example/v2", "reg.example/a", false),
        ("docker.io", "busybox", true),
        ("docker.io/team", "busybox", false),
    ] {
        let provider = Provider::new(CredentialProvider {
            match_images: vec!["other.example".to_owned(), pattern.to_owned()],
            ..CredentialProvider::default()
        });
        assert_eq!(provider.is_for(&image(name)), expected, "{pattern} {name}");
    }
}

#[tokio::test]
async fn answers_are_kept_for_the_image_the_registry_or_all() {
    let folder = tempfile::tempdir().unwrap();
    for (fields, expected) in [
        (
            r#"\"cacheKeyType\": \"Image\""#,
            ["r.example/a", "r.example/a", "r.example/b", "s.example/a"],
        ),
        (
            r#"\"cacheKeyType\": \"Registry\", \"cacheDuration\": \"1m\""#,
            ["r.example/a", "r.example/a", "r.example/a", "s.example/a"],
        ),
        (
            r#"\"cacheKeyType\": \"Global\", \"cacheDuration\": null"#,
            ["r.example/a"; 4],
        ),
    ] {
        let provider = provider(&answer(&folder.path().join("runs"), fields));
        let mut users = vec![];
        for name in [
            "r.example/a:1",
            "r.example/a:2",
            "r.example/b",
            "s.example/a",
        ] {
            users.push(user(&provider, name).await);
        }
        assert_eq!(users, expected, "{fields}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    for (duration, expected) in [("0s", 2), ("0", 2), ("-1m", 2), ("1ms", 2), ("10m", 1)] {
        let runs = folder.path().join(duration);
        let fields = format!(r#"\"cacheKeyType\": \"Image\", \"cacheDuration\": \"{duration}\""#);
        let provider = provider(&answer(&runs, &fields));
        user(&provider, "r.example/a").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        user(&provider, "r.example/a").await;
        assert_eq!(fs::read(&runs).unwrap().len(), expected, "{duration}");
    }
}

#[tokio::test]
async fn all_who_ask_about_an_image_share_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let script = answer(
        &runs,
        r#"\"cacheKeyType\": \"Image\", \"cacheDuration\": \"0s\""#,
    );
    let provider = provider(&format!("sleep 0.3; {script}"));
    let all = (0..30).map(|_| user(&provider, "r.example/a"));
    futures_util::future::join_all(all).await;
    assert_eq!(fs::read(&runs).unwrap().len(), 1);
}

#[test]
fn what_is_kept_is_bounded_and_what_expires_first_makes_room() {
    let now = Instant::now();
    let mut cache = AnswerCache::default();
    let logins = ProvidedLogins::default();
    for number in 0..3000_u64 {
        let answer = CachedAnswer {
            logins: Arc::clone(&logins),
            expires: now.later(Duration::from_secs(number)),
        };
        cache.insert(
            CacheKey::Registry(format!("r{number}.example")),
            answer,
            now,
        );
    }
    assert_eq!(cache.0.len(), MAX_CACHED);
    assert!(cache.get(&image("r2999.example/a"), now).is_some());
    assert!(cache.get(&image("r1.example/a"), now).is_none());
    let after = now.later(Duration::from_secs(5000));
    assert!(cache.get(&image("r2999.example/a"), after).is_none());
}

#[tokio::test]
async fn a_provider_that_fails_is_reported_without_what_it_prints() {
    let valid =
        r#""apiVersion": "VERSION", "kind": "CredentialProviderResponse", "cacheKeyType": "Image""#;
    let valid = valid.replace("VERSION", VERSION);
    for (script, expected) in [
        (
            "echo $GIVEN; echo $GIVEN >&2; exit 3".to_owned(),
            "sh failed, exit status: 3",
        ),
        (
            "echo $GIVEN".to_owned(),
            "printed something else than a CredentialProviderResponse",
        ),
        (
            format!("echo '{{{}}}'", valid.replace("Image", "hush")),
            "with a cacheKeyType of",
        ),
        (
            format!("echo '{{{}}}'", valid.replace("/v1", "/v1beta1")),
            "expected a CredentialProviderResponse of",
        ),
        (
            format!("echo '{{{}}}'", valid.replace("Response", "hush")),
            "of another kind or version",
        ),
        (
            format!(r#"echo '{{{valid}, "cacheDuration": "hush"}}'"#),
            "printed a cacheDuration that is none",
        ),
        (
            format!(r#"echo '{{{valid}, "auth": {{"r": {{"password": ["hush"]}}}}}}'"#),
            "printed something else",
        ),
    ] {
        let provider = provider(&script);
        let error = provider.provide(&image("r.example/a")).await.unwrap_err();
        assert!(
            error.contains(expected) && !error.contains("hush"),
            "{script}: {error}"
        );
        assert!(!format!("{provider:?}").contains("hush"));
    }
    let none = provider(&format!("echo '{{{valid}, \"auth\": null}}'"));
    assert!(
        none.provide(&image("r.example/a"))
            .await
            .unwrap()
            .is_empty()
    );
}
