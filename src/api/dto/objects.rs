//! Objects that are objects: serde's derived types would take an array's items for their fields
//! by position.

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A `T` read from a JSON object and from nothing else.
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Object(PhantomData)).map(Self)
    }
}

/// For lists of objects. Of a list that is too long one item more than `MAX` is kept, so that its
/// length is refused without its having been held.
///
/// # Errors
/// When it is no list, or a kept item is no object or no `T`.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let items: Vec<Strict<T>> = bounded::<D, Strict<T>, MAX>(deserializer)?;
    Ok(items.into_iter().map(|item| item.0).collect())
}

/// For lists of objects that may be absent, but not null.
///
/// # Errors
/// As [`objects`].
pub fn present_objects<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    objects::<D, T, MAX>(deserializer).map(Some)
}

/// For an object that may be absent, but not null.
///
/// # Errors
/// When it is no object or no `T`.
pub fn present_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Strict::deserialize(deserializer).map(|object| Some(object.0))
}

/// For lists of anything that may be absent, but not null.
///
/// # Errors
/// As [`objects`].
pub fn present_list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    bounded::<D, T, MAX>(deserializer).map(Some)
}

fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while items.len() <= MAX {
                match seq.next_element()? {
                    Some(item) => items.push(item),
                    None => return Ok(items),
                }
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(items)
        }
    }
    deserializer.deserialize_seq(List::<T, MAX>(PhantomData))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Item {
        #[serde(default)]
        n: u8,
    }

    fn read(json: &str) -> Result<Vec<Item>, serde_json::Error> {
        objects::<_, Item, 2>(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn an_array_is_no_object() {
        assert_eq!(read(r#"[{"n":7}]"#).unwrap()[0].n, 7);
        assert!(read("[[7]]").unwrap_err().to_string().contains("an object"));
        assert!(read("{}").unwrap_err().to_string().contains("a list"));
    }

    #[test]
    fn of_a_list_that_is_too_long_one_item_too_many_is_kept() {
        assert_eq!(read("[{},{}]").unwrap().len(), 2);
        assert_eq!(read("[{},{},{},{},{}]").unwrap().len(), 3);
    }
}
