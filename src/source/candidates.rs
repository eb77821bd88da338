//! Allocation of Pods to manifest files: the rule for manifests that name the same Pod, and for broken ones.
//!
//! Pure: candidates in, a whole [`Desired`] out. The invariants: every Pod is wanted by exactly one file; the
//! order in which candidates come does not matter; and a file that exists, but is refused as it is now, keeps
//! the version that it last ran.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Desired, DesiredPod, Origin, Refused};
use crate::manifest::{Accepted, PodKey, Problem, StaticPod};

/// State of a file as it is now.
#[derive(Debug, Clone)]
pub(super) enum ManifestState {
    /// Not read since the agent's start.
    Unread,
    /// A Pod.
    Accepted(Accepted),
    /// Good, and no Pod in it.
    NoPod,
    /// Nothing that is accepted.
    Refused(Vec<Problem>),
}

/// A manifest path as a candidate for a Pod.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// The manifest.
    pub(super) path: PathBuf,
    /// State of the file as it is now.
    pub(super) state: ManifestState,
    /// The version that last ran from it.
    pub(super) held: Option<Arc<StaticPod>>,
    /// The file was there, and was not at the last relist; whether it is gone is not sure yet.
    pub(super) gone: bool,
}

impl Candidate {
    /// The Pod that the file asks for: a file that may be gone asks for nothing new, and a broken
    /// one for what it had.
    fn first_choice(&self) -> Option<&Arc<StaticPod>> {
        match &self.state {
            ManifestState::Accepted(accepted) if !self.gone => Some(&accepted.pod),
            ManifestState::NoPod => None,
            _ => self.held.as_ref(),
        }
    }

    /// Sorts the candidate that gets Pod `key` first.
    fn rank(&self, key: &PodKey) -> impl Ord {
        let holds = self.held.as_ref().is_some_and(|pod| pod.key == *key);
        let name = self.path.file_name().unwrap_or_default();
        let stem = manifest_stem(name);
        (
            stem.is_none(),
            !holds,
            stem.unwrap_or(name).to_owned(),
            self.path.as_os_str().to_owned(),
        )
    }

    /// The warnings that go with `pod`, when it is what the file says as it stands.
    fn warnings_on(&self, pod: &Arc<StaticPod>) -> Vec<Problem> {
        match &self.state {
            ManifestState::Accepted(accepted) if Arc::ptr_eq(&accepted.pod, pod) => {
                accepted.warnings.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// The files whose Pod another one has already, each with what to say of that; with nothing known of what
/// runs.
pub fn duplicate_pods<'a>(
    pods: impl IntoIterator<Item = (&'a Path, &'a Accepted)>,
) -> Vec<(PathBuf, Problem)> {
    let candidate = |(path, accepted): (&Path, &Accepted)| Candidate {
        path: path.to_owned(),
        state: ManifestState::Accepted(accepted.clone()),
        held: None,
        gone: false,
    };
    let candidates: Vec<Candidate> = pods.into_iter().map(candidate).collect();
    let refused = allocate(&candidates, None).refused.into_iter();
    let of_file = refused.filter_map(|refused| {
        let path = refused.origin.file()?.to_owned();
        Some((path, refused.problems.into_iter().next()?))
    });
    of_file.collect()
}

/// Sorts manifests that name the same first: those with a usual ending, then by name.
pub(super) fn order(path: &Path) -> impl Ord + use<> {
    let name = path.file_name().unwrap_or_default();
    let stem = manifest_stem(name);
    let name = stem.unwrap_or(name).to_owned();
    (stem.is_none(), name, path.as_os_str().to_owned())
}

/// True for names that come before all others.
pub(super) fn has_usual_extension(path: &Path) -> bool {
    path.file_name().and_then(manifest_stem).is_some()
}

/// The name without its ending, if that is a manifest's usual one. Names are compared without it,
/// so that `web.yaml` comes before its copies `web-old.yaml` and `web.old.yaml`.
fn manifest_stem(name: &OsStr) -> Option<&OsStr> {
    let bytes = name.as_bytes();
    [".yaml", ".yml", ".json"]
        .iter()
        .find_map(|ending| bytes.strip_suffix(ending.as_bytes()))
        .map(OsStr::from_bytes)
}

/// The Pod that one candidate is allocated, or competes for.
struct Allocation<'a> {
    candidate: &'a Candidate,
    pod: &'a Arc<StaticPod>,
    /// The file's own Pod went to another file, so that it stays with the one that it held.
    fell_back: bool,
}

/// Allocates each Pod to one file.
///
/// Of several candidates for one Pod, names ending in `.yaml`, `.yml` or `.json` come first, then the
/// file that the Pod already runs from, then the order of file names. A file that so loses the Pod
/// it names is refused, and keeps the Pod that it held before, if that was another. While the
/// winner may be gone, the others wait and are not refused.
pub(super) fn allocate<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate>,
    unreadable: Option<String>,
) -> Desired {
    let candidates: Vec<&Candidate> = candidates.into_iter().collect();
    let winners = winners(&candidates);

    let mut desired = Desired {
        unreadable: unreadable.into_iter().collect(),
        ..Desired::default()
    };
    let by_path: HashMap<&Path, &Allocation> = winners
        .values()
        .map(|allocation| (allocation.candidate.path.as_path(), allocation))
        .collect();
    for candidate in &candidates {
        let won = by_path.get(candidate.path.as_path()).copied();
        desired.refused.extend(refusal(candidate, won, &winners));
    }
    for (key, Allocation { candidate, pod, .. }) in winners {
        let warnings = candidate.warnings_on(pod);
        let wanted = DesiredPod {
            pod: Arc::clone(pod),
            origin: Origin::File(candidate.path.clone()),
            warnings,
        };
        desired.pods.insert(key.clone(), wanted);
    }
    desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
    desired
}

/// The best bid for each Pod. Losers that held another Pod bid for that one next, each at most
/// once, until nothing moves; since a bid only ever gives way to a better one, the outcome does not
/// depend on the order.
fn winners<'a>(candidates: &[&'a Candidate]) -> BTreeMap<&'a PodKey, Allocation<'a>> {
    let mut winners: BTreeMap<&PodKey, Allocation> = BTreeMap::new();
    let mut allocations: Vec<Allocation> = candidates
        .iter()
        .filter_map(|candidate| {
            Some(Allocation {
                candidate,
                pod: candidate.first_choice()?,
                fell_back: false,
            })
        })
        .collect();
    while let Some(allocation) = allocations.pop() {
        let loser = match winners.remove(&allocation.pod.key) {
            None => {
                winners.insert(&allocation.pod.key, allocation);
                continue;
            }
            Some(other) => {
                let key = &allocation.pod.key;
                let (winner, loser) = match allocation
                    .candidate
                    .rank(key)
                    .cmp(&other.candidate.rank(key))
                {
                    Ordering::Less => (allocation, other),
                    Ordering::Equal | Ordering::Greater => (other, allocation),
                };
                winners.insert(&winner.pod.key, winner);
                loser
            }
        };
        let held = loser
            .candidate
            .held
            .as_ref()
            .filter(|held| held.key != loser.pod.key);
        allocations.extend(held.map(|pod| Allocation {
            candidate: loser.candidate,
            pod,
            fell_back: true,
        }));
    }
    winners
}

