//! Cursors: where the next page of a list begins, marked so that only ours are taken, and only
//! for the list and the filters that they were given for.

use super::{Answer, Page, Refusal};
use crate::base::limits::PAGE_MAX;
use crate::security::Keys;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

const MARK_BYTES: usize = 16;
/// Characters of a cursor that is looked at: a mark and the longest name take fewer.
const CURSOR_CHARS_MAX: usize = 512;

/// A list with its filters.
pub(crate) struct List<'a> {
    /// The list's name, then each filter.
    parts: &'a [&'a [u8]],
}

impl<'a> List<'a> {
    pub(crate) fn new(parts: &'a [&'a [u8]]) -> Self {
        Self { parts }
    }

    fn mark(&self, keys: &Keys, last: &[u8]) -> [u8; MARK_BYTES] {
        let mut parts = self.parts.to_vec();
        parts.push(last);
        keys.mac_cursor(&parts)
    }

    /// The cursor behind the item of that name.
    pub(crate) fn cursor(&self, keys: &Keys, last: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([&self.mark(keys, last), last].concat())
    }

    /// The name of the last item before the page.
    pub(crate) fn after(&self, keys: &Keys, cursor: Option<&str>) -> Answer<Option<Vec<u8>>> {
        let Some(cursor) = cursor else { return Ok(None) };
        match self.open(keys, cursor) {
            Some(last) => Ok(Some(last)),
            None => {
                let message = "the cursor is not one that this list gave";
                Err(Refusal::invalid("query.cursor", "cursor", message))
            }
        }
    }

    fn open(&self, keys: &Keys, cursor: &str) -> Option<Vec<u8>> {
        if cursor.len() > CURSOR_CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (mark, last) = bytes.split_first_chunk::<MARK_BYTES>()?;
        bool::from(mark.ct_eq(&self.mark(keys, last))).then(|| last.to_vec())
    }

    /// A page from up to one item more than fits, which tells whether another page follows.
    pub(crate) fn page<T>(
        &self,
        keys: &Keys,
        mut items: Vec<T>,
        limit: usize,
        name: impl Fn(&T) -> Vec<u8>,
    ) -> Page<T> {
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|last| self.cursor(keys, &name(last)));
        Page { items, next }
    }
}

/// Checks how many items a page shall have.
pub(crate) fn page_limit(limit: i32) -> Answer<usize> {
    match usize::try_from(limit) {
        Ok(count) if (1..=PAGE_MAX).contains(&limit) => Ok(count),
        _ => {
            let message = format!("a page has 1 to {PAGE_MAX} items");
            Err(Refusal::invalid("query.limit", "range", message))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;
    use crate::security::ClusterSecret;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::derive(&ClusterSecret::generate(&SystemRng), "test")
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_and_no_bent_one_does(
            last in proptest::collection::vec(any::<u8>(), 0..160), at: prop::sample::Index, bit in 0..6u32,
        ) {
            let keys = keys();
            let list = List::new(&[b"queues", b"prefix"]);
            let cursor = list.cursor(&keys, &last);
            prop_assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            prop_assert_eq!(list.after(&keys, Some(&cursor)), Ok(Some(last.clone())));
            let mut bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(list.after(&keys, Some(&URL_SAFE_NO_PAD.encode(&bytes))).is_err());
            prop_assert!(list.after(&keys, Some(&URL_SAFE_NO_PAD.encode(&bytes[..at]))).is_err());
            let others = [
                List::new(&[b"users", b"prefix"]),
                List::new(&[b"queues", b"prefi"]),
                List::new(&[b"queuesp", b"refix"]),
                List::new(&[b"queues"]),
            ];
            for other in others {
                prop_assert!(other.after(&keys, Some(&cursor)).is_err());
            }
            prop_assert!(list.after(&self::keys(), Some(&cursor)).is_err());
        }

        #[test]
        fn no_invented_cursor_is_taken(text in "[A-Za-z0-9_-]{0,600}|.{0,60}") {
            let refused = List::new(&[b"queues"]).after(&keys(), Some(&text)).unwrap_err();
            let Refusal::Invalid(faults) = refused else { panic!("{refused}") };
            prop_assert_eq!(&faults[0].field, "query.cursor");
        }
    }

    #[test]
    fn a_page_has_a_next_one_only_when_an_item_is_left() {
        let (keys, list) = (keys(), List::new(&[b"numbers"]));
        let page = |count: u8| list.page(&keys, (0..count).collect(), 3, |n| vec![*n]);
        assert_eq!(page(3), Page { items: vec![0, 1, 2], next: None });
        let more = page(4);
        assert_eq!(more.items, [0, 1, 2]);
        assert_eq!(list.after(&keys, more.next.as_deref()), Ok(Some(vec![2])));
        assert_eq!(page(0), Page { items: vec![], next: None });
    }

    #[test]
    fn a_page_has_1_to_500_items() {
        assert_eq!((page_limit(1), page_limit(500)), (Ok(1), Ok(500)));
        for bad in [0, -1, 501, i32::MIN] {
            let Err(Refusal::Invalid(faults)) = page_limit(bad) else { panic!("{bad}") };
            assert_eq!(faults[0].field, "query.limit");
        }
    }
}
