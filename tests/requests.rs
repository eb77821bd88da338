//! What is asked for field by field, worked out by hand from the Kubernetes documentation and the
//! reference agent's rules: the variants that no record has.

#[path = "support/records.rs"]
mod records;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use podkeeper::cri::HandlerFeatures;
use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{
    Addresses, ContainerInstance, ImageUser, NodeFacts, SandboxInstance, UserNamespaceRange,
    container_config, hostname_problem, sandbox_config,
};
use records::{Kind, NODE, Places, facts, host, in_their_terms};
use serde_json::{Value, json};

/// A Pod, the node, and what else its requests depend on.
struct Case {
    facts: NodeFacts,
    pod: Arc<StaticPod>,
    instance: ContainerInstance,
}

impl Case {
    fn of(manifest: &str) -> Self {
        let head = "apiVersion: v1\nkind: Pod\n";
        let accepted = parse(
            format!("{head}{manifest}").as_bytes(),
            NODE,
            SourceKind::File,
        );
        let accepted = accepted.unwrap_or_else(|e| panic!("{manifest}: {e:?}"));
        Self {
            facts: facts(),
            pod: accepted.pod,
            instance: ContainerInstance {
                image: "sha256:1".into(),
                addresses: Addresses {
                    pod: vec!["10.0.0.7".into()],
                    seen: "2026-01-02T03:04:05Z".into(),
                },
                ..ContainerInstance::default()
            },
        }
    }

    /// A Pod `p` in the namespace `ns1` with this in its `spec`, and containers of these names.
    fn spec(spec: &str, containers: &[&str]) -> Self {
        let one = |container: &&str| format!("  - {{image: i:1, {container}}}\n");
        let containers: String = containers.iter().map(one).collect();
        let metadata = "metadata: {name: p, namespace: ns1}\n";
        Self::of(&format!(
            "{metadata}spec:\n{spec}  containers:\n{containers}"
        ))
    }

    fn places() -> Places {
        Places {
            root: "/ROOT".into(),
            logs: "/LOGS".into(),
            pod_ip: "10.0.0.7".into(),
        }
    }

    /// A part of the request for the sandbox; null for what is at its default.
    fn sandbox(&self, pointer: &str) -> Value {
        let instance = SandboxInstance {
            user_namespace: self.instance.user_namespace,
            ..SandboxInstance::default()
        };
        let config = sandbox_config(&self.facts, &host(), &self.pod, &instance);
        let config = in_their_terms(Kind::Sandbox, &config, &self.pod.uid, &Self::places());
        config.pointer(pointer).cloned().unwrap_or_default()
    }

    /// A part of the request for a container; null for what is at its default.
    fn container(&self, name: &str, pointer: &str) -> Value {
        let spec = &self.pod.spec;
        let mut all = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let spec = all.find(|c| c.name == name).unwrap();
        let config = container_config(&self.facts, &self.pod, spec, &self.instance).unwrap();
        let config = in_their_terms(Kind::Container, &config, &self.pod.uid, &Self::places());
        config.pointer(pointer).cloned().unwrap_or_default()
    }

    fn env(&self, name: &str) -> Vec<(String, String)> {
        let envs = self.container(name, "/envs");
        let pair = |env: &Value| {
            let value = env["value"].as_str().unwrap_or_default();
            let value = String::from_utf8(STANDARD.decode(value).unwrap()).unwrap();
            (env["key"].as_str().unwrap().to_owned(), value)
        };
        envs.as_array().into_iter().flatten().map(pair).collect()
    }

    fn resources(&self, name: &str, field: &str) -> Value {
        self.container(name, &format!("/linux/resources/{field}"))
    }

    fn security(&self, name: &str, field: &str) -> Value {
        self.container(name, &format!("/linux/security_context/{field}"))
    }
}