/// Returns the reason why the file is refused as it is now, if it is.
fn refusal(
    candidate: &Candidate,
    won: Option<&Allocation>,
    winners: &BTreeMap<&PodKey, Allocation>,
) -> Option<Refused> {
    let problems = match &candidate.state {
        ManifestState::Unread | ManifestState::NoPod => return None,
        ManifestState::Refused(problems) => problems.clone(),
        ManifestState::Accepted(accepted) => {
            let winner = winners.get(&accepted.pod.key)?.candidate;
            let fell_back = won.is_some_and(|allocation| allocation.fell_back);
            let lost = won.is_none() || fell_back;
            if !lost || candidate.gone || winner.gone {
                return None;
            }
            vec![duplicate(&accepted.pod.key, &candidate.path, &winner.path)]
        }
    };
    let keeps = won.map(|allocation| allocation.pod.key.clone());
    Some(Refused {
        origin: Origin::File(candidate.path.clone()),
        problems,
        keeps,
    })
}

fn duplicate(key: &PodKey, path: &Path, winner: &Path) -> Problem {
    let message = format!(
        "Pod {key} is defined by {} already, so {} is not carried out; remove one of the two files or \
         give its Pod another name",
        winner.display(),
        path.display(),
    );
    Problem {
        field: "metadata.name".to_owned(),
        ..Problem::of_file(message)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str, version: u32) -> Arc<StaticPod> {
        let key = PodKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        let uid = format!("{name}{version}");
        let document = serde_json::Value::Null;
        Arc::new(StaticPod {
            key,
            uid,
            pod: Pod::default(),
            document,
            objects: Arc::default(),
        })
    }

    fn candidate(file: &str, state: ManifestState, held: Option<Arc<StaticPod>>) -> Candidate {
        Candidate {
            path: Path::new("/m").join(file),
            state,
            held,
            gone: false,
        }
    }

    fn says(pod: Arc<StaticPod>) -> ManifestState {
        ManifestState::Accepted(Accepted {
            pod,
            warnings: Vec::new(),
        })
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
    fn edited(file: &str, name: &str, held: &str) -> Candidate {
        candidate(file, says(pod(name, 1)), Some(pod(held, 1)))
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

    fn any_pod() -> impl Strategy<Value = Arc<StaticPod>> {
        (prop::sample::select(vec!["a", "b", "c"]), 0..3u32).prop_map(|(name, v)| pod(name, v))
    }

    fn any_candidate(file: String) -> impl Strategy<Value = Candidate> {
        let state = prop_oneof![
            1 => Just(ManifestState::Unread),
            4 => any_pod().prop_map(says),
            2 => Just(broken()),
        ];
        let held = prop::option::of(any_pod());
        (state, held, prop::bool::weighted(0.2)).prop_map(move |(state, held, gone)| Candidate {
            gone,
            ..candidate(&file, state, held)
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
                let repeated = |pod: &mut Arc<StaticPod>| !keys.insert(pod.key.clone());
                candidate.held.take_if(repeated);
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
            let held = |candidate: &Candidate| Some((candidate.path.clone(), candidate.held.clone()?.key.clone()));
            let holders: Vec<(PathBuf, PodKey)> = candidates.iter().filter_map(held).collect();
            candidates.push(candidate("copy.bak", says(Arc::clone(&copied)), None));
            let after = allocate(&candidates, None);
            for (key, wanted) in &before.pods {
                if usual_ending(wanted.origin.file().unwrap())
                    || holders.contains(&(wanted.origin.file().unwrap().to_owned(), key.clone())) {
                    prop_assert_eq!(after.pods.get(key), Some(wanted));
                }
            }
        }

        #[test]
        fn what_a_file_that_is_there_held_runs_unless_another_file_runs_it(candidates in any_candidates()) {
            let desired = allocate(&candidates, None);
            for candidate in candidates.iter().filter(|candidate| !matches!(candidate.state, ManifestState::Accepted(_))) {
                if let Some(held) = &candidate.held {
                    prop_assert!(desired.pods.contains_key(&held.key));
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
}
