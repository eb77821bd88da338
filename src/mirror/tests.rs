//! Numbers and times at the ends of their types, and beyond, in everything that an API server answers: the
//! parts of a connection go on, and what makes sense counts.

#[path = "../../tests/support/number_paths.rs"]
mod number_paths;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tower::service_fn;

use self::number_paths::number_paths;
use super::api::Api;
use super::error::{ApiError, ErrorKind};
use super::node;
use super::object::{NodeIdentity, SeenPod};
use super::watch::{ObjectUpdate, WatchedObject, watch as follow};

const HOUR: Duration = Duration::from_secs(3600);

/// Replacements for every number, and for every text that begins as one.
fn extremes() -> Vec<Value> {
    let texts = [
        "",
        "-1",
        "9223372036854775808",
        "1e400",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "99999-01-01T00:00:00Z",
        "-262143-01-01T00:00:00Z",
    ];
    let numbers = [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
    ];
    numbers.into_iter().chain(texts.map(Value::from)).collect()
}

/// The document with each extreme at each path.
fn changed(document: &Value) -> Vec<Value> {
    let all = number_paths(document);
    assert!(!all.is_empty());
    let with = |(place, extreme): (&String, Value)| {
        let mut changed = document.clone();
        *changed.pointer_mut(place).unwrap() = extreme;
        changed
    };
    let pairs = all
        .iter()
        .flat_map(|place| extremes().into_iter().map(move |e| (place, e)));
    pairs.map(with).collect()
}

/// A server that gives these answers, one to each request, and then `rest` to all others.
fn server(answers: impl IntoIterator<Item = (u16, String)>, rest: (u16, String)) -> Api {
    let answers: VecDeque<_> = answers.into_iter().collect();
    let answers = Arc::new(Mutex::new(answers));
    let service = service_fn(move |_: Request<Body>| {
        let next = answers.lock().unwrap().pop_front();
        let (status, body) = next.unwrap_or_else(|| rest.clone());
        let answer = Response::builder().status(status);
        let answer = answer.body(Full::new(Bytes::from(body))).unwrap();
        async move { Ok::<_, Infallible>(answer) }
    });
    Api::new(kube::Client::new(service, "default"), Arc::default())
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "uid": "u",
            "resourceVersion": "7",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 30,
        },
        "spec": {"terminationGracePeriodSeconds": 30, "priority": 0},
        "status": {
            "observedGeneration": 1,
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "lastProbeTime": "2026-01-01T00:00:00Z",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 1,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "lastState": {"terminated": {
                    "exitCode": 1, "signal": 9,
                    "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:00Z",
                }},
            }],
        },
    })
}

fn node() -> Value {
    json!({
        "metadata": {
            "name": "n",
            "uid": "u",
            "resourceVersion": "7",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]},
        "status": {
            "capacity": {"cpu": "2", "pods": "110"},
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "images": [{"names": [], "sizeBytes": 7}],
        },
    })
}

/// Lists an object with each extreme beside a good one; each list is to be believed.
async fn lists<T: WatchedObject>(strange: &Value, good: &Value, is_good: impl Fn(&T) -> bool) {
    for strange in changed(strange) {
        // A field of a wrong type that counts keeps the object from being read, which a server's types do not allow.
        let counts = strange["metadata"]["resourceVersion"].is_string();
        let list = json!({"metadata": {"resourceVersion": "7"}, "items": [strange.clone(), good]});
        let rest = json!({"metadata": {"resourceVersion": "8"}, "items": [good]});
        let lists = [(200, list.to_string())].into_iter().filter(|_| counts);
        let api = server(lists, (200, rest.to_string()));
        let (sender, mut seen) = mpsc::channel(8);
        let following = follow::<T>(&api, "/x", ("f", "v"), sender);
        let found = async {
            let Some(ObjectUpdate::All(all)) = seen.recv().await else {
                panic!("no list: {strange}");
            };
            assert!(all.iter().any(&is_good), "{strange}");
        };
        tokio::select! {
            ended = following => panic!("ended: {}: {strange}", ended.unwrap_err()),
            found = timeout(HOUR, found) => found.unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_strange_pod_keeps_no_other_from_being_seen() {
    lists(&pod("strange"), &pod("good"), |pod: &SeenPod| {
        pod.key.name == "good"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_strange_node_is_seen_all_the_same() {
    let node = node();
    lists::<node::SeenNode>(&node, &node, |_| true).await;
}

#[tokio::test(start_paused = true)]
async fn a_strange_version_ends_no_watch_for_ever() {
    let list = json!({"metadata": {"resourceVersion": "7"}, "items": [pod("good")]}).to_string();
    for object in changed(&pod("good")) {
        for kind in ["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"] {
            let event = json!({"type": kind, "object": object}).to_string() + "\n";
            let answers = [(200, list.clone()), (200, event)];
            let api = server(answers, (200, list.clone()));
            let (sender, mut seen) = mpsc::channel(8);
            let following = follow::<SeenPod>(&api, "/x", ("f", "v"), sender);
            let found = async {
                let mut lists = 0;
                while lists < 2 {
                    lists += usize::from(matches!(seen.recv().await, Some(ObjectUpdate::All(_))));
                }
            };
            tokio::select! {
                // Another connection is made then.
                Err(error) = following => assert_eq!(error.kind, ErrorKind::Unreachable, "{object}"),
                found = timeout(HOUR, found) => found.unwrap(),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_whatever_its_numbers_are() {
    let lease = json!({
        "metadata": {"name": "n", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "leaseDurationSeconds": 40,
            "leaseTransitions": 1,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    });
    for strange in changed(&lease) {
        if !strange["metadata"]["resourceVersion"].is_string() {
            continue;
        }
        let before = (200, lease.to_string());
        let answers = [before.clone(), (200, strange.to_string())];
        let newer = lease
            .to_string()
            .replace("\"7\"", "\"9223372036854775809\"");
        let api = server(answers, (200, newer));
        let identity = NodeIdentity {
            name: "n".into(),
            uid: "u".into(),
        };
        let (_sender, identity) = watch::channel(Some(identity));
        let renewing = node::renew(&api, identity, 40);
        assert!(timeout(HOUR, renewing).await.is_err(), "{strange}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_never_left_alone_for_longer_than_a_minute() {
    let status = json!({
        "kind": "Status",
        "status": "Failure",
        "reason": "TooManyRequests",
        "code": 429,
        "details": {"retryAfterSeconds": 1},
    });
    for code in [429, 500, 503, 599] {
        for strange in changed(&status) {
            let api = server([], (code, strange.to_string()));
            let got: Result<Value, ApiError> = api.get("/x").await;
            let kind = got.unwrap_err().kind;
            let is_short = |wait: Duration| wait <= Duration::from_secs(60);
            assert!(
                !matches!(kind, ErrorKind::Busy(wait) if !is_short(wait)),
                "{strange}: {kind:?}"
            );
            // It is asked again within minutes.
            let good = json!({"metadata": {"resourceVersion": "8"}, "items": []}).to_string();
            let api = server(vec![(code, strange.to_string()); 3], (200, good));
            let (sender, mut seen) = mpsc::channel(8);
            let began = Instant::now();
            tokio::select! {
                Err(error) = follow::<SeenPod>(&api, "/x", ("f", "v"), sender) => {
                    assert_eq!(error.kind, ErrorKind::Unreachable, "{strange}");
                }
                seen = seen.recv() => {
                    assert!(matches!(seen, Some(ObjectUpdate::All(_))));
                    assert!(began.elapsed() < Duration::from_secs(600), "{strange}");
                }
            }
        }
    }
}
