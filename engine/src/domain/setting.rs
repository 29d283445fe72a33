//! Settings of plugins: what a plugin declares, and which values fit.
//!
//! A value is stored and passed to the plugin as text. The declaration defines the form of the text. A plugin without a
//! declaration accepts any text.

use std::collections::BTreeMap;

use super::{duration, name::nearest};

/// The end of the name of a declared family of settings: `country.*` allows `country.IT`.
const FAMILY: &str = ".*";

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingType {
    Text,
    /// A whole number of 64 bits.
    Integer,
    Number,
    Boolean,
    /// `500ms`, `20s`, `5m`, `2h`, `7d`.
    Duration,
    /// Texts without commas, separated by commas.
    List,
}

impl SettingType {
    pub const ALL: [Self; 6] = [Self::Text, Self::Integer, Self::Number, Self::Boolean, Self::Duration, Self::List];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Duration => "duration",
            Self::List => "list",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    /// Describes a value of this type, with an example.
    const fn example(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Integer => "a whole number, such as 500",
            Self::Number => "a number, such as 12.5",
            Self::Boolean => "true or false",
            Self::Duration => "a duration, such as 500ms, 20s, 5m or 2h",
            Self::List => "a list, such as [\"a\", \"b\"] or \"a,b\"",
        }
    }

    /// Returns whether this text is a value of this type.
    pub fn fits(self, text: &str) -> bool {
        match self {
            Self::Text | Self::List => true,
            Self::Integer => text.parse::<i64>().is_ok(),
            Self::Number => text.parse::<f64>().is_ok_and(f64::is_finite),
            Self::Boolean => matches!(text, "true" | "false"),
            Self::Duration => duration::parse(text).is_some(),
        }
    }

    /// Returns the text of a value, or `None` if the value is of another type.
    fn text(self, given: &Given) -> Option<String> {
        let text = match (self, given) {
            (Self::Text, Given::Text(text)) => text.clone(),
            // The command line sends text for every type.
            (_, Given::Text(text)) => text.trim().to_owned(),
            (Self::Integer | Self::Number, Given::Number(text)) => text.clone(),
            (Self::Boolean, Given::Boolean(value)) => value.to_string(),
            (Self::List, Given::List(items)) => items.join(","),
            _ => return None,
        };
        self.fits(&text).then_some(text)
    }
}

/// A setting that a plugin declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name. A name that ends in `.*` stands for every name with this prefix.
    pub name: String,
    pub kind: SettingType,
    pub default: Option<String>,
    pub description: String,
    pub is_required: bool,
}

impl Setting {
    fn is_family(&self) -> bool {
        self.name.ends_with(FAMILY)
    }

    fn covers(&self, name: &str) -> bool {
        match self.name.strip_suffix('*').filter(|_| self.is_family()) {
            Some(head) => name.len() > head.len() && name.starts_with(head),
            None => self.name == name,
        }
    }

    /// Returns what is wrong with the declaration.
    pub fn fault(&self) -> Option<String> {
        let bad_default = self.default.as_ref().filter(|default| !self.kind.fits(default));
        if let Some(default) = bad_default {
            return Some(format!("its default {default:?} is not {}", self.kind.example()));
        }
        (self.is_family() && (self.is_required || self.default.is_some()))
            .then(|| "a family of settings has no default and cannot be required".to_owned())
    }
}

/// A value as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    Text(String),
    Number(String),
    Boolean(bool),
    List(Vec<String>),
}

/// A setting that does not fit its declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub name: String,
    /// What is wrong and what to do, with the setting's name.
    pub detail: String,
}

fn misfit(name: &str, detail: String) -> Misfit {
    Misfit { name: name.to_owned(), detail }
}

/// Returns the texts to store, or the first setting that does not fit. Without a declaration every value fits.
pub fn check(declared: &[Setting], given: &BTreeMap<String, Given>) -> Result<BTreeMap<String, String>, Misfit> {
    let mut texts = BTreeMap::new();
    for (name, value) in given {
        if let Given::List(items) = value
            && items.iter().any(|item| item.contains(','))
        {
            return Err(misfit(name, format!("setting {name:?} has an item with a comma, which separates items")));
        }
        let text = match (find(declared, name)?, value) {
            (Some(setting), value) => setting.kind.text(value).ok_or_else(|| wrong_type(name, setting.kind))?,
            (None, Given::Text(text) | Given::Number(text)) => text.clone(),
            (None, Given::Boolean(value)) => value.to_string(),
            (None, Given::List(items)) => items.join(","),
        };
        texts.insert(name.clone(), text);
    }
    let first = missing(declared, &texts).next();
    first.map_or(Ok(texts), Err)
}

/// Returns every stored setting that does not fit the declaration, and every required setting without a value. Settings can be
/// stored before their plugin exists, and a new version of a plugin can declare other settings.
pub fn misfits(declared: &[Setting], stored: &BTreeMap<String, String>) -> Vec<Misfit> {
    let wrong = stored.iter().filter_map(|(name, text)| match find(declared, name) {
        Ok(Some(setting)) if !setting.kind.fits(text) => Some(wrong_type(name, setting.kind)),
        Ok(_) => None,
        Err(misfit) => Some(misfit),
    });
    wrong.chain(missing(declared, stored)).collect()
}

/// Returns the settings that a run reads: the stored values, and the defaults of the others.
pub fn effective(declared: &[Setting], stored: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let defaults = declared.iter().filter_map(|setting| Some((setting.name.clone(), setting.default.clone()?)));
    let mut all: BTreeMap<_, _> = defaults.collect();
    all.extend(stored.clone());
    all
}

