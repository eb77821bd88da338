//! Allocation of Pods to manifest files: the rule for manifests that name the same Pod, and for broken ones.
//!
//! Pure: claims in, a whole [`Desired`] out. The invariants: every Pod is wanted by exactly one
//! file; the order in which claims come does not matter; and a file that is there, but cannot be
//! carried out as it stands, keeps the version that it last ran.

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
pub(super) enum Standing {
    /// Not looked at since the agent's start.
    Unread,
    /// A Pod.
    Accepted(Accepted),
    /// Good, and no Pod in it.
    NoPod,
    /// Nothing that could be carried out.
    Refused(Vec<Problem>),
}

/// One manifest path's claim to a Pod.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The manifest.
    pub(super) path: PathBuf,
    /// State of the file as it is now.
    pub(super) standing: Standing,
    /// The version that was last carried out from it.
    pub(super) held: Option<Arc<StaticPod>>,
    /// The file was there, and was not at the last relist; whether it is gone is not sure yet.
    pub(super) gone: bool,
}

impl Claim {
    /// The Pod that the file asks for: a file that may be gone asks for nothing new, and a broken
    /// one for what it had.
    fn first_choice(&self) -> Option<&Arc<StaticPod>> {
        match &self.standing {
            Standing::Accepted(accepted) if !self.gone => Some(&accepted.pod),
            Standing::NoPod => None,
            _ => self.held.as_ref(),
        }
    }

