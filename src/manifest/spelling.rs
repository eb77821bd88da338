//! Suggestions for unknown fields: a similar name, or the object where the field belongs.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "positions and counts in a text whose size is bounded"
)]

use std::cmp::Reverse;
use std::sync::LazyLock;

use super::fields::treatment;
use super::hints;
use super::schema::{ObjectSchema, Schema, pod};

/// The field of the Pod, and of a probe.
const GRACE_PERIOD: &str = "terminationGracePeriodSeconds";
/// Longer than any name of a field by far; what is longer is no slip of the pen.
const LONGEST: usize = 64;

/// Path of an object without the indexes of list items: `["spec", "containers[]"]`.
pub(super) type ObjectPath = Vec<String>;

/// A field that the object at its path does not have.
#[derive(Debug)]
pub(super) struct Unknown {
    /// The suggestion.
    pub(super) message: String,
    /// The field that was.
    pub(super) meant: Option<Meant>,
}

/// A field that was probably meant by another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// One of the same object.
    Here(&'static str),
    /// One of any object, by its path without the numbers of lists' items.
    There(String),
}

/// Returns the suggestion for a field that the object at this path does not have.
pub(super) fn unknown_field(name: &str, object: &ObjectSchema, place: &[String]) -> Unknown {
    let unknown = |message: String, meant| Unknown { message, meant };
    let hint = hints::of_template(name);
    if !hint.is_empty() {
        return unknown(format!("unknown field{hint}. It has no effect"), None);
    }
    let names = object.fields.iter().map(|(name, _)| *name);
    let own = nearest(name, names);
    let elsewhere = elsewhere(name, place);
    // A name that is right elsewhere is hardly that of another field by two slips.
    let misplaced = elsewhere.as_ref().is_some_and(|(known, _)| *known == name);
    if let Some(known) = own.filter(|known| !misplaced || distance(name, known) <= Some(1)) {
        let message = format!("unknown field, did you mean {known}? It has no effect");
        return unknown(message, Some(Meant::Here(known)));
    }
    let Some((known, there)) = elsewhere else {
        return unknown("unknown field, it has no effect".to_owned(), None);
    };
    let (below, path) = match there.as_str() {
        "" => ("at the top of the document".to_owned(), known.to_owned()),
        there => (format!("below {there}"), format!("{there}.{known}")),
    };
    let message = if known == name {
        format!("unknown field here, it belongs {below}. It has no effect")
    } else {
        format!("unknown field, did you mean {known} {below}? It has no effect")
    };
    unknown(message, Some(Meant::There(path)))
}

/// The most similar of the names, if one is similar enough.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distances = names.filter_map(|known| Some((distance(name, known)?, known)));
    distances.min().map(|(_, known)| known)
}

/// Edit distance between two names; `None` if it is too large.
fn distance(name: &str, known: &str) -> Option<usize> {
    let most = 1 + name.len() / 4;
    if name.len() > LONGEST || name.len().abs_diff(known.len()) > most {
        return None;
    }
    let edits = strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase());
    (edits <= most && edits < known.len()).then_some(edits)
}

/// The nearest object that has a field of such a name, and what the field is called there.
fn elsewhere(name: &str, place: &[String]) -> Option<(&'static str, String)> {
    let objects = objects().iter();
    let candidates = objects.filter_map(|(there, object)| {
        // A probe's own grace period takes the place of the Pod's, which is the one that is meant
        // anywhere else.
        let in_probe = || place.len() >= there.len() && place[..there.len()] == **there;
        let overrides = |name: &str| (object.name, name) == ("Probe", GRACE_PERIOD) && !in_probe();
        let names = object.fields.iter().map(|(name, _)| *name);
        let names = names.filter(|name| !overrides(name));
        let known = nearest(name, names)?;
        let common = there.iter().zip(place).take_while(|(a, b)| a == b).count();
        let steps = there.len() + place.len() - 2 * common;
        // Of two places as near, the one inside is meant: what is written too far left.
        Some((
            distance(name, known)?,
            steps,
            Reverse(there.len()),
            there,
            known,
        ))
    });
    let (.., there, known) = candidates.min()?;
    Some((known, there.join(".")))
}

