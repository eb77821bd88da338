//! Order of Pods' first starts: those that would wait for each other are refused.
//!
//! Pure. The invariant: the Pods that are left wait for each other in no circle, and a version that was accepted before
//! is never taken away for what came after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DesiredPod, Origin, Refused};
use crate::manifest::{Accepted, PackedPod, PodKey, Problem, StaticPod};

/// Pods that are wanted, by their keys.
pub(super) type OrderedPods = BTreeMap<PodKey, DesiredPod>;

/// Most Pods of a circle that a message names.
const NAMED: usize = 20;
/// Most Pods that wait for each other of which each gets a circle of its own: a search takes as long as there are Pods.
const SEARCHED: usize = 200;

/// Returns true if Pods wait for each other.
pub(super) fn has_cycle(pods: &OrderedPods) -> bool {
    !blocked(pods).is_empty()
}

/// Refuses Pods that would wait for each other. Versions that are in force stay: of a circle, those that came to it are
/// refused, and what is in force of their Pods runs on. `in_force` is the version of a Pod that was accepted before.
pub(super) fn refuse_cycles(
    pods: &mut OrderedPods,
    in_force: impl Fn(&PodKey) -> Option<DesiredPod>,
) -> Vec<Refused> {
    let mut refused = vec![];
    // Each round takes at least one Pod, or what it is started after, out of the circles.
    loop {
        let cycles = cycles(pods);
        if cycles.is_empty() {
            return refused;
        }
        let accepted: BTreeMap<PodKey, DesiredPod> = cycles
            .keys()
            .filter_map(|key| Some((key.clone(), in_force(key)?)))
            .collect();
        let is_new = |key: &PodKey| {
            let before = accepted.get(key).map(|before| &before.pod.uid);
            before != pods.get(key).map(|wanted| &wanted.pod.uid)
        };
        let new: BTreeSet<PodKey> = cycles.keys().filter(|key| is_new(key)).cloned().collect();
        for (key, cycle) in cycles {
            if new.is_empty() || new.contains(&key) {
                let before = accepted.get(&key).cloned();
                refused.extend(refuse(pods, &key, &cycle, before));
            }
        }
    }
}

/// Returns the files whose Pods would wait for each other, each with its problem, where nothing is known of what runs.
pub fn circular_pods<'a>(
    pods: impl IntoIterator<Item = (&'a Path, &'a Accepted)>,
) -> Vec<(PathBuf, Problem)> {
    let wanted = |(path, accepted): (&Path, &Accepted)| {
        let wanted = DesiredPod {
            pod: PackedPod::from(&accepted.pod),
            origin: Origin::File(path.to_owned()),
            warnings: vec![],
        };
        (wanted.pod.key.clone(), wanted)
    };
    let mut pods: OrderedPods = pods.into_iter().map(wanted).collect();
    let refused = refuse_cycles(&mut pods, |_| None).into_iter();
    let of_file = refused.filter_map(|refused| {
        let path = refused.origin.file()?.to_owned();
        Some((path, refused.problems.into_iter().next()?))
    });
    of_file.collect()
}

/// Refuses one Pod of a circle.
fn refuse(
    pods: &mut OrderedPods,
    key: &PodKey,
    cycle: &Circle,
    before: Option<DesiredPod>,
) -> Option<Refused> {
    let wanted = pods.remove(key)?;
    let order = wanted.pod.start_after.as_ref()?;
    let refused = Refused {
        origin: wanted.origin.clone(),
        problems: vec![order.problem(message(cycle))],
        keeps: before.is_some().then(|| key.clone()),
    };
    if let Some(before) = before {
        let is_same = before.pod.uid == wanted.pod.uid;
        // What is in force would wait as well, for one that waits for it.
        let pod = if is_same {
            without_order(&before.pod)
        } else {
            before.pod
        };
        let origin = wanted.origin;
        let warnings = before.warnings;
        pods.insert(
            key.clone(),
            DesiredPod {
                pod,
                origin,
                warnings,
            },
        );
    }
    Some(refused)
}

fn without_order(pod: &PackedPod) -> PackedPod {
    let mut pod = StaticPod::clone(&pod.unpack());
    pod.start_after = None;
    PackedPod::from(&pod)
}

fn message(cycle: &Circle) -> String {
    let names: Vec<String> = cycle.named.iter().map(ToString::to_string).collect();
    let more = match cycle.length.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" -> ({more} more)"),
    };
    let first = names.first().cloned().unwrap_or_default();
    format!(
        "makes Pods wait for each other: {}{more} -> {first}",
        names.join(" -> ")
    )
}

/// Pods, each with those that it waits for.
type Waits<'a> = BTreeMap<&'a PodKey, Vec<&'a PodKey>>;

/// A circle of Pods, as a message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Circle {
    /// The first Pods of it.
    named: Vec<PodKey>,
    length: usize,
}

