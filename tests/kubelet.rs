//! In the place of a kubelet that runs, and back: no Pod runs twice for a moment. The long form of `hack/test` runs it, on
//! a machine of its own (`hack/isolate`), since a kubelet kills whatever Pod it does not know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::PROGRAM;

#[path = "support/program.rs"]
mod program;

const TEST: &str = "a_kubelet_gives_way_and_comes_back_and_no_pod_runs_twice";
/// Set within the machine of its own.
const INSIDE: &str = "PODKEEPER_TEST_INSIDE";
/// A kubelet that comes back takes its time: it first waits for the runtime's status.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs a kubelet: run hack/test --long"]
fn a_kubelet_gives_way_and_comes_back_and_no_pod_runs_twice() {
    let Some(kubelet) = std::env::var_os("PODKEEPER_TEST_KUBELET") else {
        return;
    };
    if std::env::var_os(INSIDE).is_some() {
        Machine::new(kubelet.into()).check();
        return;
    }
    let done = Command::new(hack("isolate"))
        .arg(format!("podkeeper-test-{}", std::process::id()))
        .arg(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(done.unwrap().success());
}

fn hack(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("hack")
        .join(script)
}

/// A machine with a containerd, where a kubelet and podkeeper take turns.
struct Machine {
    kubelet: PathBuf,
    folder: tempfile::TempDir,
}

/// Tells if another one of it runs, which would have the port.
const SCRIPT: &str = "httpd -f -p 127.0.0.1:8099 & sleep 0.2; kill -0 $! || echo twice >>/out/log; \
                      trap 'echo stop >>/out/log; exit 0' TERM; echo start >>/out/log; \
                      while :; do sleep 0.05; done";

impl Machine {
    fn new(kubelet: PathBuf) -> Self {
        let machine = Self {
            kubelet,
            folder: tempfile::tempdir().unwrap(),
        };
        for name in ["manifests", "out"] {
            fs::create_dir(machine.path(name)).unwrap();
        }
        let up = Command::new(hack("containerd"))
            .args(["up", "--version", "2.1", "--dir"])
            .arg(machine.path("containerd"))
            .stdout(Stdio::null())
            .status();
        assert!(up.unwrap().success());
        let at = |name: &str| machine.path(name).display().to_string();
        let configuration = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: {}\n\
             containerRuntimeEndpoint: unix://{}\ncgroupDriver: cgroupfs\nfailCgroupV1: false\nfailSwapOn: false\n\
             oomScoreAdj: 0\nimageGCHighThresholdPercent: 100\nlocalStorageCapacityIsolation: false\n\
             evictionHard: {{memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}}\n\
             authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\n\
             authorization: {{mode: AlwaysAllow}}\n",
            at("manifests"),
            at("containerd/run/containerd.sock"),
        );
        fs::write(machine.path("config.yaml"), configuration).unwrap();
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 10\n  \
             containers:\n  - name: c\n    image: localhost/podkeeper/busybox:1\n    command: [sh, -c, {SCRIPT:?}]\n    \
             volumeMounts: [{{name: out, mountPath: /out}}]\n  volumes: [{{name: out, hostPath: {{path: {}}}}}]\n",
            at("out"),
        );
        fs::write(machine.path("manifests/web.yaml"), manifest).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("out/log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts an agent with the kubelet's own flags; waits until the Pod has started so many times.
    fn start(&self, command: &mut Command, name: &str, starts: usize) -> Child {
        let log = fs::File::create(self.path(&format!("{name}-{starts}.log"))).unwrap();
        let child = command
            .arg(format!("--config={}", self.path("config.yaml").display()))
            .arg("--hostname-override=n1")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.wait(&format!("{name} has started the Pod"), || {
            let log = self.log();
            log.iter().filter(|line| *line == "start").count() == starts
        });
        child
    }

    fn podkeeper(&self, starts: usize) -> Child {
        self.start(Command::new(PROGRAM).arg("run"), "podkeeper", starts)
    }

    fn kubelet(&self, starts: usize) -> Child {
        self.start(&mut Command::new(&self.kubelet), "kubelet", starts)
    }

    fn wait(&self, what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is() {
            assert!(
                Instant::now() < end,
                "not in time: {what}: {:?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self) {
        end(self.kubelet(1));
        // Its Pod is stopped as its manifest says, before ours starts.
        end(self.podkeeper(2));
        assert_eq!(self.log(), ["start", "stop", "start"]);
        // It kills what it does not know, and then runs its own.
        end(self.kubelet(3));
        let podkeeper = self.podkeeper(4);
        fs::remove_file(self.path("manifests/web.yaml")).unwrap();
        let pods = || fs::read_dir("/var/lib/podkeeper/pods").unwrap().count();
        self.wait("the Pod is gone", || pods() == 0);
        assert_eq!(self.log().last().unwrap(), "stop");
        end(podkeeper);
        let log = self.log();
        assert!(!log.contains(&"twice".to_owned()), "{log:?}");
    }
}

/// Ends an agent as systemd does.
fn end(mut agent: Child) {
    let id = agent.id().to_string();
    let signalled = Command::new("kill").arg(id).status();
    assert!(signalled.unwrap().success());
    agent.wait().unwrap();
}
