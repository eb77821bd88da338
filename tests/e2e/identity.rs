//! What a Pod is told of itself and of the node: names, addresses, name servers, namespaces, ports.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::node::{Node, manifest};
use super::ports::free;

super::on_each_containerd!(
    a_pod_has_the_names_and_name_servers_that_it_asks_for,
    a_pod_uses_the_namespaces_that_it_asks_for,
    a_host_port_leads_to_the_pod,
    a_runtime_class_chooses_the_handler,
    terminals_input_and_last_words_are_the_containers,
);

const NAMES: &str = r#"
  hostname: web
  subdomain: site
  setHostnameAsFQDN: true
  hostAliases:
  - {ip: 192.0.2.9, hostnames: [db, db.lan]}
  dnsConfig: {searches: [lan.example], options: [{name: ndots, value: "2"}]}
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
"#;
const LONG: &str = "a-name-that-is-longer-than-what-the-kernel-takes-for-the-name-of-a-host";

async fn a_pod_has_the_names_and_name_servers_that_it_asks_for(mut node: Node) {
    let plain = |policy: &str| {
        format!(
            "  dnsPolicy: {policy}\n  containers:\n  - name: c\n    image: $BUSYBOX\n    command: $FOREVER\n"
        )
    };
    let without =
        plain("None") + "  dnsConfig: {nameservers: [192.0.2.53], searches: [own.example]}\n";
    node.put("names.yaml", &manifest("names", NAMES));
    node.put("default.yaml", &manifest("default", &plain("Default")));
    node.put("none.yaml", &manifest(LONG, &without));
    fs::write(
        node.path("resolv.conf"),
        "search host.example\nnameserver 192.0.2.1\noptions rotate\n",
    )
    .unwrap();
    node.flag(
        "resolv-conf",
        &node.path("resolv.conf").display().to_string(),
    );
    node.flag("cluster-dns", "10.254.0.10");
    node.flag("cluster-domain", "kube.local");
    node.start_agent();
    let id = node.wait_running("names").await.id;
    let domain = "site.default.svc.kube.local";
    assert_eq!(node.sh(&id, "hostname").await, format!("web.{domain}"));
    let ip = &node.report("names").await.unwrap().ips[0];
    let hosts = node.sh(&id, "cat /etc/hosts").await;
    let lines = [
        "127.0.0.1\tlocalhost",
        &format!("{ip}\tweb.{domain}\tweb"),
        "192.0.2.9\tdb\tdb.lan",
    ];
    for line in lines {
        assert!(
            hosts.lines().any(|l| l == line),
            "{line} is not in\n{hosts}"
        );
    }
    let searches = "default.svc.kube.local svc.kube.local kube.local host.example";
    for (pod, server, searches, options) in [
        (
            "names",
            "10.254.0.10",
            format!("{searches} lan.example"),
            "options ndots:2",
        ),
        (
            "default",
            "192.0.2.1",
            "host.example".to_owned(),
            "options rotate",
        ),
        (LONG, "192.0.2.53", "own.example".to_owned(), ""),
    ] {
        let id = node.wait_running(pod).await.id;
        let found = node.sh(&id, "cat /etc/resolv.conf").await;
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        let (server, searches) = (format!("nameserver {server}"), format!("search {searches}"));
        let mut expected = vec![server.as_str(), options, &searches];
        expected.retain(|line| !line.is_empty());
        assert_eq!(found, expected, "{pod}");
    }
    let id = node.wait_running("default").await.id;
    assert_eq!(node.sh(&id, "hostname").await, node.full_name("default"));
    let id = node.wait_running(LONG).await.id;
    let cut: String = node.full_name(LONG).chars().take(63).collect();
    assert_eq!(node.sh(&id, "hostname").await, cut.trim_end_matches('-'));
    for file in ["names.yaml", "default.yaml", "none.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn a_pod_uses_the_namespaces_that_it_asks_for(mut node: Node) {
    let containers = "  containers:\n  - name: c\n    image: $BUSYBOX\n    command: $FOREVER\n    \
                      securityContext: {privileged: true}\n";
    let all = "  hostNetwork: true\n  hostPID: true\n  hostIPC: true\n  dnsPolicy: ClusterFirstWithHostNet\n";
    let beside = "  - name: beside\n    image: $BUSYBOX\n    command: [sleep, \"1000\"]\n";
    let apart = format!("{containers}{beside}");
    let shared = format!("{apart}  shareProcessNamespace: true\n");
    node.put(
        "host.yaml",
        &manifest("host", &format!("{containers}{all}")),
    );
    node.put("shared.yaml", &manifest("shared", &shared));
    node.put("apart.yaml", &manifest("apart", &apart));
    node.flag("cluster-dns", "10.254.0.10");
    node.flag("cluster-domain", "kube.local");
    node.start_agent();
    let namespace = |kind: &str| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.display().to_string()
    };
    let own = async |pod: &str, kind: &str| {
        let id = node.wait_running(pod).await.id;
        node.sh(&id, &format!("readlink /proc/self/ns/{kind}"))
            .await
    };
    for kind in ["net", "ipc", "pid"] {
        assert_eq!(own("host", kind).await, namespace(kind), "{kind}");
        assert_ne!(own("shared", kind).await, namespace(kind), "{kind}");
        assert_ne!(
            own("shared", kind).await,
            own("apart", kind).await,
            "{kind}"
        );
    }
    let id = node.wait_running("host").await.id;
    let here = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(node.sh(&id, "hostname").await, here.trim());
    let servers = node.sh(&id, "grep nameserver /etc/resolv.conf").await;
    assert_eq!(servers, "nameserver 10.254.0.10");
    let of_host = fs::read_to_string("/etc/hosts").unwrap();
    assert!(
        node.sh(&id, "cat /etc/hosts")
            .await
            .contains(of_host.trim())
    );
    // What runs beside is seen where the Pod shares its processes, and not where it does not.
    for (pod, seen) in [("shared", true), ("apart", false)] {
        node.wait_container(pod, "beside").await;
        let id = node.wait_running(pod).await.id;
        let sees = async || node.sh(&id, "ps").await.contains("sleep 1000");
        if seen {
            // A moment ago it was the runtime's own program still.
            node.wait_until("what runs beside is seen", sees).await;
        } else {
            assert!(!sees().await, "{pod}");
        }
    }
    for file in ["host.yaml", "shared.yaml", "apart.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

/// The web page that is to be had at an address, if one is.
fn page(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

async fn a_host_port_leads_to_the_pod(mut node: Node) {
    let port = free().port();
    let spec = format!(
        "  containers:\n  - name: c\n    \
         image: localhost/podkeeper/web:1\n    ports: [{{containerPort: 8080, hostPort: {port}}}]\n"
    );
    node.put("web.yaml", &manifest("web", &spec));
    node.start_agent();
    node.wait_running("web").await;
    let own = &node.report("web").await.unwrap().ips[0];
    // The node's own end of the Pods' network is an address of the node like any other.
    let (network, _) = own.rsplit_once('.').unwrap();
    let expected = "This page comes from a static Pod.";
    for address in [
        format!("{network}.1:{port}"),
        format!("127.0.0.1:{port}"),
        format!("{own}:8080"),
    ] {
        node.wait_until(&format!("{address} leads to the Pod"), async || {
            page(&address).is_some_and(|text| text.contains(expected))
        })
        .await;
    }
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(page(&format!("127.0.0.1:{port}")), None);
}

async fn a_runtime_class_chooses_the_handler(mut node: Node) {
    for (pod, class) in [
        ("good", "plain"),
        ("missing", "unheard-of"),
        ("broken", "gone"),
    ] {
        let spec = "  containers:\n  - name: c\n    image: $BUSYBOX\n    command: $FOREVER\n";
        let spec = format!("{spec}  runtimeClassName: {class}\n");
        node.put(&format!("{pod}.yaml"), &manifest(pod, &spec));
    }
    node.flag("runtime-class", "plain=runc,gone=no-such-handler");
    node.start_agent();
    let good = node.wait_running("good").await;
    let sandboxes = node.sandboxes().await;
    let sandbox = sandboxes
        .iter()
        .find(|s| s.id == good.pod_sandbox_id)
        .unwrap();
    assert_eq!(sandbox.runtime_handler, "runc");
    for (pod, words) in [
        (
            "missing",
            "spec.runtimeClassName: there is no runtime class \"unheard-of\"",
        ),
        ("broken", "no-such-handler"),
    ] {
        let report = node.wait_reason(pod, "FailedCreatePodSandBox").await;
        assert!(report.message.contains(words), "{report:#?}");
    }
    for file in ["good.yaml", "missing.yaml", "broken.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn terminals_input_and_last_words_are_the_containers(mut node: Node) {
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
  - name: terminal
    image: $BUSYBOX
    command: [sh, -c, 'tty; cat']
    stdin: true
    tty: true
  - name: input
    image: $BUSYBOX
    command: [cat]
    stdin: true
  - name: words
    image: $BUSYBOX
    command: [sh, -c, 'echo farewell > /last/words; while :; do sleep 0.1; done']
    terminationMessagePath: /last/words
";
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    let id = node.wait_running("web").await.id;
    assert_eq!(
        node.sh(&id, "tty -s </proc/1/fd/0 || echo none").await,
        "none"
    );
    assert_eq!(
        node.sh(&id, "ls -d /dev/termination-log").await,
        "/dev/termination-log"
    );
    // Without an input `cat` would end at once.
    node.wait_container("web", "input").await;
    let terminal = node.wait_container("web", "terminal").await;
    // A moment ago its process was the runtime's own program still.
    node.wait_until("its input is a terminal", async || {
        let input = node.sh(&terminal.id, "readlink /proc/1/fd/0").await;
        input.starts_with("/dev/pts/")
    })
    .await;
    let uid = node.report("web").await.unwrap().uid;
    let words = node
        .path("root/pods")
        .join(&uid)
        .join("containers/words/00000000");
    node.wait_until("the last words are with the node", async || {
        fs::read_to_string(&words).is_ok_and(|text| text == "farewell\n")
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}
