//! The node beside a kubelet that shows the same Pod (`hack/record-kubelet`): the Node, its usage and metrics, by name and
//! label. Each difference stands in docs/kubelet-differences.md with its reason.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::endpoint::start;
use crate::node::Node;

mod shared {
    crate::with_apiserver!(shared: the_node_shows_what_the_kubelet_shows,);
}

/// Compared pages: the name of the recorded file, and the path at the node.
const PAGES: [(&str, &str); 5] = [
    ("metrics", "metrics"),
    ("metrics-cadvisor", "metrics/cadvisor"),
    ("metrics-probes", "metrics/probes"),
    ("metrics-resource", "metrics/resource"),
    ("stats-summary", "stats/summary"),
];
const DIFFERENCES: &str = include_str!("../../docs/kubelet-differences.md");

/// Rows of the document: a page, `less` or `more` than the kubelet has, and names, with `*` for any end.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    page: &'static str,
    which: &'static str,
    name: &'static str,
}

fn differences() -> Vec<Difference> {
    let mut all = vec![];
    for line in DIFFERENCES.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", page, which @ ("less" | "more"), names, reason, ""] = cells.as_slice() else {
            continue;
        };
        assert!(!reason.is_empty(), "no reason: {line}");
        // Names stand in backticks: every second part.
        for name in names.split('`').skip(1).step_by(2) {
            let page = page.trim_matches('`');
            all.push(Difference { page, which, name });
        }
    }
    all
}

impl Difference {
    fn explains(&self, page: &str, which: &str, line: &str) -> bool {
        let is_named = match self.name.strip_suffix('*') {
            Some(beginning) => line.starts_with(beginning),
            // Without the type and the labels of a metric, if they are not given.
            None => line == self.name || line.split(' ').next() == Some(self.name),
        };
        self.page == page && self.which == which && is_named
    }
}

/// The names in a page, by the program that the kubelet's are recorded with.
fn names(page: &str, content: &str) -> BTreeSet<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/names.py");
    let mut python = Command::new("python3");
    let python = python.arg(program).arg(page);
    let mut python = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    let content = content.to_owned();
    let writer = std::thread::spawn(move || input.write_all(content.as_bytes()));
    let done = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn recorded(page: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/node-api");
    let text = std::fs::read_to_string(root.join(format!("{page}.txt"))).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn the_node_shows_what_the_kubelet_shows(mut node: Node, cluster: Cluster) {
    node.put("web.yaml", include_str!("../golden/node-api/web.yaml"));
    start(&mut node, &cluster);
    let is_ready = |mirror: &Value| {
        let statuses = mirror["status"]["containerStatuses"].as_array();
        statuses.is_some_and(|all| all.len() == 2 && all.iter().all(|s| s["ready"] == true))
    };
    cluster.wait_mirror(&node, "web", is_ready).await;
    let ask = |path: &str| {
        let path = format!("get --raw /api/v1/nodes/{}/proxy/{path}", node.name);
        cluster.ask(&path)
    };
    // Rates take two measurements, and images are reported with the next status.
    node.wait_until("usage is measured", async || {
        let summary = ask("stats/summary").unwrap_or_default();
        let summary: Value = serde_json::from_str(&summary).unwrap_or_default();
        ["/node", "/pods/0", "/pods/0/containers/0"]
            .iter()
            .all(|place| {
                let rate = summary.pointer(&format!("{place}/cpu/usageNanoCores"));
                rate.is_some()
            })
    })
    .await;
    node.wait_until("the liveness probe ran", async || {
        ask("metrics/probes").is_some_and(|text| text.contains("Liveness"))
    })
    .await;
    let shown = |node: &Node| cluster.get(&format!("node {}", node.name)).unwrap();
    let mut pages = vec![("node", shown(&node).to_string())];
    pages.extend(PAGES.map(|(page, path)| (page, ask(path).unwrap())));

    let known = differences();
    let mut used = BTreeSet::new();
    let mut unexplained = vec![];
    for (page, content) in &pages {
        let (ours, theirs) = (names(page, content), recorded(page));
        let less = theirs.difference(&ours).map(|line| ("less", line));
        let more = ours.difference(&theirs).map(|line| ("more", line));
        for (which, line) in less.chain(more) {
            let mut reasons = known.iter().filter(|d| d.explains(page, which, line));
            match reasons.next() {
                Some(reason) => drop(used.insert(reason)),
                None => unexplained.push(format!("{page} has {which}: {line}")),
            }
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    // What the machine has, and the file systems of its tests, decide about some; no others are without effect.
    let machine = [
        "kubernetes.io/",
        "hugepages-",
        "psi.",
        "container_pressure",
        ".swap",
        "container_fs",
    ];
    let of_machine = |name: &str| machine.iter().any(|part| name.contains(part));
    let idle: Vec<_> = known
        .iter()
        .filter(|d| !used.contains(d) && !of_machine(d.name))
        .collect();
    assert!(idle.is_empty(), "no difference any more: {idle:#?}");
}
