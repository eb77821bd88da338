//! Power cuts at random instants, while manifests are edited, added and removed, the document of the manifest URL
//! changes, and images are pulled.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::machine::{Machine, kubelet, project};

/// Cuts of a machine without a number in `PODKEEPER_TEST_CUTS`, and in the long form; two machines take them at the same
/// time.
const CUTS: u64 = 3;
const CUTS_LONG: u64 = 10;
/// Longest time from a boot to a cut.
const LIFE: u64 = 12_000;
/// Pods of the directory, and images that they are given.
const PODS: u64 = 4;
const IMAGES: u64 = 6;

/// A generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Images of a registry here, each with a file of its own, under the name that the machine has for it.
struct Images {
    registry: String,
}

impl Images {
    fn push() -> Self {
        let registry =
            std::env::var("PODKEEPER_TEST_REGISTRY").expect("run this through hack/test");
        let folder = tempfile::tempdir().unwrap();
        for number in 0..IMAGES {
            let archive = folder.path().join("image.tar");
            let made = Command::new("python3")
                .arg(project("hack/images.py"))
                .args(["--own", &number.to_string(), "/bin/busybox"])
                .arg(&archive)
                .status();
            assert!(made.unwrap().success());
            let pushed = Command::new(project("hack/registry"))
                .arg("push")
                .arg(&archive)
                .arg(format!("{registry}/cuts:{number}"))
                .status();
            assert!(pushed.unwrap().success());
        }
        Self { registry }
    }

    /// The registry's address from within a machine.
    fn host(&self) -> String {
        self.registry.replace("127.0.0.1", "10.0.2.2")
    }

    fn name(&self, number: u64) -> String {
        format!("{}/cuts:{number}", self.host())
    }
}

/// A manifest that says at its end that it is whole.
fn manifest(pod: &str, value: u64, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, labels: {{value: v{value}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: {image}\n    \
         command: [sleep, infinity]\n    env: [{{name: VALUE, value: v{value}}}]\n# whole\n"
    )
}

/// A shell script of some changes, each with a value of its own.
fn changes(random: &mut Random, value: &mut u64, images: &Images) -> String {
    let mut script = vec!["cd /etc/podkeeper/manifests\n".to_owned()];
    for _ in 0..30 {
        *value += 1;
        let pod = format!("p{}", random.below(PODS));
        let local = "localhost/podkeeper/busybox:1".to_owned();
        let image = match random.below(3) {
            0 => images.name(random.below(IMAGES)),
            _ => local,
        };
        let text = manifest(&pod, *value, &image);
        let step = match random.below(11) {
            // As editors and deployment tools do it, and as `cp` does.
            0..4 => format!("cat >.new <<'END'\n{text}END\nmv .new {pod}.yaml\n"),
            4..6 => format!("cat >{pod}.yaml <<'END'\n{text}END\n"),
            6..8 => format!("rm -f {pod}.yaml\n"),
            // What runs from it runs on, and the next start pulls it again.
            8 => format!(
                "ctr -n k8s.io images rm {}\n",
                images.name(random.below(IMAGES))
            ),
            _ => {
                let far = manifest("far", *value, &image);
                format!(
                    "cat >/var/www/html/.new <<'END'\n{far}END\nmv /var/www/html/.new /var/www/html/pods.yaml\n"
                )
            }
        };
        script.push(step);
        script.push(format!("sleep {}.{}\n", random.below(2), random.below(10)));
    }
    script.concat()
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_power_cuts_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let is_long = std::env::var_os("PODKEEPER_TEST_LONG").is_some();
    let usual = if is_long { CUTS_LONG } else { CUTS };
    let cuts = number("PODKEEPER_TEST_CUTS").unwrap_or(usual);
    let seed = number("PODKEEPER_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("PODKEEPER_TEST_SEED={seed} PODKEEPER_TEST_CUTS={cuts}");
    let images = &Images::push();
    thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || cut(Random(seed.wrapping_add(half)), cuts, images));
        }
    });
}

