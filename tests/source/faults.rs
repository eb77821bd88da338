//! Faults of the manifest directory: mounts that hang, mounts that go, folders that are flooded.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use podkeeper::source::Desired;

use super::mounts::{Mounted, folder};
use super::{Agent, Look, NEVER, key, pod, rename_in};

fn does_not_answer(desired: &Desired, file: &str) -> bool {
    let refusal = desired.refusal(file);
    refusal.is_some_and(|refused| refused.problems[0].message.contains("did not answer"))
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn a_link_to_a_mount_that_hangs_holds_up_no_other_manifest() {
    let mut agent = Agent::with_web().await;
    let dead = folder(agent.root.path().join("dead"));
    let mut mount = Mounted::hanging(&dead);
    symlink(dead.join("a.yaml"), agent.at("a.yaml")).unwrap();
    let desired = agent
        .sees("it is named", |desired| does_not_answer(desired, "a.yaml"))
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    assert_eq!(desired.unanswered.len(), 1);
    assert_eq!(desired.unanswered[0].path, agent.at("a.yaml"));
    // What others do is followed.
    rename_in(&agent.at("web.yaml"), pod("web", 2));
    rename_in(&agent.at("z.yaml"), pod("z", 1));
    agent
        .sees("an edit and a newcomer", |desired| {
            desired.version("web") == Some("v2") && desired.version("z") == Some("v1")
        })
        .await;
    fs::remove_file(agent.at("z.yaml")).unwrap();
    agent
        .sees("a removal", |desired| desired.version("z").is_none())
        .await;
    // The name leads elsewhere while the call still hangs.
    fs::write(agent.root.path().join("good.yaml"), pod("a", 1)).unwrap();
    symlink("../good.yaml", agent.at(".a.yaml")).unwrap();
    fs::rename(agent.at(".a.yaml"), agent.at("a.yaml")).unwrap();
    let desired = agent
        .sees("another target", |desired| {
            desired.version("a") == Some("v1")
        })
        .await;
    assert!(desired.unanswered.is_empty() && desired.refused.is_empty());
    mount.release();
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn what_hangs_keeps_what_was_accepted_and_is_read_when_it_answers() {
    let root = tempfile::tempdir().unwrap();
    let store = folder(root.path().join("store"));
    fs::write(store.join("web.yaml"), pod("web", 1)).unwrap();
    fs::create_dir(root.path().join("manifests")).unwrap();
    let mut agent = Agent::start_at(root, "manifests", NEVER);
    symlink(store.join("web.yaml"), agent.at("web.yaml")).unwrap();
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    let mount = Mounted::hanging(&store);
    let mut agent = agent
        .restart(|path| rename_in(&path.join("new.yaml"), pod("new", 1)))
        .await;
    let desired = agent
        .sees("it is held", |desired| does_not_answer(desired, "web.yaml"))
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    assert_eq!(desired.version("new"), Some("v1"));
    assert_eq!(desired.refusal("web.yaml").unwrap().keeps, Some(key("web")));
    // Beneath the mount everything is as it was, though the first call hangs on.
    mount.detach();
    agent
        .sees("it is read again", |desired| {
            desired.refused.is_empty() && desired.version("web") == Some("v1")
        })
        .await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn many_links_to_a_mount_that_hangs_take_few_threads() {
    let mut agent = Agent::with_web().await;
    let dead = folder(agent.root.path().join("dead"));
    let _mount = Mounted::hanging(&dead);
    for i in 0..300 {
        symlink(dead.join(format!("{i}")), agent.at(&format!("a{i}"))).unwrap();
    }
    rename_in(&agent.at("z.yaml"), pod("z", 1));
    let desired = agent
        .sees("the good one", |desired| {
            desired.version("z") == Some("v1") && !desired.unanswered.is_empty()
        })
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    for i in 0..5 {
        rename_in(&agent.at("z.yaml"), pod("z", 2 + i));
        agent
            .sees("its edits", |desired| {
                desired.version("z") == Some(&format!("v{}", 2 + i))
            })
            .await;
    }
    let threads = fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name = task.as_ref().unwrap().path().join("comm");
        fs::read_to_string(name).is_ok_and(|name| name.trim() == "manifests")
    });
    assert!(
        threads.count() <= 200,
        "shared by the tests of this program"
    );
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn a_directory_that_hangs_counts_as_it_was_accepted() {
    let agent = Agent::with_web().await;
    let path = agent.path.clone();
    let mut mount = None;
    let mut agent = agent
        .restart(|path| mount = Some(Mounted::hanging(path)))
        .await;
    let desired = agent
        .sees("it is told", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    let why = &desired.unreadable[0];
    assert!(
        why.contains("no answer within") && why.contains(&path.display().to_string()),
        "{why}"
    );
    assert_eq!(desired.unanswered[0].path, path);
    // What lies beneath counts once the mount is away, though the first call hangs on.
    mount.as_ref().unwrap().detach();
    let desired = agent
        .sees("it can be read", |desired| desired.unreadable.is_empty())
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    rename_in(&agent.at("web.yaml"), pod("web", 2));
    agent
        .sees("it is followed", |desired| {
            desired.version("web") == Some("v2")
        })
        .await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn a_directory_that_begins_to_hang_and_answers_again_loses_nothing() {
    let mut agent = Agent::with_web().await;
    let mut mount = Mounted::hanging(&agent.path);
    let desired = agent
        .sees("it is told", |desired| {
            desired
                .unreadable
                .iter()
                .any(|why| why.contains("no answer"))
        })
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    mount.release();
    agent
        .sees("the error is told", |desired| {
            desired
                .unreadable
                .iter()
                .any(|why| !why.contains("no answer"))
        })
        .await;
    drop(mount);
    let desired = agent
        .sees("it can be read", |desired| desired.unreadable.is_empty())
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
}

/// A source on a folder that is a mount, and where that comes from.
async fn mounted(source: &Path, agent: Agent) -> (Agent, Mounted) {
    let path = agent.path.clone();
    let mount = Mounted::bind(source, &path);
    rename_in(&source.join("web.yaml"), pod("web", 1));
    let mut agent = agent;
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    (agent, mount)
}

async fn outlives_its_mount(source: &Path, agent: Agent) {
    let (mut agent, mount) = mounted(source, agent).await;
    drop(mount);
    let path = agent.path.clone();
    let is_gone = move |desired: &Desired| {
        let why = desired.unreadable.first();
        why.is_some_and(|why| why.contains("not mounted") && why.contains("keep running"))
            && desired.version("web") == Some("v1")
    };
    agent.sees("nothing is mounted", &is_gone).await;
    let mut agent = agent.restart(|_| {}).await;
    agent.sees("so after a start", &is_gone).await;
    let mount = Mounted::bind(source, &path);
    let desired = agent
        .sees("it is back at once", |desired| {
            desired.unreadable.is_empty()
        })
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    let mut agent = agent.restart(|_| drop(mount)).await;
    agent.sees("gone while the agent was away", &is_gone).await;
    let _mount = Mounted::bind(source, &path);
    agent
        .sees("it is back", |desired| desired.unreadable.is_empty())
        .await;
    fs::remove_file(source.join("web.yaml")).unwrap();
    agent
        .sees("emptied on purpose", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn an_empty_folder_beneath_a_mount_that_went_stops_nothing() {
    let agent = Agent::start();
    let source = folder(agent.root.path().join("disk"));
    let _disk = Mounted::empty(&source);
    outlives_its_mount(&source, agent).await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn a_mount_is_told_from_what_lies_beneath_on_the_same_device() {
    let agent = Agent::start();
    let source = folder(agent.root.path().join("elsewhere"));
    outlives_its_mount(&source, agent).await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn an_empty_mount_over_the_directory_stops_nothing() {
    let mut agent = Agent::with_web().await;
    let mount = Mounted::empty(&agent.path);
    let desired = agent
        .sees("it is told", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    // Manifests there count.
    rename_in(&agent.at("other.yaml"), pod("other", 1));
    agent
        .sees("what is mounted counts", |desired| {
            desired.version("other").is_some() && desired.version("web").is_none()
        })
        .await;
    drop(mount);
    agent
        .sees("and what was beneath", |desired| {
            desired.version("other").is_none() && desired.version("web") == Some("v1")
        })
        .await;
}

#[tokio::test]
async fn a_folder_full_of_junk_keeps_no_good_manifest_waiting() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path().join("manifests"));
    for i in 0..5000 {
        fs::write(path.join(format!("junk{i}")), format!("kind: [ # {i}")).unwrap();
    }
    rename_in(&path.join("z.yaml"), pod("z", 1));
    let mut agent = Agent::start_at(root, "manifests", NEVER);
    let desired = agent
        .sees("it is counted", |desired| {
            desired.refused.len() + desired.unlisted == 5000
        })
        .await;
    assert_eq!(desired.version("z"), Some("v1"));
    assert!(desired.refused.len() <= 300, "{}", desired.refused.len());
    // A newcomer is not kept waiting.
    rename_in(&agent.at("zz.yaml"), pod("zz", 1));
    agent
        .sees("the newcomer", |desired| {
            desired.version("zz") == Some("v1")
        })
        .await;
    // One of those that are not listed is mended.
    rename_in(&agent.at("junk4999"), pod("mended", 1));
    agent
        .sees("the mended", |desired| desired.version("mended").is_some())
        .await;
    for i in 0..4999 {
        fs::remove_file(agent.at(&format!("junk{i}"))).unwrap();
    }
    let desired = agent
        .sees("all junk is gone", |desired| {
            desired.refused.is_empty() && desired.unlisted == 0
        })
        .await;
    assert_eq!(desired.pods.len(), 3);
}

#[tokio::test]
async fn of_thousands_of_copies_the_first_runs_and_another_takes_over() {
    let root = tempfile::tempdir().unwrap();
    let path = folder(root.path().join("manifests"));
    for i in 0..1000 {
        fs::write(path.join(format!("web-{i:04}.yaml")), pod("web", i)).unwrap();
    }
    let mut agent = Agent::start_at(root, "manifests", Duration::from_secs(1));
    let desired = agent
        .sees("they are counted", |desired| desired.unlisted > 0)
        .await;
    assert_eq!(desired.pods.len(), 1);
    let first = desired.file("web").unwrap().to_owned();
    fs::remove_file(agent.at(&first)).unwrap();
    agent
        .sees("another runs", |desired| {
            desired.file("web").is_some_and(|file| file != first)
        })
        .await;
}

/// As many Pods as run from one directory.
const MAX_PODS: usize = 5000;

#[tokio::test]
async fn more_pods_than_a_directory_may_have_are_refused_and_those_that_run_stay() {
    let mut agent = Agent::with_web().await;
    for i in 0..MAX_PODS + 500 {
        let name = format!("a{i}");
        rename_in(&agent.at(&name), pod(&name, 1));
    }
    let is_full = |desired: &Desired| {
        desired.pods.len() == MAX_PODS && desired.refused.len() + desired.unlisted == 501
    };
    let desired = agent.sees("the directory is full", is_full).await;
    assert_eq!(desired.version("web"), Some("v1"), "it ran before");
    let refused = &desired.refused[0];
    let why = &refused.problems[0].message;
    let name = refused.origin.file().unwrap().file_name().unwrap();
    let name = name.to_str().unwrap().to_owned();
    assert!(
        why.contains("5000 Pods") && why.contains(&format!("default/{name}-")),
        "{why}"
    );
    assert!(desired.refused.len() <= 300, "{}", desired.refused.len());
    // What runs can be edited and renamed.
    rename_in(&agent.at("web.yaml"), pod("web", 2));
    fs::rename(agent.at("web.yaml"), agent.at("web2.yaml")).unwrap();
    agent
        .sees("an edit and a new name", |desired| {
            desired.version("web") == Some("v2") && desired.file("web") == Some("web2.yaml")
        })
        .await;
    // So after a start, though others come first in the order of names.
    let mut agent = agent.restart(|_| {}).await;
    let desired = agent.sees("the same after a start", is_full).await;
    assert_eq!(desired.version("web"), Some("v2"));
    fs::remove_file(agent.at("web2.yaml")).unwrap();
    let desired = agent
        .sees("another takes the place", |desired| {
            desired.version("web").is_none()
                && desired.pods.len() == MAX_PODS
                && desired.refused.len() + desired.unlisted == 500
        })
        .await;
    assert!(desired.unreadable.is_empty());
}

fn config_map(name: &str, size: usize) -> String {
    let data = serde_json::json!({"text": "x".repeat(size)});
    let metadata = serde_json::json!({"name": name});
    let object = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": data,
    });
    object.to_string()
}

#[tokio::test]
async fn large_objects_are_kept_up_to_a_limit_and_what_is_in_use_stays() {
    let mut agent = Agent::start();
    rename_in(&agent.at("zz"), config_map("used", 1000));
    agent.catches_up().await;
    for i in 0..80 {
        let name = format!("c{i}");
        rename_in(&agent.at(&name), config_map(&name, 1_000_000));
    }
    let refused = |desired: &Desired| desired.refused.len() + desired.unlisted;
    let desired = agent
        .sees("some are refused", |desired| refused(desired) == 13)
        .await;
    let why = &desired.refused[0].problems[0].message;
    assert!(why.contains("64 MiB"), "{why}");
    assert!(desired.refusal("zz").is_none());
    // A Pod is small, and what is smaller now leaves room.
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    rename_in(&agent.at("c0"), config_map("c0", 10));
    let desired = agent
        .sees("one more fits", |desired| {
            desired.version("web").is_some() && refused(desired) == 12
        })
        .await;
    assert!(
        desired
            .refused
            .iter()
            .all(|refused| refused.keeps.is_none())
    );
}

#[tokio::test]
async fn of_hundreds_of_copies_of_an_object_few_are_listed() {
    let mut agent = Agent::start();
    for i in 0..600 {
        rename_in(&agent.at(&format!("c{i:03}")), config_map("c", i));
    }
    let desired = agent
        .sees("they are counted", |desired| {
            desired.refused.len() + desired.unlisted == 599
        })
        .await;
    assert!(desired.refused.len() <= 300, "{}", desired.refused.len());
    // The next one takes over.
    fs::remove_file(agent.at("c000")).unwrap();
    agent
        .sees("one less", |desired| {
            desired.refused.len() + desired.unlisted == 598 && desired.refusal("c001").is_none()
        })
        .await;
}
