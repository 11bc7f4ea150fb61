//! Bounds of request fields, written once: checked here, printed by the document.

use crate::api::problem::Problem;
use crate::base::names::{NAME_PATTERN, UserName};
use crate::broker::refusal::Fault;
use std::collections::BTreeMap;

/// The pattern of texts that may stand in a header.
pub const PRINTABLE_PATTERN: &str = "^[ -~]*$";
/// Faults told of, at most: enough to mend a request, too few to fill an answer.
const FAULTS_MAX: usize = 20;

/// What a field may be.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// A whole number within these.
    Number(i64, i64),
    /// A text of so many characters.
    Text(usize, usize),
    /// A printable ASCII text of so many characters.
    Printable(usize, usize),
    /// A user's name.
    Name,
    /// A list of so many items.
    Items(usize, usize),
    /// A map of at most so many entries, with values of at most so many bytes.
    Map(usize, usize),
}

/// A field and what it may be.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The field.
    pub field: &'static str,
    /// The rule.
    pub rule: Rule,
}

/// Shorthand for a row of `BOUNDS`.
#[must_use]
pub const fn bound(field: &'static str, rule: Rule) -> Bound {
    Bound { field, rule }
}

/// A request's type that knows its bounds.
pub trait Validate: Sized + Send {
    /// No body at all means `{}`: every field is optional.
    const MAY_BE_ABSENT: bool = false;
    /// The fields with bounds.
    const BOUNDS: &'static [Bound] = &[];

    /// Collects what is wrong.
    fn validate(&self, faults: &mut Faults);
}

/// What is wrong with a request, so far.
#[derive(Default)]
pub struct Faults {
    prefix: String,
    found: Vec<Fault>,
}

impl Faults {
    /// The problem, if anything is wrong.
    ///
    /// # Errors
    /// 422 `validation` with the faults.
    pub fn into_result(self) -> Result<(), Problem> {
        if self.found.is_empty() { Ok(()) } else { Err(Problem::faults(self.found)) }
    }

    /// Adds a fault of a field.
    pub fn add(&mut self, field: &str, message: impl Into<String>, code: &'static str) {
        if self.found.len() < FAULTS_MAX {
            let field = format!("{}{field}", self.prefix);
            self.found.push(Fault { field, message: message.into(), code });
        }
    }

    /// Checks the items of a list.
    pub fn each<T: Validate>(&mut self, field: &str, items: &[T]) {
        let outer = self.prefix.len();
        for (index, item) in items.iter().enumerate() {
            if self.found.len() >= FAULTS_MAX {
                return;
            }
            use std::fmt::Write as _;
            let _ = write!(self.prefix, "{field}[{index}].");
            item.validate(self);
            self.prefix.truncate(outer);
        }
    }

    /// Checks an object inside, if given.
    pub fn inside<T: Validate>(&mut self, field: &str, object: Option<&T>) {
        let Some(object) = object else { return };
        let outer = self.prefix.len();
        self.prefix.push_str(field);
        self.prefix.push('.');
        object.validate(self);
        self.prefix.truncate(outer);
    }

    /// Checks a number of `T`, if given.
    pub fn number<T: Validate>(&mut self, field: &'static str, value: Option<impl Into<i64>>) {
        let (Some(value), Rule::Number(min, max)) = (value.map(Into::into), rule::<T>(field))
        else {
            return;
        };
        if !(min..=max).contains(&value) {
            self.add(field, format!("a number from {min} to {max}"), "range");
        }
    }

    /// Checks a text of `T`, if given.
    pub fn text<T: Validate>(&mut self, field: &'static str, value: Option<&str>) {
        let Some(value) = value else { return };
        match rule::<T>(field) {
            Rule::Name => {
                if let Err(error) = UserName::parse(value) {
                    self.add(field, error.to_string(), "name");
                }
            }
            Rule::Text(min, max) => self.length(field, value.chars().count(), min, max),
            Rule::Printable(min, max) => {
                self.length(field, value.chars().count(), min, max);
                if !value.bytes().all(|b| matches!(b, b' '..=b'~')) {
                    self.add(field, "printable ASCII characters only", "pattern");
                }
            }
            _ => {}
        }
    }

    fn length(&mut self, field: &str, length: usize, min: usize, max: usize) {
        if !(min..=max).contains(&length) {
            self.add(field, format!("{min} to {max} characters"), "length");
        }
    }

    /// Checks how many items a list of `T` has.
    pub fn items<T: Validate>(&mut self, field: &'static str, count: usize) {
        let Rule::Items(min, max) = rule::<T>(field) else { return };
        if !(min..=max).contains(&count) {
            self.add(field, format!("{min} to {max} items"), "length");
        }
    }

    /// Checks a map of `T`, if given.
    pub fn map<T: Validate>(
        &mut self,
        field: &'static str,
        value: Option<&BTreeMap<String, String>>,
        is_key: fn(&str) -> bool,
    ) {
        let (Some(map), Rule::Map(entries, bytes)) = (value, rule::<T>(field)) else { return };
        if map.len() > entries {
            self.add(field, format!("at most {entries} entries"), "length");
        }
        for (key, value) in map {
            if !is_key(key) {
                let head: String = key.chars().take(40).collect();
                let message = format!("{head:?} is no key: 1 to 128 of A-Z a-z 0-9 . _ -");
                self.add(field, message, "key");
            } else if value.len() > bytes {
                self.add(&format!("{field}.{key}"), format!("at most {bytes} bytes"), "length");
            }
        }
    }
}

/// The rule of a field.
fn rule<T: Validate>(field: &str) -> Rule {
    let bound = T::BOUNDS.iter().find(|bound| bound.field == field);
    bound.expect("a checked field is in BOUNDS").rule
}

impl Rule {
    /// What the document says: schema keywords and their values.
    #[must_use]
    pub fn keywords(&self) -> Vec<(&'static str, serde_json::Value)> {
        match *self {
            Self::Number(min, max) => vec![("minimum", min.into()), ("maximum", max.into())],
            Self::Text(min, max) => vec![("minLength", min.into()), ("maxLength", max.into())],
            Self::Printable(min, max) => vec![
                ("minLength", min.into()),
                ("maxLength", max.into()),
                ("pattern", PRINTABLE_PATTERN.into()),
            ],
            Self::Name => vec![
                ("minLength", 1.into()),
                ("maxLength", 128.into()),
                ("pattern", NAME_PATTERN.into()),
            ],
            Self::Items(min, max) => vec![("minItems", min.into()), ("maxItems", max.into())],
            Self::Map(entries, _) => vec![("maxProperties", entries.into())],
        }
    }
}
