//! The declaration of a setting.

use serde_json::json;

/// A setting that the operator can give a value, declared in [`Plugin::SETTINGS`](crate::Plugin::SETTINGS).
///
/// The engine checks values against the declaration and shows the declaration to the operator. If a setting has no value, the
/// plugin gets the declared default. Do not put secrets into settings: every administrator can read them. Put a receiver's token
/// into a header of its endpoint.
///
/// ```
/// use innesco_sdk::Setting;
///
/// const SETTINGS: &[Setting] = &[
///     Setting::number("threshold", "Orders over this total are reported").default("1000"),
///     Setting::text("endpoint", "Endpoint of the reports").required(),
///     Setting::text("country.*", "Endpoint for all orders from a country; for Italy, set country.IT"),
/// ];
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    name: &'static str,
    kind: Kind,
    description: &'static str,
    default: Option<&'static str>,
    is_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Duration,
    List,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Duration => "duration",
            Self::List => "list",
        }
    }
}

impl Setting {
    const fn new(name: &'static str, kind: Kind, description: &'static str) -> Self {
        Self { name, kind, description, default: None, is_required: false }
    }

    /// Declares a text. A name that ends in `.*` stands for all names with this prefix.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::Text, description)
    }

    /// Declares a whole number of 64 bits.
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::Integer, description)
    }

    /// Declares a number.
    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::Number, description)
    }

    /// Declares `true` or `false`.
    pub const fn boolean(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::Boolean, description)
    }

    /// Declares a duration: `500ms`, `20s`, `5m`, `2h`, `7d`.
    pub const fn duration(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::Duration, description)
    }

    /// Declares a list of texts without commas.
    pub const fn list(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Kind::List, description)
    }

    /// Sets the value that the plugin reads if the operator sets none. A list is written with commas: `a,b`.
    pub const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }

    /// Makes the setting required: the engine refuses a change of the plugin's settings that leaves it without a value.
    pub const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// Returns the declaration as the value of an attribute `setting` in the manifest.
    #[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "only a plugin file has a manifest"))]
    pub(crate) fn attribute(&self) -> String {
        json!({
            "name": self.name,
            "type": self.kind.name(),
            "description": self.description,
            "default": self.default,
            "required": self.is_required,
        })
        .to_string()
    }

    /// Returns the name and the default, or `None` if no default is declared.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn default_value(&self) -> Option<(&'static str, &'static str)> {
        Some((self.name, self.default?))
    }

    /// Returns whether the engine refuses this value.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn refuses(&self, name: &str, value: &str) -> bool {
        let fits = match self.kind {
            Kind::Text | Kind::List => true,
            Kind::Integer => value.parse::<i64>().is_ok(),
            Kind::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
            Kind::Boolean => value.parse::<bool>().is_ok(),
            Kind::Duration => crate::config::duration(value).is_some(),
        };
        self.covers(name) && !fits
    }

    /// Returns whether this declaration covers a setting of this name.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn covers(&self, name: &str) -> bool {
        match self.name.strip_suffix('*').filter(|head| head.ends_with('.')) {
            Some(head) => name.len() > head.len() && name.starts_with(head),
            None => self.name == name,
        }
    }
}
