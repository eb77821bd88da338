//! The way to the API server on bad days, and what it costs on good ones.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, is_running, uid};
use crate::node::{FOREVER, Node, pod};
use crate::proxy::{Asked, Fate, Proxy};

mod shared {
    crate::with_apiserver!(
        shared:
        a_storm_of_faults_passes_and_everything_is_right,
        a_server_that_is_too_busy_is_left_alone,
        an_answer_that_was_lost_makes_no_second_mirror,
        a_cut_watch_loses_nothing,
        a_start_and_an_idle_minute_cost_little,
        a_status_that_others_add_to_is_told_once,
        a_label_that_is_refused_keeps_nothing_else_from_being_told,
    );
}

/// Each request in its turn meets the next of these.
fn in_turn(fates: Vec<Fate>) -> impl Fn(&Asked) -> Fate + Send + Sync {
    let turn = AtomicU32::new(0);
    move |_| fates[turn.fetch_add(1, Ordering::Relaxed) as usize % fates.len()]
}

/// All Pods of a namespace or of the cluster are never asked for.
fn assert_narrow(asked: &[Asked]) {
    let lists = asked
        .iter()
        .filter(|(method, path)| method == "GET" && path.contains("/pods"));
    for (_, path) in lists {
        assert!(path.contains("fieldSelector=spec.nodeName"), "{path}");
    }
}

