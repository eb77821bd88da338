//! Reading a file: its name, its writer, links to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use podkeeper::source::Desired;

use super::{Agent, Always, DEADLINE, Look, pod, rename_in};

#[tokio::test]
async fn any_name_is_a_manifest_in_yaml_or_json() {
    let mut agent = Agent::start();
    rename_in(&agent.at("a.yaml"), pod("a", 1));
    fs::write(agent.at("b"), pod("b", 1)).unwrap();
    let json: serde_json::Value = serde_yaml::from_str(&pod("c", 1)).unwrap();
    fs::write(agent.at("c.yaml.bak"), json.to_string()).unwrap();
    let desired = agent
        .sees("all three", |desired| desired.pods.len() == 3)
        .await;
    assert_eq!(desired.file("b"), Some("b"));
    assert!(desired.refused.is_empty());
}

#[tokio::test]
async fn hidden_files_folders_and_editors_leftovers_are_ignored() {
    let mut agent = Agent::start();
    for name in [
        ".web.yaml",
        "web.yaml~",
        "web.swp",
        "web.swo",
        "web.swx",
        "#web#",
        "4913",
    ] {
        fs::write(agent.at(name), pod("web", 1)).unwrap();
    }
    symlink("web.yaml~", agent.at(".#web.yaml")).unwrap();
    fs::create_dir(agent.at("folder.yaml")).unwrap();
    fs::write(agent.at("folder.yaml/web.yaml"), pod("web", 1)).unwrap();
    symlink("folder.yaml", agent.at("link.yaml")).unwrap();
    assert_eq!(agent.catches_up().await, Desired::default());
}

/// The pace of whoever writes a file piece by piece. One that rests is taken for whole, so where the machine
/// let the test itself rest, nothing is shown.
struct Pace {
    last: Instant,
    slowest: Duration,
}

impl Pace {
    fn begin() -> Self {
        Self {
            last: Instant::now(),
            slowest: Duration::ZERO,
        }
    }

    fn write(&mut self, file: &mut File, piece: &[u8]) {
        file.write_all(piece).unwrap();
        self.step();
    }

    fn step(&mut self) {
        self.slowest = self.slowest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Half of what a file has to rest.
    fn was_kept(&mut self) -> bool {
        self.step();
        self.slowest < Duration::from_millis(100)
    }
}

/// Tries until the pace was kept, which the test tells.
async fn at_a_good_pace(mut attempt: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !attempt().await {
        assert!(Instant::now() < end, "the machine is too busy for this");
    }
}

#[tokio::test]
async fn a_file_being_written_is_not_taken_until_it_is_closed() {
    at_a_good_pace(async || {
        let mut agent = Agent::with_web().await;
        let never_half = Always::so(&agent, |desired| desired.version("web") != Some("v2"));
        let mut file = File::create(agent.at("web.yaml")).unwrap();
        let mut pace = Pace::begin();
        pace.write(&mut file, pod("web", 2).as_bytes());
        rename_in(&agent.at("other.yaml"), pod("other", 1));
        while agent
            .desired
            .borrow()
            .as_ref()
            .is_none_or(|now| now.version("other").is_none())
        {
            pace.write(&mut file, b"# more\n");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if !pace.was_kept() {
            return false;
        }
        never_half.was_so().await;
        drop(file);
        agent
            .sees("the whole file", |desired| {
                desired.version("web") == Some("v2")
            })
            .await;
        true
    })
    .await;
}

#[tokio::test]
async fn a_file_never_closed_is_taken_when_it_is_quiet() {
    let mut agent = Agent::start();
    let mut file = File::create(agent.at("web.yaml")).unwrap();
    file.write_all(pod("web", 1).as_bytes()).unwrap();
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    drop(file);
}

#[tokio::test]
async fn a_growing_file_is_taken_whole_in_the_end() {
    at_a_good_pace(async || {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        let mut agent = Agent::start_at(root, "manifests", Duration::from_millis(20));
        let whole = pod("web", 1);
        let never_half = Always::so(&agent, |desired| desired.refused.is_empty());
        let mut file = File::create(agent.at("web.yaml")).unwrap();
        let mut pace = Pace::begin();
        for piece in whole.as_bytes().chunks(16) {
            pace.write(&mut file, piece);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !pace.was_kept() {
            return false;
        }
        drop(file);
        agent
            .sees("web runs", |desired| desired.version("web") == Some("v1"))
            .await;
        never_half.was_so().await;
        true
    })
    .await;
}

#[tokio::test]
async fn edits_in_place_and_by_rename_and_moves_are_followed() {
    let mut agent = Agent::with_web().await;
    fs::write(agent.at("web.yaml"), pod("web", 2)).unwrap();
    agent
        .sees("the edit in place", |desired| {
            desired.version("web") == Some("v2")
        })
        .await;
    rename_in(&agent.at("web.yaml"), pod("web", 3));
    agent
        .sees("the edit by rename", |desired| {
            desired.version("web") == Some("v3")
        })
        .await;
    fs::rename(agent.at("web.yaml"), agent.root.path().join("web.yaml")).unwrap();
    agent
        .sees("moved out", |desired| desired.pods.is_empty())
        .await;
    fs::rename(agent.root.path().join("web.yaml"), agent.at("web.yaml")).unwrap();
    agent
        .sees("moved back", |desired| desired.version("web") == Some("v3"))
        .await;
}

#[tokio::test]
async fn links_to_files_are_followed_and_so_is_a_link_swap() {
    let mut agent = Agent::start();
    let (one, two) = (agent.root.path().join("one"), agent.root.path().join("two"));
    fs::write(&one, pod("web", 1)).unwrap();
    fs::write(&two, pod("web", 2)).unwrap();
    symlink(&one, agent.at("web.yaml")).unwrap();
    agent
        .sees("the link's target", |desired| {
            desired.version("web") == Some("v1")
        })
        .await;
    symlink(&two, agent.at(".new")).unwrap();
    fs::rename(agent.at(".new"), agent.at("web.yaml")).unwrap();
    agent
        .sees("the other target", |desired| {
            desired.version("web") == Some("v2")
        })
        .await;
}

#[tokio::test]
async fn a_link_target_in_another_folder_is_found_changed_by_the_rescan() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("manifests")).unwrap();
    let target = root.path().join("target");
    fs::write(&target, pod("web", 1)).unwrap();
    symlink(&target, root.path().join("manifests/web.yaml")).unwrap();
    let mut agent = Agent::start_at(root, "manifests", Duration::from_millis(50));
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    fs::write(&target, pod("web", 2)).unwrap();
    agent
        .sees("the change", |desired| desired.version("web") == Some("v2"))
        .await;
}

#[tokio::test]
async fn a_folder_kept_like_a_mounted_config_map_is_followed() {
    let mut agent = Agent::start();
    for (version, folder) in [(1, "..v1"), (2, "..v2")] {
        fs::create_dir(agent.at(folder)).unwrap();
        fs::write(agent.at(folder).join("web.yaml"), pod("web", version)).unwrap();
    }
    symlink("..v1", agent.at("..data")).unwrap();
    symlink("..data/web.yaml", agent.at("web.yaml")).unwrap();
    agent
        .sees("the first", |desired| desired.version("web") == Some("v1"))
        .await;
    symlink("..v2", agent.at("..data_tmp")).unwrap();
    fs::rename(agent.at("..data_tmp"), agent.at("..data")).unwrap();
    agent
        .sees("the second", |desired| desired.version("web") == Some("v2"))
        .await;
}
