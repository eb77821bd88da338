//! S1 and S6, the kubelet's flags and configuration file work as they are written; and what systemd is notified
//! of.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::node::{FOREVER, Node, PATIENCE, command, pod};
use super::web_server::{Reply, Web};

mod on_one {
    super::super::on_containerd!(
        "2.1": the_promised_command_line_works_as_written,
        a_kubelets_command_line_and_configuration_start_the_agent_as_they_are,
        the_service_manager_is_told_what_it_wants_to_hear,
        a_reload_changes_what_can_change
    );
}

/// A `KubeletConfiguration` with these fields, as a file of the node.
fn configure(node: &Node, fields: &str) {
    let text =
        format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}");
    fs::write(node.path("config.yaml"), text).unwrap();
}

async fn the_promised_command_line_works_as_written(mut node: Node) {
    let web = Web::start(Reply::ok(pod("web", FOREVER)));
    node.put(
        "file.yaml",
        &(pod("file", FOREVER) + "  dnsPolicy: ClusterFirst\n"),
    );
    for (flag, value) in [
        ("cluster-dns", "10.254.0.10"),
        ("cluster-domain", "kube.local"),
        ("manifest-url", &web.url("/pods")),
    ] {
        node.flag(flag, value);
    }
    node.start_agent();
    node.wait_running("web").await;
    let file = node.wait_running("file").await;
    let resolver = node.exec(&file.id, &["cat", "/etc/resolv.conf"]).await;
    assert!(resolver.contains("nameserver 10.254.0.10\n"), "{resolver}");
    let search = "search default.svc.kube.local svc.kube.local kube.local";
    assert!(resolver.contains(search), "{resolver}");
    node.remove("file.yaml");
    web.say(Reply::ok("{apiVersion: v1, kind: PodList, items: []}"));
    node.kill_agent();
    node.start_agent();
    node.wait_gone().await;
}

async fn a_kubelets_command_line_and_configuration_start_the_agent_as_they_are(mut node: Node) {
    let manifests = node.path("manifests").display().to_string();
    configure(
        &node,
        &format!(
            "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n\
             cgroupDriver: cgroupfs\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\n\
             evictionPressureTransitionPeriod: 0s\nfileCheckFrequency: 0s\n\
             healthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nhttpCheckFrequency: 0s\n\
             logging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\n  \
             verbosity: 0\nrotateCertificates: true\nstaticPodPath: {manifests}\n\
             streamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\n"
        ),
    );
    node.put("web.yaml", &pod("web", FOREVER));
    node.without_manifests = true;
    let config = node.path("config.yaml").display().to_string();
    for (flag, value) in [
        (
            "bootstrap-kubeconfig",
            "/etc/kubernetes/bootstrap-kubelet.conf",
        ),
        ("kubeconfig", "/etc/kubernetes/kubelet.conf"),
        ("config", &config),
        ("node-ip", "192.168.0.7"),
        ("pod-infra-container-image", "registry.k8s.io/pause:3.10"),
    ] {
        node.flag(flag, value);
    }
    node.start_agent();
    let web = node.wait_running("web").await;
    let resolver = node.exec(&web.id, &["cat", "/etc/resolv.conf"]).await;
    assert!(resolver.contains("nameserver 10.96.0.10\n"), "{resolver}");
    let log = node.log();
    for words in [
        "flags of the kubelet without effect here: --pod-infra-container-image (",
        "API server is unreachable, static Pods keep running",
        "fields of the KubeletConfiguration without effect here: ",
    ] {
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
    node.remove("web.yaml");
    node.wait_gone().await;

    let refused = command(&["run", "--pod-manifest-path=/m", "--cgroups-per-qos=false"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.starts_with("podkeeper: --cgroups-per-qos: found \"false\", expected \"true\""),
        "{said}"
    );
}

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn new(node: &mut Node) -> Self {
        let path = node.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        node.env
            .push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        Self(socket)
    }

    /// The next message, if there is one.
    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
    }

    async fn hears(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.next() {
                Some(message) if message.contains(words) => return message,
                Some(_) => {}
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            assert!(Instant::now() < end, "never told {words}");
        }
    }
}

async fn the_service_manager_is_told_what_it_wants_to_hear(mut node: Node) {
    let manager = Manager::new(&mut node);
    node.env
        .push(("WATCHDOG_USEC".to_owned(), "300000".to_owned()));
    node.put("web.yaml", &pod("web", FOREVER));
    // Not ready while the runtime does not answer.
    let endpoint = format!("unix://{}", node.path("late.sock").display());
    let socket = node.client.endpoint().socket().to_owned();
    node.extra_flags = vec!["--container-runtime-endpoint".to_owned(), endpoint];
    node.start_agent();
    node.wait_until("it waits", async || {
        node.log().contains("Waiting for the container runtime")
    })
    .await;
    assert_eq!(manager.next(), None);
    std::os::unix::fs::symlink(socket, node.path("late.sock")).unwrap();
    manager.hears("READY=1").await;
    assert!(node.report("web").await.is_some(), "every Pod is synced");
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;
    // One that does not listen for a while holds nothing up.
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    while manager.next().is_some() {}
    assert_eq!(node.end_agent(), Some(0));
    manager.hears("STOPPING=1").await;
}

async fn a_reload_changes_what_can_change(mut node: Node) {
    let manager = Manager::new(&mut node);
    let web = Web::start(Reply::ok(pod("web", FOREVER)));
    let other = node.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("new.yaml"), pod("new", FOREVER)).unwrap();
    node.put("same.yaml", &pod("same", FOREVER));
    fs::write(other.join("same.yaml"), pod("same", FOREVER)).unwrap();
    node.without_manifests = true;
    let path = |folder: &std::path::Path| format!("staticPodPath: {}\n", folder.display());
    configure(&node, &path(&node.path("manifests")));
    let config = node.path("config.yaml").display().to_string();
    node.flag("config", &config);
    node.start_agent();
    manager.hears("READY=1").await;
    let same = node.wait_running("same").await;

    // What is wrong changes nothing.
    configure(&node, "staticPodPath: 7\n");
    node.signal_agent("HUP");
    let told = manager.hears("RELOADING=1").await;
    assert!(told.contains("MONOTONIC_USEC="), "{told}");
    manager.hears("READY=1").await;
    assert!(
        node.log()
            .contains("config.yaml:3:16: staticPodPath: found 7"),
        "{}",
        node.log()
    );
    assert!(node.running_one("same", "c").await.is_some());

    // Another folder and a URL; the Pod that both folders have is not touched.
    let url = format!("staticPodURL: {}\n", web.url("/pods"));
    configure(
        &node,
        &(path(&other) + &url + "clusterDomain: later.local\n"),
    );
    node.signal_agent("HUP");
    manager.hears("READY=1").await;
    node.wait_running("new").await;
    node.wait_running("web").await;
    assert_eq!(node.running_one("same", "c").await.unwrap().id, same.id);
    let log = node.log();
    assert!(
        log.contains("changed=\"manifest-url, pod-manifest-path\""),
        "{log}"
    );
    let late = "Setting takes effect only when the agent is restarted setting=\"cluster-domain\"";
    assert!(log.contains(late), "{log}");

    // Without the URL again, its Pod goes; a folder that is emptied takes the others.
    configure(&node, &path(&other));
    node.signal_agent("HUP");
    node.wait_until("web is gone", async || {
        node.running_one("web", "c").await.is_none()
    })
    .await;
    for file in ["new.yaml", "same.yaml"] {
        fs::remove_file(other.join(file)).unwrap();
    }
    node.wait_gone().await;
}
