//! The URL source against a server that misbehaves: what is followed, and that nothing else changes
//! anything.

#[path = "support/web_server.rs"]
mod web_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podkeeper::manifest::{PodKey, SourceKind};
use podkeeper::source::url::{Patience, Request, UrlSource};
use podkeeper::source::{Desired, Freshness, Sources};
use tempfile::TempDir;
use tokio::sync::watch;
use web_server::{Reply, Web, faults};

const DEADLINE: Duration = Duration::from_secs(30);

fn pod(name: &str, version: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: main\n    \
         image: registry.example/main:{version}\n"
    )
}

/// A stream of Pods: `a1 b2` is version 1 of Pod a and version 2 of Pod b; `a!` is a broken Pod a.
fn pods(words: &str) -> String {
    let one = |word: &str| {
        let (name, version) = word.split_at(1);
        match version {
            "!" => pod(name, 1).replace("image:", "imgae:"),
            version => pod(name, version.parse().unwrap()),
        }
    };
    let all: Vec<_> = words.split_whitespace().map(one).collect();
    if all.is_empty() {
        return "{apiVersion: v1, kind: PodList, items: []}".to_owned();
    }
    all.join("---\n")
}

/// What is wanted, in the same words.
fn words(desired: &Desired) -> String {
    let word = |(key, wanted): (&PodKey, &podkeeper::source::DesiredPod)| {
        let spec = &wanted.pod.get().spec;
        let image = spec.containers[0].image.as_deref().unwrap();
        let version = image.rsplit(':').next().unwrap();
        format!("{}{version}", key.name.trim_end_matches("-node1"))
    };
    desired.pods.iter().map(word).collect::<Vec<_>>().join(" ")
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A source that runs until it is stopped.
struct Poller {
    state: TempDir,
    source: UrlSource,
    desired: watch::Receiver<Option<Desired>>,
    task: tokio::task::JoinHandle<()>,
}

impl Poller {
    fn start(url: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let source = UrlSource {
            url: url.parse().unwrap(),
            request: Request {
                patience: Patience {
                    connect: Duration::from_secs(5),
                    piece: Duration::from_millis(1500),
                    all: Duration::from_secs(3),
                },
                ..Request::default()
            },
            public_keys: vec![],
            period: Duration::from_millis(20),
            node_name: "node1".to_owned(),
            state: state.path().join("url"),
        };
        Self::with(state, source)
    }

    fn with(state: TempDir, source: UrlSource) -> Self {
        let (sender, desired) = watch::channel(None);
        let task = tokio::spawn(source.clone().run(sender, true));
        Self {
            state,
            source,
            desired,
            task,
        }
    }

    /// Ends the source and starts it again on the same state.
    async fn restart(self, change: impl FnOnce(&mut UrlSource)) -> Self {
        let Self {
            state,
            mut source,
            desired,
            task,
        } = self;
        drop(desired);
        task.await.unwrap();
        change(&mut source);
        Self::with(state, source)
    }

    async fn sees(&mut self, what: &str, test: impl Fn(&Desired) -> bool) -> Desired {
        let end = Instant::now() + DEADLINE;
        loop {
            let now = self.desired.borrow_and_update().clone();
            if let Some(desired) = now.clone().filter(&test) {
                return desired;
            }
            let wait = end.saturating_duration_since(Instant::now());
            let changed = tokio::time::timeout(wait, self.desired.changed()).await;
            assert!(changed.is_ok(), "timed out waiting for {what}: {now:#?}");
            changed.unwrap().unwrap();
        }
    }

    /// Waits until exactly these Pods are wanted and the document can be read.
    async fn wants(&mut self, expected: &str) -> Desired {
        let settled =
            |d: &Desired| words(d) == expected && d.unreadable.is_empty() && !d.web_unknown;
        self.sees(expected, settled).await
    }

    /// Waits until something is said of the document as a whole.
    async fn complains(&mut self, expected: &str) -> Desired {
        let said = |d: &Desired| d.unreadable.iter().any(|why| why.contains(expected));
        self.sees(expected, said).await
    }
}

#[tokio::test]
async fn pods_are_followed_as_the_document_changes() {
    let web = Web::start(Reply::ok(pods("a1 b1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    let desired = poller.wants("a1 b1").await;
    for wanted in desired.pods.values() {
        assert_eq!(wanted.pod.get().source(), SourceKind::Http);
        assert_eq!(wanted.origin.to_string(), web.url("/pods.yaml"));
    }
    web.say(Reply::ok(pods("a2 c1")));
    poller.wants("a2 c1").await;
    web.say(Reply::ok(pods("")));
    poller.wants("").await;
    web.say(Reply::new(
        "200 OK",
        "Content-Type: application/octet-stream\r\n",
        pods("a1"),
    ));
    poller.wants("a1").await;
}

#[tokio::test]
async fn no_fault_of_the_server_changes_anything() {
    let web = Web::start(Reply::ok(pods("a1 b1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1 b1").await;
    for (what, reply, said) in faults() {
        web.say(reply);
        let desired = poller.complains(said).await;
        assert_eq!(words(&desired), "a1 b1", "{what}: {desired:#?}");
        assert!(
            desired.unreadable[0].starts_with(&web.url("/pods.yaml")),
            "{what}: {desired:#?}"
        );
        web.say(Reply::ok(pods("a1 b1")));
        // Waits after failures grow; a new start does not wait.
        poller = poller.restart(|_| {}).await;
        poller.wants("a1 b1").await;
    }
    web.hang_up(true);
    assert_eq!(words(&poller.complains("").await), "a1 b1");
}

#[tokio::test]
async fn without_the_server_the_last_good_document_is_started_from_the_copy() {
    let web = Web::start(Reply::ok(pods("a1 b1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1 b1").await;
    web.say(Reply::ok("kind: ["));
    poller.complains("refused as a whole").await;
    web.hang_up(true);
    poller = poller.restart(|_| {}).await;
    let first = poller.sees("the copy", |_| true).await;
    assert_eq!(
        (words(&first).as_str(), first.web_unknown),
        ("a1 b1", false)
    );
    poller.complains("").await;
    // The same from a server that moved.
    let moved = Web::start(Reply::new("503 Service Unavailable", "", ""));
    let url = moved.url("/elsewhere.yaml").parse().unwrap();
    poller = poller.restart(|source| source.url = url).await;
    assert_eq!(words(&poller.complains("503").await), "a1 b1");
    moved.say(Reply::ok(pods("c1")));
    poller = poller.restart(|_| {}).await;
    poller.wants("c1").await;
}

#[tokio::test]
async fn a_copy_that_is_damaged_or_missing_leaves_unknown_what_is_wanted() {
    let web = Web::start(Reply::ok(pods("a1")));
    web.hang_up(true);
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    assert!(poller.complains("").await.web_unknown);
    web.hang_up(false);
    assert!(!poller.wants("a1").await.web_unknown);
    for damage in ["", "junk", "{\"version\": 99}"] {
        web.hang_up(true);
        poller = poller
            .restart(|source| {
                for entry in fs::read_dir(&source.state).unwrap() {
                    fs::write(entry.unwrap().path(), damage).unwrap();
                }
            })
            .await;
        assert!(poller.complains("").await.web_unknown, "{damage}");
        web.hang_up(false);
        poller.wants("a1").await;
    }
}

#[tokio::test]
async fn a_bad_pod_keeps_its_own_last_version_and_no_other_waits_for_it() {
    let web = Web::start(Reply::ok(pods("a1 b1 c1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1 b1 c1").await;
    web.say(Reply::ok(pods("a! b2 d!")));
    let desired = poller.wants("a1 b2").await;
    assert_eq!(desired.refused.len(), 2, "{desired:#?}");
    let keeps: Vec<_> = desired
        .refused
        .iter()
        .flat_map(|refused| &refused.keeps)
        .collect();
    assert_eq!(
        keeps,
        [&PodKey {
            namespace: "default".to_owned(),
            name: "a-node1".to_owned()
        }]
    );
    // Over a restart without the server, and another document in which it is still broken.
    web.hang_up(true);
    poller = poller.restart(|_| {}).await;
    assert_eq!(words(&poller.complains("").await), "a1 b2");
    web.hang_up(false);
    web.say(Reply::ok(pods("a! b3")));
    poller.wants("a1 b3").await;
    web.hang_up(true);
    poller = poller.restart(|_| {}).await;
    assert_eq!(words(&poller.complains("").await), "a1 b3");
    let kept = fs::read_dir(&poller.source.state).unwrap().count();
    assert_eq!(
        kept, 3,
        "the index, the document in force, and the one that a stands in"
    );
    web.hang_up(false);
    web.say(Reply::ok(pods("b3")));
    poller.wants("b3").await;
}

#[tokio::test]
async fn a_bad_object_keeps_its_last_content_over_a_restart() {
    let user = pod("a", 1) + "    envFrom: [{configMapRef: {name: s}}]\n---\n";
    let object = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: s}}\n{data}\n---\n")
    };
    let good = object("data: {k: one}");
    let web = Web::start(Reply::ok(user.clone() + &good));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    let first = poller.wants("a1").await;
    let is_same = |desired: &Desired| {
        let pods = |desired: &Desired| desired.pods.values().map(|w| w.pod.clone()).collect();
        let (one, other): (Vec<_>, Vec<_>) = (pods(&first), pods(desired));
        one == other
    };
    // The document changes once more after that, and the object is broken still.
    for broken in ["data: 7", "data: [k]"] {
        web.say(Reply::ok(user.clone() + &object(broken)));
        let refused = |desired: &Desired| desired.refused.len() == 1;
        let desired = poller.sees("the broken object", refused).await;
        assert!(is_same(&desired), "{desired:#?}");
        web.hang_up(true);
        poller = poller.restart(|_| {}).await;
        let desired = poller.complains("").await;
        assert!(is_same(&desired), "{desired:#?}");
        web.hang_up(false);
    }
    let kept = fs::read_dir(&poller.source.state).unwrap().count();
    assert_eq!(
        kept, 3,
        "the index, the document in force, and the one that s stands in"
    );
    web.say(Reply::ok(user.clone() + &object("data: {k: two}")));
    poller.sees("the mended object", |d| !is_same(d)).await;
    web.say(Reply::ok(user.clone() + &good));
    let desired = poller.sees("what it was before", is_same).await;
    assert_eq!(desired.refused, []);
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_gzip_has_one_member_and_nothing_behind_it() {
    let web = Web::start(Reply::ok(pods("a1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1").await;
    let gzipped = |body: Vec<u8>| Reply::new("200 OK", "Content-Encoding: gzip\r\n", body);
    let stream = pods("a2 b1");
    let (front, back) = stream.split_at(40);
    for (body, said) in [
        (
            [gzip(front), gzip(back)].concat(),
            "expected a gzip of one member",
        ),
        // As many empty ones as 10 MiB hold.
        (gzip("").repeat(500_000), "expected a gzip of one member"),
        (
            [gzip(&stream), b"junk".to_vec()].concat(),
            "expected a gzip of one member",
        ),
        (gzip(&" ".repeat(11 << 20)), "larger than"),
        (gzip(&stream)[..60].to_vec(), "no whole gzip"),
    ] {
        web.say(gzipped(body));
        let desired = poller.complains(said).await;
        assert_eq!(words(&desired), "a1");
    }
    web.say(gzipped(gzip(&stream)));
    poller.wants("a2 b1").await;
}

/// Follows the document through all sources, as the agent does.
fn follow(poller: &Poller, freshness: &Freshness) -> watch::Receiver<Option<Desired>> {
    let sources = Sources {
        directory: None,
        url: Some(poller.source.clone()),
    };
    let (_, sources) = watch::channel(sources);
    let none = std::sync::Arc::new(|_: &_| Ok(None));
    Sources::follow(sources, poller.state.path(), freshness.clone(), none)
}

#[tokio::test]
async fn a_document_that_never_changes_grows_old_however_often_it_is_asked_for() {
    let web = Web::start(Reply::new("200 OK", "ETag: \"1\"\r\n", pods("a1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1").await;
    web.say(Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n"));
    // The agent has had it for long.
    let index = poller.source.state.join("index.json");
    let (_, none) = watch::channel(None);
    drop(std::mem::replace(&mut poller.desired, none));
    poller.task.await.unwrap();
    poller.task = tokio::spawn(async {});
    let text = fs::read_to_string(&index).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(kept["changed"].is_i64(), "{kept}");
    kept["changed"] = 1_000_000_000.into();
    fs::write(&index, kept.to_string()).unwrap();

    let freshness = Freshness::default();
    assert_eq!(freshness.url.content_age(), None);
    let _desired = follow(&poller, &freshness);
    wait_until("it is asked for", || freshness.url.age().is_some()).await;
    let year = Duration::from_secs(365 * 24 * 3600);
    assert!(freshness.url.content_age().unwrap() > year);
    assert!(freshness.url.age().unwrap() < year);
    web.say(Reply::ok(pods("a2")));
    wait_until("a change makes it young", || {
        freshness.url.content_age().unwrap() < year
    })
    .await;
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again_and_a_changed_one_is_compressed() {
    let web = Web::start(Reply::Silence);
    let answer = |version: u32| {
        move |request: &str| {
            assert!(request.contains("accept-encoding: gzip\r\n"), "{request}");
            let validators = format!(
                "ETag: W/\"{version}\"\r\nLast-Modified: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
            );
            if request.contains(&format!("if-none-match: w/\"{version}\"\r\n")) {
                assert!(
                    request.contains("if-modified-since: tue, 24 nov 2026 12:00:00 gmt\r\n"),
                    "{request}"
                );
                return Reply::raw(format!("HTTP/1.1 304 Not Modified\r\n{validators}\r\n"));
            }
            let body = gzip(&pods(&format!("a{version}")));
            Reply::new(
                "200 OK",
                &format!("{validators}Content-Encoding: gzip\r\n"),
                body,
            )
        }
    };
    web.script(answer(1));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1").await;
    let unconditional = |web: &Web| {
        web.requests()
            .iter()
            .filter(|r| !r.contains("if-none-match"))
            .count()
    };
    wait_until("5 requests", || web.requests().len() >= 5).await;
    assert_eq!(unconditional(&web), 1);
    web.script(answer(2));
    poller.wants("a2").await;
    // What the server knows the copy by is kept with it.
    let before = web.requests().len();
    poller = poller.restart(|_| {}).await;
    poller.wants("a2").await;
    wait_until("3 more", || web.requests().len() >= before + 3).await;
    assert_eq!(unconditional(&web), 1);
    // Of another URL it says nothing.
    let url = web.url("/other.yaml").parse().unwrap();
    poller = poller.restart(|source| source.url = url).await;
    poller.wants("a2").await;
    wait_until("a second without conditions", || unconditional(&web) >= 2).await;
}

#[tokio::test]
async fn headers_and_tokens_are_for_the_one_server_and_read_again() {
    let other = Web::start(Reply::ok(pods("b1")));
    let web = Web::start(Reply::ok(pods("a1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    let token = poller.state.path().join("token");
    fs::write(&token, "first\n").unwrap();
    let header =
        |name: &'static str, value: &'static str| (name.parse().unwrap(), value.parse().unwrap());
    let headers = vec![
        header("x-node", "one"),
        header("x-node", "two"),
        header("x-site", "s"),
    ];
    poller = poller
        .restart(|source| {
            source.request.headers = headers;
            source.request.token_file = Some(token.clone());
        })
        .await;
    poller.wants("a1").await;
    let told = [
        "x-node: one\r\nx-node: two\r\n",
        "x-site: s\r\n",
        "authorization: bearer first\r\n",
    ];
    let seen = |web: &Web, words: &[&str]| {
        web.requests()
            .iter()
            .any(|request| words.iter().all(|word| request.contains(word)))
    };
    assert!(seen(&web, &told), "{:?}", web.requests());

    // Within the server a redirect takes them along, to another it does not.
    web.script(|request| {
        if request.starts_with("get /pods.yaml") {
            return Reply::new(
                "307 Temporary Redirect",
                "Location: deeper/pods.yaml\r\n",
                "",
            );
        }
        Reply::ok(pods("a2"))
    });
    poller.wants("a2").await;
    let with = [&["get /deeper/pods.yaml "][..], &told].concat();
    assert!(seen(&web, &with), "{:?}", web.requests());
    let place = format!("Location: {}\r\n", other.url("/x"));
    web.say(Reply::new("302 Found", &place, ""));
    poller.wants("b1").await;
    for request in other.requests() {
        for secret in ["x-node", "x-site", "authorization"] {
            assert!(!request.contains(secret), "{request}");
        }
    }
    web.say(Reply::ok(pods("a1")));
    fs::write(&token, "second").unwrap();
    poller.wants("a1").await;
    let renewed = |web: &Web| seen(web, &["authorization: bearer second\r\n"]);
    wait_until("the renewed token", || renewed(&web)).await;
    for (content, said) in [(Some(""), "holds no token"), (None, "cannot read ")] {
        match content {
            Some(content) => fs::write(&token, content).unwrap(),
            None => fs::remove_file(&token).unwrap(),
        }
        assert_eq!(words(&poller.complains(said).await), "a1");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let web = Web::start(Reply::ok(pods("a1")));
    let mut poller = Poller::start(&web.url("/pods.yaml"));
    poller.wants("a1").await;
    web.say(Reply::new(
        "503 Service Unavailable",
        "Retry-After: 3600\r\n",
        "",
    ));
    poller.complains("503").await;
    let before = web.requests().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(web.requests().len(), before, "the period is 20 ms");
}

#[tokio::test]
async fn the_copy_is_for_the_agent_alone() {
    use std::os::unix::fs::PermissionsExt;
    let web = Web::start(Reply::ok(pods("a1")));
    let mut poller = Poller::start(&web.url("/pods.yaml?token=secret"));
    let desired = poller.wants("a1").await;
    assert_eq!(
        desired.pods.values().next().unwrap().origin.to_string(),
        web.url("/pods.yaml?…")
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = poller.source.state.clone();
    wait_until("the copy", || state.join("index.json").exists()).await;
    assert_eq!(mode(&state), 0o700);
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let content = fs::read(&path).unwrap();
        assert!(
            !String::from_utf8_lossy(&content).contains("secret"),
            "{}",
            path.display()
        );
    }
}

/// A key pair of the stock minisign.
struct Signer {
    folder: TempDir,
}

impl Signer {
    fn new() -> Self {
        let signer = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        signer.minisign(&["-G", "-W", "-p", "key.pub", "-s", "key"]);
        signer
    }

    fn public(&self) -> PathBuf {
        self.folder.path().join("key.pub")
    }

    fn minisign(&self, arguments: &[&str]) {
        let mut command = std::process::Command::new("minisign");
        let done = command
            .args(arguments)
            .current_dir(self.folder.path())
            .output();
        let done = done.expect("minisign is there: run hack/test");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// The signature of a document, with minisign's own trusted comment or another one.
    fn sign(&self, document: &str, comment: Option<&str>) -> Vec<u8> {
        fs::write(self.folder.path().join("pods.yaml"), document).unwrap();
        let comment = comment.map_or(vec![], |comment| vec!["-t", comment]);
        self.minisign(&[&["-S", "-s", "key", "-m", "pods.yaml"], &*comment].concat());
        fs::read(self.folder.path().join("pods.yaml.minisig")).unwrap()
    }
}

impl Web {
    /// Serves a document and, beside it, its signature.
    fn serve(&self, document: &str, signature: Option<Vec<u8>>) {
        let (etag, document) = (
            format!("ETag: \"{}\"\r\n", document.len()),
            document.to_owned(),
        );
        self.script(move |request| {
            if request.starts_with("get /pods.yaml.minisig?site=1 ") {
                return signature
                    .as_ref()
                    .map_or(Reply::new("404 Not Found", "", ""), Reply::ok);
            }
            assert!(request.starts_with("get /pods.yaml?site=1 "), "{request}");
            if request.contains(&format!("if-none-match: {}", &etag[6..])) {
                return Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n");
            }
            Reply::new("200 OK", &etag, &document)
        });
    }
}

#[tokio::test]
#[ignore = "needs minisign: run hack/test"]
async fn only_what_is_signed_counts_where_that_is_asked_for() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let web = Web::start(Reply::Silence);
    let first = pods("a1");
    web.serve(&first, Some(signer.sign(&first, None)));
    let mut poller = Poller::start(&web.url("/pods.yaml?site=1"));
    let keys = vec![signer.public()];
    poller = poller.restart(|source| source.public_keys = keys).await;
    poller.wants("a1").await;

    let second = pods("a2 b1");
    let damaged = signer.sign(&second, None);
    let damaged = [&damaged[..60], b"AAAA", &damaged[64..]].concat();
    for (what, signature, said) in [
        ("none", None, "pods.yaml.minisig?…: the server answered 404"),
        (
            "a stranger's",
            Some(stranger.sign(&second, None)),
            "not signed by any of the keys",
        ),
        (
            "another document's",
            Some(signer.sign("other", None)),
            "not signed by any of the keys",
        ),
        ("damaged", Some(damaged), "not signed by any of the keys"),
        (
            "no signature",
            Some(b"<html>".to_vec()),
            "the signature is none of minisign's",
        ),
        (
            "an old one",
            Some(signer.sign(&second, Some("timestamp:1000000"))),
            "older than one that counted before: signed 1970-01-12T13:46:40Z",
        ),
        (
            "one of no time",
            Some(signer.sign(&second, Some("hello"))),
            "does not tell when it was made",
        ),
    ] {
        web.serve(&second, signature);
        let desired = poller.complains(said).await;
        assert_eq!(words(&desired), "a1", "{what}: {desired:#?}");
    }
    // The signature alone is what was wrong, and the document is not fetched again for it.
    let whole = |web: &Web| {
        let documents =
            |r: &&String| r.starts_with("get /pods.yaml?") && !r.contains("if-none-match");
        web.requests().iter().filter(documents).count()
    };
    let before = whole(&web);
    web.serve(&second, Some(signer.sign(&second, None)));
    poller.wants("a2 b1").await;
    assert_eq!(whole(&web), before);

    // The first document, replayed with its good signature.
    web.serve(
        &first,
        Some(signer.sign(&first, Some("timestamp:1700000000"))),
    );
    assert_eq!(
        words(&poller.complains("older than one that counted before").await),
        "a2 b1"
    );
}

#[tokio::test]
#[ignore = "needs minisign: run hack/test"]
async fn keys_are_rotated_and_the_copy_is_verified_at_the_start() {
    let (old, new) = (Signer::new(), Signer::new());
    let web = Web::start(Reply::Silence);
    let document = pods("a1");
    web.serve(&document, Some(old.sign(&document, None)));
    let mut poller = Poller::start(&web.url("/pods.yaml?site=1"));
    let keys = vec![old.public(), new.public()];
    poller = poller.restart(|source| source.public_keys = keys).await;
    poller.wants("a1").await;
    let document = pods("a22");
    web.serve(&document, Some(new.sign(&document, None)));
    poller.wants("a22").await;

    web.hang_up(true);
    let keys = vec![new.public()];
    poller = poller.restart(|source| source.public_keys = keys).await;
    let first = poller.sees("the copy", |_| true).await;
    assert_eq!((words(&first).as_str(), first.web_unknown), ("a22", false));
    // By the old key the copy is not to be trusted, and what it wants is unknown.
    let keys = vec![old.public()];
    poller = poller.restart(|source| source.public_keys = keys).await;
    let first = poller.sees("no copy", |_| true).await;
    assert_eq!((words(&first).as_str(), first.web_unknown), ("", true));
    assert!(
        first.unreadable[0].contains("stored document cannot be verified"),
        "{first:#?}"
    );
    // A key's file may change while the agent runs.
    fs::copy(new.public(), old.public()).unwrap();
    web.hang_up(false);
    poller.wants("a22").await;
    // And the copy of one who needed no signatures is nothing to one who does.
    poller = poller.restart(|source| source.public_keys = vec![]).await;
    let document = pods("a333");
    web.serve(&document, None);
    poller.wants("a333").await;
    web.hang_up(true);
    let keys = vec![new.public()];
    poller = poller.restart(|source| source.public_keys = keys).await;
    let first = poller.sees("no copy", |_| true).await;
    assert_eq!((words(&first).as_str(), first.web_unknown), ("", true));
    assert!(
        first.unreadable[0].contains("it is not signed"),
        "{first:#?}"
    );
}
