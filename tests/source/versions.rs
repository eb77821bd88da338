//! Which version of a Pod is in force when files are broken, renamed and copied.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use podkeeper::source::Desired;

use super::{Agent, Always, Break, Look, NEVER, key, pod, rename_in};

#[tokio::test]
async fn what_is_no_manifest_is_refused_by_name_and_leaves_the_rest_alone() {
    let mut agent = Agent::start();
    fs::write(agent.at("empty"), "").unwrap();
    fs::write(agent.at("junk"), [0u8, 159, 146, 150, 255, 1, 2]).unwrap();
    File::create(agent.at("huge"))
        .unwrap()
        .set_len(10 * 1024 * 1024 + 1)
        .unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, agent.at("pipe"), fifo, 0o600.into(), 0).unwrap();
    let _socket = UnixListener::bind(agent.at("socket")).unwrap();
    symlink("/dev/zero", agent.at("device")).unwrap();
    symlink("loop", agent.at("loop")).unwrap();
    symlink("nowhere", agent.at("dangling")).unwrap();
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    let desired = agent
        .sees("all", |d| d.pods.len() == 1 && d.refused.len() == 8)
        .await;
    for (file, said) in [
        ("huge", "10 MiB"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("device", "device"),
        ("dangling", "nowhere"),
        ("loop", "cannot be read"),
    ] {
        let refusal = desired.refusal(file).unwrap();
        assert!(refusal.problems[0].message.contains(said), "{refusal:?}");
        assert_eq!(refusal.keeps, None);
    }
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_accepted_version_until_mended() {
    let breaks: [(&str, Break); 6] = [
        ("not a Pod", |path| fs::write(path, "kind: Pot\n").unwrap()),
        ("no YAML", |path| fs::write(path, "a: b: c: [").unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("junk", |path| fs::write(path, [0u8, 255, 254, 0]).unwrap()),
        ("too large", |path| {
            File::create(path).unwrap().set_len(11 << 20).unwrap();
        }),
        ("a dangling link", |path| {
            fs::remove_file(path).unwrap();
            symlink("nowhere", path).unwrap();
        }),
    ];
    let kept = |desired: &Desired| {
        let refusal = desired.refusal("web.yaml");
        refusal.is_some_and(|refusal| refusal.keeps == Some(key("web")))
            && desired.version("web") == Some("v1")
    };
    let mended = |d: &Desired| d.version("web") == Some("v2") && d.refused.is_empty();
    for (what, make) in breaks {
        let mut agent = Agent::with_web().await;
        make(&agent.at("web.yaml"));
        agent.sees(what, kept).await;
        let mut agent = agent.restart(|_| {}).await;
        agent.sees(&format!("{what}, after a restart"), kept).await;
        rename_in(&agent.at("web.yaml"), pod("web", 2));
        agent.sees("mended", mended).await;
    }
}

#[tokio::test]
async fn a_broken_manifest_that_is_renamed_or_removed_is_followed() {
    let mut agent = Agent::with_web().await;
    fs::write(agent.at("web.yaml"), "broken").unwrap();
    agent
        .sees("refused", |desired| desired.refusal("web.yaml").is_some())
        .await;
    let web_stays = Always::so(&agent, |desired| desired.version("web") == Some("v1"));
    fs::rename(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
    agent
        .sees("renamed", |desired| desired.file("web") == Some("api.yaml"))
        .await;
    agent.catches_up().await;
    web_stays.was_so().await;
    fs::remove_file(agent.at("api.yaml")).unwrap();
    agent
        .sees("removed", |desired| *desired == Desired::default())
        .await;
}

#[tokio::test]
async fn a_manifest_changed_to_name_another_pod_swaps_the_pods() {
    let mut agent = Agent::with_web().await;
    rename_in(&agent.at("web.yaml"), pod("api", 1));
    let desired = agent
        .sees("api", |desired| desired.version("api").is_some())
        .await;
    assert_eq!(desired.version("web"), None);
}

#[tokio::test]
async fn a_manifest_changed_to_name_a_pod_that_another_file_runs_keeps_its_own() {
    let mut agent = Agent::with_web().await;
    rename_in(&agent.at("api.yaml"), pod("api", 1));
    agent.sees("both", |desired| desired.pods.len() == 2).await;
    fs::copy(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
    let desired = agent
        .sees("refused", |desired| desired.refusal("api.yaml").is_some())
        .await;
    assert_eq!(desired.refused[0].keeps, Some(key("api")));
    assert_eq!(
        (desired.file("web"), desired.file("api")),
        (Some("web.yaml"), Some("api.yaml"))
    );
}

#[tokio::test]
async fn a_backup_copy_never_takes_a_pod_over_and_is_named() {
    let mut agent = Agent::with_web().await;
    for name in ["web.yaml.bak", "a-copy.yaml", "web-old.yaml", "web"] {
        rename_in(&agent.at(name), pod("web", 7));
        let desired = agent
            .sees(name, |desired| desired.refusal(name).is_some())
            .await;
        let refused = desired.refusal(name).unwrap();
        let message = &refused.problems[0].message;
        assert!(
            message.contains(agent.at(name).to_str().unwrap()),
            "{message}"
        );
        assert!(
            message.contains(agent.at("web.yaml").to_str().unwrap()),
            "{message}"
        );
        assert_eq!(
            (desired.version("web"), &refused.keeps),
            (Some("v1"), &None)
        );
    }
    let mut agent = agent.restart(|_| {}).await;
    let desired = agent
        .sees("all", |desired| desired.refused.len() == 4)
        .await;
    assert_eq!(
        desired.file("web"),
        Some("web.yaml"),
        "remembered over a restart"
    );
    fs::write(agent.at("web.yaml"), "broken").unwrap();
    let broken = |d: &Desired| d.refusal("web.yaml").is_some_and(|r| r.keeps.is_some());
    let desired = agent.sees("broken", broken).await;
    assert_eq!(
        (desired.version("web"), desired.refused.len()),
        (Some("v1"), 5)
    );
    fs::remove_file(agent.at("web.yaml")).unwrap();
    let next = |d: &Desired| d.file("web") == Some("a-copy.yaml") && d.refused.len() == 3;
    agent.sees("the next takes over", next).await;
}

#[tokio::test]
async fn a_rename_keeps_the_same_pod_without_a_gap() {
    let mut agent = Agent::with_web().await;
    let uid = |desired: &Desired| {
        desired
            .pods
            .get(&key("web"))
            .map(|wanted| wanted.pod.uid.clone())
    };
    let before = uid(agent.desired.borrow().as_ref().unwrap());
    let expected = before.clone();
    let same = Always::so(&agent, move |d| uid(d) == expected && d.refused.is_empty());
    for (from, to) in [("web.yaml", "a.yaml"), ("a.yaml", "b"), ("b", "z.json")] {
        fs::rename(agent.at(from), agent.at(to)).unwrap();
        agent
            .sees(to, |desired| desired.file("web") == Some(to))
            .await;
    }
    same.was_so().await;
    let move_z = |path: &Path| fs::rename(path.join("z.json"), path.join("y")).unwrap();
    let mut agent = agent.restart(move_z).await;
    let desired = agent
        .sees("renamed while down", |d| d.file("web") == Some("y"))
        .await;
    assert_eq!(uid(&desired), before);
}

#[tokio::test]
async fn editors_that_put_the_file_aside_first_never_stop_the_pod() {
    let mut agent = Agent::with_web().await;
    let web_stays = Always::so(&agent, |desired| desired.version("web").is_some());
    for (version, backup) in [(2, "web.yaml~"), (3, "web.yaml.bak"), (4, ".web.yaml.old")] {
        fs::rename(agent.at("web.yaml"), agent.at(backup)).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        fs::write(agent.at("web.yaml"), pod("web", version)).unwrap();
        let version = format!("v{version}");
        agent
            .sees(&version, |d| d.version("web") == Some(&version))
            .await;
        fs::remove_file(agent.at(backup)).unwrap();
    }
    web_stays.was_so().await;
    fs::rename(agent.at("web.yaml"), agent.at(".web.yaml")).unwrap();
    agent
        .sees("hidden for good", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn one_file_can_be_the_manifest_path() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("folder")).unwrap();
    let mut agent = Agent::start_at(root, "folder/.only", NEVER);
    agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    fs::write(&agent.path, pod("web", 1)).unwrap();
    fs::write(agent.path.with_file_name("other.yaml"), pod("other", 1)).unwrap();
    let only = |d: &Desired| d.version("web") == Some("v1") && d.pods.len() == 1;
    agent
        .sees("web runs", |d| only(d) && d.unreadable.is_empty())
        .await;
    fs::write(&agent.path, "broken").unwrap();
    agent
        .sees("kept", |d| only(d) && d.refused.len() == 1)
        .await;
    let aside = agent.root.path().join("aside");
    fs::rename(agent.path.parent().unwrap(), &aside).unwrap();
    agent
        .sees("the folder gone", |d| only(d) && d.unreadable.len() == 1)
        .await;
    let mut agent = agent.restart(|_| {}).await;
    agent
        .sees("after a restart", |d| only(d) && d.unreadable.len() == 1)
        .await;
    fs::rename(&aside, agent.path.parent().unwrap()).unwrap();
    agent
        .sees("the folder back", |d| only(d) && d.unreadable.is_empty())
        .await;
    fs::remove_file(&agent.path).unwrap();
    agent
        .sees("removed", |d| d.pods.is_empty() && d.refused.is_empty())
        .await;
}