impl Circle {
    fn of(way: &[&PodKey]) -> Self {
        Self {
            named: way.iter().take(NAMED).copied().cloned().collect(),
            length: way.len(),
        }
    }
}

/// Returns the Pods that are in a circle, each with the shortest one, itself first. Where very many are in circles that
/// have to do with each other, one stands for all of them.
fn cycles(pods: &OrderedPods) -> BTreeMap<PodKey, Arc<Circle>> {
    let blocked = blocked(pods);
    let mut found = BTreeMap::new();
    for together in tied(&blocked) {
        let members: BTreeSet<&PodKey> = together.iter().copied().collect();
        let way = |start| way_back(&blocked, &members, start).map(|way| Arc::new(Circle::of(&way)));
        let shared = (together.len() > SEARCHED)
            .then(|| way(together[0]))
            .flatten();
        for key in together {
            if let Some(circle) = shared.clone().or_else(|| way(key)) {
                found.insert(key.clone(), circle);
            }
        }
    }
    found
}

/// Returns the groups of Pods of which each waits, over others, for all of its group (strongly connected components, by
/// Kosaraju's two searches), without recursion.
fn tied<'a>(after: &Waits<'a>) -> Vec<Vec<&'a PodKey>> {
    let mut done: Vec<&PodKey> = vec![];
    let mut seen: BTreeSet<&PodKey> = BTreeSet::new();
    for start in after.keys() {
        // Each with how many of those that it waits for were gone through.
        let mut path = vec![(*start, 0_usize)];
        if !seen.insert(start) {
            continue;
        }
        while let Some((key, next)) = path.last_mut() {
            let other = after.get(key).and_then(|named| named.get(*next)).copied();
            *next = next.saturating_add(1);
            match other {
                Some(other) if after.contains_key(other) && seen.insert(other) => {
                    path.push((other, 0));
                }
                Some(_) => {}
                None => {
                    done.push(key);
                    path.pop();
                }
            }
        }
    }
    let mut followers: Waits = BTreeMap::new();
    for (key, named) in after {
        for other in named {
            followers.entry(other).or_default().push(key);
        }
    }
    let mut groups = vec![];
    let mut left = seen;
    while let Some(start) = done.pop() {
        let mut group = vec![];
        let mut next = vec![start];
        while let Some(key) = next.pop() {
            if left.remove(key) {
                group.push(key);
                next.extend(followers.get(key).into_iter().flatten());
            }
        }
        if !group.is_empty() {
            groups.push(group);
        }
    }
    groups
}

/// Returns the Pods that are in a circle, or wait for one that is.
fn blocked(pods: &OrderedPods) -> Waits<'_> {
    let mut left: Waits = pods
        .iter()
        .filter_map(|(key, wanted)| {
            let named = wanted.pod.start_after.as_ref()?.pods.iter();
            Some((key, named.collect()))
        })
        .collect();
    // What waits for no other Pod that waits comes up, and then what waits for that.
    let mut counts: BTreeMap<&PodKey, usize> = BTreeMap::new();
    let mut followers: Waits = BTreeMap::new();
    for (key, named) in &left {
        let named: Vec<&PodKey> = named
            .iter()
            .filter(|other| left.contains_key(*other))
            .copied()
            .collect();
        counts.insert(key, named.len());
        for other in named {
            followers.entry(other).or_default().push(key);
        }
    }
    let none = counts.iter().filter(|(_, count)| **count == 0);
    let mut free: Vec<&PodKey> = none.map(|(key, _)| *key).collect();
    while let Some(key) = free.pop() {
        left.remove(key);
        for follower in followers.remove(key).unwrap_or_default() {
            if let Some(count) = counts.get_mut(follower) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    free.push(follower);
                }
            }
        }
    }
    left
}

