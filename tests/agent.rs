//! The program as it is started: what it says of its configuration, what it refuses, and how it reaches
//! a server through a proxy. No runtime is needed for these, or only one that answers.

#[path = "support/mounts.rs"]
mod mounts;
#[path = "support/program.rs"]
mod program;
#[path = "support/runtime/mod.rs"]
mod runtime;
#[path = "support/web_server.rs"]
mod web_server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mounts::{Mounted, folder};
use program::PROGRAM;
use runtime::{Fate, Life, Rule, Runtime, Settings, State};
use tempfile::TempDir;
use web_server::{Reply, Web};

const DEADLINE: Duration = Duration::from_secs(30);

fn podkeeper(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An agent with folders of its own and no runtime to talk to.
struct Agent {
    process: Child,
    folder: TempDir,
}

impl Agent {
    fn start(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::spawn(folder.path(), arguments, env);
        Self { process, folder }
    }

    fn spawn(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Child {
        let at = |name: &str| folder.join(name).display().to_string();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(at("log"))
            .unwrap();
        let mut command = Command::new(PROGRAM);
        // The proxies of whoever runs the tests are not theirs.
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
            .arg("run")
            .args(["--root-dir", &at("root"), "--run-dir", &at("run")])
            .args(["--container-runtime-endpoint", &at("no.sock")])
            .arg("--healthz-port=0")
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !test() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same, beside a runtime of this process.
async fn wait_beside(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !test() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_server_is_reached_through_the_proxy_of_the_environment() {
    let proxy = Web::start(Reply::ok("{apiVersion: v1, kind: PodList, items: []}"));
    let at = proxy.url("");
    let url = "--manifest-url=http://pods.example/list.yaml";
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy"] {
        let before = proxy.requests().len();
        let agent = Agent::start(&[url], &[(name, &at)]);
        wait("the proxy to be asked", || proxy.requests().len() > before);
        let request = proxy.requests().pop().unwrap();
        assert!(
            request.starts_with("get http://pods.example/list.yaml http/1.1\r\n"),
            "{request}"
        );
        assert!(!agent.log().contains("cannot connect"), "{}", agent.log());
    }
    // https goes through it as a tunnel, which is where this proxy gives up.
    let before = proxy.requests().len();
    let agent = Agent::start(
        &["--manifest-url=https://pods.example/x"],
        &[("https_proxy", &at)],
    );
    wait("the proxy to be asked", || proxy.requests().len() > before);
    let request = proxy.requests().pop().unwrap();
    assert!(
        request.starts_with("connect pods.example:443 "),
        "{request}"
    );
    drop(agent);
    // And what is excepted goes straight to its server.
    let web = Web::start(Reply::ok("{apiVersion: v1, kind: PodList, items: []}"));
    let before = proxy.requests().len();
    let url = format!("--manifest-url={}", web.url("/x"));
    let _agent = Agent::start(&[&url], &[("http_proxy", &at), ("no_proxy", "127.0.0.1")]);
    wait("the server to be asked", || !web.requests().is_empty());
    assert_eq!(proxy.requests().len(), before);
}

#[test]
fn the_configuration_is_shown_with_where_it_comes_from_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let file = file.to_str().unwrap();
    fs::write(
        file,
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         staticPodPath: /etc/kubernetes/manifests\nstaticPodURL: https://user:hunter2@h/p?token=hunter2\n\
         staticPodURLHeader: {X-Secret: [hunter2]}\npodsPerCore: 10\n",
    )
    .unwrap();
    let arguments = [
        "config",
        "--config",
        file,
        "--cluster-domain=kube.local",
        "--v=5",
    ];
    let shown = podkeeper(&arguments);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let table = text(&shown.stdout);
    for (setting, value, from) in [
        ("SETTING", "VALUE", "FROM"),
        ("pod-manifest-path", "/etc/kubernetes/manifests", file),
        ("manifest-url", "https://h/p?…", file),
        ("manifest-url-header", "x-secret: <hidden>", file),
        ("cluster-domain", "kube.local", "flag"),
        ("log-level", "debug", "flag"),
        ("file-check-frequency", "20s", "default"),
        ("cluster-dns", "-", "default"),
        ("root-dir", "/var/lib/podkeeper", "default"),
    ] {
        let row = |line: &&str| {
            line.split("   ").next() == Some(setting) || line.starts_with(&format!("{setting} "))
        };
        let line = table
            .lines()
            .find(row)
            .unwrap_or_else(|| panic!("no {setting} in\n{table}"));
        let cells: Vec<_> = line
            .split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect();
        assert_eq!(cells, [setting, value, from]);
    }
    assert!(!table.contains("hunter2"), "{table}");
    let warnings = text(&shown.stderr);
    assert_eq!(
        warnings,
        "warning: fields of the KubeletConfiguration without effect here: podsPerCore\n"
    );

    let json = podkeeper(&[&arguments[..], &["--output=json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let found = json
        .as_array()
        .unwrap()
        .iter()
        .find(|setting| setting["name"] == "cluster-domain");
    assert_eq!(found.unwrap()["value"], "kube.local");
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_starts() {
    for (arguments, code, said) in [
        (
            &["run"][..],
            1,
            "podkeeper: there are no manifests to run: give --pod-manifest-path",
        ),
        (
            &["run", "--runonce", "--pod-manifest-path=/m"],
            1,
            "podkeeper: --runonce: found \"true\", expected \"false\": Pods are kept running",
        ),
        (
            &["run", "--pod-manifst-path=/m"],
            2,
            "error: unexpected argument '--pod-manifst-path'",
        ),
        (
            &["config", "--config=/nowhere"],
            1,
            "podkeeper: cannot read /nowhere: No such file",
        ),
    ] {
        let output = podkeeper(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let found = text(&output.stderr);
        assert!(found.starts_with(said), "{arguments:?}: {found}");
    }
}

#[test]
fn the_manual_and_completions_know_every_command_and_flag() {
    let folder = tempfile::tempdir().unwrap();
    let written = podkeeper(&["man", folder.path().to_str().unwrap()]);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let completions = text(&podkeeper(&["completions", "bash"]).stdout);
    let help = text(&podkeeper(&["--help"]).stdout);
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let mut flags = 0;
    for command in commands.filter(|command| *command != "help") {
        let page = folder.path().join(format!("podkeeper-{command}.1"));
        let page = fs::read_to_string(page).unwrap().replace('\\', "");
        let help = text(&podkeeper(&[command, "--help"]).stdout);
        // Other names of a flag, in brackets, are for those who know them.
        let is_flag = |word: &&str| word.starts_with("--") && !word.ends_with(']');
        for flag in help.split_whitespace().filter(is_flag) {
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let flag = flag.split(['=', '[']).next().unwrap();
            assert!(page.contains(flag), "{command}: no {flag} in the manual");
            assert!(
                completions.contains(flag),
                "{command}: {flag} is not completed"
            );
            flags += 1;
        }
    }
    assert!(flags > 40, "{flags}");
    let bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn();
    let mut bash = bash.unwrap();
    let mut stdin = bash.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, completions.as_bytes()).unwrap();
    drop(stdin);
    assert!(bash.wait().unwrap().success(), "bash does not take them");
}

#[test]
fn a_web_document_is_checked_pod_by_pod() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pods.yaml");
    let pod = |name: &str, image: &str| {
        format!(
            "- metadata: {{name: {name}}}\n  spec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    let list = format!(
        "apiVersion: v1\nkind: PodList\nitems:\n{}{}",
        pod("good", "i:1"),
        pod("bad", "7")
    );
    fs::write(&file, list).unwrap();
    let path = file.to_str().unwrap();
    let output = podkeeper(&["check", "--web", "--hostname-override=n1", path]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "{path}: good: Pod default/good-n1\n\
         {path}:7:40: error: items[1].spec.containers[0].image: found the number 7, expected a string: \
         put it in quotes, \"7\"\n"
    );
    assert_eq!(text(&output.stdout), expected);
    fs::write(&file, "{apiVersion: v1, kind: PodList, items: []}").unwrap();
    let output = podkeeper(&["check", "--web", path]);
    assert_eq!(text(&output.stdout), format!("{path}: good: no Pods\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_dubious_is_a_warning_or_an_error_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    let container = "{name: c, image: i:1, comand: [a]}";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{container}]}}\n"
    );
    fs::write(&file, pod).unwrap();
    let path = file.to_str().unwrap();
    let said = "spec.containers[0].comand: unknown field, did you mean command? It has no effect";
    let output = podkeeper(&["check", "--hostname-override=n1", path]);
    let expected = format!("{path}:4:43: warning: {said}\n{path}: good: Pod default/web-n1\n");
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
    let output = podkeeper(&["check", "--strict", "--hostname-override=n1", path]);
    assert_eq!(
        text(&output.stdout),
        format!("{path}:4:43: error: {said}\n")
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn each_finding_has_its_own_word() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    let container = "{name: c, image: 7, comand: [a]}";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, uid: u}}\nspec: {{containers: [{container}]}}\n"
    );
    fs::write(&file, pod).unwrap();
    let path = file.to_str().unwrap();
    let output = podkeeper(&["check", "--hostname-override=n1", path]);
    let said = text(&output.stdout);
    let words: Vec<_> = said
        .lines()
        .map(|line| line.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(words, ["warning", "error", "warning"], "{said}");
    assert_eq!(output.status.code(), Some(1));
    let output = podkeeper(&["check", "--strict", "--hostname-override=n1", path]);
    assert_eq!(text(&output.stdout).matches(": error: ").count(), 3);
}

#[test]
fn what_a_kubelet_would_do_differently_is_a_warning_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations: {podkeeper.io/rollback-after: 60s}\n\
               spec: {containers: [{name: c, image: i:1}]}\n";
    fs::write(&file, pod).unwrap();
    let path = file.to_str().unwrap();
    let usual = ["check", "--hostname-override=n1"];
    let output = podkeeper(&[&usual[..], &[path]].concat());
    let good = format!("{path}: good: Pod default/web-n1\n");
    assert_eq!(text(&output.stdout), good);
    let summary = |counts: &str| format!("Checked 1 file: {counts}\n");
    assert_eq!(
        text(&output.stderr),
        summary("1 valid, 0 errors, 0 warnings")
    );
    let output = podkeeper(&[&usual[..], &["--kubernetes", path]].concat());
    let field = "metadata.annotations[podkeeper.io/rollback-after]";
    let warning = format!("{path}:5:46: warning: {field}: has no effect with a kubelet\n");
    assert_eq!(text(&output.stdout), warning + &good);
    assert_eq!(output.status.code(), Some(0));
    let strict = ["--kubernetes", "--strict", "-o", "github", path];
    let output = podkeeper(&[&usual[..], &strict].concat());
    let command =
        format!("::error file={path},line=5,col=46::{field}: has no effect with a kubelet\n");
    assert_eq!(text(&output.stdout), command);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn files_that_name_one_pod_are_told_with_both_paths() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(at("m")).unwrap();
    fs::create_dir(at("other")).unwrap();
    let pod_of = |name: &str, image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n";
    for (file, content) in [
        ("m/a-copy.bak", pod_of("web", "i:1")),
        ("m/b.yaml", pod_of("web", "i:2") + map),
        ("m/c.yaml", pod_of("db", "i:1") + map),
        ("other/b.yaml", pod_of("web", "i:2")),
        ("single.yaml", pod_of("db", "i:2")),
    ] {
        fs::write(at(file), content).unwrap();
    }
    let check = |files: &[&str]| {
        let mut words = vec!["check".to_owned(), "--hostname-override=n1".to_owned()];
        words.extend(files.iter().map(|file| at(file)));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = podkeeper(&words);
        (text(&output.stdout), output.status.code())
    };
    let (said, code) = check(&["m"]);
    let twice = |what: &str, first: &str, second: &str, then: &str| {
        let (first, second) = (at(first), at(second));
        format!(
            "{second}: error: metadata.name: {what} is defined by {first} already, so {second} {then}"
        )
    };
    // Names with a manifest's ending come first, as the agent has it.
    let pod = twice(
        "Pod default/web-n1",
        "m/b.yaml",
        "m/a-copy.bak",
        "is not carried out",
    );
    let map = twice(
        "ConfigMap default/settings",
        "m/b.yaml",
        "m/c.yaml",
        "does not count",
    );
    assert!(said.contains(&pod) && said.contains(&map), "{said}");
    assert_eq!(said.matches(": error: ").count(), 2, "{said}");
    assert_eq!(code, Some(1));
    // Folders are those of different agents; a file that is named with one is to go there.
    let (said, code) = check(&["other", "m/b.yaml"]);
    assert!(said.contains(&at("other/b.yaml")), "{said}");
    assert_eq!(
        (said.matches(": error: ").count(), code),
        (1, Some(1)),
        "{said}"
    );
    let (said, _) = check(&["other", "m"]);
    assert_eq!(said.matches(": error: ").count(), 2, "{said}");
    let (said, _) = check(&["m/c.yaml", "single.yaml"]);
    let pod = twice(
        "Pod default/db-n1",
        "m/c.yaml",
        "single.yaml",
        "is not carried out",
    );
    assert!(said.contains(&pod), "{said}");
    // Two names of one file are two manifests.
    fs::create_dir(at("links")).unwrap();
    fs::write(at("links/a.yaml"), pod_of("web", "i:1")).unwrap();
    std::os::unix::fs::symlink("a.yaml", at("links/b.yaml")).unwrap();
    assert!(check(&["links"]).0.contains("is defined by"));
    // The same file twice is one file.
    assert_eq!(check(&["m/b.yaml", "m/b.yaml"]).1, Some(0));
}

#[test]
fn a_root_directory_of_another_agent_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let uids = [
        "0123456789abcdef".repeat(2),
        "7a1e3f52-9d7c-4a44-8f0e-3c2b7e1d9f10".to_owned(),
    ];
    let files = uids.map(|uid| root.join("pods").join(uid).join("volumes/file"));
    for file in &files {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "theirs").unwrap();
    }
    let mut agent = Agent {
        process: Agent::spawn(folder.path(), &["--manifest-url=http://127.0.0.1:1/"], &[]),
        folder,
    };
    assert_eq!(agent.process.wait().unwrap().code(), Some(1));
    let log = agent.log();
    let said = format!(
        "the root directory {} has Pods of another agent",
        root.display()
    );
    assert!(log.contains(&said), "{log}");
    assert!(files.iter().all(|file| file.exists()));
    assert!(!root.join("lock").exists(), "it is refused again");
}

#[test]
#[ignore = "needs root: run hack/test"]
fn a_root_directory_that_hangs_is_named_and_waited_for() {
    let temporary = tempfile::tempdir().unwrap();
    let root = folder(temporary.path().join("root"));
    let mount = Mounted::hanging(&root);
    let mut agent = Agent {
        process: Agent::spawn(
            temporary.path(),
            &["--manifest-url=http://127.0.0.1:1/"],
            &[],
        ),
        folder: temporary,
    };
    let named = |agent: &Agent| {
        let log = agent.log();
        log.contains("Root directory does not respond") && log.contains(&root.display().to_string())
    };
    wait("it is named", || named(&agent));
    assert!(!agent.log().contains("Starting podkeeper"));
    assert!(agent.process.try_wait().unwrap().is_none());
    // Beneath it is one that answers, though the first call hangs on.
    mount.detach();
    wait("the agent to start", || {
        agent.log().contains("Starting podkeeper")
    });
    assert!(agent.log().contains("Root directory responds"));
    assert!(root.join("lock").exists());
}

#[test]
fn who_does_not_wait_is_told_how_things_are_all_the_same() {
    let agent = Agent::start(&["--manifest-url=http://127.0.0.1:1/"], &[]);
    let run = agent.folder.path().join("run");
    wait("the agent to listen", || {
        run.join("podkeeper.sock").exists()
    });
    let run = run.display().to_string();
    let output = podkeeper(&["wait", "web", "--timeout=0s", "--run-dir", &run]);
    let said = text(&output.stderr);
    assert!(
        said.contains("to become ready: there is no Pod web yet: "),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn an_exec_plugin_that_hangs_does_not_keep_the_agent_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let _runtime = Runtime::start(&folder.path().join("no.sock"), Settings::containerd_2_1());
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("manifests")).unwrap();
    let begun = at("begun");
    // It hangs for as long as the folder is there.
    let plugin = format!(
        ": > {0}; while [ -e {0} ]; do sleep 0.1; done",
        begun.display()
    );
    let kubeconfig = format!(
        "clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n\
         users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, \
         interactiveMode: Never, args: [-c, '{plugin}']}}}}}}]\n"
    );
    fs::write(at("kubeconfig"), kubeconfig).unwrap();
    let arguments = [
        format!("--kubeconfig={}", at("kubeconfig").display()),
        format!("--pod-manifest-path={}", at("manifests").display()),
        "--port=0".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let process = Agent::spawn(folder.path(), &arguments, &[]);
    let mut agent = Agent { process, folder };
    wait_beside("the plugin to be asked", || begun.exists()).await;
    let id = agent.process.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    let mut ended = None;
    wait_beside("the agent to end", || {
        ended = agent.process.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert_eq!(ended.unwrap().code(), Some(0), "{}", agent.log());
}

#[test]
fn a_folder_is_checked_manifest_by_manifest_and_standard_input_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let output = podkeeper(&["check", path]);
    assert_eq!(
        text(&output.stdout),
        format!("{path}: good: no manifests\n")
    );
    let pod = |image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    // Neither hidden files nor folders are manifests.
    for (name, content) in [
        ("b.yaml", pod("7")),
        ("a.yaml", pod("i:1")),
        (".c.yaml", pod("7")),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    fs::create_dir(folder.path().join("below")).unwrap();
    let output = podkeeper(&["check", "--hostname-override=n1", path]);
    let wrong = "4:38: error: spec.containers[0].image: found the number 7, expected a string: \
                 put it in quotes, \"7\"\n";
    let expected = format!("{path}/a.yaml: good: Pod default/web-n1\n{path}/b.yaml:{wrong}");
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(1));

    let mut command = Command::new(PROGRAM);
    command.args(["check", "--hostname-override=n1", "-"]);
    command.stdin(fs::File::open(folder.path().join("b.yaml")).unwrap());
    let output = command.output().unwrap();
    assert_eq!(text(&output.stdout), format!("-:{wrong}"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_reload_with_a_number_that_is_too_large_leaves_the_configuration_before_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let write = |frequency: &str| {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        let path = folder.path().display();
        let fields = format!("staticPodPath: {path}\nfileCheckFrequency: {frequency}\n");
        fs::write(&file, [head, &fields].concat()).unwrap();
    };
    write("20s");
    let mut agent = Agent::start(&[&format!("--config={}", file.display())], &[]);
    let reload = |agent: &Agent| {
        let id = i32::try_from(agent.process.id()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    };
    // From here on it listens for signals.
    wait("the agent to start", || {
        agent.log().contains("Waiting for the container runtime")
    });
    write("3000000000000000h");
    reload(&agent);
    wait("the refusal", || {
        agent.log().contains("Failed to reload the configuration")
    });
    assert!(
        agent.log().contains("fileCheckFrequency"),
        "{}",
        agent.log()
    );
    write("2562047h");
    reload(&agent);
    wait("the reload", || {
        agent.log().contains("Reloaded the configuration")
    });
    assert!(agent.process.try_wait().unwrap().is_none(), "it has ended");
}

/// An agent over a scripted runtime of which these methods never answer from its start, and these once its
/// Pods run.
async fn others_do_not_notice_that_these_hang(at_start: &[&'static str], later: &[&'static str]) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(&folder.path().join("no.sock"), Settings::containerd_2_1());
    let hang = |methods: &[&'static str]| {
        for method in methods {
            runtime.rule(Rule::of(method, Fate::Hangs));
        }
    };
    hang(at_start);
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let put = |name: &str, version: u32| {
        let manifest = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: \
             [{{name: c, image: 'busybox:1', env: [{{name: VERSION, value: v{version}}}]}}]}}}}"
        );
        let hidden = manifests.join(".new");
        fs::write(&hidden, manifest).unwrap();
        fs::rename(hidden, manifests.join(format!("{name}.yaml"))).unwrap();
    };
    for pod in ["killed", "edited", "removed"] {
        put(pod, 1);
    }
    let arguments = [
        format!("--pod-manifest-path={}", manifests.display()),
        format!("--pod-logs-dir={}", folder.path().join("logs").display()),
        format!(
            "--container-logs-dir={}",
            folder.path().join("links").display()
        ),
        "--hostname-override=n".to_owned(),
        "--port=0".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let process = Agent::spawn(folder.path(), &arguments, &[]);
    let agent = Agent { process, folder };
    let running = |pod: &str| {
        runtime.look(|state| {
            let newest = state
                .newest(&format!("{pod}-n"), "c")
                .filter(|c| c.is_running())?;
            let version = newest.config.envs.iter().find(|e| e.key == "VERSION")?;
            let attempt = newest.config.metadata.as_ref()?.attempt;
            Some((version.value.clone(), attempt))
        })
    };
    let runs = async |pod: &str, version: &str, attempt: u32| {
        let wanted = Some((version.as_bytes().to_vec(), attempt));
        wait_beside(&format!("{pod} {version} {attempt}"), || {
            running(pod) == wanted
        })
        .await;
    };
    for pod in ["killed", "edited", "removed"] {
        runs(pod, "v1", 0).await;
    }
    // A Pod that is being listed just then would wait for its list.
    let is_quiet = || {
        let calls = runtime.calls();
        let mut lists = calls.iter().rev().filter(|c| c.method.starts_with("List"));
        lists
            .next()
            .is_none_or(|list| list.at.elapsed() > Duration::from_secs(1))
    };
    wait_beside("a second without lists", is_quiet).await;
    hang(later);
    runtime.exit("killed-n", "c", 1);
    runs("killed", "v1", 1).await;
    put("edited", 2);
    runs("edited", "v2", 0).await;
    fs::remove_file(manifests.join("removed.yaml")).unwrap();
    wait_beside("the removal", || running("removed").is_none()).await;
    put("new", 1);
    runs("new", "v1", 0).await;
    drop(agent);
}

#[tokio::test]
async fn events_that_never_come_hold_up_nothing() {
    others_do_not_notice_that_these_hang(&["GetContainerEvents"], &[]).await;
}

#[tokio::test]
async fn housekeeping_that_hangs_holds_up_nothing() {
    let housekeeping = [
        "ImageFsInfo",
        "ListImages",
        "RemoveImage",
        "ReopenContainerLog",
        "ContainerStats",
        "ListContainerStats",
        "ListPodSandboxStats",
        "PodSandboxStats",
    ];
    others_do_not_notice_that_these_hang(&housekeeping, &[]).await;
}

#[tokio::test]
async fn a_runtime_that_says_nothing_of_itself_any_more_is_still_worked_with() {
    others_do_not_notice_that_these_hang(&[], &["Status", "Version", "RuntimeConfig"]).await;
}

#[tokio::test]
async fn lists_that_hang_hold_up_nothing_that_events_tell() {
    others_do_not_notice_that_these_hang(&[], &["ListContainers", "ListPodSandbox"]).await;
}

/// An agent with a Pod `web`, over a scripted runtime and a systemd of the test's: what it is notified of comes to a
/// socket, and `systemctl` prints the jobs that a file has.
struct UnderSystemd {
    runtime: Runtime,
    notified: UnixDatagram,
    agent: Agent,
}

impl UnderSystemd {
    fn start(life: Life) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let runtime = Runtime::start(&at("no.sock"), Settings::containerd_2_1());
        runtime.lives(move |_, _, _| life);
        let notified = UnixDatagram::bind(at("notify")).unwrap();
        notified.set_nonblocking(true).unwrap();
        for name in ["manifests", "bin"] {
            fs::create_dir(at(name)).unwrap();
        }
        let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 600, \
                        containers: [{name: c, image: 'busybox:1'}]}}";
        fs::write(at("manifests/web.yaml"), manifest).unwrap();
        let systemctl = at("bin/systemctl");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = list-jobs ] && . {}\n",
            at("jobs").display()
        );
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let process = Self::spawn(folder.path());
        let agent = Agent { process, folder };
        Self {
            runtime,
            notified,
            agent,
        }
    }

    fn spawn(folder: &Path) -> Child {
        let at = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            format!("--pod-manifest-path={}", at("manifests")),
            format!("--pod-logs-dir={}", at("logs")),
            format!("--container-logs-dir={}", at("links")),
            "--hostname-override=n".to_owned(),
            "--port=0".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let path = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
        let env = [("PATH", path.as_str()), ("NOTIFY_SOCKET", &at("notify"))];
        Agent::spawn(folder, &arguments, &env)
    }

    /// systemd has these jobs from now on, as a shell prints them.
    fn jobs(&self, shell: &str) {
        fs::write(self.agent.folder.path().join("jobs"), shell).unwrap();
    }

    fn runs(&self) -> bool {
        let newest = |state: &State| {
            let newest = state.newest("web-n", "c");
            newest.is_some_and(runtime::Container::is_running)
        };
        self.runtime.look(newest)
    }

    async fn until_ready(&self) {
        let mut ready = false;
        wait_beside("the agent to be ready", || {
            ready |= self.notifications().iter().any(|text| text == "READY=1");
            ready && self.runs()
        })
        .await;
    }

    /// The notifications since the last ones that were asked for.
    fn notifications(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut all = vec![];
        while let Ok(length) = self.notified.recv(&mut buffer) {
            all.extend(text(&buffer[..length]).lines().map(str::to_owned));
        }
        all
    }

    fn terminate(&self) {
        let id = i32::try_from(self.agent.process.id()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    async fn until_ended(&mut self) {
        let mut ended = None;
        wait_beside("the agent to end", || {
            ended = self.agent.process.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        assert_eq!(ended.unwrap().code(), Some(0), "{}", self.agent.log());
    }
}

#[tokio::test]
async fn a_stop_of_the_agent_stops_no_pod_unless_the_machine_shuts_down() {
    let mut systemd = UnderSystemd::start(Life::LONG);
    systemd.until_ready().await;
    // Jobs of others, jobs that are not known, and jobs that are not printed in time.
    for shell in [
        "echo 12 podkeeper.service stop running",
        "echo 12 shutdown.target start waiting; exit 1",
        "exec sleep 60",
    ] {
        systemd.jobs(shell);
        systemd.terminate();
        systemd.until_ended().await;
        assert!(systemd.runs(), "{shell}");
        systemd.notifications();
        systemd.agent.process = UnderSystemd::spawn(systemd.agent.folder.path());
        systemd.until_ready().await;
    }
    assert!(systemd.agent.log().contains("Pods keep running"));
    systemd.jobs("echo 12 podkeeper.service stop running; echo 13 shutdown.target start waiting");
    systemd.terminate();
    systemd.until_ended().await;
    assert!(!systemd.runs());
    let notified = systemd.notifications();
    for words in ["STOPPING=1", "EXTEND_TIMEOUT_USEC=", "STATUS=Stopping Pods"] {
        let is_there = notified.iter().any(|text| text.starts_with(words));
        assert!(is_there, "{words}: {notified:?}");
    }
    let log = systemd.agent.log();
    assert!(log.contains("Done stopping Pods"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_the_agent_while_pods_are_stopped() {
    let mut systemd = UnderSystemd::start(Life::DEAF);
    systemd.until_ready().await;
    systemd.jobs("echo 13 shutdown.target start waiting");
    systemd.terminate();
    let is_asked = || {
        let calls = systemd.runtime.calls_for("web-n");
        calls.iter().any(|call| call.method == "StopContainer")
    };
    wait_beside("the stop", is_asked).await;
    systemd.terminate();
    let began = Instant::now();
    systemd.until_ended().await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(systemd.runs());
    let log = systemd.agent.log();
    assert!(log.contains("Stopping podkeeper at once"), "{log}");
}
