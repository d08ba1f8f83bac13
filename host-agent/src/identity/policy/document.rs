//! A policy as somebody wrote it. A member that is not known, or is there twice, is an error, whatever it says.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};
use serde_json::Value;

/// A policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Document {
    pub(super) version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    pub(super) statement: Many<RawStatement>,
}

/// A statement of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RawStatement {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    pub(super) effect: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_principal: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) action: Option<Many<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_action: Option<Many<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<Many<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_resource: Option<Many<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) condition: Option<Value>,
}

/// What may stand alone or in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Many<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMore(PhantomData))
    }
}

struct OneOrMore<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
    type Value = Many<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one, or a list")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Many<T>, E> {
        let one: StrDeserializer<'_, E> = text.into_deserializer();
        T::deserialize(one).map(|one| Many(vec![one]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Many<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| Many(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = list.next_element()? {
            all.push(one);
        }
        Ok(Many(all))
    }
}