async fn a_storm_of_faults_passes_and_everything_is_right(mut node: Node, cluster: Cluster) {
    let proxy = Proxy::start(&cluster, &mut node);
    let (late, longer) = (Duration::from_millis(300), Duration::from_millis(1500));
    proxy.decide(in_turn(vec![
        Fate::Pass,
        Fate::Late(late),
        Fate::Answer(500),
        Fate::Pass,
        Fate::Answer(409),
        Fate::Late(longer),
        Fate::Pass,
        Fate::Cut,
        Fate::Answer(429),
        Fate::CutAfter,
        Fate::Pass,
    ]));
    for name in ["a", "b", "d"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    for name in ["a", "b", "d"] {
        node.wait_running(name).await;
    }
    node.wait_until("the storm is under way", async || proxy.count() > 60)
        .await;
    node.remove("a.yaml");
    node.put("e.yaml", &pod("e", FOREVER));
    node.wait_running("e").await;
    proxy.decide(|_| Fate::Pass);
    for name in ["b", "d", "e"] {
        cluster.wait_running(&node, name).await;
    }
    cluster.wait_no_mirror(&node, "a").await;
    assert_narrow(&proxy.take_asked());
}

async fn a_server_that_is_too_busy_is_left_alone(mut node: Node, cluster: Cluster) {
    let proxy = Proxy::start(&cluster, &mut node);
    for name in ["a", "b", "d"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    let is_create = |(method, path): &Asked| method == "POST" && path.ends_with("/pods");
    proxy.decide(move |asked| {
        if is_create(asked) {
            Fate::Answer(429)
        } else {
            Fate::Pass
        }
    });
    node.start_agent();
    for name in ["a", "b", "d"] {
        node.wait_running(name).await;
    }
    let mut tries = 0;
    node.wait_until("it is tried now and then", async || {
        tries += proxy
            .take_asked()
            .iter()
            .filter(|asked| is_create(asked))
            .count();
        tries >= 12
    })
    .await;
    assert_eq!(node.log_lines_with("API server is unreachable"), 0);
    proxy.decide(|_| Fate::Pass);
    for name in ["a", "b", "d"] {
        cluster.wait_running(&node, name).await;
    }
}

async fn an_answer_that_was_lost_makes_no_second_mirror(mut node: Node, cluster: Cluster) {
    let proxy = Proxy::start(&cluster, &mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    let lost = AtomicU32::new(0);
    proxy.decide(move |(method, path)| {
        let is_create = method == "POST" && path.ends_with("/pods");
        if is_create && lost.fetch_add(1, Ordering::Relaxed) == 0 {
            Fate::CutAfter
        } else {
            Fate::Pass
        }
    });
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    let asked = proxy.take_asked();
    let of = |method: &str, end: &str| {
        let found = asked
            .iter()
            .filter(|(m, path)| m == method && path.ends_with(end));
        found.count()
    };
    assert_eq!(
        of("POST", "/pods"),
        1,
        "it was seen that the mirror is there: {asked:#?}"
    );
    assert_eq!(of("DELETE", &node.full_name("web")), 0, "{asked:#?}");
}

async fn a_cut_watch_loses_nothing(mut node: Node, cluster: Cluster) {
    let proxy = Proxy::start(&cluster, &mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let mut mirror = cluster.wait_running(&node, "web").await;
    for _ in 0..5 {
        let name = node.full_name("web");
        proxy.cut();
        cluster.kubectl(&format!(
            "delete pod {name} --wait=false --force --grace-period=0"
        ));
        let before = uid(&mirror).to_owned();
        let is_back = |mirror: &Value| uid(mirror) != before && is_running(mirror);
        mirror = cluster.wait_mirror(&node, "web", is_back).await;
    }
    assert_narrow(&proxy.take_asked());
}

async fn a_start_and_an_idle_minute_cost_little(mut node: Node, cluster: Cluster) {
    let long = std::env::var_os("PODKEEPER_TEST_LONG").is_some();
    let (pods, minute) = if long {
        (100, Duration::from_secs(60))
    } else {
        (10, Duration::from_secs(20))
    };
    let proxy = Proxy::start(&cluster, &mut node);
    println!("asking through {}", proxy.url());
    node.start_agent();
    node.wait_until("the Node is there", async || {
        node.log_lines_with("Registered Node") > 0
    })
    .await;
    // Everything that the connection itself asks is asked within this.
    let quiet = async || {
        let mut before = proxy.count();
        node.wait_until("hardly anything is asked any more", async || {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let asked = proxy.count() - before;
            before += asked;
            asked <= 1
        })
        .await;
    };
    quiet().await;
    proxy.take_asked();
    node.put("first.yaml", &pod("first", FOREVER));
    cluster.wait_running(&node, "first").await;
    quiet().await;
    let asked = proxy.take_asked();
    let of_pod = asked.iter().filter(|(_, path)| !path.contains("/leases/"));
    let of_pod: Vec<&Asked> = of_pod.collect();
    println!("the start of a Pod: {} requests: {of_pod:#?}", of_pod.len());
    let count = |method: &str, end: &str| {
        let found = of_pod
            .iter()
            .filter(|(m, path)| m == method && path.ends_with(end));
        found.count()
    };
    assert_eq!(count("POST", "/pods"), 1);
    assert!((1..=4).contains(&count("PATCH", "/status")), "{of_pod:#?}");
    assert!(count("POST", "/events") <= 4, "{of_pod:#?}");

    for number in 1..pods {
        // They sleep rather than loop, so that idle is idle.
        let script = "trap 'exit 0' TERM; sleep 100000 & wait";
        node.put(
            &format!("{number}.yaml"),
            &pod(&format!("p{number}"), script),
        );
    }
    for number in 1..pods {
        cluster.wait_running(&node, &format!("p{number}")).await;
    }
    quiet().await;
    proxy.take_asked();
    tokio::time::sleep(minute).await;
    let asked = proxy.take_asked();
    println!(
        "{pods} idle Pods for {minute:?}: {} requests: {asked:#?}",
        asked.len()
    );
    let beats = asked
        .iter()
        .filter(|(_, path)| path.contains("/leases/"))
        .count();
    // The Node's status and a watch that ends may fall into this time.
    assert!(asked.len() - beats <= 3, "{asked:#?}");
    assert_narrow(&asked);
}

/// The changes of the Node's status that were asked for.
fn tellings(asked: &[Asked], node: &Node) -> usize {
    let end = format!("/nodes/{}/status", node.name);
    let told = asked
        .iter()
        .filter(|(method, path)| method == "PATCH" && path.ends_with(&end));
    told.count()
}

async fn a_status_that_others_add_to_is_told_once(mut node: Node, cluster: Cluster) {
    let proxy = Proxy::start(&cluster, &mut node);
    // A Node without an API of its own has a status like any other.
    node.flag("port", "0");
    node.start_agent();
    node.wait_until("the Node is there", async || {
        node.log_lines_with("Registered Node") > 0
    })
    .await;
    let dongles = "{\"status\":{\"capacity\":{\"example.com/dongle\":\"4\"}}}";
    cluster.kubectl(&format!(
        "patch node {} --subresource=status --type=merge --patch {dongles}",
        node.name
    ));
    node.wait_until("they may be given to Pods", async || {
        let found = cluster.get(&format!("node {}", node.name)).unwrap();
        found["status"]["allocatable"]["example.com/dongle"] == "4"
    })
    .await;
    proxy.take_asked();
    // The machine is measured as often as the lease is renewed.
    let mut asked = vec![];
    node.wait_until("the lease is renewed", async || {
        asked.extend(proxy.take_asked());
        let renewed = asked.iter().filter(|(_, path)| path.contains("/leases/"));
        renewed.count() >= 3
    })
    .await;
    assert_eq!(tellings(&asked, &node), 0, "{asked:#?}");
    let found = cluster.get(&format!("node {}", node.name)).unwrap();
    assert_eq!(found["status"]["capacity"]["example.com/dongle"], "4");
}

async fn a_label_that_is_refused_keeps_nothing_else_from_being_told(
    mut node: Node,
    cluster: Cluster,
) {
    let proxy = Proxy::start(&cluster, &mut node);
    node.start_agent();
    node.wait_until("the Node is there", async || {
        node.log_lines_with("Registered Node") > 0
    })
    .await;
    node.kill_agent();
    proxy.take_asked();
    let own = format!("/nodes/{}", node.name);
    proxy.decide(move |(method, path)| {
        if method == "PATCH" && path.ends_with(&own) {
            Fate::Answer(403)
        } else {
            Fate::Pass
        }
    });
    node.flag("node-labels", "example.com/rack=7");
    node.start_agent();
    let mut asked = vec![];
    node.wait_until("the status is told", async || {
        asked.extend(proxy.take_asked());
        tellings(&asked, &node) > 0
    })
    .await;
    let refused = "API server refuses to update the labels of the Node";
    assert_eq!(node.log_lines_with(refused), 1);
}
