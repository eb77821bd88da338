//! The manifest directory itself: missing, replaced, unreadable.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use podkeeper::source::Desired;
use tokio::sync::watch;

use super::{Agent, Always, Break, DEADLINE, Look, NEVER, launch, pod, rename_in};

#[tokio::test]
async fn a_folder_that_does_not_exist_yet_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_at(root, "not/there/yet", NEVER);
    let desired = agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty());
    assert!(desired.unreadable[0].contains("waiting"));
    fs::create_dir_all(&agent.path).unwrap();
    agent
        .sees("readable", |desired| desired.unreadable.is_empty())
        .await;
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
}

#[tokio::test]
async fn a_folder_removed_keeps_everything_until_it_is_back() {
    let mut agent = Agent::with_web().await;
    let web_stays = Always::so(&agent, |desired| desired.version("web") == Some("v1"));
    fs::remove_dir_all(&agent.path).unwrap();
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.unreadable[0].contains("keep running"));
    fs::create_dir(&agent.path).unwrap();
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    agent
        .sees("readable", |desired| desired.unreadable.is_empty())
        .await;
    agent.catches_up().await;
    web_stays.was_so().await;
    fs::remove_file(agent.at("web.yaml")).unwrap();
    agent
        .sees("removed", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn a_folder_that_comes_back_empty_has_no_pods() {
    let mut agent = Agent::with_web().await;
    fs::rename(&agent.path, agent.root.path().join("old")).unwrap();
    agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    fs::create_dir(&agent.path).unwrap();
    agent
        .sees("removed", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn a_folder_replaced_by_rename_or_link_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for version in 1..=3 {
        let folder = at(&format!("v{version}/manifests"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("web.yaml"), pod("web", version)).unwrap();
    }
    let swap = |target: &str, link: &str| {
        symlink(target, at("new")).unwrap();
        fs::rename(at("new"), at(link)).unwrap();
    };
    fs::create_dir(at("by-rename")).unwrap();
    swap("v1/manifests", "by-link");
    swap("v1", "by-parent");
    let paths = ["by-link", "by-parent/manifests", "by-rename"];
    // Each with a store of its own.
    let mut sources = paths.map(|path| launch(&at("states").join(path), &at(path), NEVER).0);
    for (source, version) in sources.iter_mut().zip([Some("v1"), Some("v1"), None]) {
        sees_version(source, version).await;
    }
    swap("v2/manifests", "by-link");
    swap("v2", "by-parent");
    fs::rename(at("v3/manifests"), at("by-rename")).unwrap();
    for (source, version) in sources.iter_mut().zip([Some("v2"), Some("v2"), Some("v3")]) {
        sees_version(source, version).await;
    }
}

async fn sees_version(source: &mut watch::Receiver<Option<Desired>>, version: Option<&str>) {
    let so = source.wait_for(|now| {
        now.as_ref()
            .is_some_and(|now| now.version("web") == version)
    });
    tokio::time::timeout(DEADLINE, so)
        .await
        .expect("the folder is seen")
        .unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_keeps_everything() {
    let ways: [(&str, Break); 3] = [
        ("a file", |path| fs::write(path, "").unwrap()),
        ("a dangling link", |path| symlink("nowhere", path).unwrap()),
        ("a looping link", |path| symlink("manifests", path).unwrap()),
    ];
    for (what, make) in ways {
        let mut agent = Agent::with_web().await;
        let aside = agent.root.path().join("aside");
        fs::rename(&agent.path, &aside).unwrap();
        make(&agent.path);
        let desired = agent
            .sees(what, |desired| desired.unreadable.len() == 1)
            .await;
        assert_eq!(desired.version("web"), Some("v1"), "{what}");
        let mut agent = agent.restart(|_| {}).await;
        let desired = agent
            .sees(what, |desired| desired.unreadable.len() == 1)
            .await;
        assert_eq!(
            desired.version("web"),
            Some("v1"),
            "{what}, after a restart"
        );
        fs::remove_file(&agent.path).unwrap();
        fs::rename(&aside, &agent.path).unwrap();
        let desired = agent
            .sees("readable", |desired| desired.unreadable.is_empty())
            .await;
        assert_eq!(desired.version("web"), Some("v1"));
    }
}

/// Returns true if this process may read a file without permissions.
fn may_read_everything() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), PermissionsExt::from_mode(0o0)).unwrap();
    File::open(file.path()).is_ok()
}

#[tokio::test]
async fn permissions_taken_away_keep_everything() {
    const AGAIN: &str = "PODKEEPER_TEST_AGAIN";
    if may_read_everything() {
        // Nothing is forbidden to root until it gives up these rights, as only a program of its own can.
        assert!(std::env::var_os(AGAIN).is_none(), "the rights are kept");
        let again = Command::new("setpriv")
            .args(["--bounding-set", "-dac_override,-dac_read_search"])
            .args(["--inh-caps", "-dac_override,-dac_read_search"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "folder::permissions_taken_away_keep_everything"])
            .env(AGAIN, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        let error = String::from_utf8_lossy(&again.stderr);
        let passed = again.status.success() && said.contains("1 passed");
        assert!(passed, "{said}{error}");
        return;
    }
    let mut agent = Agent::with_web().await;
    let chmod = |path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    chmod(agent.at("web.yaml"), 0);
    let desired = agent
        .sees("refused", |desired| !desired.refused.is_empty())
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    chmod(agent.path.clone(), 0);
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    chmod(agent.path.clone(), 0o755);
    chmod(agent.at("web.yaml"), 0o644);
    agent
        .sees("mended", |d| {
            d.refused.is_empty() && d.unreadable.is_empty()
        })
        .await;
}

#[tokio::test]
async fn changes_lost_in_a_full_event_queue_are_found() {
    let mut agent = Agent::with_web().await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    // Nothing is read from the queue meanwhile: this thread is the runtime's only one.
    for _ in 0..limit.trim().parse::<u32>().unwrap() {
        fs::rename(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
        fs::rename(agent.at("api.yaml"), agent.at("web.yaml")).unwrap();
    }
    fs::write(agent.at("late.yaml"), pod("late", 1)).unwrap();
    fs::write(agent.at("web.yaml"), pod("web", 2)).unwrap();
    let found = |d: &Desired| d.version("web") == Some("v2") && d.version("late").is_some();
    agent.sees("what was lost", found).await;
    // And the queue is listened to as before.
    agent.catches_up().await;
}
