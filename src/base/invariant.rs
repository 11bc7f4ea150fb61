//! Assertions of the protocol's rules. They stay on in release builds: a broken rule must stop
//! the work at hand before a wrong answer leaves the node.

/// Panics with the rule's mark (for example `"R12"`) when `$cond` does not hold.
#[macro_export]
macro_rules! invariant {
    ($cond:expr, $rule:literal, $($why:tt)+) => {
        if !$cond {
            panic!("invariant [{}] broken: {}", $rule, format_args!($($why)+));
        }
    };
}
