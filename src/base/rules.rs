//! The mutation gate: rules of the protocol that a test can take out, to see that a schedule
//! objects. Builds without `debug_assertions`, that is every release, have no switches: there
//! [`rule_on`] is the constant `true`, and `without` does not exist.

/// A rule that a test can take out, by its mark in the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A life of a replica mints under its own boot number.
    R10,
    /// A vote is about a content, not about a name alone.
    R11,
    /// A context grows only with a payload or with evidence of a settlement.
    R12,
    /// Who cannot tell what it lacks gives no evidence.
    R13,
    /// A Store of an earlier life is refused.
    R17,
    /// Fences only rise.
    R24,
    /// A grant implies the payload.
    R27,
    /// Only leases that were won count.
    R28,
    /// Refused only when it was written nowhere.
    R30,
    /// A purge settles what it names, here or not.
    R32,
    /// A key is forgotten only when it is settled everywhere.
    F1,
    /// A known name with other content is refused.
    F2,
    /// A settlement against another's lease is refused and not stored.
    F4,
    /// What is sealed takes no sends.
    F5,
    /// A request does not grant over what it holds.
    F9,
    /// Who disowns a grant refuses its ballot first.
    F10,
    /// Due is what a majority of clocks calls due.
    F11,
    /// Who drops or buries a message leases it like anybody.
    F18,
    /// A lapse counts as a failure.
    F19,
    /// Of a group, the oldest that is not done comes first.
    F25,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R17,
        Self::R24,
        Self::R27,
        Self::R28,
        Self::R30,
        Self::R32,
        Self::F1,
        Self::F2,
        Self::F4,
        Self::F5,
        Self::F9,
        Self::F10,
        Self::F11,
        Self::F18,
        Self::F19,
        Self::F25,
    ];
}

/// Whether a rule holds: always, except on a thread of a test that took it out.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn rule_on(_: Rule) -> bool {
    true
}

/// Whether a rule holds: always, except on a thread of a test that took it out.
#[cfg(debug_assertions)]
#[must_use]
pub fn rule_on(rule: Rule) -> bool {
    switches::OFF.get() != Some(rule)
}

#[cfg(debug_assertions)]
mod switches {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        pub(super) static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Puts the rule back, also when the schedule panics.
    struct Back;

    impl Drop for Back {
        fn drop(&mut self) {
            OFF.set(None);
        }
    }

    /// Does something without a rule, for tests. On this thread only, so that tests beside it keep
    /// the rule: decisions that other threads make keep it too.
    pub fn without<T>(rule: Rule, run: impl FnOnce() -> T) -> T {
        OFF.set(Some(rule));
        let _back = Back;
        run()
    }
}

#[cfg(debug_assertions)]
pub use switches::without;
