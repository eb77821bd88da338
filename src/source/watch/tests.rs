//! Tests of the watches of a manifest path and their events.

use super::*;

fn manifests() -> [WatchRole; 1] {
    [WatchRole::Manifests(None)]
}

#[test]
fn an_overflow_of_the_queue_looks_again_and_arms_anew() {
    let mut pending = PendingEvents::default();
    pending.record(EventMask::Q_OVERFLOW, &[], None, Instant::now());
    assert!(pending.relist && pending.rearm);
}

#[test]
fn a_file_that_is_written_waits_until_it_is_closed_or_quiet() {
    let now = Instant::now();
    let name = OsStr::new("web.yaml");
    let mut pending = PendingEvents::default();
    pending.record(EventMask::MODIFY, &manifests(), Some(name), now);
    assert!(!pending.relist, "a bare write is no reason to relist");
    assert!(pending.is_being_written(name, now));
    assert!(!pending.is_being_written(name, now + QUIET));
    pending.record(EventMask::CLOSE_WRITE, &manifests(), Some(name), now);
    assert!(pending.relist);
    assert!(!pending.is_being_written(name, now));
}

#[test]
fn a_file_that_is_written_without_end_is_taken_at_last() {
    let start = Instant::now();
    let name = OsStr::new("web.yaml");
    let mut pending = PendingEvents::default();
    let mut now = start;
    while now < start + MAX_UNSETTLED {
        pending.record(EventMask::MODIFY, &manifests(), Some(name), now);
        assert!(pending.is_being_written(name, now));
        now += QUIET / 2;
    }
    pending.record(EventMask::MODIFY, &manifests(), Some(name), now);
    assert!(!pending.is_being_written(name, now));
    assert!(pending.waited_long(name, now));
}

#[test]
fn writing_a_swap_file_is_nothing_and_swapping_a_hidden_link_is_something() {
    let now = Instant::now();
    let mut pending = PendingEvents::default();
    for mask in [EventMask::MODIFY, EventMask::CLOSE_WRITE, EventMask::ATTRIB] {
        pending.record(mask, &manifests(), Some(OsStr::new(".web.yaml.swp")), now);
    }
    assert!(!pending.relist && pending.due().is_none());
    pending.record(
        EventMask::MOVED_TO,
        &manifests(),
        Some(OsStr::new("..data")),
        now,
    );
    assert!(pending.relist);
}

#[test]
fn above_the_folder_only_the_way_to_it_matters() {
    let now = Instant::now();
    let roles = [WatchRole::Ancestor("manifests".into())];
    let mut pending = PendingEvents::default();
    pending.record(EventMask::CREATE, &roles, Some(OsStr::new("other")), now);
    assert!(!pending.relist);
    pending.record(
        EventMask::MOVED_TO,
        &roles,
        Some(OsStr::new("manifests")),
        now,
    );
    assert!(pending.relist);
}

#[test]
fn every_folder_above_is_watched_and_a_missing_one_by_the_nearest_that_exists() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let roles = |path| {
        directories(path)
            .into_iter()
            .map(|directory| directory.role)
            .take(2)
            .collect::<Vec<_>>()
    };
    let ancestor = |name: &str| WatchRole::Ancestor(name.into());
    assert_eq!(roles(&path)[0], ancestor("a"));
    fs::create_dir(root.path().join("a")).unwrap();
    assert_eq!(
        roles(&path),
        [WatchRole::Manifests(Some("b".into())), ancestor("a")]
    );
    fs::create_dir(&path).unwrap();
    assert_eq!(roles(&path), [WatchRole::Manifests(None), ancestor("b")]);
}