/// Returns the shortest way from a Pod over others of its group back to it.
fn way_back<'a>(
    after: &Waits<'a>,
    group: &BTreeSet<&'a PodKey>,
    start: &'a PodKey,
) -> Option<Vec<&'a PodKey>> {
    let mut from: BTreeMap<&PodKey, &PodKey> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(key) = next.pop_front() {
        for other in after.get(key).into_iter().flatten().copied() {
            if other == start {
                let mut way = vec![key];
                let mut at = key;
                while let Some(before) = from.get(at) {
                    way.push(*before);
                    at = before;
                }
                way.reverse();
                return Some(way);
            }
            if group.contains(other) && !from.contains_key(other) {
                from.insert(other, key);
                next.push_back(other);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};

    /// The Pods of these words: `a2>b,c` is version 2 of Pod a, which starts after b and c.
    fn pods(words: &str) -> OrderedPods {
        let pod = |word: &str| {
            let (name, after) = word.split_once('>').unwrap_or((word, ""));
            let (name, version) = name.split_at(1);
            let order = if after.is_empty() {
                String::new()
            } else {
                format!("annotations: {{podkeeper.io/start-after: \"{after}\"}},")
            };
            let text = format!(
                "{{apiVersion: v1, kind: Pod,\nmetadata: {{name: {name}, {order} labels: {{v: \"{version}\"}}}},\
                 spec: {{containers: [{{name: c, image: i}}]}}}}"
            );
            let pod = parse(text.as_bytes(), "n", SourceKind::File).unwrap().pod;
            let origin = Origin::File(format!("/m/{name}.yaml").into());
            let warnings = vec![];
            let wanted = DesiredPod {
                pod: PackedPod::from(pod),
                origin,
                warnings,
            };
            (wanted.pod.key.clone(), wanted)
        };
        words.split_whitespace().map(pod).collect()
    }

    fn words(pods: &OrderedPods) -> String {
        let word = |wanted: &DesiredPod| {
            let version = &wanted.pod.get().metadata.labels.as_ref().unwrap()["v"];
            let name = wanted.pod.key.name.trim_end_matches("-n");
            format!("{name}{version}")
        };
        pods.values().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn of_a_circle_what_came_to_it_is_refused_and_what_was_accepted_stays() {
        for (before, now, after, refused) in [
            ("", "a b>a c>a,b,z", "a b c", ""),
            // New ones are not started, and what waits for them is none of the circle.
            ("", "a>b b>a c>a d", "c d", "a b"),
            ("", "a>b b>c c>a", "", "a b c"),
            // An edit is refused, and the version before it runs on.
            ("a1 b>a", "a2>b b>a", "a1 b", "a"),
            ("a1 b1", "a2>b b2>a", "a1 b1", "a b"),
            // A new Pod closes a circle of Pods that run.
            ("a>c b>a", "a>c b>a c>b", "a b", "c"),
            // What went back to its version before closes another circle.
            ("a1>c b", "a2>b b2>a c>a", "a1 b", "a b c"),
            // All of it was accepted once, by an agent without these rules.
            ("a>b b>a", "a>b b>a", "a b", "a b"),
        ] {
            let (before, mut now) = (pods(before), pods(now));
            let found = refuse_cycles(&mut now, |key| before.get(key).cloned());
            assert_eq!(words(&now), after);
            assert!(!has_cycle(&now));
            let mut names: Vec<&str> = found.iter().map(|r| r.problems[0].field.as_str()).collect();
            names.dedup();
            assert!(
                found.is_empty() || names == ["metadata.annotations[podkeeper.io/start-after]"]
            );
            let of = |refused: &Refused| {
                let file = refused.origin.file().unwrap().file_stem().unwrap();
                file.to_str().unwrap().to_owned()
            };
            let mut names: Vec<String> = found.iter().map(of).collect();
            names.sort();
            assert_eq!(names.join(" "), refused);
            for refused in &found {
                let name = format!("{}-n", of(refused));
                let kept = before.keys().any(|key| key.name == name);
                assert_eq!(refused.keeps.is_some(), kept, "{refused:?}");
            }
        }
    }

    #[test]
    fn the_message_names_the_whole_circle_and_its_place() {
        let mut now = pods("a>b b>c c>a,b");
        let found = refuse_cycles(&mut now, |_| None);
        let problem = &found[0].problems[0];
        assert_eq!(
            problem.message,
            "makes Pods wait for each other: default/a-n -> default/b-n -> default/c-n -> default/a-n"
        );
        assert_eq!((problem.line, problem.column), (2, 61));
        let found = &found[1].problems[0].message;
        assert!(
            found.ends_with(": default/b-n -> default/c-n -> default/b-n"),
            "{found}"
        );
    }

    #[test]
    fn a_circle_of_thousands_is_found_and_named_in_part() {
        let chain: Vec<String> = (0..3000).map(|i| format!("p{i}")).collect();
        let mut all = OrderedPods::new();
        for (i, name) in chain.iter().enumerate() {
            let after = &chain[(i + 1) % chain.len()];
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: \
                 {{podkeeper.io/start-after: {after}}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}"
            );
            let pod = parse(text.as_bytes(), "n", SourceKind::File).unwrap().pod;
            let origin = Origin::Url("http://x".to_owned());
            let warnings = vec![];
            all.insert(
                pod.key.clone(),
                DesiredPod {
                    pod: PackedPod::from(pod),
                    origin,
                    warnings,
                },
            );
        }
        let mut one = all.clone();
        one.retain(|key, _| !key.name.starts_with("p2999-"));
        assert!(!has_cycle(&one), "a chain is none");
        let cycle = cycles(&all);
        assert_eq!(cycle.len(), 3000);
        let message = message(cycle.values().next().unwrap());
        assert!(message.contains(" -> (2980 more) -> "), "{message}");
    }
}
