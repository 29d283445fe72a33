//! Settings of the plugin, by key. The operator sets them outside of the plugin's code:
//! `innesco plugin config my-first threshold=500`.
//!
//! Declare them in [`Plugin::SETTINGS`](crate::Plugin::SETTINGS), so that the engine refuses values that the plugin cannot use.

use std::{str::FromStr, time::Duration};

use crate::{Error, Result, host};

/// Returns the setting of this key: the operator's value, or the declared default.
///
/// ```
/// # use innesco_sdk::config;
/// let endpoint = config::get("endpoint").unwrap_or("slack".to_owned());
/// ```
pub fn get(key: &str) -> Option<String> {
    host::config_get(key)
}

/// Returns the setting of this key as a value: text, number, `bool`, [`Duration`], list of texts, or an [`Option`] of these.
///
/// ```
/// # use innesco_sdk::{Result, config};
/// # use std::time::Duration;
/// # fn read() -> Result<()> {
/// let threshold: f64 = config::get_as("threshold")?;
/// let wait = config::get_as::<Option<Duration>>("wait")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// `missing-setting` if the setting has no value, `bad-setting` if the value is of another type; neither is retryable.
pub fn get_as<T: FromSetting>(key: &str) -> Result<T> {
    let Some(text) = get(key) else {
        let advice = "set it with innesco plugin config";
        return T::without()
            .ok_or_else(|| Error::permanent("missing-setting", format!("setting {key:?} has no value; {advice}")));
    };
    T::from_setting(&text)
        .ok_or_else(|| Error::permanent("bad-setting", format!("setting {key:?} is {text:?}, which is not {}", T::EXPECTED)))
}

/// A type that [`get_as`] can return.
pub trait FromSetting: Sized {
    /// The required form of the text, for the error message.
    const EXPECTED: &'static str;

    /// Reads the text of a setting.
    fn from_setting(text: &str) -> Option<Self>;

    /// Returns the value of a setting that is not set, if that is allowed.
    fn without() -> Option<Self> {
        None
    }
}

/// Implements the trait for types with `FromStr`.
macro_rules! parsed {
    ($($type:ty, $expected:literal;)*) => {$(
        impl FromSetting for $type {
            const EXPECTED: &'static str = $expected;

            fn from_setting(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }
        }
    )*};
}

parsed! {
    String, "a text";
    bool, "true or false";
    u16, "a whole number from 0 to 65535";
    u32, "a whole number of 32 bits";
    u64, "a whole number from 0";
    usize, "a whole number from 0";
    i32, "a whole number of 32 bits";
    i64, "a whole number";
    f64, "a number";
}

impl FromSetting for Duration {
    const EXPECTED: &'static str = "a duration, such as 500ms, 20s, 5m, 2h or 7d";

    fn from_setting(text: &str) -> Option<Self> {
        duration(text)
    }
}

impl FromSetting for Vec<String> {
    const EXPECTED: &'static str = "a list";

    fn from_setting(text: &str) -> Option<Self> {
        Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

impl<T: FromSetting> FromSetting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_setting(text: &str) -> Option<Self> {
        T::from_setting(text).map(Some)
    }

    fn without() -> Option<Self> {
        Some(None)
    }
}

/// Reads a duration as the engine writes it.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{prelude::*, testing};

    struct Reader;

    impl Plugin for Reader {
        const ON: &'static [&'static str] = &["read"];
        const SETTINGS: &'static [Setting] = &[
            Setting::number("threshold", "").default("12.5"),
            Setting::duration("wait", "").default("5m"),
            Setting::list("teams", "").default("a, b"),
            Setting::boolean("loud", ""),
            Setting::text("country.*", ""),
        ];

        fn handle(&self, _: &Event) -> Result<Outcome> {
            let loud = config::get_as::<Option<bool>>("loud")?;
            let teams: Vec<String> = config::get_as("teams")?;
            let (threshold, wait): (f64, Duration) = (config::get_as("threshold")?, config::get_as("wait")?);
            let country = config::get("country.IT");
            Ok(Emit::new("seen").json(&json!([threshold, wait.as_secs(), teams, loud, country]))?.into())
        }
    }

    fn read(engine: testing::Engine) -> Value {
        let mut engine = engine;
        engine.run(&Reader, &testing::event("read").build()).unwrap().events()[0].json_data()
    }

    #[test]
    fn reads_values_and_declared_defaults() {
        assert_eq!(read(testing::engine()), json!([12.5, 300, ["a", "b"], null, null]));
        let set = testing::engine().config("threshold", "7").config("loud", "true").config("country.IT", "crm");
        assert_eq!(read(set), json!([7.0, 300, ["a", "b"], true, "crm"]));
    }

    #[test]
    #[should_panic(expected = "the engine refuses setting \"threshold\" = \"many\"")]
    fn refuses_what_the_engine_refuses() {
        read(testing::engine().config("threshold", "many"));
    }

    #[test]
    #[should_panic(expected = "the plugin declares no setting \"treshold\"")]
    fn refuses_a_setting_that_is_not_declared() {
        read(testing::engine().config("treshold", "7"));
    }

    #[test]
    fn errors_name_the_setting_and_the_advice() {
        assert_eq!(get_as::<u32>("threshold").unwrap_err().code, "missing-setting");
        assert_eq!(get_as::<Option<u32>>("threshold").unwrap(), None);
    }
}
