//! JSON that notices duplicate names.
//!
//! Responsible for: parsing JSON from outside without losing sight of a member that occurs
//! twice. Two parsers that keep different ones of them see two different documents, so whoever
//! signed or checked the one has said nothing about the other.
//! Always holds: a [`Node`] never panics or recurses without bound (`serde_json` stops at 128
//! levels); an object that had a duplicate says so and cannot become a plain value.
//! Not here: writing JSON, and what the members mean.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A parsed value, duplicates still visible.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Object(Object),
}

/// An object and the first name that it holds twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object {
    members: BTreeMap<String, Node>,
    duplicate: Option<String>,
}

/// Why bytes are not the JSON that is wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("not well-formed JSON")]
    Syntax(#[source] serde_json::Error),
    #[error("member {name:?} occurs twice")]
    Duplicate { name: String },
    #[error("not a JSON object")]
    NotAnObject,
}

impl Object {
    /// Parses a document that must be an object without a duplicate name at its top; what lies
    /// below is left to the caller.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        match serde_json::from_slice(bytes).map_err(JsonError::Syntax)? {
            Node::Object(Self {
                duplicate: Some(name),
                ..
            }) => Err(JsonError::Duplicate { name }),
            Node::Object(object) => Ok(object),
            _ => Err(JsonError::NotAnObject),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.members.get(name)
    }

    /// The member as text; `None` when it is absent or something else.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Node::text)
    }

    pub(crate) fn duplicate(&self) -> Option<&str> {
        self.duplicate.as_deref()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.members
            .iter()
            .map(|(name, node)| (name.as_str(), node))
    }

    /// The same as a plain map, provided that no object at any level has a duplicate.
    pub(crate) fn into_map(self) -> Result<Map<String, Value>, JsonError> {
        if let Some(name) = self.duplicate {
            return Err(JsonError::Duplicate { name });
        }
        self.members
            .into_iter()
            .map(|(name, node)| Ok((name, node.into_value()?)))
            .collect()
    }
}

impl Node {
    /// The value as text; `None` when it is something else.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::String(text) = self {
            Some(text)
        } else {
            None
        }
    }

    fn into_value(self) -> Result<Value, JsonError> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Number(number) => Value::Number(number),
            Self::String(text) => Value::String(text),
            Self::Array(nodes) => Value::Array(
                nodes
                    .into_iter()
                    .map(Self::into_value)
                    .collect::<Result<_, _>>()?,
            ),
            Self::Object(object) => Value::Object(object.into_map()?),
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        // JSON has no infinities; serde_json refuses what would overflow to one.
        Ok(Number::from_f64(number).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element()? {
            nodes.push(node);
        }
        Ok(Node::Array(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Object::default();
        while let Some((name, node)) = entries.next_entry::<String, Node>()? {
            match object.members.entry(name) {
                Entry::Vacant(vacant) => {
                    vacant.insert(node);
                }
                Entry::Occupied(first) => {
                    object.duplicate.get_or_insert_with(|| first.key().clone());
                }
            }
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(text: &str) -> Result<Map<String, Value>, JsonError> {
        Object::parse(text.as_bytes())?.into_map()
    }

    #[test]
    fn values_come_through_unchanged() {
        let text = r#"{"a":[1,-2,1.5,18446744073709551615,null,true,"x"],"b":{"c":{}}}"#;
        assert_eq!(
            Value::Object(map(text).unwrap()),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn a_duplicate_is_found_at_every_level() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(
                matches!(map(text), Err(JsonError::Duplicate { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in ["[]", "null", "1", "\"a\""] {
            assert!(matches!(map(text), Err(JsonError::NotAnObject)), "{text}");
        }
        for text in [
            "",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":1e999}",
            "{'a':1}",
            "\u{feff}{}",
        ] {
            assert!(matches!(map(text), Err(JsonError::Syntax(_))), "{text}");
        }
        assert_eq!(Value::Object(map(" {} ").unwrap()), json!({}));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(map(&deep), Err(JsonError::Syntax(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_panic(bytes in any::<Vec<u8>>()) {
            let _ = Object::parse(&bytes).and_then(Object::into_map);
        }

        #[test]
        fn without_duplicates_it_agrees_with_serde_json(text in "[\\[\\]{}\",:a0-9.e-]{0,24}") {
            match (map(&text), serde_json::from_str::<Value>(&text)) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(Value::Object(ours), theirs),
                (Ok(_), Err(_)) => prop_assert!(false, "accepted what serde_json refuses"),
                (Err(JsonError::Syntax(_)), Ok(_)) => prop_assert!(false, "refused good syntax"),
                _ => {}
            }
        }
    }
}
