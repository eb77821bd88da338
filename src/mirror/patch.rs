//! Patch that makes a mirror Pod's status match the node's report: a pure function of both. Fields of other
//! writers stay.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use crate::pod::shutdown::TERMINATED_BY;

/// The fields that are the node's to write.
const OWN: [&str; 13] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "resources",
    "allocatedResources",
];

/// The conditions that are the node's to write; others belong to whoever writes them, as
/// `DisruptionTarget` to whoever evicts or preempts the Pod: this agent does neither, and its own is the one of
/// a shutdown of the machine, which is over at the next boot.
const OWN_CONDITIONS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
    "PodResizePending",
    "PodResizeInProgress",
];

/// The strategic merge patch that brings the status of the Pod with this UID from `theirs` to `ours`;
/// `None` if there is nothing to change.
#[must_use]
pub fn status_patch(uid: &str, ours: &PodStatus, theirs: &PodStatus) -> Option<Value> {
    let (ours, theirs) = (fields(ours), fields(theirs));
    let mut change = Map::new();
    for name in OWN {
        let (wanted, found) = (ours.get(name), theirs.get(name));
        if wanted == found {
            continue;
        }
        change.insert(name.to_owned(), replacement(name, wanted));
    }
    let conditions = conditions_patch(ours.get("conditions"), theirs.get("conditions"));
    if !conditions.is_empty() {
        change.insert("conditions".to_owned(), conditions.into());
    }
    (!change.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": change}))
}

/// A field's new value. The lists of addresses would be merged with what is there, and so would
/// objects, unless they are said to replace it.
fn replacement(name: &str, wanted: Option<&Value>) -> Value {
    let replace = || json!({"$patch": "replace"});
    match (name, wanted) {
        (_, None) => Value::Null,
        ("podIPs" | "hostIPs", Some(Value::Array(list))) => {
            list.iter().cloned().chain([replace()]).collect()
        }
        (_, Some(Value::Object(fields))) => {
            let mut fields = fields.clone();
            fields.insert("$patch".to_owned(), "replace".into());
            fields.into()
        }
        (_, Some(wanted)) => wanted.clone(),
    }
}

/// Conditions are merged by their type: those that differ, and those of ours that are to go.
fn conditions_patch(ours: Option<&Value>, theirs: Option<&Value>) -> Vec<Value> {
    let list = |conditions: Option<&Value>| -> Vec<Value> {
        let list = conditions.and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let (ours, theirs) = (list(ours), list(theirs));
    let find = |list: &[Value], kind: &Value| list.iter().find(|c| c["type"] == *kind).cloned();
    let mut change = vec![];
    for wanted in &ours {
        let found = find(&theirs, &wanted["type"]);
        if found.as_ref() == Some(wanted) {
            continue;
        }
        let mut wanted = wanted.clone();
        // A field that is left out would stay as it is.
        for (name, _) in found.iter().filter_map(Value::as_object).flatten() {
            if wanted.get(name).is_none() {
                wanted[name] = Value::Null;
            }
        }
        change.push(wanted);
    }
    for found in &theirs {
        let kind = &found["type"];
        let own = OWN_CONDITIONS.iter().any(|own| kind == own);
        let of_shutdown = kind == "DisruptionTarget" && found["reason"] == TERMINATED_BY;
        if (own || of_shutdown) && find(&ours, kind).is_none() {
            change.push(json!({"$patch": "delete", "type": kind}));
        }
    }
    change
}

/// A status as JSON, without what says nothing.
fn fields(status: &PodStatus) -> Map<String, Value> {
    match bare(serde_json::to_value(status).unwrap_or_default()) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A value without nulls, empty texts, lists and objects: the API server writes some of them where
/// nothing was, and leaves others out.
fn bare(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(list) => {
            let list: Vec<Value> = list.into_iter().filter_map(bare).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let fields = fields.filter_map(|(name, value)| Some((name, bare(value)?)));
            let fields: Map<String, Value> = fields.collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: Value) -> PodStatus {
        serde_json::from_value(json).unwrap()
    }

    fn patch(ours: Value, theirs: Value) -> Value {
        match status_patch("u", &status(ours), &status(theirs)) {
            Some(patch) => {
                assert_eq!(patch["metadata"], json!({"uid": "u"}));
                patch["status"].clone()
            }
            None => Value::Null,
        }
    }

    #[test]
    fn nothing_is_changed_where_both_say_the_same() {
        let ours = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [
            {"name": "web", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]});
        // As the API server writes it, with what others wrote.
        let theirs = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "Burstable",
            "nominatedNodeName": "n", "observedGeneration": 1, "conditions": [
                {"type": "example.com/gate", "status": "True"}],
            "containerStatuses": [{"name": "web", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "lastState": {}, "resources": {}}]});
        assert_eq!(patch(ours, theirs), Value::Null);
    }

    #[test]
    fn what_is_gone_is_taken_away_and_lists_of_addresses_are_replaced() {
        let theirs = json!({"phase": "Failed", "reason": "Evicted", "podIPs": [{"ip": "10.0.0.1"}],
            "allocatedResources": {"cpu": "1", "memory": "1"}});
        let ours = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "allocatedResources": {"cpu": "1"}});
        let expected = json!({"phase": "Running", "reason": null,
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "replace"}],
            "allocatedResources": {"cpu": "1", "$patch": "replace"}});
        assert_eq!(patch(ours, theirs), expected);
    }

    #[test]
    fn conditions_are_merged_by_type_and_those_of_others_stay() {
        let theirs = json!({"conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
            {"type": "Initialized", "status": "True"},
            {"type": "DisruptionTarget", "status": "True"},
            {"type": "AllContainersRestarting", "status": "True"},
            {"type": "example.com/gate", "status": "True"}]});
        let ours = json!({"conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "Initialized", "status": "True"}]});
        let expected = json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": null, "message": null},
            {"$patch": "delete", "type": "AllContainersRestarting"}]});
        assert_eq!(patch(ours, theirs), expected);
    }
    #[test]
    fn that_the_machine_shut_down_is_over_at_the_next_boot() {
        let target = |reason| json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]});
        let expected = json!({"conditions": [{"$patch": "delete", "type": "DisruptionTarget"}]});
        assert_eq!(patch(json!({}), target("TerminationByKubelet")), expected);
        for other in ["EvictionByEvictionAPI", "PreemptionByScheduler"] {
            assert_eq!(patch(json!({}), target(other)), Value::Null);
        }
    }
}
