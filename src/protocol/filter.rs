//! Which messages a subscription wants: patterns of routing keys and attributes by equality.
//!
//! A routing key is words joined by `.`; no key, like an empty one, has no words. In a pattern `*`
//! stands for exactly one word and `#` for any number, none too; every other word for itself.

use super::record::Filter;
use crate::base::limits::{
    ATTRIBUTE_KEY_CHARS_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, ROUTING_KEY_CHARS_MAX,
};
use crate::message::envelope::is_attribute_key;
use std::collections::BTreeMap;

/// Why a filter is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The pattern is empty or too long.
    #[error("a pattern has 1 to {ROUTING_KEY_CHARS_MAX} characters")]
    PatternLength,
    /// Two dots in a row, or one at an end.
    #[error("a pattern is words joined by '.', none of them empty")]
    EmptyWord,
    /// `*` or `#` inside a word.
    #[error("'*' and '#' stand alone between dots")]
    Wildcard,
    /// Too many attributes.
    #[error("at most {ATTRIBUTES_MAX} attributes")]
    Attributes,
    /// An attribute that no message can have.
    #[error("{0:?} is no key: 1 to {ATTRIBUTE_KEY_CHARS_MAX} of A-Z a-z 0-9 . _ -")]
    AttributeKey(
        /// The key.
        String,
    ),
    /// A value that no message can have.
    #[error("the value of {0:?} has more than {ATTRIBUTE_VALUE_BYTES_MAX} bytes")]
    AttributeValue(
        /// The key.
        String,
    ),
}

impl FilterError {
    /// The field of the filter that is at fault.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::PatternLength | Self::EmptyWord | Self::Wildcard => "routing_key",
            Self::Attributes | Self::AttributeKey(_) | Self::AttributeValue(_) => "attributes",
        }
    }
}

impl Filter {
    /// Checks the pattern and the bounds of attributes, which are those of messages.
    ///
    /// # Errors
    /// [`FilterError`]: the first thing that is wrong.
    pub fn check(&self) -> Result<(), FilterError> {
        if let Some(pattern) = &self.routing_key {
            check_pattern(pattern)?;
        }
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(FilterError::Attributes);
        }
        for (key, value) in &self.attributes {
            if !is_attribute_key(key) {
                return Err(FilterError::AttributeKey(key.clone()));
            }
            if value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
                return Err(FilterError::AttributeValue(key.clone()));
            }
        }
        Ok(())
    }
}

fn check_pattern(pattern: &str) -> Result<(), FilterError> {
    if pattern.is_empty() || pattern.chars().count() > ROUTING_KEY_CHARS_MAX {
        return Err(FilterError::PatternLength);
    }
    for word in pattern.split('.') {
        if word.is_empty() {
            return Err(FilterError::EmptyWord);
        }
        if word.len() > 1 && word.contains(['*', '#']) {
            return Err(FilterError::Wildcard);
        }
    }
    Ok(())
}

/// Whether a filter wants a message: all conditions must hold.
///
/// Takes at most (words of the pattern) × (words of the key) comparisons, whatever the pattern.
#[must_use]
pub fn matches(
    filter: &Filter,
    routing_key: Option<&str>,
    attributes: &BTreeMap<String, String>,
) -> bool {
    let wanted = filter.routing_key.as_deref();
    filter.attributes.iter().all(|(key, value)| attributes.get(key) == Some(value))
        && wanted.is_none_or(|pattern| fits(pattern, routing_key.unwrap_or_default()))
}

