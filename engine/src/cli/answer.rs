//! An answer of the engine in two forms: typed, to format it for people, and as unchanged JSON, for scripts. So `--json` also
//! prints members that only a newer engine sends.

use std::ops::Deref;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A typed answer, with the JSON that it was read from.
pub struct Answer<T> {
    json: Value,
    thing: T,
}

impl<T: DeserializeOwned> Answer<T> {
    /// Reads an answer.
    ///
    /// # Errors
    /// If a member is missing or has another type, because the engine is older than this program.
    pub fn read(json: Value) -> anyhow::Result<Self> {
        let thing = T::deserialize(&json)
            .context("the engine's answer cannot be read; use the innesco program of the engine's version")?;
        Ok(Self { json, thing })
    }
}

impl<T> Answer<T> {
    pub fn json(&self) -> &Value {
        &self.json
    }

    pub fn into_thing(self) -> T {
        self.thing
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::examples::{key, with},
        *,
    };
    use crate::wire::KeyView;

    #[test]
    fn scripts_see_the_members_of_a_newer_engine() {
        let newer = with(key(), json!({ "scopes": ["order.*"] }));
        let answer: Answer<KeyView> = Answer::read(newer.clone()).unwrap();
        assert_eq!((answer.name.as_str(), answer.json()), ("shop", &newer));
    }

    #[test]
    fn an_answer_that_lacks_a_member_is_an_error_with_advice() {
        let mut older = key();
        older.as_object_mut().unwrap().remove("expired").unwrap();
        let error = format!("{:#}", Answer::<KeyView>::read(older).err().unwrap());
        let expected =
            "the engine's answer cannot be read; use the innesco program of the engine's version: missing field `expired`";
        assert_eq!(error, expected);
    }
}