fn cut(mut random: Random, cuts: u64, images: &Images) {
    let machine = Machine::own(&["--cpus", "1", "--memory", "1024"]);
    machine.put(
        "/etc/podkeeper/config.yaml",
        &kubelet(
            "staticPodPath: /etc/podkeeper/manifests\nstaticPodURL: http://127.0.0.1/pods.yaml\n\
             httpCheckFrequency: 1s\n",
        ),
    );
    let host = images.host();
    machine.put(
        &format!("/etc/containerd/certs.d/{host}/hosts.toml"),
        &format!("[host.\"http://{host}\"]\n"),
    );
    let far = manifest("far", 0, "localhost/podkeeper/busybox:1");
    machine.put("/var/www/html/pods.yaml", &far);
    machine.does(
        "mkdir -p /etc/podkeeper/manifests && systemctl enable --quiet --now nginx podkeeper && sync",
    );
    let mut value = 0;
    for round in 0..cuts {
        let script = changes(&mut random, &mut value, images);
        let life = Duration::from_millis(random.below(LIFE));
        thread::scope(|scope| {
            // It ends with the machine.
            scope.spawn(|| machine.runs(&script));
            thread::sleep(life);
            machine.control("cut", &[]);
        });
        machine.control("start", &[]);
        check(&machine, round);
    }
}

/// Checks that the machine comes to run what its manifests say, that nothing else is left on it, and that no state
/// was lost.
fn check(machine: &Machine, round: u64) {
    let mut script = vec![];
    let read = "cd /etc/podkeeper/manifests; for f in p*.yaml /var/www/html/pods.yaml; do \
                test ! -e $f || { echo \"== $f\"; cat $f; }; done";
    for part in machine.does(read).split("== ").skip(1) {
        let (path, text) = part.split_once('\n').unwrap_or((part, ""));
        let file = path.rsplit('/').next().unwrap_or_default();
        let pod = file.trim_end_matches(".yaml").replace("pods", "far");
        let value = text
            .split_once("labels: {value: ")
            .and_then(|(_, rest)| rest.split_once('}'));
        script.push(match value {
            Some((value, rest)) if rest.contains("# whole") => format!("runs {pod} {value}"),
            // A write that the cut tore: the version accepted before it counts, if there is one.
            _ => format!("torn {pod}"),
        });
    }
    let script = CHECK.replace("EACH", &script.join("\n"));
    machine.wait(&format!("what round {round} is to run"), &script);
    let lost = machine.does("journalctl -b -u podkeeper --no-pager -o cat | grep -iE 'panicked|set aside|cannot be read' || true");
    assert_eq!(lost, "", "round {round}");
}

/// Succeeds once each Pod has one sandbox and one container, which run, of the version that it is to have, and
/// nothing is there of any other Pod.
const CHECK: &str = r#"
all=""
sandbox() { ctr -n k8s.io containers ls -q "labels.\"io.cri-containerd.kind\"==sandbox,labels.\"io.kubernetes.pod.name\"==$1-podkeeper-machine$2"; }
tasks=$(ctr -n k8s.io tasks ls | awk '$3 == "RUNNING" {print $1}')
count=0
runs() {
    all="$all $1"
    running=0
    for id in $(sandbox $1 ",labels.value==$2"); do
        case $tasks in *$id*) running=$((running + 1));; esac
    done
    test $running = 1 || { echo "$1 $2: $running sandboxes run"; exit 1; }
    count=$((count + 2))
}
torn() {
    all="$all $1"
    found=$(sandbox $1 "")
    test -z "$found" || count=$((count + 2))
}
EACH
test $(echo "$tasks" | grep -c .) = $count || { echo "expected $count tasks: $tasks"; exit 1; }
for pod in $(ls /var/log/pods | sed 's/^[^_]*_\(.*\)-podkeeper-machine_.*/\1/'); do
    case "$all " in *" $pod "*) ;; *) echo "left: logs of $pod"; exit 1;; esac
done
test $(ls /var/lib/podkeeper/pods | wc -l) = $(ls /var/log/pods | wc -l) || { echo "folders: $(ls /var/lib/podkeeper/pods /var/log/pods)"; exit 1; }
test $(ls /var/lib/podkeeper/pods | wc -l) -le $(echo $all | wc -w) || { echo "folders: $(ls /var/lib/podkeeper/pods)"; exit 1; }
# The last container of before is kept for its log, in its sandbox.
count=0
for pod in $all; do count=$((count + $(sandbox $pod "" | wc -l))); done
test $(ctr -n k8s.io containers ls -q 'labels."io.cri-containerd.kind"==sandbox' | wc -l) = $count || { echo "there are other sandboxes than those of$all"; exit 1; }
! podkeeper ps | grep -E 'Terminating|Failed'
"#;
