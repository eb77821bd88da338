//! State that outlasts a restart of the agent, and its publication.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use podkeeper::source::Desired;
use podkeeper::source::directory::read_manifest;

use super::{Agent, Look, pod, rename_in};

#[tokio::test]
async fn a_restart_keeps_what_ran_while_the_folder_is_missing() {
    let agent = Agent::with_web().await;
    let mut agent = agent
        .restart(|path| fs::remove_dir_all(path).unwrap())
        .await;
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
}

#[tokio::test]
async fn a_file_removed_while_the_agent_was_down_removes_its_pod() {
    let agent = Agent::with_web().await;
    let mut agent = agent
        .restart(|path| fs::remove_file(path.join("web.yaml")).unwrap())
        .await;
    let first = agent.sees("the first", |_| true).await;
    assert_eq!(first, Desired::default(), "not wanted even at first");
    let mut agent = agent.restart(|path| fs::remove_dir(path).unwrap()).await;
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty(), "not remembered either");
}

#[tokio::test]
async fn another_manifest_path_starts_from_nothing() {
    let mut agent = Agent::with_web().await;
    agent.path = agent.root.path().join("elsewhere");
    let mut agent = agent.restart(|_| {}).await;
    let desired = agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty());
}

#[tokio::test]
async fn a_damaged_store_is_skipped_and_its_files_are_private() {
    let agent = Agent::with_web().await;
    let state = agent.root.path().join("state/manifests");
    let damage = |_: &Path| {
        let files: Vec<_> = fs::read_dir(&state)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(
            fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(state.join("junk.json"), [0, 255]).unwrap();
        fs::copy(&files[0], state.join("copy.json")).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&files[0])
            .unwrap()
            .set_len(40)
            .unwrap();
    };
    let mut agent = agent.restart(damage).await;
    let desired = agent
        .sees("read anew", |desired| desired.version("web") == Some("v1"))
        .await;
    assert_eq!((desired.pods.len(), desired.refused.len()), (1, 0));
}

#[tokio::test]
async fn a_stored_version_that_is_no_longer_accepted_is_told() {
    let agent = Agent::with_web().await;
    let state = agent.root.path().join("state/manifests");
    let outdate = |path: &Path| {
        let file = fs::read_dir(&state)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let stored = fs::read_to_string(&file).unwrap();
        fs::write(&file, stored.replace("\"Pod\"", "\"Pot\"")).unwrap();
        fs::write(path.join("web.yaml"), "broken").unwrap();
    };
    let mut agent = agent.restart(outdate).await;
    let desired = agent
        .sees("refused", |desired| desired.refused.len() == 1)
        .await;
    let told = &desired.refused[0].problems;
    assert!(
        told.iter().any(|p| p.message.contains("default/web-node1")),
        "{told:?}"
    );
    assert_eq!(desired.refused[0].keeps, None);
}

#[tokio::test]
async fn nothing_is_published_when_nothing_that_matters_changed() {
    let mut agent = Agent::with_web().await;
    agent.catches_up().await;
    agent.desired.mark_unchanged();
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        fs::write(agent.at(".hidden"), "").unwrap();
        fs::remove_file(agent.at(".hidden")).unwrap();
        rename_in(
            &agent.at("web.yaml"),
            format!("# a comment\n{}", pod("web", 1)),
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!agent.desired.has_changed().unwrap());
}

#[test]
fn one_manifest_is_read_by_the_same_rules() {
    let root = tempfile::tempdir().unwrap();
    let web = root.path().join("web.yaml");
    assert!(read_manifest(&web).unwrap_err().contains("does not exist"));
    assert!(read_manifest(root.path()).unwrap_err().contains("folder"));
    fs::write(&web, pod("web", 1)).unwrap();
    assert_eq!(read_manifest(&web).unwrap(), pod("web", 1).as_bytes());
}