#[test]
fn a_variable_can_be_any_field_that_the_downward_api_has() {
    let fields = [
        ("A", "metadata.name", "p-my-node1"),
        ("B", "metadata.namespace", "ns1"),
        ("C", "metadata.uid", "$UID"),
        ("D", "metadata.labels['a.b/c']", "one"),
        ("E", "metadata.annotations['x']", "odd: \"é\" $(A) {1}"),
        ("E2", "metadata.annotations['none']", ""),
        (
            "E3",
            "metadata.annotations['kubernetes.io/config.source']",
            "file",
        ),
        (
            "E4",
            "metadata.annotations['kubernetes.io/config.hash']",
            "$UID",
        ),
        (
            "E5",
            "metadata.annotations['kubernetes.io/config.seen']",
            "2026-01-02T03:04:05Z",
        ),
        ("F", "spec.nodeName", "my-node1"),
        ("F2", "spec.host", "my-node1"),
        ("G", "spec.serviceAccountName", ""),
        ("H", "status.hostIP", "192.0.2.2"),
        ("I", "status.hostIPs", "192.0.2.2"),
        ("J", "status.podIP", "$POD_IP"),
        ("K", "status.podIPs", "$POD_IP"),
    ];
    let env: Vec<Value> = fields
        .iter()
        .map(
            |(name, path, _)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}),
        )
        .collect();
    let metadata =
        r#"{name: p, namespace: ns1, annotations: {x: 'odd: "é" $(A) {1}'}, labels: {a.b/c: one}}"#;
    let manifest = |more: &str| {
        let containers = format!("containers: [{{name: c, image: i, env: {}}}]", json!(env));
        Case::of(&format!(
            "metadata: {metadata}\nspec:\n  {containers}\n{more}"
        ))
    };
    let case = manifest("");
    let expected = fields.map(|(name, _, value)| (name.to_owned(), value.to_owned()));
    let uid = |(name, value): (String, String)| (name, value.replace("$UID", &case.pod.uid));
    assert_eq!(case.env("c"), expected.clone().map(uid));

    // On the host's network the Pod's address is the host's.
    let mut case = manifest("  hostNetwork: true\n");
    case.instance.addresses.pod.clear();
    let env = case.env("c");
    for name in ["J", "K"] {
        let found = env.iter().find(|(key, _)| key == name).unwrap();
        assert_eq!(found.1, "192.0.2.2", "{name}");
    }
}

#[test]
fn a_variable_can_be_a_resource_divided_and_rounded_up() {
    let env = |resource: &str, divisor: &str, container: &str| {
        json!([{"name": "A", "valueFrom": {"resourceFieldRef": {
            "resource": resource, "divisor": divisor, "containerName": container}}}])
    };
    let other =
        "name: other, resources: {requests: {cpu: 1500m, memory: 100M}, limits: {memory: 1Gi}}";
    for (resource, divisor, container, expected) in [
        ("requests.cpu", "0", "other", "2"),
        ("requests.cpu", "1m", "other", "1500"),
        ("requests.memory", "0", "other", "100000000"),
        ("requests.memory", "1Mi", "other", "96"),
        ("limits.memory", "1Gi", "other", "1"),
        ("limits.memory", "1M", "other", "1074"),
        // Without a limit, what the node has.
        ("limits.cpu", "0", "other", "2"),
        ("limits.cpu", "1m", "c", "2000"),
        ("limits.memory", "1Ki", "c", "24684084"),
        // Without a request there is none.
        ("requests.cpu", "1m", "c", "0"),
        ("requests.memory", "0", "c", "0"),
    ] {
        let own = format!("name: c, env: {}", env(resource, divisor, container));
        let case = Case::spec("", &[own.as_str(), other]);
        assert_eq!(
            case.env("c")[0].1,
            expected,
            "{resource} by {divisor} of {container}"
        );
    }
    // An init container has that of the node only for itself, and where it is not named.
    for (asks, container, expected) in [
        ("first", "", "2000"),
        ("first", "first", "0"),
        ("c", "first", "0"),
        ("first", "c", "2000"),
        ("c", "limited", "500"),
    ] {
        let of = |name: &str| {
            let env = env("limits.cpu", "1m", container);
            let env = if name == asks { env } else { json!([]) };
            format!("name: {name}, env: {env}")
        };
        let inits = format!(
            "  initContainers: [{{image: i, {}}}, {{name: limited, image: i, resources: {{limits: {{cpu: 500m}}}}}}]\n",
            of("first")
        );
        let case = Case::spec(&inits, &[&of("c")]);
        assert_eq!(case.env(asks)[0].1, expected, "{container} of {asks}");
    }
    // The Pod's limit as a whole comes before the node's.
    let own = format!("name: c, env: {}", env("limits.cpu", "1m", "c"));
    let case = Case::spec(
        "  resources: {limits: {cpu: 700m}, requests: {cpu: 100m}}\n",
        &[&own],
    );
    assert_eq!(case.env("c")[0].1, "700");
}