    /// Sorts the claim that gets Pod `key` first.
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
        match &self.standing {
            Standing::Accepted(accepted) if Arc::ptr_eq(&accepted.pod, pod) => {
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
    let claim = |(path, accepted): (&Path, &Accepted)| Claim {
        path: path.to_owned(),
        standing: Standing::Accepted(accepted.clone()),
        held: None,
        gone: false,
    };
    let claims: Vec<Claim> = pods.into_iter().map(claim).collect();
    let refused = settle(&claims, None).refused.into_iter();
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
pub(super) fn has_usual_ending(path: &Path) -> bool {
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

/// The Pod that one claim goes for.
struct Bid<'a> {
    claim: &'a Claim,
    pod: &'a Arc<StaticPod>,
    /// The file's own Pod went to another file, so that it stays with the one that it held.
    fell_back: bool,
}

/// Settles all claims.
///
/// Of several claims to one Pod, names ending in `.yaml`, `.yml` or `.json` come first, then the
/// file that the Pod already runs from, then the order of file names. A file that so loses the Pod
/// it names is refused, and keeps the Pod that it held before, if that was another. While the
/// winner may be gone, the others wait and are not refused.
pub(super) fn settle<'a>(
    claims: impl IntoIterator<Item = &'a Claim>,
    unreadable: Option<String>,
) -> Desired {
    let claims: Vec<&Claim> = claims.into_iter().collect();
    let winners = winners(&claims);

    let mut desired = Desired {
        unreadable: unreadable.into_iter().collect(),
        ..Desired::default()
    };
    let by_path: HashMap<&Path, &Bid> = winners
        .values()
        .map(|bid| (bid.claim.path.as_path(), bid))
        .collect();
    for claim in &claims {
        let won = by_path.get(claim.path.as_path()).copied();
        desired.refused.extend(refusal(claim, won, &winners));
    }
    for (key, Bid { claim, pod, .. }) in winners {
        let warnings = claim.warnings_on(pod);
        let wanted = DesiredPod {
            pod: Arc::clone(pod),
            origin: Origin::File(claim.path.clone()),
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
fn winners<'a>(claims: &[&'a Claim]) -> BTreeMap<&'a PodKey, Bid<'a>> {
    let mut winners: BTreeMap<&PodKey, Bid> = BTreeMap::new();
    let mut bids: Vec<Bid> = claims
        .iter()
        .filter_map(|claim| {
            Some(Bid {
                claim,
                pod: claim.first_choice()?,
                fell_back: false,
            })
        })
        .collect();
    while let Some(bid) = bids.pop() {
        let loser = match winners.remove(&bid.pod.key) {
            None => {
                winners.insert(&bid.pod.key, bid);
                continue;
            }
            Some(other) => {
                let key = &bid.pod.key;
                let (winner, loser) = match bid.claim.rank(key).cmp(&other.claim.rank(key)) {
                    Ordering::Less => (bid, other),
                    Ordering::Equal | Ordering::Greater => (other, bid),
                };
                winners.insert(&winner.pod.key, winner);
                loser
            }
        };
        let held = loser
            .claim
            .held
            .as_ref()
            .filter(|held| held.key != loser.pod.key);
        bids.extend(held.map(|pod| Bid {
            claim: loser.claim,
            pod,
            fell_back: true,
        }));
    }
    winners
}

/// Returns the reason why the file is refused as it is now, if it is.
fn refusal(claim: &Claim, won: Option<&Bid>, winners: &BTreeMap<&PodKey, Bid>) -> Option<Refused> {
    let problems = match &claim.standing {
        Standing::Unread | Standing::NoPod => return None,
        Standing::Refused(problems) => problems.clone(),
        Standing::Accepted(accepted) => {
            let winner = winners.get(&accepted.pod.key)?.claim;
            let fell_back = won.is_some_and(|bid| bid.fell_back);
            let lost = won.is_none() || fell_back;
            if !lost || claim.gone || winner.gone {
                return None;
            }
            vec![duplicate(&accepted.pod.key, &claim.path, &winner.path)]
        }
    };
    let keeps = won.map(|bid| bid.pod.key.clone());
    Some(Refused {
        origin: Origin::File(claim.path.clone()),
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

    fn claim(file: &str, standing: Standing, held: Option<Arc<StaticPod>>) -> Claim {
        Claim {
            path: Path::new("/m").join(file),
            standing,
            held,
            gone: false,
        }
    }

    fn says(pod: Arc<StaticPod>) -> Standing {
        Standing::Accepted(Accepted {
            pod,
            warnings: Vec::new(),
        })
    }

    fn broken() -> Standing {
        let message = "broken";
        Standing::Refused(vec![Problem::of_file(message)])
    }

    /// Returns running Pods as `UID file`, and refused files as `file keeps`.
    fn outcome(claims: &[Claim]) -> (Vec<String>, Vec<String>) {
        let desired = settle(claims, None);
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

    fn new(file: &str, name: &str, version: u32) -> Claim {
        claim(file, says(pod(name, version)), None)
    }

    fn runs(file: &str, name: &str, version: u32) -> Claim {
        claim(file, says(pod(name, version)), Some(pod(name, version)))
    }

    /// A file that names the first Pod and ran the second.
    fn edited(file: &str, name: &str, held: &str) -> Claim {
        claim(file, says(pod(name, 1)), Some(pod(held, 1)))
    }

    fn ran(file: &str, name: &str, version: u32) -> Claim {
        claim(file, broken(), Some(pod(name, version)))
    }

    fn gone(claim: Claim) -> Claim {
        Claim {
            gone: true,
            ..claim
        }
    }

    /// Input, expected running Pods and expected refusals.
    type Row<'a> = (&'a str, Vec<Claim>, &'a [&'a str], &'a [&'a str]);

    fn check(rows: &[Row]) {
        for (what, claims, runs, refused) in rows {
            assert_eq!(outcome(claims), (strings(runs), strings(refused)), "{what}");
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
                vec![claim("a.yaml", broken(), None)],
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
                vec![claim("web.yaml", Standing::Unread, Some(pod("web", 1)))],
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
        let copy = claim("web.bak", says(pod("web", 2)), None);
        let desired = settle(&[copy, claim("web.yaml", says(pod("web", 1)), None)], None);
        let message = &desired.refused[0].problems[0].message;
        assert!(
            message.contains("/m/web.yaml") && message.contains("/m/web.bak"),
            "{message}"
        );
    }

    fn any_pod() -> impl Strategy<Value = Arc<StaticPod>> {
        (prop::sample::select(vec!["a", "b", "c"]), 0..3u32).prop_map(|(name, v)| pod(name, v))
    }

    fn any_claim(file: String) -> impl Strategy<Value = Claim> {
        let standing = prop_oneof![
            1 => Just(Standing::Unread),
            4 => any_pod().prop_map(says),
            2 => Just(broken()),
        ];
        let held = prop::option::of(any_pod());
        (standing, held, prop::bool::weighted(0.2)).prop_map(move |(standing, held, gone)| Claim {
            gone,
            ..claim(&file, standing, held)
        })
    }

    fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
        let files = prop::collection::btree_set("[a-d]{1,2}(\\.yaml|\\.yml|\\.json|\\.bak|)", 0..7);
        let claims =
            files.prop_flat_map(|files| files.into_iter().map(any_claim).collect::<Vec<_>>());
        claims.prop_map(|mut claims| {
            // A Pod runs from one file, so no two files hold it.
            let mut keys = std::collections::BTreeSet::new();
            for claim in &mut claims {
                let repeated = |pod: &mut Arc<StaticPod>| !keys.insert(pod.key.clone());
                claim.held.take_if(repeated);
            }
            claims
        })
    }

    proptest! {
        #[test]
        fn the_order_of_files_is_irrelevant(
            (claims, shuffled) in any_claims().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle()))
        ) {
            prop_assert_eq!(settle(&claims, None), settle(&shuffled, None));
        }

        #[test]
        fn a_copy_takes_no_pod_from_a_usual_ending_nor_from_a_file_it_runs_from(
            mut claims in any_claims(), copied in any_pod()
        ) {
            let before = settle(&claims, None);
            let usual_ending = |file: &Path| manifest_stem(file.file_name().unwrap()).is_some();
            let held = |claim: &Claim| Some((claim.path.clone(), claim.held.clone()?.key.clone()));
            let holders: Vec<(PathBuf, PodKey)> = claims.iter().filter_map(held).collect();
            claims.push(claim("copy.bak", says(Arc::clone(&copied)), None));
            let after = settle(&claims, None);
            for (key, wanted) in &before.pods {
                if usual_ending(wanted.origin.file().unwrap())
                    || holders.contains(&(wanted.origin.file().unwrap().to_owned(), key.clone())) {
                    prop_assert_eq!(after.pods.get(key), Some(wanted));
                }
            }
        }

        #[test]
        fn what_a_file_that_is_there_held_runs_unless_another_file_runs_it(claims in any_claims()) {
            let desired = settle(&claims, None);
            for claim in claims.iter().filter(|claim| !matches!(claim.standing, Standing::Accepted(_))) {
                if let Some(held) = &claim.held {
                    prop_assert!(desired.pods.contains_key(&held.key));
                }
            }
        }

        #[test]
        fn each_file_runs_one_pod_at_most_and_each_refusal_is_about_the_file_as_it_stands(
            claims in any_claims()
        ) {
            let desired = settle(&claims, None);
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
