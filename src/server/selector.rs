//! Label selectors as kubectl takes them (Kubernetes, Labels and Selectors).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::manifest::{is_label_value, is_qualified_name};

/// A label selector: equality-based and set-based requirements, all of which hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    text: String,
    requirements: Vec<Requirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In,
    NotIn,
}

impl LabelSelector {
    /// Returns whether these labels match.
    #[must_use]
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            let is_listed = value.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::In => is_listed,
                Operator::NotIn => !is_listed,
            }
        })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for LabelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = match text.trim() {
            "" => vec![],
            text => parts(text),
        };
        let requirements = parts.into_iter().map(requirement).collect::<Result<_, _>>();
        Ok(Self {
            text: text.to_owned(),
            requirements: requirements.map_err(|why| format!("label selector {text:?}: {why}"))?,
        })
    }
}

/// Splits a selector at its commas, but not at those between parentheses.
fn parts(text: &str) -> Vec<&str> {
    let mut is_inside = false;
    let parts = text.split(|c| {
        match c {
            '(' => is_inside = true,
            ')' => is_inside = false,
            _ => {}
        }
        c == ',' && !is_inside
    });
    parts.map(str::trim).collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let equality = [
        ("!=", Operator::NotIn),
        ("==", Operator::In),
        ("=", Operator::In),
    ];
    let equality = equality
        .into_iter()
        .find_map(|(sign, operator)| Some((part.split_once(sign)?, operator)));
    let (key, operator, values) = if let Some(((key, value), operator)) = equality {
        (key, operator, vec![value])
    } else if let Some((head, list)) = part.split_once('(') {
        let Some(list) = list.strip_suffix(')') else {
            return Err(format!("found {part:?}, expected a ')' at its end"));
        };
        let mut words = head.split_whitespace();
        let (key, operator) = match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => (key, Operator::In),
            (Some(key), Some("notin"), None) => (key, Operator::NotIn),
            _ => {
                return Err(format!(
                    "found {part:?}, expected KEY in (A,B) or KEY notin (A,B)"
                ));
            }
        };
        (key, operator, list.split(',').collect())
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Operator::DoesNotExist, vec![])
    } else {
        (part, Operator::Exists, vec![])
    };
    let key = key.trim();
    if !is_qualified_name(key) {
        return Err(format!(
            "found {part:?}, expected the key of a label, as in KEY=VALUE"
        ));
    }
    let values: Vec<String> = values.iter().map(|value| value.trim().to_owned()).collect();
    match values.iter().find(|value| !is_label_value(value)) {
        Some(wrong) => Err(format!("found {wrong:?}, expected the value of a label")),
        None => Ok(Requirement {
            key: key.to_owned(),
            operator,
            values,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected_as_kubectl_does() {
        let labels = [("app", "web"), ("example.com/tier", "front"), ("empty", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = BTreeMap::from(labels);
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , example.com/tier=front", true),
            ("app=web,example.com/tier=back", false),
            ("app!=web", false),
            ("other!=web", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("!app", false),
            ("empty=", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db,cache),app", true),
            ("other notin (db)", true),
            ("app notin (web)", false),
            ("app in (web,db),example.com/tier in (front)", true),
        ] {
            let parsed: LabelSelector = selector.parse().unwrap();
            assert_eq!(parsed.matches(Some(&labels)), expected, "{selector}");
            assert_eq!(parsed.to_string(), selector);
        }
        let none = |text: &str| text.parse::<LabelSelector>().unwrap().matches(None);
        assert!(none("!app") && none("app!=x") && !none("app"));
    }

    #[test]
    fn an_impossible_selector_is_refused() {
        for (selector, words) in [
            ("app in (a", "expected a ')'"),
            ("app of (a)", "expected KEY in"),
            ("in (a)", "expected KEY in"),
            ("a b", "expected the key of a label"),
            ("=web", "expected the key of a label"),
            ("app=a b", "expected the value of a label"),
            ("app in (a,b!)", "expected the value of a label"),
        ] {
            let error = selector.parse::<LabelSelector>().unwrap_err();
            assert!(error.contains(words), "{selector}: {error}");
        }
    }
}