#[test]
fn ports_are_mapped_as_they_are_written() {
    let ports =
        |spec: &str, containers: &[&str]| Case::spec(spec, containers).sandbox("/port_mappings");
    let own = "name: c, ports: [{containerPort: 53, hostPort: 5353, protocol: UDP, hostIP: 127.0.0.1}, \
               {containerPort: 9, protocol: SCTP, name: s}, {containerPort: 80}]";
    let more = "name: d, ports: [{containerPort: 81, hostPort: 8081}]";
    assert_eq!(
        ports("", &[own, more]),
        json!([
            {"protocol": "UDP", "container_port": 53, "host_port": 5353, "host_ip": "127.0.0.1"},
            {"protocol": "SCTP", "container_port": 9},
            {"container_port": 80},
            {"container_port": 81, "host_port": 8081},
        ])
    );
    // What a container names twice counts once; two containers may name the same.
    let twice =
        "ports: [{containerPort: 80}, {containerPort: 80}, {containerPort: 80, protocol: UDP}]";
    let [c, d] = ["c", "d"].map(|name| format!("name: {name}, {twice}"));
    let once = [
        json!({"container_port": 80}),
        json!({"protocol": "UDP", "container_port": 80}),
    ];
    let expected: Vec<Value> = once.iter().chain(&once).cloned().collect();
    assert_eq!(ports("", &[&c, &d]), json!(expected));
    // On the host's network a port is the host's.
    let plain = "name: c, ports: [{containerPort: 9100}]";
    let on_host = Case::spec("  hostNetwork: true\n", &[plain]);
    let expected = json!([{"container_port": 9100, "host_port": 9100}]);
    assert_eq!(on_host.sandbox("/port_mappings"), expected);
    assert_eq!(on_host.sandbox("/hostname"), Value::Null);
    // Those of init containers and sidecars are not mapped.
    let inits = "  initContainers: [{name: s, image: i, restartPolicy: Always, ports: [{containerPort: 7}]}]\n";
    assert_eq!(ports(inits, &["name: c"]), Value::Null);
}

#[test]
fn a_container_has_the_stop_signal_that_it_asks_for() {
    for (asked, expected) in [
        ("SIGUSR1", json!("SIGUSR1")),
        ("SIGRTMIN+1", json!("SIGRTMINPLUS1")),
        ("SIGRTMAX-2", json!("SIGRTMAXMINUS2")),
    ] {
        let container = format!("name: c, lifecycle: {{stopSignal: {asked}}}");
        let case = Case::spec("  os: {name: linux}\n", &[&container, "name: d"]);
        assert_eq!(case.container("c", "/stop_signal"), expected);
        assert_eq!(case.container("d", "/stop_signal"), Value::Null);
    }
}

#[test]
fn a_host_name_is_no_longer_than_the_kernel_takes() {
    let hostname = |name: &str, spec: &str| {
        let manifest = format!(
            "metadata: {{name: {name}}}\nspec: {{{spec} containers: [{{name: c, image: i}}]}}\n"
        );
        Case::of(&manifest).sandbox("/hostname")
    };
    let long = |length: usize, end: &str| "x".repeat(length - end.len()) + end;
    let asked = |name: String| format!("hostnameOverride: {name},");
    assert_eq!(hostname("p", "hostname: short,"), "short");
    assert_eq!(hostname("p", &asked(long(63, ".a"))), long(63, ".a"));
    assert_eq!(hostname("p", &asked(long(64, "ab"))), long(63, "a"));
    // What would end in a dot or a dash is cut before it.
    assert_eq!(hostname("p", &asked(long(64, ".a"))), long(62, ""));
    assert_eq!(hostname(&long(62, ""), ""), long(62, ""));
}

