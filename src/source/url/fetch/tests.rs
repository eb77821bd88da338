//! Tests of requests for a document.

use super::*;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn headers_stay_with_the_host_they_are_for() {
    for (own, other, same) in [
        ("http://a/x", "http://a/y", true),
        ("http://a/x", "https://a/x", true),
        ("http://a:80/x", "http://a/y", true),
        ("http://a/x", "http://a:8080/x", false),
        ("http://a:8080/x", "https://a/x", false),
        ("https://a/x", "https://a:444/x", false),
        ("http://a/x", "http://b/x", false),
        ("http://a/x", "http://a.b/x", false),
    ] {
        assert_eq!(same_host(&url(own), &url(other)), same, "{own} {other}");
    }
}

#[tokio::test]
async fn a_refusal_on_this_machine_is_told_from_other_failures() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut fetcher = Fetcher::new(Request::default());
    let failure = fetcher.fetch(&url(&format!("http://{at}/x")), None).await;
    assert!(failure.unwrap_err().is_local_refusal);
    let failure = fetcher.fetch(&url("http://nowhere.invalid/x"), None).await;
    assert!(!failure.unwrap_err().is_local_refusal);
}

#[test]
fn this_machine_is_told_by_its_address_or_name() {
    for (text, local) in [
        ("http://127.0.0.1:8000/x", true),
        ("http://127.8.9.10/x", true),
        ("http://[::1]:8000/x", true),
        ("http://[::ffff:127.0.0.1]/x", true),
        ("https://localhost/x", true),
        ("https://LOCALHOST./x", true),
        ("http://128.0.0.1/x", false),
        ("http://[::2]/x", false),
        ("http://localhost.example/x", false),
        ("http://127.0.0.1.example/x", false),
    ] {
        assert_eq!(is_loopback(&url(text)), local, "{text}");
    }
}

#[test]
fn retry_after_is_read_in_both_forms_and_bounded() {
    let now = httpdate::parse_http_date("Tue, 24 Nov 2026 12:00:00 GMT").unwrap();
    for (text, seconds) in [
        ("120", Some(120)),
        (" 0 ", Some(0)),
        ("Tue, 24 Nov 2026 12:01:30 GMT", Some(90)),
        ("Tue, 24 Nov 2026 11:00:00 GMT", None),
        ("99999999", Some(3600)),
        ("soon", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        let found = retry_after(&headers, now).map(|wait| wait.as_secs());
        assert_eq!(found, seconds, "{text}");
    }
}
