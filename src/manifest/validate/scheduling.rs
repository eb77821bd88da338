//! Fields for the scheduler and taints. Most have no effect on a node, and must be valid all the same, so
//! that a manifest means the same everywhere.

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{FieldPath, Validator, unexpected};

const MAX_WEIGHT: i64 = 100;
const TOPOLOGY_KEY: &str = "the key of a node's label";

impl Validator<'_> {
    pub(super) fn scheduling(&mut self, field: &FieldPath, spec: &PodSpec) {
        for (key, value) in spec.node_selector.iter().flatten() {
            let field = field.key("nodeSelector").key(key);
            self.qualified_name(&field, key);
            self.label_value(&field, value);
        }
        for (field, toleration) in field.items("tolerations", &spec.tolerations) {
            self.toleration(&field, toleration);
        }
        if let Some(affinity) = &spec.affinity {
            self.affinity(&field.key("affinity"), affinity);
        }
        let mut pairs = vec![];
        for (field, constraint) in field.items(
            "topologySpreadConstraints",
            &spec.topology_spread_constraints,
        ) {
            self.spread(&field, constraint);
            let pair = (&constraint.topology_key, &constraint.when_unsatisfiable);
            if pairs.contains(&pair) {
                let message =
                    "found twice, expected each topologyKey with each whenUnsatisfiable once";
                self.refuse(&field, message);
            }
            pairs.push(pair);
        }
        let policies = ["PreemptLowerPriority", "Never"];
        let policy = spec.preemption_policy.as_deref();
        self.one_of_if_set(&field.key("preemptionPolicy"), policy, &policies);
        let group = spec.scheduling_group.as_ref();
        if let Some(group) = group {
            let name = group.pod_group_name.as_deref().unwrap_or_default();
            self.dns_subdomain(&field.key("schedulingGroup").key("podGroupName"), name);
        }
    }

    pub(super) fn toleration(&mut self, field: &FieldPath, toleration: &Toleration) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (operator, key) = (text(&toleration.operator), text(&toleration.key));
        let (effect, value) = (text(&toleration.effect), text(&toleration.value));
        let operator_field = field.key("operator");
        if !key.is_empty() {
            self.qualified_name(&field.key("key"), &key);
        } else if operator != "Exists" {
            let message = format!("found {operator:?}, expected Exists, since there is no key");
            self.refuse(&operator_field, message);
        }
        match operator.as_str() {
            "" | "Equal" => self.label_value(&operator_field, &value),
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let message = "found Exists with a value, expected no value";
                self.refuse(&operator_field, message);
            }
            _ => self.one_of(&operator_field, Some(&operator), &["Equal", "Exists"]),
        }
        let effect_field = field.key("effect");
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let message =
                format!("found {effect:?}, expected NoExecute, since tolerationSeconds is set");
            self.refuse(&effect_field, message);
        }
        let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
        self.one_of(&effect_field, Some(&effect), &effects);
    }

    fn affinity(&mut self, field: &FieldPath, affinity: &Affinity) {
        if let Some(node) = &affinity.node_affinity {
            let field = field.key("nodeAffinity");
            let required = node
                .required_during_scheduling_ignored_during_execution
                .as_ref();
            if let Some(required) = required {
                let field = field.key("requiredDuringSchedulingIgnoredDuringExecution");
                if required.node_selector_terms.is_empty() {
                    let field = field.key("nodeSelectorTerms");
                    self.refuse(&field, "missing, expected at least one term");
                }
                for (field, term) in
                    field.items("nodeSelectorTerms", [&required.node_selector_terms])
                {
                    self.node_term(&field, term, true);
                }
            }
            let preferred = &node.preferred_during_scheduling_ignored_during_execution;
            for (field, term) in
                field.items("preferredDuringSchedulingIgnoredDuringExecution", preferred)
            {
                self.within(&field.key("weight"), term.weight.into(), 1, MAX_WEIGHT);
                // Values that no label can have are taken here, as by the API.
                self.node_term(&field.key("preference"), &term.preference, false);
            }
        }
        if let Some(pod) = &affinity.pod_affinity {
            let required = &pod.required_during_scheduling_ignored_during_execution;
            let preferred = &pod.preferred_during_scheduling_ignored_during_execution;
            self.pod_terms(
                &field.key("podAffinity"),
                required.as_ref(),
                preferred.as_ref(),
            );
        }
        if let Some(pod) = &affinity.pod_anti_affinity {
            let required = &pod.required_during_scheduling_ignored_during_execution;
            let preferred = &pod.preferred_during_scheduling_ignored_during_execution;
            self.pod_terms(
                &field.key("podAntiAffinity"),
                required.as_ref(),
                preferred.as_ref(),
            );
        }
    }

    fn node_term(&mut self, field: &FieldPath, term: &NodeSelectorTerm, required: bool) {
        for (field, requirement) in field.items("matchExpressions", &term.match_expressions) {
            self.qualified_name(&field.key("key"), &requirement.key);
            self.requirement(&field, requirement);
            let values = field.items("values", &requirement.values);
            for (field, value) in values.iter().filter(|_| required) {
                self.label_value(field, value);
            }
        }
        for (field, requirement) in field.items("matchFields", &term.match_fields) {
            self.one_of(
                &field.key("key"),
                Some(&requirement.key),
                &["metadata.name"],
            );
            self.one_of(
                &field.key("operator"),
                Some(&requirement.operator),
                &["In", "NotIn"],
            );
            let found = requirement.values.as_ref().map_or(0, Vec::len);
            if found != 1 {
                let message = format!("found {found} values, expected one");
                self.refuse(&field.key("values"), message);
            }
            for (field, name) in field.items("values", &requirement.values) {
                self.dns_subdomain(&field, name);
            }
        }
    }

    fn requirement(&mut self, field: &FieldPath, requirement: &NodeSelectorRequirement) {
        let found = requirement.values.as_ref().map_or(0, Vec::len);
        let operator = requirement.operator.as_str();
        let (good, expected) = match operator {
            "In" | "NotIn" => (found > 0, "at least one"),
            "Exists" | "DoesNotExist" => (found == 0, "none"),
            "Gt" | "Lt" => (found == 1, "one"),
            _ => {
                let operators = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
                return self.one_of(&field.key("operator"), Some(operator), &operators);
            }
        };
        if !good {
            let message = format!("found {found} values, expected {expected} for {operator}");
            self.refuse(&field.key("values"), message);
        }
    }

    fn pod_terms(
        &mut self,
        field: &FieldPath,
        required: Option<&Vec<PodAffinityTerm>>,
        preferred: Option<&Vec<WeightedPodAffinityTerm>>,
    ) {
        let name = "requiredDuringSchedulingIgnoredDuringExecution";
        for (field, term) in field.items(name, required) {
            self.pod_term(&field, term);
        }
        let name = "preferredDuringSchedulingIgnoredDuringExecution";
        for (field, term) in field.items(name, preferred) {
            self.within(&field.key("weight"), term.weight.into(), 1, MAX_WEIGHT);
            self.pod_term(&field.key("podAffinityTerm"), &term.pod_affinity_term);
        }
    }

    fn pod_term(&mut self, field: &FieldPath, term: &PodAffinityTerm) {
        let key_field = field.key("topologyKey");
        if self.required(&key_field, &term.topology_key, TOPOLOGY_KEY) {
            self.qualified_name(&key_field, &term.topology_key);
        }
        for (name, selector) in [
            ("labelSelector", &term.label_selector),
            ("namespaceSelector", &term.namespace_selector),
        ] {
            if let Some(selector) = selector {
                self.label_selector(&field.key(name), selector);
            }
        }
        for (field, namespace) in field.items("namespaces", &term.namespaces) {
            self.dns_label(&field, namespace);
        }
        for (name, keys) in [
            ("matchLabelKeys", &term.match_label_keys),
            ("mismatchLabelKeys", &term.mismatch_label_keys),
        ] {
            self.label_keys(field, name, keys.as_ref(), term.label_selector.as_ref());
        }
        let not = term.mismatch_label_keys.as_deref().unwrap_or_default();
        for (field, key) in field.items("matchLabelKeys", &term.match_label_keys) {
            if not.contains(key) {
                let expected = "a key that mismatchLabelKeys has not";
                self.refuse(&field, unexpected(key, expected));
            }
        }
    }

    fn label_keys(
        &mut self,
        field: &FieldPath,
        name: &str,
        keys: Option<&Vec<String>>,
        selector: Option<&LabelSelector>,
    ) {
        if keys.is_some_and(|k| !k.is_empty()) && selector.is_none() {
            self.refuse(
                &field.key(name),
                "found without labelSelector, expected both or none",
            );
        }
        for (field, key) in field.items(name, keys) {
            self.qualified_name(&field, key);
        }
    }

    fn label_selector(&mut self, field: &FieldPath, selector: &LabelSelector) {
        for (key, value) in selector.match_labels.iter().flatten() {
            let field = field.key("matchLabels").key(key);
            self.qualified_name(&field, key);
            self.label_value(&field, value);
        }
        for (field, rule) in field.items("matchExpressions", &selector.match_expressions) {
            self.qualified_name(&field.key("key"), &rule.key);
            let found = rule.values.as_ref().map_or(0, Vec::len);
            let (good, expected) = match rule.operator.as_str() {
                "In" | "NotIn" => (found > 0, "at least one"),
                "Exists" | "DoesNotExist" => (found == 0, "none"),
                other => {
                    let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
                    self.one_of(&field.key("operator"), Some(other), &operators);
                    continue;
                }
            };
            if !good {
                let message = format!(
                    "found {found} values, expected {expected} for {}",
                    rule.operator
                );
                self.refuse(&field.key("values"), message);
            }
            for (field, value) in field.items("values", &rule.values) {
                self.label_value(&field, value);
            }
        }
    }

    fn spread(&mut self, field: &FieldPath, constraint: &TopologySpreadConstraint) {
        if constraint.max_skew <= 0 {
            let message = format!("found {}, expected 1 or more", constraint.max_skew);
            self.refuse(&field.key("maxSkew"), message);
        }
        // Any text is taken here, as by the API.
        let key_field = field.key("topologyKey");
        self.required(&key_field, &constraint.topology_key, TOPOLOGY_KEY);
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        let action = constraint.when_unsatisfiable.as_str();
        self.one_of(&field.key("whenUnsatisfiable"), Some(action), &actions);
        if let Some(domains) = constraint.min_domains {
            let field = field.key("minDomains");
            if domains <= 0 {
                self.refuse(&field, format!("found {domains}, expected 1 or more"));
            }
            if action != "DoNotSchedule" {
                let message = "can only be set where whenUnsatisfiable is DoNotSchedule";
                self.refuse(&field, message);
            }
        }
        for (name, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            self.one_of_if_set(&field.key(name), policy.as_deref(), &["Ignore", "Honor"]);
        }
        let selector = constraint.label_selector.as_ref();
        if let Some(selector) = selector {
            self.label_selector(&field.key("labelSelector"), selector);
        }
        self.label_keys(
            field,
            "matchLabelKeys",
            constraint.match_label_keys.as_ref(),
            selector,
        );
    }
}
