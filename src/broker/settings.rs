//! Numbers among the settings of an object: their bounds, and how they differ from what is wanted.

use super::{Answer, Difference, Fault, Refusal};

/// One setting of a `C`: what is given, what it may be, and where it is.
pub(super) struct Setting<C> {
    /// Its name.
    pub(super) name: &'static str,
    /// What is given.
    pub(super) given: Option<i64>,
    /// The least it may be.
    pub(super) least: i64,
    /// The most it may be.
    pub(super) most: i64,
    /// What it is.
    pub(super) of: fn(&C) -> i64,
}

/// The settings of a change that are numbers: each is a field of that name in the change, where it
/// is optional, and in the settings.
macro_rules! numbers {
    ($change:expr, $($field:ident: $least:expr => $most:expr),* $(,)?) => {
        [$($crate::broker::settings::Setting {
            name: stringify!($field),
            given: $change.$field.map(i64::from),
            least: i64::from($least),
            most: i64::from($most),
            of: |config| i64::from(config.$field),
        }),*]
    };
}
pub(super) use numbers;

/// What is out of bounds.
pub(super) fn faults<C>(settings: &[Setting<C>]) -> Vec<Fault> {
    let faults = settings.iter().filter_map(|Setting { name, given, least, most, .. }| {
        let given = given.filter(|given| !(least..=most).contains(&given))?;
        Some(Fault::new(name, "range", format!("{given} is not within {least} to {most}")))
    });
    faults.collect()
}

/// Refuses what is out of bounds.
pub(super) fn check<C>(settings: &[Setting<C>]) -> Answer<()> {
    match faults(settings) {
        faults if faults.is_empty() => Ok(()),
        faults => Err(Refusal::Invalid(faults)),
    }
}

/// What is given and is otherwise.
pub(super) fn differences<C>(settings: &[Setting<C>], config: &C) -> Vec<Difference> {
    let differing = settings.iter().filter_map(|Setting { name, given, of, .. }| {
        let (wanted, actual) = ((*given)?, of(config));
        (wanted != actual).then(|| Difference {
            field: name,
            wanted: wanted.to_string(),
            actual: actual.to_string(),
        })
    });
    differing.collect()
}
