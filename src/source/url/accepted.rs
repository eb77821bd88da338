//! Changes that a new document makes: pure.
//!
//! The invariant: a Pod goes only when a document that can be read whole does not name it. A Pod that a
//! document names, but that is refused, keeps the version that it last had.

use std::collections::BTreeMap;

use crate::manifest::objects::{Object, ObjectContent, ObjectKey};
use crate::manifest::{Accepted, ObjectEntry, PackedPod, PodEntry, PodKey, Problem};

/// A Pod as it was last accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AcceptedVersion {
    pub(super) pod: PackedPod,
    pub(super) warnings: Vec<Problem>,
    /// The digest of the document that it stands in.
    pub(super) document: String,
}

/// The Pods in force.
pub(super) type AcceptedPods = BTreeMap<PodKey, AcceptedVersion>;

/// An object as it was last accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AcceptedObject {
    pub(super) content: ObjectContent,
    /// The digest of the document that it stands in.
    pub(super) document: String,
}

/// The objects in force.
pub(super) type AcceptedObjects = BTreeMap<ObjectKey, AcceptedObject>;

/// An entry that is refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RefusedEntry {
    pub(super) problems: Vec<Problem>,
    /// The Pod that keeps its last version.
    pub(super) keeps: Option<PodKey>,
}

/// Returns the Pods in force after a document with these entries, and the entries that are refused.
pub(super) fn take(
    before: &AcceptedPods,
    entries: Vec<PodEntry>,
    document: &str,
) -> (AcceptedPods, Vec<RefusedEntry>) {
    let mut next = AcceptedPods::new();
    let mut bad = vec![];
    let mut refused = vec![];
    for entry in entries {
        match entry.result {
            Ok(accepted) => {
                let known = before.get(&accepted.pod.key);
                if let Some(loser) = add(&mut next, known, accepted, document) {
                    bad.push(loser);
                }
            }
            Err(problems) => refused.push((entry.key, problems)),
        }
    }
    // Any Pod that this document does not seem to name may be the one that cannot be identified.
    let unidentified = refused.iter().any(|(key, _)| key.is_none());
    for (key, version) in before {
        let named = refused.iter().any(|(bad, _)| bad.as_ref() == Some(key));
        if (named || unidentified) && !next.contains_key(key) {
            next.insert(key.clone(), version.clone());
        }
    }
    for (key, mut problems) in refused {
        if key.is_none() && !before.is_empty() {
            problems.push(Problem::of_file(
                "which Pod this is cannot be told, so no Pod is removed until it is mended",
            ));
        }
        let keeps = key.filter(|key| next.get(key).is_some_and(|v| Some(v) == before.get(key)));
        bad.push(RefusedEntry { problems, keeps });
    }
    (next, bad)
}

/// Returns the objects in force after a document with these, and what of it is not carried out. One that is
/// named but broken stays as it was.
pub(super) fn take_objects(
    before: &AcceptedObjects,
    entries: Vec<ObjectEntry>,
    document: &str,
) -> (AcceptedObjects, Vec<RefusedEntry>) {
    let mut next = AcceptedObjects::new();
    let mut bad = vec![];
    let mut refuse = |problems| {
        bad.push(RefusedEntry {
            problems,
            keeps: None,
        });
    };
    let mut unidentified = false;
    for ObjectEntry { key, result } in entries {
        match (result, key) {
            (Ok(object), _) => {
                let Object { key, content, .. } = object;
                let document = document.to_owned();
                let object = AcceptedObject { content, document };
                match next.get(&key) {
                    None => {
                        next.insert(key, object);
                        continue;
                    }
                    Some(first) if first.content == object.content => continue,
                    Some(_) => {}
                }
                let message = format!(
                    "{key} stands more than once in the document, with different content; the one in use \
                     counts, or the first"
                );
                refuse(vec![Problem {
                    field: "metadata.name".to_owned(),
                    ..Problem::of_file(message)
                }]);
                // It is found again in the document where it is the first.
                let known = before.get(&key);
                if let Some(known) = known.filter(|known| known.content == object.content) {
                    next.insert(key, known.clone());
                }
            }
            (Err(problems), key) => {
                refuse(problems);
                match key.and_then(|key| Some((before.get(&key)?.clone(), key))) {
                    Some((object, key)) => {
                        next.entry(key).or_insert(object);
                    }
                    None => unidentified = true,
                }
            }
        }
    }
    if unidentified {
        // Any object that this document does not seem to have may be the one that cannot be identified.
        for (key, object) in before {
            next.entry(key.clone()).or_insert_with(|| object.clone());
        }
    }
    (next, bad)
}

/// Adds a Pod. Of two in one document that have the same name, the one that runs already stays, or the
/// first; returns the other.
fn add(
    next: &mut AcceptedPods,
    known: Option<&AcceptedVersion>,
    accepted: Accepted,
    document: &str,
) -> Option<RefusedEntry> {
    let Accepted { pod, warnings } = accepted;
    let key = pod.key.clone();
    let version = AcceptedVersion {
        pod: pod.into(),
        warnings,
        document: document.to_owned(),
    };
    let Some(first) = next.get(&key) else {
        next.insert(key, version);
        return None;
    };
    if first.pod.uid == version.pod.uid {
        return None;
    }
    let runs =
        |version: &AcceptedVersion| known.is_some_and(|known| known.pod.uid == version.pod.uid);
    if runs(&version) {
        next.insert(key.clone(), version);
    }
    Some(RefusedEntry {
        problems: vec![repeated(&key)],
        keeps: None,
    })
}

