//! Tests of the allocation of Pods to manifest files.

use proptest::prelude::*;

use super::*;
use crate::manifest::StaticPod;

fn pod(name: &str, version: u32) -> PackedPod {
    let key = PodKey {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    };
    let uid = format!("{name}{version}").into();
    PackedPod::from(&StaticPod {
        key,
        uid,
        ..StaticPod::default()
    })
}

fn candidate(file: &str, state: ManifestState, in_force: Option<PackedPod>) -> Candidate {
    Candidate {
        path: Path::new("/m").join(file),
        state,
        in_force,
        gone: false,
    }
}

fn says(pod: PackedPod) -> ManifestState {
    ManifestState::Accepted(pod, Vec::new())
}

fn broken() -> ManifestState {
    let message = "broken";
    ManifestState::Refused(vec![Problem::of_file(message)])
}

/// Returns running Pods as `UID file`, and refused files as `file keeps`.
fn outcome(candidates: &[Candidate]) -> (Vec<String>, Vec<String>) {
    let desired = allocate(candidates, None);
    let name = |path: &Path| path.file_name().unwrap().display().to_string();
    let runs = desired
        .pods
        .values()
        .map(|w| format!("{} {}", w.pod.uid, name(w.origin.file().unwrap())));
    let refused = desired.refused.iter().map(|refused| {
        let keeps = refused.keeps.as_ref().map_or("nothing", |key| &key.name);
        format!("{} {keeps}", name(refused.origin.file().unwrap()))
    });
    (runs.collect(), refused.collect())
}

fn new(file: &str, name: &str, version: u32) -> Candidate {
    candidate(file, says(pod(name, version)), None)
}

fn runs(file: &str, name: &str, version: u32) -> Candidate {
    candidate(file, says(pod(name, version)), Some(pod(name, version)))
}

/// A file that names the first Pod and ran the second.
fn edited(file: &str, name: &str, in_force: &str) -> Candidate {
    candidate(file, says(pod(name, 1)), Some(pod(in_force, 1)))
}

fn ran(file: &str, name: &str, version: u32) -> Candidate {
    candidate(file, broken(), Some(pod(name, version)))
}

fn gone(candidate: Candidate) -> Candidate {
    Candidate {
        gone: true,
        ..candidate
    }
}

/// Input, expected running Pods and expected refusals.
type Case<'a> = (&'a str, Vec<Candidate>, &'a [&'a str], &'a [&'a str]);

fn check(rows: &[Case]) {
    for (what, candidates, runs, refused) in rows {
        assert_eq!(
            outcome(candidates),
            (strings(runs), strings(refused)),
            "{what}"
        );
    }
}

#[test]
fn each_pod_goes_to_one_file() {
    check(&[
        (
            "an ending goes before the file that runs",
            vec![runs("web", "web", 1), new("web.yml", "web", 2)],
            &["web2 web.yml"],
            &["web nothing"],
        ),
        (
            "the file that runs goes before the order of names",
            vec![runs("z.yaml", "web", 1), new("a.json", "web", 2)],
            &["web1 z.yaml"],
            &["a.json nothing"],
        ),
        (
            "names go in order",
            vec![new("b.yaml", "web", 2), new("a.yaml", "web", 1)],
            &["web1 a.yaml"],
            &["b.yaml nothing"],
        ),
        (
            "a copy's longer name goes after the original's",
            vec![new("web-old.yaml", "web", 2), new("web.yaml", "web", 1)],
            &["web1 web.yaml"],
            &["web-old.yaml nothing"],
        ),
        (
            "two files may swap their Pods",
            vec![edited("a.yaml", "b", "a"), edited("b.yaml", "a", "b")],
            &["a1 b.yaml", "b1 a.yaml"],
            &[],
        ),
    ]);
}

#[test]
fn a_file_that_cannot_be_carried_out_keeps_what_it_ran() {
    check(&[
        (
            "a broken file keeps its Pod and its claim",
            vec![ran("web.yaml", "web", 1), new("web.bak", "web", 2)],
            &["web1 web.yaml"],
            &["web.bak nothing", "web.yaml web"],
        ),
        (
            "a broken file loses its Pod to a usual ending",
            vec![ran("web", "web", 1), new("web.yaml", "web", 2)],
            &["web2 web.yaml"],
            &["web nothing"],
        ),
        (
            "a broken file that never ran claims nothing",
            vec![candidate("a.yaml", broken(), None)],
            &[],
            &["a.yaml nothing"],
        ),
        (
            "a file edited into a duplicate keeps its own",
            vec![edited("a.yaml", "b", "a"), runs("b.yaml", "b", 1)],
            &["a1 a.yaml", "b1 b.yaml"],
            &["a.yaml a"],
        ),
        (
            "and a backup copy does not take that over",
            vec![
                edited("a.yaml", "b", "a"),
                runs("b.yaml", "b", 1),
                new("a.bak", "a", 2),
            ],
            &["a1 a.yaml", "b1 b.yaml"],
            &["a.bak nothing", "a.yaml a"],
        ),
        (
            "what was not read yet runs on",
            vec![candidate(
                "web.yaml",
                ManifestState::Unread,
                Some(pod("web", 1)),
            )],
            &["web1 web.yaml"],
            &[],
        ),
    ]);
}

