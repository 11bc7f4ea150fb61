//! A register whose versions are decided elsewhere, by compare-and-swap: its join takes the
//! greater version [F8]. That is an `LWWReg` with the version as its marker; the version is
//! unique because a majority decided it, which is what makes the marker legal.

use crdts::{CvRDT, LWWReg};

/// One version of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<V> {
    register: LWWReg<V, u64>,
}

/// One version was decided twice, with different content: a bug [F8].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version {version} exists with two different contents")]
pub struct Clash {
    /// The version.
    pub version: u64,
}

impl<V: PartialEq> Versioned<V> {
    /// A value at its version.
    #[must_use]
    pub fn new(version: u64, value: V) -> Self {
        Self { register: LWWReg { val: value, marker: version } }
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.register.marker
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &V {
        &self.register.val
    }

    /// Takes over the other if its version is greater; answers whether it did.
    ///
    /// # Errors
    /// [`Clash`] when the versions are equal and the contents differ; nothing changes then.
    pub fn join(&mut self, other: Self) -> Result<bool, Clash> {
        // `merge` alone would keep either side in silence.
        let version = other.version();
        self.register.validate_merge(&other.register).map_err(|_| Clash { version })?;
        let newer = version > self.version();
        self.register.merge(other.register);
        Ok(newer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A history in which each version was decided once.
    fn decided(version: u64) -> Versioned<String> {
        Versioned::new(version, format!("content {}", version.wrapping_mul(0x9e37_79b9)))
    }

    fn joined(mut a: Versioned<String>, b: Versioned<String>) -> Versioned<String> {
        a.join(b).unwrap();
        a
    }

    proptest! {
        #[test]
        fn f8_join_is_commutative_associative_and_idempotent(a: u64, b: u64, c: u64, near: u64) {
            // Near versions too, so that equal ones are met.
            for (a, b, c) in [(a, b, c), (near % 3, a % 3, b % 3)] {
                let (a, b, c) = (decided(a), decided(b), decided(c));
                prop_assert_eq!(joined(a.clone(), b.clone()), joined(b.clone(), a.clone()));
                let left = joined(joined(a.clone(), b.clone()), c.clone());
                let right = joined(a.clone(), joined(b.clone(), c.clone()));
                prop_assert_eq!(&left, &right);
                prop_assert_eq!(joined(a.clone(), a.clone()), a.clone());
                prop_assert_eq!(left.version(), a.version().max(b.version()).max(c.version()));
            }
        }
    }

    #[test]
    fn f8_equal_versions_with_different_content_clash_and_change_nothing() {
        let mut ours = Versioned::new(3, "ours");
        assert_eq!(ours.join(Versioned::new(3, "theirs")), Err(Clash { version: 3 }));
        assert_eq!(ours, Versioned::new(3, "ours"));
        assert_eq!(ours.join(Versioned::new(3, "ours")), Ok(false));
        assert_eq!(ours.join(Versioned::new(2, "older")), Ok(false));
        assert_eq!(ours.join(Versioned::new(4, "newer")), Ok(true));
        assert_eq!(*ours.value(), "newer");
    }
}