/// Goes on word by word; where that fails, the last `#` takes one word more. An earlier `#` never
/// has to: whatever it could still reach, the last one reaches too.
fn fits(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    let (mut at, mut word) = (0, 0);
    // Behind the last `#`, and the word after those that it takes.
    let mut resume: Option<(usize, usize)> = None;
    while word < key.len() {
        match pattern.get(at) {
            Some(&"#") => {
                at += 1;
                resume = Some((at, word));
            }
            Some(wanted) if *wanted == "*" || *wanted == key[word] => {
                at += 1;
                word += 1;
            }
            _ => match &mut resume {
                Some((behind, taken)) => {
                    *taken += 1;
                    (at, word) = (*behind, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == "#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word and without a thought for time.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=key.len()).any(|n| naive(rest, &key[n..])),
            (["*", rest @ ..], [_, tail @ ..]) => naive(rest, tail),
            ([word, rest @ ..], [first, tail @ ..]) => word == first && naive(rest, tail),
            _ => false,
        }
    }

    fn filter(pattern: &str) -> Filter {
        Filter { routing_key: Some(pattern.to_owned()), attributes: BTreeMap::new() }
    }

    fn wants(pattern: &str, key: Option<&str>) -> bool {
        matches(&filter(pattern), key, &BTreeMap::new())
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    proptest! {
        #[test]
        fn it_matches_what_the_definition_says(
            pattern in proptest::collection::vec(prop_oneof!["[ab]", Just("*".into()), Just("#".into())], 1..7),
            key in proptest::collection::vec("[ab]", 0..8),
        ) {
            let words: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let parts: Vec<&str> = key.iter().map(String::as_str).collect();
            let joined = key.join(".");
            prop_assert_eq!(filter(&pattern.join(".")).check(), Ok(()));
            prop_assert_eq!(wants(&pattern.join("."), Some(&joined)), naive(&words, &parts));
        }

        #[test]
        fn every_attribute_must_be_there_with_its_value(
            wanted in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
            given in proptest::collection::btree_map("[abc]", "[xy]", 0..4),
        ) {
            let filter = Filter { routing_key: None, attributes: wanted.clone() };
            let all = wanted.iter().all(|(k, v)| given.iter().any(|(key, value)| k == key && v == value));
            prop_assert_eq!(matches(&filter, None, &given), all);
        }
    }

    #[test]
    fn words_wildcards_and_no_key() {
        for (pattern, key, fine) in [
            ("news.sports", Some("news.sports"), true),
            ("news.sports", Some("news"), false),
            ("news.sports", Some("News.sports"), false),
            ("news.*", Some("news.sports"), true),
            ("news.*", Some("news"), false),
            ("news.*", Some("news.sports.chess"), false),
            ("news.#", Some("news"), true),
            ("news.#", Some("news.sports.chess"), true),
            ("#.chess", Some("news.sports.chess"), true),
            ("#", None, true),
            ("#", Some(""), true),
            ("*", None, false),
            ("news", None, false),
        ] {
            assert_eq!(wants(pattern, key), fine, "{pattern} {key:?}");
        }
        assert!(matches(&Filter::default(), None, &BTreeMap::new()));
        assert!(matches(&Filter::default(), Some("a.b"), &map(&[("k", "v")])));
    }

    #[test]
    fn both_conditions_must_hold() {
        let both = Filter { attributes: map(&[("k", "v")]), ..filter("a.#") };
        assert!(matches(&both, Some("a.b"), &map(&[("k", "v"), ("other", "")])));
        assert!(!matches(&both, Some("b"), &map(&[("k", "v")])));
        assert!(!matches(&both, Some("a"), &map(&[("k", "w")])));
    }

    #[test]
    fn many_hashes_cost_no_more_than_words_times_words() {
        // A matcher that tries every split would need about 2^60 steps.
        let pattern = format!("{}b", "#.a.".repeat(60));
        let key = ["a"; 127].join(".");
        assert!(filter(&pattern[..pattern.len()]).check().is_ok());
        assert!(!wants(&pattern, Some(&key)));
        assert!(wants(&pattern, Some(&format!("{key}.b"))));
    }

    #[test]
    fn what_is_no_filter() {
        let check = |pattern: &str| filter(pattern).check();
        assert_eq!(check(""), Err(FilterError::PatternLength));
        assert_eq!(check(&"é".repeat(255)), Ok(()));
        assert_eq!(check(&"a".repeat(256)), Err(FilterError::PatternLength));
        for bad in [".", "a.", ".a", "a..b"] {
            assert_eq!(check(bad), Err(FilterError::EmptyWord), "{bad}");
        }
        for bad in ["a*", "a.#b", "**", "*#"] {
            assert_eq!(check(bad), Err(FilterError::Wildcard), "{bad}");
        }
        let with = |attributes| Filter { routing_key: None, attributes }.check();
        let many = |n: usize| (0..n).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(with(many(32)), Ok(()));
        assert_eq!(with(many(33)), Err(FilterError::Attributes));
        assert_eq!(with(map(&[("a b", "")])), Err(FilterError::AttributeKey("a b".into())));
        let long = "k".repeat(129);
        assert_eq!(with(map(&[(&long, "")])), Err(FilterError::AttributeKey(long.clone())));
        assert_eq!(with(map(&[("k", &"v".repeat(1_024))])), Ok(()));
        let fault = with(map(&[("k", &"v".repeat(1_025))]));
        assert_eq!(fault, Err(FilterError::AttributeValue("k".into())));
        assert_eq!(FilterError::Wildcard.field(), "routing_key");
        assert_eq!(FilterError::Attributes.field(), "attributes");
    }
}