/// Every object of a Pod that is not settled by what is around it.
fn objects() -> &'static [(ObjectPath, &'static ObjectSchema)] {
    static OBJECTS: LazyLock<Vec<(ObjectPath, &'static ObjectSchema)>> = LazyLock::new(|| {
        let mut found = vec![];
        collect(pod(), &vec![], &mut found);
        found
    });
    &OBJECTS
}

fn collect(
    object: &'static ObjectSchema,
    at: &ObjectPath,
    into: &mut Vec<(ObjectPath, &'static ObjectSchema)>,
) {
    into.push((at.clone(), object));
    for (name, schema) in &object.fields {
        let settled = treatment(object.name, name).is_final();
        if let Some(inner) = schema.object().filter(|_| !settled) {
            let mut there = at.clone();
            there.push(step(name, schema));
            collect(inner, &there, into);
        }
    }
}

/// One part of an object's path.
pub(super) fn step(name: &str, schema: &Schema) -> String {
    match schema {
        Schema::List(_) => format!("{name}[]"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, place: &str) -> String {
        let place: ObjectPath = place.split('.').map(str::to_owned).collect();
        let found = objects().iter().find(|(there, _)| *there == place);
        unknown_field(name, found.expect("such a place").1, &place).message
    }

    #[test]
    fn a_slip_gives_the_nearest_name_that_is_right_at_that_place() {
        for (name, place, meant) in [
            (
                "imagePullPolcy",
                "spec.containers[]",
                "did you mean imagePullPolicy?",
            ),
            ("comand", "spec.containers[]", "did you mean command?"),
            ("hostpath", "spec.volumes[]", "did you mean hostPath?"),
            ("port", "spec.containers[]", "did you mean ports?"),
            (
                "mountpath",
                "spec.containers[].volumeMounts[]",
                "did you mean mountPath?",
            ),
            ("lables", "metadata", "did you mean labels?"),
        ] {
            let said = said(name, place);
            assert!(said.contains(meant), "{name} below {place}: {said}");
        }
    }

    #[test]
    fn a_field_at_the_wrong_place_is_told_where_it_belongs() {
        for (name, place, there) in [
            (
                "imagePullPolicy",
                "spec",
                "it belongs below spec.containers[].",
            ),
            (
                "volumeMounts",
                "spec",
                "it belongs below spec.containers[].",
            ),
            ("hostNetwork", "spec.containers[]", "it belongs below spec."),
            ("labels", "spec", "it belongs below metadata."),
            (
                GRACE_PERIOD,
                "spec.containers[]",
                "unknown field here, it belongs below spec. It",
            ),
            (GRACE_PERIOD, "metadata", "it belongs below spec. It"),
            (
                GRACE_PERIOD,
                "spec.containers[].lifecycle",
                "it belongs below spec. It",
            ),
            (
                GRACE_PERIOD,
                "spec.containers[].livenessProbe.httpGet",
                "it belongs below spec.containers[].livenessProbe.",
            ),
            (
                "command",
                "spec.containers[].livenessProbe",
                "it belongs below spec.containers[].livenessProbe.exec.",
            ),
            ("volumes", "spec.containers[]", "it belongs below spec. It"),
            ("restartPolicy", "metadata", "it belongs below spec. It"),
            ("host", "spec.containers[]", "it belongs below"),
            ("spec", "metadata", "it belongs at the top of the document."),
            ("metadata", "spec", "it belongs at the top of the document."),
            (
                "containerPort",
                "spec.containers[]",
                "it belongs below spec.containers[].ports[].",
            ),
            (
                "livenesProbe",
                "spec",
                "did you mean livenessProbe below spec.containers[]?",
            ),
            (
                "runAsUsr",
                "spec.containers[]",
                "did you mean runAsUser below spec.containers[].securityContext?",
            ),
        ] {
            let said = said(name, place);
            assert!(said.contains(there), "{name} below {place}: {said}");
        }
    }

    #[test]
    fn what_is_like_nothing_is_unknown() {
        assert_eq!(said("banana", "spec"), "unknown field, it has no effect");
        let endless = "x".repeat(1 << 20);
        assert_eq!(said(&endless, "spec"), "unknown field, it has no effect");
    }
}
