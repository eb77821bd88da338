//! Allocation of Pods to manifest files: the rule for manifests that name the same Pod, and for broken ones.
//!
//! Pure: candidates in, a whole [`Desired`] out. The invariants: every Pod is wanted by exactly one file; the
//! order in which candidates come does not matter; and a file that exists, but is refused as it is now, keeps
//! the version that it last ran.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Desired, DesiredPod, Origin, Refused};
use crate::manifest::{Accepted, PackedPod, PodKey, Problem};

/// State of a file as it is now.
#[derive(Debug, Clone)]
pub(super) enum ManifestState {
    /// Not read since the agent's start.
    Unread,
    /// A Pod, and warnings about it.
    Accepted(PackedPod, Vec<Problem>),
    /// Good, and no Pod in it.
    NoPod,
    /// Nothing that is accepted.
    Refused(Vec<Problem>),
}

impl From<&Accepted> for ManifestState {
    fn from(accepted: &Accepted) -> Self {
        Self::Accepted(PackedPod::from(&accepted.pod), accepted.warnings.clone())
    }
}

/// A manifest path as a candidate for a Pod.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// The manifest.
    pub(super) path: PathBuf,
    /// State of the file as it is now.
    pub(super) state: ManifestState,
    /// The version in force: the one that last ran from it.
    pub(super) in_force: Option<PackedPod>,
    /// The file was there, and was not at the last relist; whether it is gone is not sure yet.
    pub(super) gone: bool,
}

impl Candidate {
    /// Returns the Pod that the file asks for: a file that may be gone asks for nothing new, and a broken
    /// one for what it had.
    fn first_choice(&self) -> Option<&PackedPod> {
        match &self.state {
            ManifestState::Accepted(pod, _) if !self.gone => Some(pod),
            ManifestState::NoPod => None,
            _ => self.in_force.as_ref(),
        }
    }

    /// Sorts the candidate that gets Pod `key` first.
    fn rank(&self, key: &PodKey) -> impl Ord {
        let holds = self.in_force.as_ref().is_some_and(|pod| pod.key == *key);
        let name = self.path.file_name().unwrap_or_default();
        let stem = manifest_stem(name);
        (
            stem.is_none(),
            !holds,
            stem.unwrap_or(name).to_owned(),
            self.path.as_os_str().to_owned(),
        )
    }

    /// Returns the warnings that go with `pod`, when it is what the file says as it stands.
    fn warnings_on(&self, pod: &PackedPod) -> Vec<Problem> {
        match &self.state {
            ManifestState::Accepted(accepted, warnings) if accepted.is_same(pod) => {
                warnings.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// Returns the files whose Pod another one has already, each with its problem, where nothing is known of what
/// runs.
pub fn duplicate_pods<'a>(
    pods: impl IntoIterator<Item = (&'a Path, &'a Accepted)>,
) -> Vec<(PathBuf, Problem)> {
    let candidate = |(path, accepted): (&Path, &Accepted)| Candidate {
        path: path.to_owned(),
        state: ManifestState::from(accepted),
        in_force: None,
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
    pod: &'a PackedPod,
    /// The file's own Pod went to another file, so that it keeps the one in force.
    fell_back: bool,
}

/// Allocates each Pod to one file.
///
/// Of several candidates for one Pod, names ending in `.yaml`, `.yml` or `.json` come first, then the
/// file that the Pod already runs from, then the order of file names. A file that so loses the Pod
/// it names is refused, and keeps the Pod in force, if that was another. While the
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
    let by_path: HashMap<&OsStr, &Allocation> = winners
        .values()
        .map(|allocation| (allocation.candidate.path.as_os_str(), allocation))
        .collect();
    for candidate in &candidates {
        let won = by_path.get(candidate.path.as_os_str()).copied();
        desired.refused.extend(refusal(candidate, won, &winners));
    }
    let wanted = |allocation: Allocation| DesiredPod {
        pod: allocation.pod.clone(),
        origin: Origin::File(allocation.candidate.path.clone()),
        warnings: allocation.candidate.warnings_on(allocation.pod),
    };
    let pods = winners.into_iter();
    let pods: BTreeMap<_, _> = pods.map(|(key, won)| (key.clone(), wanted(won))).collect();
    desired.pods = Arc::new(pods);
    desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
    desired
}

/// Returns the best candidate for each Pod. A loser with another Pod in force competes for that one next, at most
/// once, until nothing changes; since a candidate only ever yields to a better one, the outcome does not depend on
/// the order.
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
        let in_force = loser
            .candidate
            .in_force
            .as_ref()
            .filter(|in_force| in_force.key != loser.pod.key);
        allocations.extend(in_force.map(|pod| Allocation {
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
        ManifestState::Accepted(accepted, _) => {
            let winner = winners.get(&accepted.key)?.candidate;
            let fell_back = won.is_some_and(|allocation| allocation.fell_back);
            let lost = won.is_none() || fell_back;
            if !lost || candidate.gone || winner.gone {
                return None;
            }
            vec![duplicate(&accepted.key, &candidate.path, &winner.path)]
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
