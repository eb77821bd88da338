//! S1, Pods in the manifest directory run; S2, files with a dot and folders are not read; S3, files are followed
//! however they change.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;

use super::mounts::{Mounted, folder};
use super::node::{FOREVER, Node, pod, pod_with};

super::on_each_containerd!(
    yaml_and_json_run_under_any_file_name,
    dot_files_and_sub_folders_are_not_looked_at,
    a_file_is_followed_through_moves_and_renames,
    a_broken_edit_leaves_the_pod_running_over_restarts_of_the_agent,
    a_backup_copy_never_takes_the_pod_over,
    without_the_directory_everything_keeps_running,
    a_mount_that_hangs_holds_up_no_other_pod,
    a_directory_beneath_another_mount_stops_nothing,
);

async fn yaml_and_json_run_under_any_file_name(mut node: Node) {
    let json: serde_json::Value = serde_yaml::from_str(&pod("json", FOREVER)).unwrap();
    node.put("one.yaml", &pod("yaml", FOREVER));
    node.put("two", &json.to_string());
    node.start_agent();
    node.wait_running("yaml").await;
    node.wait_running("json").await;
    node.put("three.anything", &pod("late", FOREVER));
    node.wait_running("late").await;
    for file in ["one.yaml", "two", "three.anything"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn dot_files_and_sub_folders_are_not_looked_at(mut node: Node) {
    fs::create_dir(node.manifest("folder")).unwrap();
    fs::write(node.manifest("folder/in.yaml"), pod("inside", FOREVER)).unwrap();
    node.put(".hidden.yaml", &pod("hidden", FOREVER));
    node.put(".seen.yaml.swp", "junk");
    node.put("seen.yaml", &pod("seen", FOREVER));
    node.start_agent();
    node.wait_running("seen").await;
    let status = node.status().await;
    assert_eq!(status.pods.len(), 1, "{status:#?}");
    assert_eq!(status.refused, [], "{status:#?}");
    node.remove("seen.yaml");
    node.wait_gone().await;
}

async fn a_file_is_followed_through_moves_and_renames(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    fs::rename(node.manifest("web.yaml"), node.manifest("renamed.yaml")).unwrap();
    let path = node.manifest("renamed.yaml").display().to_string();
    node.wait_until("the new name is known", async || {
        node.report("web").await.is_some_and(|r| r.path == path)
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);

    fs::rename(node.manifest("renamed.yaml"), node.path("aside")).unwrap();
    node.wait_gone().await;
    fs::rename(node.path("aside"), node.manifest("back.yaml")).unwrap();
    let again = node.wait_running("web").await;
    assert_ne!(again.id, first.id);
    node.remove("back.yaml");
    node.wait_gone().await;
}

async fn a_broken_edit_leaves_the_pod_running_over_restarts_of_the_agent(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    for broken in [
        "kind: [",
        "",
        "kind: Pod\napiVersion: v1\n",
        "\u{7f}ELF junk",
    ] {
        fs::write(node.manifest("web.yaml"), broken).unwrap();
        node.wait_until("the edit is refused", async || {
            node.status()
                .await
                .refused
                .iter()
                .any(|r| r.keeps.is_some())
        })
        .await;
        assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    }
    node.kill_agent();
    node.start_agent();
    node.wait_until("the agent knows", async || {
        let status = node.status().await;
        status.refused.iter().any(|r| r.keeps.is_some()) && status.pods.len() == 1
    })
    .await;
    node.kill_container(&first.id).await;
    let restarted = node.wait_after("web", &first).await;
    assert_eq!(
        restarted.metadata.as_ref().unwrap().attempt,
        1,
        "even a restart is by the accepted version"
    );

    node.put("web.yaml", &pod("web", FOREVER));
    node.wait_until("the file is mended", async || {
        node.status().await.refused.is_empty()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, restarted.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_backup_copy_never_takes_the_pod_over(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    let old = pod_with("web", "localhost/podkeeper/busybox:2", FOREVER, "");
    node.put("web.yaml.bak", &old);
    node.put("web-old.yaml", &old);
    node.wait_until("both copies are refused", async || {
        node.status().await.refused.len() == 2
    })
    .await;
    for refused in node.status().await.refused {
        assert!(refused.problems[0].contains("web.yaml"), "{refused:#?}");
    }
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    node.kill_agent();
    node.start_agent();
    node.wait_until("the agent is back", async || {
        node.status().await.refused.len() == 2
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    for file in ["web-old.yaml", "web.yaml.bak", "web.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn without_the_directory_everything_keeps_running(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    fs::rename(node.path("manifests"), node.path("elsewhere")).unwrap();
    node.wait_until("it is noticed", async || {
        node.status().await.unreadable.len() == 1
    })
    .await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("it is noticed again", async || {
        let status = node.status().await;
        status.unreadable.len() == 1 && status.pods.iter().any(|p| p.ready == 1)
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    fs::rename(node.path("elsewhere"), node.path("manifests")).unwrap();
    node.wait_until("it is back", async || {
        node.status().await.unreadable.is_empty()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// What `/healthz` says.
fn health(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn a_mount_that_hangs_holds_up_no_other_pod(mut node: Node) {
    let at = super::ports::free();
    node.flag("healthz-port", &at.port().to_string());
    let dead = folder(node.path("dead"));
    node.put("held.yaml", &pod("held", FOREVER));
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let held = node.wait_running("held").await;
    let web = node.wait_running("web").await;

    // One manifest becomes a link to where nothing answers, another is new there.
    let mount = Mounted::hanging(&dead);
    for name in ["held.yaml", "new.yaml"] {
        symlink(dead.join(name), node.manifest(".link")).unwrap();
        fs::rename(node.manifest(".link"), node.manifest(name)).unwrap();
    }
    let named = async |node: &Node| {
        let refused = node.status().await.refused;
        let named = refused
            .iter()
            .filter(|r| r.problems[0].contains("did not answer"));
        named.count() == 2
    };
    node.wait_until("both are named", async || named(&node).await)
        .await;
    node.kill_container(&web.id).await;
    let web = node.wait_after("web", &web).await;
    node.put("late.yaml", &pod("late", FOREVER));
    node.wait_running("late").await;
    node.remove("late.yaml");
    node.wait_until("the late one is gone", async || {
        node.report("late").await.is_none()
    })
    .await;
    node.wait_until("it lasts", async || {
        let health = health(at);
        health.contains(" 503 ") && health.contains("held.yaml") && health.contains("new.yaml")
    })
    .await;

    node.kill_agent();
    node.start_agent();
    node.wait_until("so at a start", async || named(&node).await)
        .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, web.id);
    assert_eq!(node.running_one("held", "c").await.unwrap().id, held.id);
    node.kill_container(&held.id).await;
    node.wait_after("held", &held).await;

    drop(mount);
    for name in ["held.yaml", "new.yaml", "web.yaml"] {
        node.remove(name);
    }
    node.wait_gone().await;
    assert!(health(at).contains(" 200 "));
}

async fn a_directory_beneath_another_mount_stops_nothing(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    let over = Mounted::empty(&node.path("manifests"));
    let told = async |node: &Node| {
        let status = node.status().await;
        let why = status.unreadable.first();
        why.is_some_and(|why| why.contains("not mounted"))
            && status.pods.iter().any(|p| p.ready == 1)
    };
    node.wait_until("it is told", async || told(&node).await)
        .await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("so at a start", async || told(&node).await)
        .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    drop(over);
    node.wait_until("it is back", async || {
        node.status().await.unreadable.is_empty()
    })
    .await;
    // A directory that hangs at the start.
    node.kill_agent();
    let over = Mounted::hanging(&node.path("manifests"));
    node.start_agent();
    node.wait_until("what was accepted counts", async || {
        let status = node.status().await;
        let why = status.unreadable.first();
        why.is_some_and(|why| why.contains("no answer")) && status.pods.iter().any(|p| p.ready == 1)
    })
    .await;
    node.kill_container(&first.id).await;
    let second = node.wait_after("web", &first).await;
    drop(over);
    node.wait_until("it is back", async || {
        node.status().await.unreadable.is_empty()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, second.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}