#[test]
fn a_file_that_may_be_gone_holds_on_and_takes_nothing() {
    check(&[
        (
            "nobody takes over from it",
            vec![gone(runs("web.yaml", "web", 1)), new("web.bak", "web", 2)],
            &["web1 web.yaml"],
            &[],
        ),
        (
            "it loses silently",
            vec![gone(runs("web", "web", 1)), new("web.yaml", "web", 2)],
            &["web2 web.yaml"],
            &[],
        ),
        (
            "it takes nothing",
            vec![gone(new("web.bak", "web", 2))],
            &[],
            &[],
        ),
    ]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_refused_duplicate_names_both_files() {
    let copy = candidate("web.bak", says(pod("web", 2)), None);
    let desired = allocate(
        &[copy, candidate("web.yaml", says(pod("web", 1)), None)],
        None,
    );
    let message = &desired.refused[0].problems[0].message;
    assert!(
        message.contains("/m/web.yaml") && message.contains("/m/web.bak"),
        "{message}"
    );
}

fn any_pod() -> impl Strategy<Value = PackedPod> {
    (prop::sample::select(vec!["a", "b", "c"]), 0..3u32).prop_map(|(name, v)| pod(name, v))
}

fn any_candidate(file: String) -> impl Strategy<Value = Candidate> {
    let state = prop_oneof![
        1 => Just(ManifestState::Unread),
        4 => any_pod().prop_map(says),
        2 => Just(broken()),
    ];
    let in_force = prop::option::of(any_pod());
    (state, in_force, prop::bool::weighted(0.2)).prop_map(move |(state, in_force, gone)| {
        Candidate {
            gone,
            ..candidate(&file, state, in_force)
        }
    })
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let files = prop::collection::btree_set("[a-d]{1,2}(\\.yaml|\\.yml|\\.json|\\.bak|)", 0..7);
    let candidates =
        files.prop_flat_map(|files| files.into_iter().map(any_candidate).collect::<Vec<_>>());
    candidates.prop_map(|mut candidates| {
        // A Pod runs from one file, so no two files hold it.
        let mut keys = std::collections::BTreeSet::new();
        for candidate in &mut candidates {
            let repeated = |pod: &mut PackedPod| !keys.insert(pod.key.clone());
            candidate.in_force.take_if(repeated);
        }
        candidates
    })
}

proptest! {
    #[test]
    fn the_order_of_files_is_irrelevant(
        (candidates, shuffled) in any_candidates().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle()))
    ) {
        prop_assert_eq!(allocate(&candidates, None), allocate(&shuffled, None));
    }

    #[test]
    fn a_copy_takes_no_pod_from_a_usual_ending_nor_from_a_file_it_runs_from(
        mut candidates in any_candidates(), copied in any_pod()
    ) {
        let before = allocate(&candidates, None);
        let usual_ending = |file: &Path| manifest_stem(file.file_name().unwrap()).is_some();
        let in_force = |candidate: &Candidate| Some((candidate.path.clone(), candidate.in_force.clone()?.key.clone()));
        let holders: Vec<(PathBuf, PodKey)> = candidates.iter().filter_map(in_force).collect();
        candidates.push(candidate("copy.bak", says(copied), None));
        let after = allocate(&candidates, None);
        for (key, wanted) in before.pods.iter() {
            if usual_ending(wanted.origin.file().unwrap())
                || holders.contains(&(wanted.origin.file().unwrap().to_owned(), key.clone())) {
                prop_assert_eq!(after.pods.get(key), Some(wanted));
            }
        }
    }

    #[test]
    fn what_a_file_that_is_there_held_runs_unless_another_file_runs_it(candidates in any_candidates()) {
        let desired = allocate(&candidates, None);
        for candidate in candidates.iter().filter(|candidate| !matches!(candidate.state, ManifestState::Accepted(..))) {
            if let Some(in_force) = &candidate.in_force {
                prop_assert!(desired.pods.contains_key(&in_force.key));
            }
        }
    }

    #[test]
    fn each_file_runs_one_pod_at_most_and_each_refusal_is_about_the_file_as_it_stands(
        candidates in any_candidates()
    ) {
        let desired = allocate(&candidates, None);
        let mut files: Vec<_> = desired.pods.values().map(|wanted| &wanted.origin).collect();
        files.sort();
        files.dedup();
        prop_assert_eq!(files.len(), desired.pods.len());
        for refused in &desired.refused {
            prop_assert!(!refused.problems.is_empty());
            let kept = refused.keeps.as_ref().map(|key| &desired.pods[key].origin);
            prop_assert!(kept.is_none_or(|origin| *origin == refused.origin));
        }
    }
}