#[test]
fn annotations_have_ports_and_hooks_as_the_reference_writes_them() {
    let hook = |handler: &str| {
        let container = format!(
            "name: c, lifecycle: {{preStop: {handler}}}, ports: [{{name: web, containerPort: 80}}]"
        );
        Case::spec("", &[&container])
            .container("c", "/annotations/io.kubernetes.container.preStopHandler")
    };
    let exec = r#"{exec: {command: [sh, -c, "a && b <in >out 'é' \"q\""]}}"#;
    let expected =
        r#"{"exec":{"command":["sh","-c","a \u0026\u0026 b \u003cin \u003eout 'é' \"q\""]}}"#;
    assert_eq!(hook(exec), expected);
    assert_eq!(hook("{sleep: {seconds: 5}}"), r#"{"sleep":{"seconds":5}}"#);
    let http = "{httpGet: {port: web, path: /x, httpHeaders: [{name: A, value: b}]}}";
    let expected = r#"{"httpGet":{"path":"/x","port":"web","scheme":"HTTP","httpHeaders":[{"name":"A","value":"b"}]}}"#;
    assert_eq!(hook(http), expected);

    let ports = "name: c, ports: [{name: web, containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}, \
                 {containerPort: 53, protocol: UDP}]";
    let expected = concat!(
        r#"[{"name":"web","hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":"127.0.0.1"},"#,
        r#"{"containerPort":53,"protocol":"UDP"}]"#
    );
    let case = Case::spec("", &[ports]);
    let found = case.container("c", "/annotations/io.kubernetes.container.ports");
    assert_eq!(found, expected);
}

#[test]
fn a_container_says_for_itself_what_its_pod_says_for_all() {
    let pod = "  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, \
               supplementalGroups: [4000], seccompProfile: {type: Localhost, localhostProfile: ./p//x.json}, \
               appArmorProfile: {type: RuntimeDefault}, seLinuxOptions: {level: s0, user: u}}\n";
    let own = "name: own, securityContext: {runAsUser: 0, runAsGroup: 1, seccompProfile: {type: RuntimeDefault}, \
               appArmorProfile: {type: Localhost, localhostProfile: mine}, seLinuxOptions: {type: t}, \
               capabilities: {}, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}";
    let case = Case::spec(pod, &["name: plain", own]);
    for (field, plain, own) in [
        ("run_as_user", json!({"value": "1000"}), json!({})),
        (
            "run_as_group",
            json!({"value": "3000"}),
            json!({"value": "1"}),
        ),
        (
            "supplemental_groups",
            json!(["2000", "4000"]),
            json!(["2000", "4000"]),
        ),
        (
            "seccomp",
            json!({"profile_type": "Localhost", "localhost_ref": "$ROOT/seccomp/p/x.json"}),
            json!({}),
        ),
        (
            "apparmor",
            json!({}),
            json!({"profile_type": "Localhost", "localhost_ref": "mine"}),
        ),
        (
            "apparmor_profile",
            json!("runtime/default"),
            json!("localhost/mine"),
        ),
        (
            "selinux_options",
            json!({"level": "s0", "user": "u"}),
            json!({"type": "t"}),
        ),
        ("capabilities", Value::Null, json!({})),
        ("no_new_privs", Value::Null, json!(true)),
        ("readonly_rootfs", Value::Null, json!(true)),
    ] {
        assert_eq!(case.security("plain", field), plain, "{field}");
        assert_eq!(case.security("own", field), own, "{field}");
    }
    // The sandbox has what the Pod says, and the runtime's default seccomp profile.
    let sandbox = |field: &str| case.sandbox(&format!("/linux/security_context/{field}"));
    assert_eq!(sandbox("run_as_user"), json!({"value": "1000"}));
    assert_eq!(sandbox("seccomp"), json!({}));
    assert_eq!(sandbox("privileged"), Value::Null);
    let inits = "  initContainers: [{name: i, image: i, securityContext: {privileged: true}}]\n";
    let case = Case::spec(inits, &["name: c"]);
    assert_eq!(
        case.sandbox("/linux/security_context/privileged"),
        json!(true)
    );
    assert_eq!(case.security("c", "privileged"), Value::Null);
}

#[test]
fn the_image_names_the_user_where_nobody_else_does() {
    let mut case = Case::spec(
        "",
        &["name: c", "name: own, securityContext: {runAsUser: 7}"],
    );
    case.instance.user = ImageUser::Name("www".into());
    assert_eq!(case.security("c", "run_as_user"), Value::Null);
    assert_eq!(case.security("c", "run_as_username"), "www");
    assert_eq!(case.security("own", "run_as_user"), json!({"value": "7"}));
    assert_eq!(case.security("own", "run_as_username"), Value::Null);
    case.instance.user = ImageUser::Uid(101);
    assert_eq!(case.security("c", "run_as_user"), json!({"value": "101"}));
}

#[test]
fn an_apparmor_annotation_counts_for_its_container_as_the_field_does() {
    let prefix = "container.apparmor.security.beta.kubernetes.io";
    let annotations = format!("{prefix}/a: localhost/one, {prefix}/b: unconfined");
    let field = "securityContext: {appArmorProfile: {type: Unconfined}}";
    let case = Case::of(&format!(
        "metadata: {{name: p, annotations: {{{annotations}}}}}\nspec:\n  containers:\n  \
         - {{name: a, image: i}}\n  - {{name: b, image: i, {field}}}\n  - {{name: c, image: i, {field}}}\n"
    ));
    for (name, expected) in [
        ("a", "localhost/one"),
        ("b", "unconfined"),
        ("c", "unconfined"),
    ] {
        assert_eq!(case.security(name, "apparmor_profile"), expected, "{name}");
    }
}

#[test]
fn seccomp_is_the_runtimes_default_where_the_node_says_so() {
    let mut case = Case::spec(
        "",
        &[
            "name: c",
            "name: own, securityContext: {seccompProfile: {type: Unconfined}}",
        ],
    );
    let unconfined = json!({"profile_type": "Unconfined"});
    assert_eq!(case.security("c", "seccomp"), unconfined);
    case.facts.seccomp_default = true;
    assert_eq!(case.security("c", "seccomp"), json!({}));
    assert_eq!(case.security("own", "seccomp"), unconfined);
}

#[test]
fn a_pod_with_its_own_users_has_its_ids_everywhere() {
    let mut case = Case::spec("  hostUsers: false\n", &["name: c"]);
    case.instance.user_namespace = Some(UserNamespaceRange {
        host_id: 131_072,
        length: 65_536,
    });
    let mapping = json!([{"host_id": 131_072, "length": 65_536}]);
    let expected = json!({"uids": mapping, "gids": mapping});
    let options = "/linux/security_context/namespace_options/userns_options";
    assert_eq!(case.sandbox(options), expected);
    assert_eq!(case.container("c", options), expected);
}

#[test]
fn namespaces_are_the_pods_the_hosts_or_the_containers() {
    for (spec, expected) in [
        ("  hostPID: true\n", json!("NODE")),
        ("  shareProcessNamespace: true\n", Value::Null),
        ("", json!("CONTAINER")),
    ] {
        let case = Case::spec(spec, &["name: c"]);
        let pid = "/linux/security_context/namespace_options/pid";
        assert_eq!(case.sandbox(pid), expected, "{spec}");
        assert_eq!(case.container("c", pid), expected, "{spec}");
    }
}

#[test]
fn the_kernel_has_the_name_that_the_pod_asks_for() {
    let hostname = |metadata: &str, spec: &str| {
        let spec = format!("{spec}containers: [{{name: c, image: i}}]");
        Case::of(&format!("metadata: {{{metadata}}}\nspec: {{{spec}}}")).sandbox("/hostname")
    };
    let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
    for (metadata, spec, expected) in [
        ("name: p", "", "p-my-node1".to_owned()),
        ("name: p", "hostname: h, ", "h".to_owned()),
        ("name: p", "hostname: h, subdomain: s, ", "h".to_owned()),
        (
            "name: p, namespace: ns",
            "hostname: h, subdomain: s, setHostnameAsFQDN: true, ",
            "h.s.ns.svc.kube.local".to_owned(),
        ),
        // Without a subdomain there is no full name.
        (
            "name: p",
            "hostname: h, setHostnameAsFQDN: true, ",
            "h".to_owned(),
        ),
        (
            "name: p",
            "subdomain: s, setHostnameAsFQDN: true, ",
            "p-my-node1.s.default.svc.kube.local".to_owned(),
        ),
        // Cut to 63 characters, and no dash is left at the end.
        (&format!("name: {long}"), "", "a".repeat(62)),
    ] {
        assert_eq!(hostname(metadata, spec), expected, "{metadata} {spec}");
    }
}

#[test]
fn a_full_name_is_as_long_as_the_kernel_takes() {
    let problem = |hostname: usize| {
        let hostname = "h".repeat(hostname);
        let spec = format!("  hostname: {hostname}\n  subdomain: sub\n  setHostnameAsFQDN: true\n");
        let case = Case::spec(&spec, &["name: c"]);
        hostname_problem(&case.facts, &case.pod)
    };
    // 64 characters with `.sub.ns1.svc.kube.local`, which has 23.
    assert_eq!(problem(41), None);
    let long = problem(42).unwrap();
    assert!(long.contains("65 characters"), "{long}");
}

#[test]
fn sysctls_are_named_with_dots() {
    let sysctls = "  securityContext: {sysctls: [{name: net/ipv4/ip_unprivileged_port_start, value: '0'}, \
                   {name: net/ipv4/conf/eth0.1/forwarding, value: '1'}, {name: kernel.shm_rmid_forced, value: '1'}]}\n";
    let expected = json!({
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.conf.eth0/1.forwarding": "1",
        "kernel.shm_rmid_forced": "1",
    });
    let case = Case::spec(sysctls, &["name: c"]);
    assert_eq!(case.sandbox("/linux/sysctls"), expected);
}

#[test]
fn the_class_of_service_follows_from_cpu_and_memory_alone() {
    const GUARANTEED: &str = "/kubepods/pod$UID";
    const BURSTABLE: &str = "/kubepods/burstable/pod$UID";
    const BEST_EFFORT: &str = "/kubepods/besteffort/pod$UID";
    let both = "limits: {cpu: 1, memory: 1Gi}";
    for (resources, class, oom_score) in [
        ("", BEST_EFFORT, "1000"),
        ("requests: {cpu: 0, memory: 0}", BEST_EFFORT, "1000"),
        ("requests: {ephemeral-storage: 1Gi}", BEST_EFFORT, "1000"),
        (both, GUARANTEED, "-997"),
        (
            "limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1000m, memory: 1024Mi}",
            GUARANTEED,
            "-997",
        ),
        // No memory is requested: the most that a burstable Pod can have.
        ("limits: {cpu: 1}", BURSTABLE, "999"),
        ("requests: {cpu: 1m}", BURSTABLE, "999"),
        ("limits: {cpu: 0, memory: 1Gi}", BURSTABLE, "958"),
        (
            "limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0}",
            BURSTABLE,
            "958",
        ),
        (
            "limits: {cpu: 1, memory: 1Gi}, requests: {memory: 512Mi}",
            BURSTABLE,
            "979",
        ),
        // 1000 - 1000 * 1Gi / 24684084Ki
        ("requests: {memory: 1Gi}", BURSTABLE, "958"),
        // Never as low as that of a guaranteed Pod.
        ("requests: {memory: 24684084Ki}", BURSTABLE, "3"),
    ] {
        let container = format!("name: c, resources: {{{resources}}}");
        let case = Case::spec("", &[&container]);
        assert_eq!(case.sandbox("/linux/cgroup_parent"), class, "{resources}");
        assert_eq!(
            case.resources("c", "oom_score_adj"),
            oom_score,
            "{resources}"
        );
    }
    // Every container has to be bound, init containers too.
    let bound = format!("name: c, resources: {{{both}}}");
    let class = |case: &Case| case.sandbox("/linux/cgroup_parent");
    assert_eq!(class(&Case::spec("", &[&bound, "name: d"])), BURSTABLE);
    let init = "  initContainers: [{name: i, image: i}]\n";
    assert_eq!(class(&Case::spec(init, &[&bound])), BURSTABLE);
    // The Pod's own resources come before its containers'.
    let own = "  resources: {limits: {cpu: 2, memory: 2Gi}, requests: {cpu: 2, memory: 2Gi}}\n";
    assert_eq!(class(&Case::spec(own, &["name: d"])), GUARANTEED);
    // Nodes die before these do.
    let critical = "  priorityClassName: system-node-critical\n  priority: 2000001000\n";
    assert_eq!(
        Case::spec(critical, &["name: c"]).resources("c", "oom_score_adj"),
        "-997"
    );
}

#[test]
fn what_a_pod_asks_for_beyond_its_containers_is_shared_among_them() {
    let own = "  resources: {requests: {memory: 1Gi}}\n";
    let case = Case::spec(
        own,
        &["name: a, resources: {requests: {memory: 256Mi}}", "name: b"],
    );
    // 256Mi and 0, and half of the 768Mi that are left.
    assert_eq!(case.resources("a", "oom_score_adj"), "974");
    assert_eq!(case.resources("b", "oom_score_adj"), "985");
    // A sidecar is spared as its Pod's least container is.
    let sidecar = "  initContainers: [{name: s, image: i, restartPolicy: Always, resources: {requests: {memory: 64Mi}}}]\n";
    let case = Case::spec(sidecar, &["name: c, resources: {requests: {memory: 1Gi}}"]);
    assert_eq!(case.resources("s", "oom_score_adj"), "958");
}

#[test]
fn cpu_is_shares_and_a_quota_within_the_kernels_bounds() {
    for (resources, shares, quota) in [
        ("requests: {cpu: 250m}", "256", Value::Null),
        ("limits: {cpu: 500m}", "512", json!("50000")),
        (
            "requests: {cpu: 100m}, limits: {cpu: 1500m}",
            "102",
            json!("150000"),
        ),
        ("requests: {cpu: 0}, limits: {cpu: 1}", "2", json!("100000")),
        ("requests: {cpu: 1m}, limits: {cpu: 1m}", "2", json!("1000")),
        ("requests: {cpu: 300}", "262144", Value::Null),
        ("requests: {memory: 1Gi}", "2", Value::Null),
    ] {
        let container = format!("name: c, resources: {{{resources}}}");
        let case = Case::spec("", &[&container]);
        assert_eq!(case.resources("c", "cpu_shares"), shares, "{resources}");
        assert_eq!(case.resources("c", "cpu_quota"), quota, "{resources}");
        assert_eq!(case.resources("c", "cpu_period"), "100000", "{resources}");
    }
}

#[test]
fn a_sandbox_has_the_most_that_its_containers_need_at_one_time() {
    let inits = |order: &[&str]| {
        let all = order.iter().map(|name| match *name {
            "sidecar" => {
                "{name: s, image: i, restartPolicy: Always, resources: {requests: {cpu: 100m}}}"
            }
            _ => "{name: i, image: i, resources: {requests: {cpu: 500m}}}",
        });
        format!(
            "  initContainers: [{}]\n",
            all.collect::<Vec<_>>().join(", ")
        )
    };
    let own = "name: c, resources: {requests: {cpu: 200m}, limits: {memory: 64Mi}}";
    let shares = |order: &[&str]| {
        let case = Case::spec(&inits(order), &[own]);
        case.sandbox("/linux/resources/cpu_shares")
    };
    // The init container beside the sidecar: 600m. Before it: 500m, which is more than 300m.
    assert_eq!(shares(&["sidecar", "init"]), "614");
    assert_eq!(shares(&["init", "sidecar"]), "512");
    let case = Case::spec("", &[own, "name: d"]);
    assert_eq!(
        case.sandbox("/linux/resources/memory_limit_in_bytes"),
        "67108864"
    );
    // What the sandbox itself costs stands beside that, if it is said to cost anything.
    let case = Case::spec("  overhead: {}\n", &[own]);
    let expected = json!({"cpu_period": "100000", "cpu_shares": "2"});
    assert_eq!(case.sandbox("/linux/overhead"), expected);
    let case = Case::spec("", &[own]);
    assert_eq!(case.sandbox("/linux/overhead"), json!({}));
    let overhead = "  overhead: {cpu: 250m, memory: 64Mi}\n";
    let case = Case::spec(overhead, &[own]);
    assert_eq!(case.sandbox("/linux/resources/cpu_shares"), "204");
    let expected = json!({"cpu_period": "100000", "cpu_quota": "25000", "cpu_shares": "256",
                          "memory_limit_in_bytes": "67108864"});
    assert_eq!(case.sandbox("/linux/overhead"), expected);
}

#[test]
fn nobody_gets_swap_and_every_page_size_has_a_limit() {
    let container =
        "name: c, resources: {limits: {memory: 64Mi, hugepages-2Mi: 4Mi}, requests: {cpu: 10m}}";
    let mut case = Case::spec("", &[container, "name: d"]);
    let limits = json!([{"page_size": "2MB", "limit": "4194304"}, {"page_size": "1GB"}]);
    assert_eq!(case.resources("c", "hugepage_limits"), limits);
    let none = json!([{"page_size": "2MB"}, {"page_size": "1GB"}]);
    assert_eq!(case.resources("d", "hugepage_limits"), none);
    assert_eq!(
        case.resources("c", "memory_swap_limit_in_bytes"),
        "67108864"
    );
    assert_eq!(
        case.resources("d", "memory_swap_limit_in_bytes"),
        Value::Null
    );
    case.facts.kernel.cgroup_unified = true;
    assert_eq!(
        case.resources("c", "memory_swap_limit_in_bytes"),
        Value::Null
    );
    for name in ["c", "d"] {
        let expected = json!({"memory.swap.max": "0", "memory.oom.group": "1"});
        assert_eq!(case.resources(name, "unified"), expected);
    }
    case.facts.kernel.swap_controller = false;
    let expected = json!({"memory.oom.group": "1"});
    assert_eq!(case.resources("c", "unified"), expected);
}

#[test]
fn mounts_are_what_is_asked_for_then_the_pods_own() {
    let volumes = "  volumes: [{name: h, hostPath: {path: /srv}}, {name: e, emptyDir: {}}, \
                   {name: p, projected: {sources: [{downwardAPI: {items: [{path: file, fieldRef: {fieldPath: metadata.name}}]}}]}}]\n";
    let container = "name: c, terminationMessagePath: 'var/./msg', volumeMounts: [\
                     {name: h, mountPath: /h, readOnly: true, recursiveReadOnly: IfPossible}, \
                     {name: h, mountPath: /b, mountPropagation: Bidirectional}, \
                     {name: e, mountPath: /e, subPath: a/b}, {name: p, mountPath: rel/p}], \
                     securityContext: {privileged: true}";
    let mut case = Case::spec(volumes, &[container]);
    let pod = "$ROOT/pods/$UID";
    let mut expected = json!([
        {"container_path": "/h", "host_path": "/srv", "readonly": true},
        {"container_path": "/b", "host_path": "/srv", "propagation": "PROPAGATION_BIDIRECTIONAL"},
        {"container_path": "/e", "host_path": format!("{pod}/volume-subpaths/e/c/2")},
        {"container_path": "/rel/p", "host_path": format!("{pod}/volumes/kubernetes.io~projected/p"), "readonly": true},
        {"container_path": "/etc/hosts", "host_path": format!("{pod}/etc-hosts")},
        {"container_path": "/var/msg", "host_path": format!("{pod}/containers/c/$N")},
    ]);
    assert_eq!(case.container("c", "/mounts"), expected);
    // Where the runtime can, what is mounted below is read-only too.
    let features = HandlerFeatures {
        recursive_read_only_mounts: true,
        ..HandlerFeatures::default()
    };
    case.facts.runtime = [(String::new(), features)].into();
    expected[0]["recursive_read_only"] = json!(true);
    assert_eq!(case.container("c", "/mounts"), expected);
    // On a node with SELinux all but the host's own gets a label that the container may read.
    case.facts.kernel.selinux = true;
    for index in 2..6 {
        expected[index]["selinux_relabel"] = json!(true);
    }
    assert_eq!(case.container("c", "/mounts"), expected);
}

#[test]
fn a_sub_path_of_a_variable_without_a_value_is_an_error() {
    let volumes = "  volumes: [{name: v, emptyDir: {}}]\n";
    for (expression, expected) in [
        ("a/$(NONE)", Err("missing value for NONE")),
        ("$(EMPTY)", Err("missing value for EMPTY")),
        (
            "$(NONE)/$(EMPTY)/$(FULL)",
            Err("missing value for EMPTY, NONE"),
        ),
        ("a/$(FULL)/$$(NONE)", Ok(())),
    ] {
        let container = format!(
            "name: c, env: [{{name: EMPTY, value: ''}}, {{name: FULL, value: x}}], \
             volumeMounts: [{{name: v, mountPath: /v, subPathExpr: '{expression}'}}]"
        );
        let case = Case::spec(volumes, &[&container]);
        let spec = &case.pod.spec.containers[0];
        let made = container_config(&case.facts, &case.pod, spec, &case.instance);
        assert_eq!(
            made.map(drop).map_err(|e| e.to_string()),
            expected.map_err(str::to_owned),
            "{expression}"
        );
    }
}

#[test]
fn a_container_that_mounts_its_own_hosts_file_keeps_it() {
    let volumes = "  volumes: [{name: h, hostPath: {path: /srv/hosts}}]\n";
    let container = "name: c, volumeMounts: [{name: h, mountPath: /etc/hosts}]";
    let case = Case::spec(volumes, &[container]);
    let mounts = case.container("c", "/mounts");
    let hosts = mounts.as_array().unwrap().iter();
    let hosts: Vec<&Value> = hosts
        .filter(|m| m["container_path"] == "/etc/hosts")
        .collect();
    assert_eq!(
        hosts,
        [&json!({"container_path": "/etc/hosts", "host_path": "/srv/hosts"})]
    );
}
