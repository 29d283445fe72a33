//! A recorded run as a file in a plugin's crate: everything that the run received, for people to read and change. `innesco run show
//! --as-test` writes it; `innesco plugin test --run` and the SDK's testkit run it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    event_file,
    mask::{self, Masks, Style},
    measure,
    plugin_test::Given,
};
use crate::{
    domain::{
        content::{Json, is_json},
        time::Timestamp,
    },
    sandbox::Limits,
    wire::{RecordedEventView, RecordedStateView, RunLimitsView, RunRecordView},
};

/// The version of the format. A later version has inputs that this program does not know.
const FORMAT: u32 = 1;

/// A recorded run. The first members are for people; the inputs follow.
#[derive(Clone, Deserialize, Serialize)]
pub struct Fixture {
    fixture: u32,
    #[serde(default)]
    pub run: String,
    #[serde(default)]
    pub plugin: String,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub outcome: Option<String>,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub bound: bool,
    /// Names of the endpoints that exist; without this member, every name counts as existing.
    #[serde(default)]
    pub endpoints: Option<Vec<String>>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// When the run began. It decides which values of state have expired.
    #[serde(default)]
    at: Option<String>,
    #[serde(default)]
    state: Vec<State>,
    /// Limits of a run in the engine; without this member, the default limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<RunLimitsView>,
    pub event: Event,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Event {
    id: String,
    source: String,
    pub r#type: String,
    #[serde(default)]
    subject: Option<String>,
    time: String,
    accepted_at: String,
    #[serde(default)]
    depth: u8,
    content_type: String,
    #[serde(default)]
    attributes: Vec<(String, String)>,
    #[serde(flatten)]
    data: Data,
}

/// Data. It is written as text if possible, so that a person can read and change it. Otherwise it is in base64.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Data {
    Data(String),
    DataBase64(String),
}

/// A key of state that the run read, with its value. Without a value, the key did not exist.
#[derive(Clone, Deserialize, Serialize)]
struct State {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl Fixture {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is not JSON of this form, or if its format is a later one.
    pub fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            fixture: u32,
        }
        let Format { fixture } = serde_json::from_slice(bytes)?;
        if fixture > FORMAT {
            bail!("it has format {fixture}, and this program knows formats up to {FORMAT}; update innesco");
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Takes the inputs from a run's record.
    ///
    /// # Errors
    /// If the run cannot be repeated.
    pub fn new(record: RunRecordView) -> anyhow::Result<Self> {
        if let Some(reason) = record.not_repeatable {
            bail!("{} cannot be repeated: {}", measure::one_line(&record.run), measure::one_line(&reason));
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).context("the record is not base64");
        let event = record.event;
        let data = match String::from_utf8(decode(&event.data_base64)?) {
            Ok(text) => Data::Data(text),
            Err(_) => Data::DataBase64(event.data_base64),
        };
        let mut state = Vec::new();
        for RecordedStateView { key, value_base64 } in record.state {
            let value = value_base64.as_deref().map(decode).transpose()?.map(String::from_utf8);
            state.push(match value {
                Some(Err(_)) => State { key, value: None, value_base64 },
                text => State { key, value: text.and_then(Result::ok), value_base64: None },
            });
        }
        Ok(Self {
            fixture: FORMAT,
            run: record.run,
            plugin: record.plugin,
            version: record.version,
            outcome: record.outcome.map(|outcome| outcome.to_string()),
            code: None,
            message: None,
            bound: record.bound,
            endpoints: None,
            settings: record.settings.unwrap_or_default(),
            at: record.at,
            state,
            limits: record.limits,
            event: Event {
                id: event.id,
                source: event.source,
                r#type: event.r#type,
                subject: event.subject,
                time: event.time,
                accepted_at: event.accepted_at,
                depth: event.depth,
                content_type: event.content_type,
                attributes: event.attributes,
                data,
            },
        })
    }

    /// Returns the limits under which the plugin runs.
    pub fn limits(&self) -> Limits {
        self.limits.as_ref().map(limits).unwrap_or_default()
    }

    /// Returns the file's text.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Replaces values. An event from a source repeats its data in the attribute `http.body` or `http.body-base64`. If masking
    /// changes the data, this attribute is masked as a whole.
    pub fn masked(&self, masks: &Masks, style: Style) -> Self {
        let mut masked = self.clone();
        let event = &mut masked.event;
        let mut has_data = false;
        if let Data::Data(text) = &mut event.data {
            let after = match is_json(&event.content_type) && Json::check(text).is_ok() {
                true => masks.json(text, style),
                false if masks.cover(&["data"]) => mask::text(text, style),
                false => text.clone(),
            };
            has_data = after != *text;
            *text = after;
        }
        if let Some(subject) = &mut event.subject
            && masks.cover(&["subject"])
        {
            *subject = mask::text(subject, style);
        }
        for (name, value) in &mut event.attributes {
            let repeats_the_data = has_data && matches!(name.as_str(), "http.body" | "http.body-base64");
            if masks.cover(&["attributes", name.as_str()]) || repeats_the_data {
                *value = mask::text(value, style);
            }
        }
        for (name, value) in &mut masked.settings {
            if masks.cover(&["settings", name.as_str()]) {
                *value = mask::text(value, style);
            }
        }
        for State { key, value, value_base64 } in &mut masked.state {
            if masks.cover(&["state", key.as_str()]) {
                *value = value.as_deref().map(|value| mask::text(value, style));
                *value_base64 = value_base64.as_ref().map(|_| BASE64_STANDARD.encode("masked"));
            }
        }
        masked
    }

    /// Returns the inputs of a run.
    ///
    /// # Errors
    /// If a member has no valid value.
    pub fn given(self) -> anyhow::Result<Given> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).context("a value is not base64");
        let Event { id, source, r#type, subject, time, accepted_at, depth, content_type, attributes, data } = self.event;
        let data_base64 = match data {
            Data::Data(text) => BASE64_STANDARD.encode(text),
            Data::DataBase64(base64) => base64,
        };
        let event = RecordedEventView {
            event: String::new(),
            id,
            source,
            r#type,
            subject,
            time,
            accepted_at,
            depth,
            content_type,
            attributes,
            data_base64,
        };
        let mut state = HashMap::new();
        for State { key, value, value_base64 } in self.state {
            let value = match (value, value_base64) {
                (Some(text), _) => Some(text.into_bytes()),
                (None, base64) => base64.as_deref().map(decode).transpose()?,
            };
            state.extend(value.map(|value| (key, value)));
        }
        let event = event_file::recorded(event)?;
        let at = match &self.at {
            Some(text) => Timestamp::parse_rfc3339(text).context("its `at` is not a time")?,
            None => event.accepted_at,
        };
        Ok(Given { event, config: self.settings, state, bound: self.bound, endpoints: self.endpoints, at })
    }
}

/// Returns the limits of an engine. The view lacks the limits that no setting can change. For those, this program's values are
/// used.
pub fn limits(view: &RunLimitsView) -> Limits {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        deadline: Duration::from_millis(view.deadline_ms),
        memory_bytes: number(view.memory_bytes),
        big_memory_bytes: number(view.big_memory_bytes),
        output_bytes: number(view.output_bytes),
        webhooks: number(view.webhooks),
        events: number(view.events),
        log_lines: number(view.log_lines),
        ..Limits::default()
    }
}
