//! The Debian package on a whole machine: installed, upgraded, removed and purged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::Machine;
use crate::program;
use crate::service::MANIFEST;

/// The machine without what is installed by hand, which is there again for the next test.
struct WithoutProgram<'a>(&'a Machine);

impl<'a> WithoutProgram<'a> {
    fn new(machine: &'a Machine) -> Self {
        machine.does(
            "rm -r /usr/local/bin/podkeeper /etc/systemd/system/podkeeper.service /etc/podkeeper && \
             systemctl daemon-reload",
        );
        Self(machine)
    }
}

impl Drop for WithoutProgram<'_> {
    fn drop(&mut self) {
        self.0
            .runs("DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge podkeeper");
        self.0.install();
    }
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", program.display());
    String::from_utf8(output.stdout).unwrap()
}

/// The package, and the same with a higher version.
fn packages(folder: &Path) -> [PathBuf; 2] {
    let at = |name: &str| folder.join(name).display().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/package");
    let said = run(&script, &["--program", program::PROGRAM, &at("")]);
    let package = said.lines().last().unwrap();
    let dpkg = Path::new("dpkg-deb");
    run(dpkg, &["--raw-extract", package, &at("root")]);
    let control = folder.join("root/DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    std::fs::write(control, text.replace("-1\nArch", "-2\nArch")).unwrap();
    let newer = folder.join("podkeeper-newer.deb");
    run(
        dpkg,
        &[
            "--root-owner-group",
            "-Znone",
            "--build",
            &at("root"),
            newer.to_str().unwrap(),
        ],
    );
    [package.into(), newer]
}

fn apt(machine: &Machine, arguments: &str) -> String {
    machine.does(&format!(
        "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends {arguments} 2>&1"
    ))
}

fn agent(machine: &Machine) -> String {
    machine.does("systemctl is-enabled podkeeper");
    machine.does("systemctl is-active podkeeper");
    machine.does("systemctl show -P MainPID podkeeper")
}

/// All that a purge has to remove, as far as it is there.
fn left(machine: &Machine) -> String {
    machine.does(
        "ls -d /etc/podkeeper /var/lib/podkeeper /run/podkeeper /var/log/pods/* /var/log/containers/* \
         /sys/fs/cgroup/kubepods* /usr/bin/podkeeper /etc/systemd/system/*/podkeeper.service \
         /var/lib/systemd/deb-systemd-helper-*/*podkeeper* /usr/share/doc/podkeeper 2>/dev/null; \
         grep podkeeper /proc/1/mountinfo; systemctl list-units --all --plain --no-legend 'kubepods*'; true",
    )
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_the_package_is_installed_upgraded_removed_and_purged() {
    let machine = Machine::take();
    let folder = tempfile::tempdir().unwrap();
    let [first, newer] = packages(folder.path());
    for (file, path) in [(&first, "/root/first.deb"), (&newer, "/root/newer.deb")] {
        machine.copy(file, path);
    }
    let _without = WithoutProgram::new(&machine);

    apt(&machine, "install /root/first.deb");
    let first_agent = agent(&machine);
    machine.put("/etc/podkeeper/manifests/web.yaml", MANIFEST);
    let tasks = machine.wait_running("web");
    machine.does("echo 'maxPods: 50' >>/etc/podkeeper/config.yaml");

    apt(&machine, "install /root/newer.deb");
    assert_ne!(agent(&machine), first_agent, "the new program runs");
    assert_eq!(machine.wait_running("web"), tasks);
    machine.does("grep -qx 'maxPods: 50' /etc/podkeeper/config.yaml");

    let said = apt(&machine, "remove podkeeper");
    assert!(said.contains("apt purge podkeeper"), "{said}");
    machine.does("! systemctl is-active podkeeper && ! test -e /usr/bin/podkeeper");
    assert_eq!(machine.tasks(), tasks);

    // Installed again, the agent finds its Pods, and a disabled service stays disabled.
    apt(&machine, "install /root/newer.deb");
    agent(&machine);
    assert_eq!(machine.wait_running("web"), tasks);
    machine.does("systemctl disable podkeeper");
    apt(&machine, "reinstall /root/newer.deb");
    machine.does("! systemctl is-enabled podkeeper");

    apt(&machine, "purge podkeeper");
    assert_eq!(machine.tasks(), "");
    assert_eq!(left(&machine), "");
}
