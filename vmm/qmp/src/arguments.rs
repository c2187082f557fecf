//! Turns a command's arguments into its argument struct, with errors that name the parameter by
//! its path, as QEMU's do.
//!
//! `serde_json`'s own errors name neither the parameter of a wrong type nor its path, hence this
//! small deserializer over values. Called for every command, and for `x-ferry-` structures inside
//! of them.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, Expected, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Map, Value};

use super::wire::CommandError;

/// Reads `arguments` as a `T`; refuses unknown members if `T` does (`deny_unknown_fields`).
pub(crate) fn read<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, CommandError> {
    T::deserialize(Node(Value::Object(arguments))).map_err(|error| CommandError::generic(error.to_string()))
}

/// The parameters without any member: `deserialize` from an empty or absent object.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// What is wrong with one parameter.
#[derive(Debug, PartialEq, Eq)]
struct ArgumentError {
    /// Members and elements on the way to it, outermost first: `channels[0].addr`.
    path: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Unexpected { known: &'static [&'static str] },
    Type { expected: String },
    Variant { found: String, known: &'static [&'static str] },
    Value { why: String },
}

impl ArgumentError {
    fn new(path: impl Into<String>, kind: Kind) -> Self {
        ArgumentError { path: path.into(), kind }
    }

    fn inside(mut self, outer: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{outer}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.kind {
            Kind::Missing => write!(f, "Parameter '{path}' is missing"),
            Kind::Unexpected { known: [] } => write!(f, "Parameter '{path}' is unexpected; there are none"),
            Kind::Unexpected { known } => write!(f, "Parameter '{path}' is unexpected; known are {}", known.join(", ")),
            Kind::Type { expected } => write!(f, "Invalid parameter type for '{path}', expected: {expected}"),
            Kind::Variant { found, known } => {
                write!(f, "Parameter '{path}' does not accept value '{found}'; it accepts {}", known.join(", "))
            }
            Kind::Value { why } => write!(f, "Parameter '{path}' is invalid: {why}"),
        }
    }
}

impl std::error::Error for ArgumentError {}

impl de::Error for ArgumentError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new("", Kind::Value { why: why.to_string() })
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.strip_prefix("a ").unwrap_or(&expected) {
            "sequence" => "array",
            other if other.starts_with("struct ") => "object",
            other => other,
        };
        Self::new("", Kind::Type { expected: expected.to_owned() })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, Kind::Missing)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(field, Kind::Unexpected { known })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new("", Kind::Variant { found: found.to_owned(), known })
    }
}

/// A JSON value on its way into a Rust value.
struct Node(Value);

impl<'de> de::Deserializer<'de> for Node {
    type Error = ArgumentError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::String(value) => visitor.visit_string(value),
            Value::Array(elements) => visitor.visit_seq(Elements { rest: elements.into_iter(), index: 0 }),
            Value::Object(members) => visitor.visit_map(Members { rest: members.into_iter(), current: None }),
            Value::Number(value) => match (value.as_u64(), value.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                (None, None) => visitor.visit_f64(value.as_f64().unwrap_or(f64::NAN)),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            _ => Err(ArgumentError::new("", Kind::Type { expected: "string".into() })),
        }
    }

    /// Without this an array would be read as the members in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(_) => Err(ArgumentError::new("", Kind::Type { expected: "object".into() })),
            other => Node(other).deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Members {
    rest: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Members {
    type Error = ArgumentError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        let name: StrDeserializer<'_, ArgumentError> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let (name, value) = self.current.take().unwrap_or_default();
        seed.deserialize(Node(value)).map_err(|error| error.inside(&name))
    }
}

struct Elements {
    rest: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Elements {
    type Error = ArgumentError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Self::Error> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Node(value)).map(Some).map_err(|error| error.inside(&format!("[{index}]")))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Outer {
        uri: String,
        port_number: Option<u16>,
        list: Option<Vec<Inner>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Inner {
        kind: Kind,
        on: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        Main,
        Other,
    }

    fn from(value: Value) -> Result<Outer, String> {
        let Value::Object(members) = value else { panic!("no object") };
        read(members).map_err(|e| e.desc)
    }

    #[test]
    fn values_arrive_at_any_depth() {
        let outer = from(json!({ "uri": "x", "port-number": 7, "list": [{ "kind": "other", "on": true }] })).unwrap();
        let inner = Inner { kind: Kind::Other, on: true };
        assert_eq!(outer, Outer { uri: "x".into(), port_number: Some(7), list: Some(vec![inner]) });
    }

    #[test]
    fn the_parameter_is_named_by_its_path() {
        for (value, desc) in [
            (json!({}), "Parameter 'uri' is missing"),
            (json!({ "uri": "x", "y": 1 }), "Parameter 'y' is unexpected; known are uri, port-number, list"),
            (json!({ "uri": 1 }), "Invalid parameter type for 'uri', expected: string"),
            (json!({ "uri": null }), "Invalid parameter type for 'uri', expected: string"),
            (json!({ "uri": "x", "list": {} }), "Invalid parameter type for 'list', expected: array"),
            (json!({ "uri": "x", "list": [["main", true]] }), "Invalid parameter type for 'list[0]', expected: object"),
            (json!({ "uri": "x", "list": [1] }), "Invalid parameter type for 'list[0]', expected: object"),
            (json!({ "uri": "x", "list": [{ "kind": "main" }] }), "Parameter 'list[0].on' is missing"),
            (
                json!({ "uri": "x", "list": [{ "on": true, "kind": "z" }] }),
                "Parameter 'list[0].kind' does not accept value 'z'; it accepts main, other",
            ),
        ] {
            assert_eq!(from(value).unwrap_err(), desc);
        }
        let too_large = from(json!({ "uri": "x", "port-number": 65536 })).unwrap_err();
        assert!(too_large.starts_with("Parameter 'port-number' is invalid: "), "{too_large}");
    }
}