/// Finds the declaration of a setting. Returns `None` if the plugin declares no settings.
fn find<'a>(declared: &'a [Setting], name: &str) -> Result<Option<&'a Setting>, Misfit> {
    if declared.is_empty() {
        return Ok(None);
    }
    declared.iter().find(|setting| setting.covers(name)).map(Some).ok_or_else(|| {
        let near = nearest(name, declared.iter().map(|setting| setting.name.as_str()));
        let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
        misfit(name, format!("the plugin declares no setting {name:?}{near}"))
    })
}

fn wrong_type(name: &str, kind: SettingType) -> Misfit {
    misfit(name, format!("setting {name:?} takes {}", kind.example()))
}

fn missing<'a>(declared: &'a [Setting], stored: &'a BTreeMap<String, String>) -> impl Iterator<Item = Misfit> + 'a {
    let required = declared.iter().filter(|setting| setting.is_required && setting.default.is_none());
    let without_value = required.filter(|setting| !stored.contains_key(&setting.name));
    without_value.map(|setting| misfit(&setting.name, format!("setting {:?} is required and has no value", setting.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, kind: SettingType) -> Setting {
        Setting { name: name.to_owned(), kind, default: None, description: String::new(), is_required: false }
    }

    fn declared() -> Vec<Setting> {
        vec![
            setting("name", SettingType::Text),
            setting("count", SettingType::Integer),
            Setting { default: Some("1000".into()), ..setting("threshold", SettingType::Number) },
            setting("loud", SettingType::Boolean),
            setting("wait", SettingType::Duration),
            setting("teams", SettingType::List),
            setting("country.*", SettingType::Text),
        ]
    }

    #[test]
    fn values_fit_their_type_or_are_named() {
        let text = |text: &str| Given::Text(text.to_owned());
        let number = |text: &str| Given::Number(text.to_owned());
        let list = |items: &[&str]| Given::List(items.iter().map(|item| (*item).to_owned()).collect());
        for (name, given, expected) in [
            ("name", text(" a "), Ok(" a ")),
            ("name", number("5"), Err("setting \"name\" takes a text")),
            ("count", number("5"), Ok("5")),
            ("count", text(" 5 "), Ok("5")),
            ("count", number("5.5"), Err("setting \"count\" takes a whole number, such as 500")),
            ("count", Given::Boolean(true), Err("setting \"count\" takes a whole number, such as 500")),
            ("threshold", number("12.5"), Ok("12.5")),
            ("threshold", text("abc"), Err("setting \"threshold\" takes a number, such as 12.5")),
            ("threshold", text("inf"), Err("setting \"threshold\" takes a number, such as 12.5")),
            ("loud", Given::Boolean(false), Ok("false")),
            ("loud", text("yes"), Err("setting \"loud\" takes true or false")),
            ("wait", text("5m"), Ok("5m")),
            ("wait", number("5"), Err("setting \"wait\" takes a duration, such as 500ms, 20s, 5m or 2h")),
            ("teams", list(&["a", "b"]), Ok("a,b")),
            ("teams", list(&["a,b"]), Err("setting \"teams\" has an item with a comma, which separates items")),
            ("teams", text("a,b"), Ok("a,b")),
            ("country.IT", text("crm"), Ok("crm")),
            ("country.", text("crm"), Err("the plugin declares no setting \"country.\"; the nearest name is \"country.*\"")),
            ("treshold", text("5"), Err("the plugin declares no setting \"treshold\"; the nearest name is \"threshold\"")),
        ] {
            let found = check(&declared(), &BTreeMap::from([(name.to_owned(), given.clone())]));
            let found = found.map(|texts| texts[name].clone()).map_err(|misfit| misfit.detail);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{name} {given:?}");
        }
        let any = BTreeMap::from([("x".to_owned(), number("5")), ("y".to_owned(), list(&["a"]))]);
        assert_eq!(
            check(&[], &any).unwrap().into_values().collect::<Vec<_>>(),
            ["5", "a"],
            "without a declaration every value fits"
        );
    }

    #[test]
    fn a_required_setting_has_a_value_or_a_default() {
        let team = Setting { is_required: true, ..setting("team", SettingType::Text) };
        let refused = check(std::slice::from_ref(&team), &BTreeMap::new()).unwrap_err();
        assert_eq!(refused, misfit("team", "setting \"team\" is required and has no value".into()));
        let with_default = Setting { default: Some("sales".into()), ..team };
        assert!(check(&[with_default], &BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn stored_values_are_checked_against_a_later_declaration() {
        let stored: BTreeMap<_, _> =
            [("count", "many"), ("old", "1"), ("name", "x")].map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let names: Vec<_> = misfits(&declared(), &stored).into_iter().map(|misfit| misfit.name).collect();
        assert_eq!(names, ["count", "old"]);
        assert!(misfits(&[], &stored).is_empty());
        let read = effective(&declared(), &stored);
        assert_eq!((read["threshold"].as_str(), read["name"].as_str(), read.len()), ("1000", "x", 4));
    }

    #[test]
    fn faulty_declarations_are_named() {
        let with = |name, kind, default: &str| Setting { default: Some(default.into()), ..setting(name, kind) };
        assert_eq!(with("a", SettingType::Number, "x").fault().unwrap(), "its default \"x\" is not a number, such as 12.5");
        assert!(with("a.*", SettingType::Text, "x").fault().is_some());
        assert_eq!(with("a", SettingType::Duration, "5m").fault(), None);
    }

    #[test]
    fn types_read_back() {
        for kind in SettingType::ALL {
            assert_eq!(SettingType::parse(kind.as_str()), Some(kind));
        }
    }
}