/// Returns the problem of a Pod that a document contains more than once.
#[must_use]
pub fn repeated(key: &PodKey) -> Problem {
    let message = format!(
        "Pod {key} stands more than once in the document, with different content, and only one of \
         them is carried out; remove the others or give their Pods other names"
    );
    Problem {
        field: "metadata.name".to_owned(),
        ..Problem::of_file(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse_all};

    /// A document of Pods: `a1` is version 1 of Pod a, `a!` a broken Pod a, `?` something else.
    fn entries(words: &str) -> Vec<PodEntry> {
        let item = |word: &str| {
            let (name, version) = word.split_at(1);
            match version {
                "" => "{\"kind\": \"Pod\"}".to_owned(),
                "!" => format!("{{\"metadata\": {{\"name\": \"{name}\"}}, \"spec\": 7}}"),
                _ => format!(
                    "{{\"metadata\": {{\"name\": \"{name}\"}}, \"spec\": {{\"containers\": \
                     [{{\"name\": \"c\", \"image\": \"i:{version}\"}}]}}}}"
                ),
            }
        };
        let items: Vec<_> = words.split_whitespace().map(item).collect();
        let text = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": [{}]}}",
            items.join(", ")
        );
        parse_all(text.as_bytes(), "n", SourceKind::Http)
            .unwrap()
            .pods
    }

    fn words(accepted: &AcceptedPods) -> String {
        let word = |version: &AcceptedVersion| {
            let pod = version.pod.unpack();
            let image = pod.containers()[0].image.as_deref().unwrap();
            let name = version.pod.key.name.trim_end_matches("-n");
            format!("{name}{}", image.trim_start_matches("i:"))
        };
        accepted.values().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn of_two_objects_the_one_in_use_counts_wherever_it_stands() {
        let settings = |text: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: s}}\ndata: {{k: {text}}}\n---\n"
            )
        };
        let take_from = |document: &str, before: &AcceptedObjects, text: String| {
            let objects = parse_all(text.as_bytes(), "n", SourceKind::Http)
                .unwrap()
                .objects;
            take_objects(before, objects, document)
        };
        let take = |before: &AcceptedObjects, text| take_from("1", before, text);
        let (used, bad) = take(&AcceptedObjects::new(), settings("one"));
        assert!(bad.is_empty());
        // In another document, the one in use is no other for that, however often it stands there.
        let often = settings("two") + &settings("one") + &settings("one");
        let (next, bad) = take_from("2", &used, often);
        assert_eq!((next, bad.len()), (used.clone(), 1));
        let broken = settings("one").replace("data: {k: one}", "data: 7");
        let (next, bad) = take_from("2", &used, broken + &settings("one"));
        assert_eq!((next, bad.len()), (used.clone(), 1));
        for text in [
            settings("two") + &settings("one"),
            settings("one") + &settings("two"),
            settings("one") + &settings("one") + &settings("two"),
        ] {
            let (next, bad) = take(&used, text);
            assert_eq!((next, bad.len()), (used.clone(), 1));
        }
        let (next, _) = take(&AcceptedObjects::new(), settings("two") + &settings("one"));
        assert_ne!(next, used, "the first of two that are new");
    }

    #[test]
    fn a_document_changes_what_it_says_and_nothing_else() {
        for (before, document, after, bad, kept) in [
            ("", "a1 b1", "a1 b1", 0, 0),
            ("a1 b1", "a2 c1", "a2 c1", 0, 0),
            ("a1", "", "", 0, 0),
            // A broken Pod keeps its last version, and the others change.
            ("a1 b1 c1", "a! b2", "a1 b2", 1, 1),
            // A broken Pod that never ran.
            ("b1", "a! b2", "b2", 1, 0),
            // A broken Pod that cannot be identified may be any.
            ("a1 b1", "? b2", "a1 b2", 1, 0),
            ("a1 b1", "?", "a1 b1", 1, 0),
            // One of two runs, the one that runs already before others.
            ("", "a1 a2", "a1", 1, 0),
            ("a2", "a1 a2 a3", "a2", 2, 0),
            ("a1", "a1 a1", "a1", 0, 0),
            // A broken one beside a good one takes nothing back.
            ("a1", "a! a2", "a2", 1, 0),
        ] {
            let (accepted, none) = take(&AcceptedPods::new(), entries(before), "1");
            assert!(none.is_empty());
            let (accepted, refused) = take(&accepted, entries(document), "2");
            let what = format!("{before:?} then {document:?}");
            assert_eq!(words(&accepted), after, "{what}");
            assert_eq!(refused.len(), bad, "{what}: {refused:#?}");
            let keeps = refused.iter().filter(|bad| bad.keeps.is_some()).count();
            assert_eq!(keeps, kept, "{what}: {refused:#?}");
            let (again, refused_again) = take(&accepted, entries(document), "2");
            assert_eq!(words(&again), after, "{what}, again");
            assert_eq!(refused_again.len(), bad, "{what}, again");
        }
    }
}
