//! Scalars of bodies: times, base64 and secrets, read and written without a detour.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

/// Makes a scalar known to the document.
macro_rules! scalar {
    ($name:ident, $schema:expr) => {
        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }

        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<serde_json::Value> {
                serde_json::to_value(self).ok()
            }
        }
    };
}

/// A time: RFC 3339 in UTC with milliseconds. Holds milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);
scalar!(Time, MetaSchema::new_with_format("string", "date-time"));

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        // Beyond the year 9999 there is nothing to show but its end.
        let end = OffsetDateTime::new_utc(time::Date::MAX, time::Time::MIDNIGHT);
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(end);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let at = OffsetDateTime::parse(&text, &Rfc3339).ok();
        let ms = at.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
        let expected = || D::Error::custom("a time like 2026-01-02T03:04:05.678Z is expected");
        ms.map(Self).ok_or_else(expected)
    }
}

/// Bytes as standard base64 with padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Bytes);
// No `format: byte`: generators disagree on who decodes it.
scalar!(Base64, MetaSchema::new("string"));

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                let bytes = STANDARD.decode(text);
                let bytes =
                    bytes.map_err(|_| E::custom("standard base64 with padding is expected"))?;
                Ok(Base64(bytes.into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A password or a token: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);
scalar!(Secret, MetaSchema::new_with_format("string", "password"));

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = "2026-01-02T03:04:05.678Z";
        let time: Time = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        assert_eq!(time, Time(1_767_323_045_678));
        assert_eq!(time.to_string(), text);
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(u64::MAX).to_string(), "9999-12-31T00:00:00.000Z");
        let moved: Time = serde_json::from_str("\"2026-01-02T04:04:05.678+01:00\"").unwrap();
        assert_eq!(moved, time);
        for wrong in ["\"\"", "\"2026-01-02\"", "\"2026-13-02T03:04:05Z\"", "null", "5"] {
            assert!(serde_json::from_str::<Time>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn base64_is_standard_with_padding() {
        let bytes: Base64 = serde_json::from_str("\"AP8=\"").unwrap();
        assert_eq!(bytes.0.as_ref(), [0, 255]);
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"AP8=\"");
        for wrong in ["\"AP8\"", "\"A_-=\"", "\"A P8=\"", "1", "null"] {
            assert!(serde_json::from_str::<Base64>(wrong).is_err(), "{wrong}");
        }
    }
}
