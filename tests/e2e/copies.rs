//! Files that are copied from and to containers, whatever these make of it.

use std::fs;
use std::process::{Command, Output};

use super::cli::{ask, text};
use super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};
use super::streams::noise;

super::on_each_containerd!(files_are_copied_both_ways);

mod on_one {
    super::super::on_containerd!("2.1": a_hostile_archive_writes_nowhere_else);
}

mod on_latest {
    super::super::on_containerd!("2.4": files_are_copied_both_ways);
}

/// A tool that the image has no link for.
const ADD_TAR: &str =
    "/bin/busybox ln -s /bin/busybox /bin/tar && /bin/busybox ln -s /bin/busybox /bin/test";

/// Runs `podkeeper cp` with little memory.
fn cp(node: &Node, words: &[&str]) -> Output {
    let words = [&["cp"], words].concat();
    let cp = ask(node, &words);
    let script = "ulimit -d 50000; exec timeout 300 \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", script, "sh"]).arg(cp.get_program());
    limited.args(cp.get_args()).output().unwrap()
}

async fn files_are_copied_both_ways(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let web = node.wait_running("web").await;
    node.wait_known(1).await;
    let (big, back) = (node.path("big"), node.path("back"));
    let [big_path, back_path] = [&big, &back].map(|p| p.to_str().unwrap());
    let bytes = noise(100_000_000);
    fs::write(&big, &bytes).unwrap();
    let missing = cp(&node, &[big_path, "web:/big"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("there is no tar in the container"));
    node.sh(&web.id, &format!("rm -f /bin/test; {ADD_TAR}"))
        .await;

    let done = cp(&node, &[big_path, "web:/big"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let sum = Command::new("sha256sum").arg(&big).output().unwrap();
    let expected = text(&sum.stdout)[..64].to_owned();
    let found = node.sh(&web.id, "/bin/busybox sha256sum /big").await;
    assert_eq!(found[..64], expected);
    let full = format!("default/{}:/big", node.full_name("web"));
    let done = cp(&node, &[&full, back_path]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(fs::read(&back).unwrap() == bytes);

    // Folders, into one that is there and as one that is not.
    let from = node.path("from");
    fs::create_dir_all(from.join("a/empty")).unwrap();
    let long = "long".repeat(50);
    fs::write(from.join("a").join(&long), "text").unwrap();
    std::os::unix::fs::symlink("nowhere", from.join("link")).unwrap();
    let from_path = from.to_str().unwrap();
    for _ in 0..2 {
        let done = cp(&node, &[from_path, "web:/new", "-c", "c"]);
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    let list = "cat /new/a/long*; readlink /new/link; cat /new/from/a/long*; ls /new/a /new/from/a";
    let listed = node.sh(&web.id, list).await;
    assert!(listed.starts_with("textnowhere\ntext"), "{listed}");
    assert_eq!(listed.matches("empty").count(), 2, "{listed}");
    let to = node.path("new/to");
    let done = cp(&node, &["web:/new/", to.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(fs::read(to.join("from/a").join(&long)).unwrap(), b"text");
    assert!(to.join("a/empty").is_dir() && !to.join("link").exists());
    assert!(text(&done.stderr).contains("warning: skipping symlink ./new/link -> nowhere"));

    // What fails says why.
    for (words, expected) in [
        ([big_path, "web:/no/such/place"], "/no/such"),
        (["web:/nothing", back_path], "./nothing: No such file"),
        (["/no/such/file", "web:/"], "/no/such/file: No such file"),
        (["a", "b"], "must be in a container"),
        (["web:/a", "web:/b"], "must be a local path"),
    ] {
        let failed = cp(&node, &words);
        let said = text(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// Writes an archive that leads out of its folder by all means at once.
const HOSTILE: &str = r#"
import io, sys, tarfile
out = tarfile.open(fileobj=open(sys.argv[1], "wb"), mode="w")
def add(name, **more):
    entry = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(entry, key, value)
    entry.size = 4 if entry.isreg() else 0
    out.addfile(entry, io.BytesIO(b"evil"))
add("x", type=tarfile.DIRTYPE)
add("x/link", type=tarfile.SYMTYPE, linkname="..")
add("x/link/inside")
add("x/device", type=tarfile.BLKTYPE, devmajor=8)
add("x/pipe", type=tarfile.FIFOTYPE)
add(sys.argv[2])
out.close()
"#;

async fn a_hostile_archive_writes_nowhere_else(mut node: Node) {
    let volumes = node.with_out("    $MOUNT\n  volumes: $OUT\n");
    node.make_out();
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &volumes));
    node.start_agent();
    let web = node.wait_running("web").await;
    node.wait_known(1).await;
    let tar = "printf '#!/bin/sh\\ncat /out/evil.tar\\n' >/bin/tar; chmod 755 /bin/tar";
    node.sh(&web.id, tar).await;
    // What a container's tools write where nothing is expected keeps no copy waiting.
    let loud = r"rm -f /bin/test /bin/tar
        printf '#!/bin/sh\n/bin/busybox yes | /bin/busybox head -c 1000000\nexit 1\n' >/bin/test
        /bin/busybox cp /bin/test /bin/tar; chmod 755 /bin/test /bin/tar";
    node.sh(&web.id, loud).await;
    fs::write(node.path("small"), "text").unwrap();
    let small = node.path("small").display().to_string();
    let done = cp(&node, &[&small, "web:/small"]);
    let said = text(&done.stderr);
    assert!(said.contains("ended with exit code 1"), "{said}");
    node.sh(&web.id, tar).await;
    let place = node.path("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("outside"), "untouched").unwrap();
    let absolute = place.join("outside").display().to_string();
    for path in ["../outside", "x/../../outside", &absolute, "outside"] {
        let evil = node.path("out/evil.tar");
        let python = Command::new("python3")
            .args(["-c", HOSTILE, evil.to_str().unwrap(), path])
            .status();
        assert!(python.unwrap().success());
        let to = place.join("to");
        let done = cp(&node, &["web:/x", to.to_str().unwrap()]);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{path}: {said}");
        assert!(said.contains("the archive contains "), "{path}: {said}");
        assert_eq!(fs::read(place.join("outside")).unwrap(), b"untouched");
        assert_eq!(fs::read(to.join("link/inside")).unwrap(), b"evil");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "{path}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "{path}");
        fs::remove_dir_all(&to).unwrap();
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}
