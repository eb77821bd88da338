//! Who gets which Pod: the rule for manifests that name the same Pod, and for broken ones.
//!
//! Pure: claims in, a whole [`Desired`] out. The invariants: every Pod is wanted by exactly one
//! file; the order in which claims come does not matter; and a file that is there, but cannot be
//! carried out as it stands, keeps the version that it last ran.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Desired, DesiredPod, Refused};
use crate::manifest::{Accepted, PodKey, Problem, StaticPod};

/// What the file says as it stands.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// Not looked at since the agent's start.
    Unread,
    /// A Pod.
    Accepted(Accepted),
    /// Nothing that could be carried out.
    Refused(Vec<Problem>),
}

/// One manifest path's claim to a Pod.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The manifest.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) standing: Standing,
    /// The version that was last carried out from it.
    pub(super) held: Option<Arc<StaticPod>>,
    /// The file was there, and was not at the last look; whether it is gone is not sure yet.
    pub(super) gone: bool,
}

impl Claim {
    /// The Pod that the file asks for: a file that may be gone asks for nothing new, and a broken
    /// one for what it had.
    fn first_choice(&self) -> Option<&Arc<StaticPod>> {
        match &self.standing {
            Standing::Accepted(accepted) if !self.gone => Some(&accepted.pod),
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
        unreadable,
        ..Desired::default()
    };
    for claim in &claims {
        let won = winners.values().find(|bid| bid.claim.path == claim.path);
        desired.refused.extend(refusal(claim, won, &winners));
    }
    for (key, Bid { claim, pod, .. }) in winners {
        let warnings = claim.warnings_on(pod);
        let wanted = DesiredPod {
            pod: Arc::clone(pod),
            path: claim.path.clone(),
            warnings,
        };
        desired.pods.insert(key.clone(), wanted);
    }
    desired.refused.sort_by(|a, b| a.path.cmp(&b.path));
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

/// Why the claim's file is not carried out as it stands, if so.
fn refusal(claim: &Claim, won: Option<&Bid>, winners: &BTreeMap<&PodKey, Bid>) -> Option<Refused> {
    let problems = match &claim.standing {
        Standing::Unread => return None,
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
        path: claim.path.clone(),
        problems,
        keeps,
    })
}

fn duplicate(key: &PodKey, path: &Path, winner: &Path) -> Problem {
    Problem {
        line: 0,
        column: 0,
        field: "metadata.name".to_owned(),
        message: format!(
            "Pod {key} is defined by {} already, so {} is not carried out; remove one of the two \
             files or give its Pod another name",
            winner.display(),
            path.display(),
        ),
    }
}
