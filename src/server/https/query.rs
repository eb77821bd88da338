//! Query parameters of a request.

use std::fmt::Display;
use std::str::FromStr;

use reqwest::Url;

/// Names and values, decoded, in order.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        // Only its query matters; the rest is there because a URL has to have it.
        let url = Url::parse(&format!("http://node/?{query}"));
        let pairs = url.map(|url| url.query_pairs().into_owned().collect());
        Self(pairs.unwrap_or_default())
    }

    /// Returns the first value of a name; `None` if it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns all values of a name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns whether the value is `1` or `true`.
    pub(super) fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }

    /// Parses the value of a name.
    ///
    /// # Errors
    /// The value is invalid; `expected` describes a valid one.
    pub(super) fn read<T: FromStr>(
        &self,
        name: &str,
        expected: impl Display,
    ) -> Result<Option<T>, String> {
        let read = |value: &str| {
            let wrong = |_| format!("{name}: found {value:?}, expected {expected}");
            value.parse().map_err(wrong)
        };
        self.get(name).map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_keeps_its_order() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20%26+b&tty=1&input=&n=x");
        let command: Vec<&str> = query.all("command").collect();
        assert_eq!(command, ["sh", "-c", "echo a & b"]);
        assert!(query.is_on("tty") && !query.is_on("input") && !query.is_on("output"));
        assert_eq!(query.read::<u32>("m", "a number"), Ok(None));
        let error = query.read::<u32>("n", "a number").unwrap_err();
        assert_eq!(error, "n: found \"x\", expected a number");
    }
}
