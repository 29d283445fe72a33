//! Replaces values by path: `data.customer.*`. Everything else stays byte for byte, so that a plugin still fails at the same place.

use std::cell::Cell;

use anyhow::bail;

/// How a value is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// By a constant of the same type: `"masked"`, `0`, `false`.
    Constant,
    /// Letters become x and digits 1; length and other characters stay, so a date or an address keeps its form.
    Shape,
}

/// Which values are replaced.
pub struct Masks(Vec<Mask>);

struct Mask {
    typed: String,
    parts: Vec<String>,
    has_matched: Cell<bool>,
}

impl Masks {
    /// Parts of a run in which values can be replaced.
    pub const ROOTS: [&str; 5] = ["data", "subject", "attributes", "settings", "state"];

    /// Reads paths. `*` stands for one name; at the end of a path, it stands for everything below.
    ///
    /// # Errors
    /// If a path begins with none of [`Self::ROOTS`].
    pub fn parse(typed: &[String]) -> anyhow::Result<Self> {
        let mut masks = Vec::new();
        for text in typed {
            let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
            if !Self::ROOTS.contains(&parts[0].as_str()) {
                bail!("--mask {text:?} begins with none of {}; write a path such as data.customer.*", Self::ROOTS.join(", "));
            }
            if parts.last().is_some_and(|last| last == "*") {
                parts.pop();
            }
            masks.push(Mask { typed: text.clone(), parts, has_matched: Cell::new(false) });
        }
        Ok(Self(masks))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first path that has matched no value.
    pub fn unmatched(&self) -> Option<&str> {
        self.0.iter().find(|mask| !mask.has_matched.get()).map(|mask| mask.typed.as_str())
    }

    /// Returns whether the value at this path is replaced.
    pub fn cover(&self, path: &[&str]) -> bool {
        let mut covered = false;
        for mask in &self.0 {
            let fits = |(part, name): (&String, &&str)| part == "*" || part == name;
            if mask.parts.len() <= path.len() && mask.parts.iter().zip(path).all(fits) {
                mask.has_matched.set(true);
                covered = true;
            }
        }
        covered
    }

    /// Replaces values in valid JSON.
    pub fn json(&self, json: &str, style: Style) -> String {
        let mut scan = Scan { rest: json, out: String::with_capacity(json.len()), masks: self, style };
        scan.value(&mut vec!["data".to_owned()]);
        scan.out.push_str(scan.rest);
        scan.out
    }
}

/// Replaces a text.
pub fn text(text: &str, style: Style) -> String {
    match style {
        Style::Constant => "masked".to_owned(),
        Style::Shape => text.chars().map(shape).collect(),
    }
}

fn shape(c: char) -> char {
    match c {
        c if c.is_numeric() => '1',
        c if c.is_uppercase() => 'X',
        c if c.is_alphabetic() => 'x',
        c => c,
    }
}

/// Copies JSON and replaces covered values on the way.
struct Scan<'a> {
    rest: &'a str,
    out: String,
    masks: &'a Masks,
    style: Style,
}

impl<'a> Scan<'a> {
    fn value(&mut self, path: &mut Vec<String>) {
        self.blanks();
        match self.rest.as_bytes().first() {
            Some(b'{') => self.children(path, b'}', true),
            Some(b'[') => self.children(path, b']', false),
            _ => {
                let token = self.token();
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                let masked = if self.masks.cover(&names) { replaced(token, self.style) } else { token.to_owned() };
                self.out.push_str(&masked);
            }
        }
    }

    fn children(&mut self, path: &mut Vec<String>, end: u8, has_names: bool) {
        self.copy(1);
        for number in 0.. {
            self.blanks();
            if self.rest.as_bytes().first().is_none_or(|byte| *byte == end) {
                break;
            }
            if self.rest.starts_with(',') {
                self.copy(1);
                self.blanks();
            }
            if has_names {
                let name = self.token();
                self.out.push_str(name);
                path.push(serde_json::from_str(name).unwrap_or_default());
                self.blanks();
                self.copy(1);
            } else {
                path.push(number.to_string());
            }
            self.value(path);
            path.pop();
        }
        self.copy(1);
    }

    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.out.push_str(copied);
        self.rest = rest;
    }

    fn blanks(&mut self) {
        self.copy(self.rest.len() - self.rest.trim_start_matches([' ', '\n', '\r', '\t']).len());
    }

    /// Takes the next token: a string, a number, `true`, `false` or `null`.
    fn token(&mut self) -> &'a str {
        let length = match self.rest.starts_with('"') {
            true => super::raw::string_len(self.rest),
            false => self.rest.find([',', '}', ']', ':', ' ', '\n', '\r', '\t']).unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        token
    }
}

fn replaced(token: &str, style: Style) -> String {
    if token.starts_with('"') {
        // A string with half a surrogate pair is not text, so it is replaced as a whole.
        let words = serde_json::from_str::<String>(token).unwrap_or_default();
        return serde_json::Value::String(text(&words, style)).to_string();
    }
    match (token, style) {
        ("null", _) => token.to_owned(),
        ("true" | "false", Style::Constant) => "false".to_owned(),
        ("true" | "false", Style::Shape) => token.to_owned(),
        (_, Style::Constant) => "0".to_owned(),
        // The exponent stays, because another one could make the number too large.
        (number, Style::Shape) => {
            let (digits, exponent) = number.split_at(number.find(['e', 'E']).unwrap_or(number.len()));
            digits.chars().map(|c| if c.is_ascii_digit() { '1' } else { c }).chain(exponent.chars()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(typed: &[&str]) -> Masks {
        Masks::parse(&typed.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn replaces_covered_values_and_keeps_every_other_byte() {
        let json = r#" {"a": [ {"b" : "Ann\u0061 7é", "c":1.50e2},{"b":null ,"c":-3} ],"d":{}, "e":true, "b":"stays"}"#;
        for (typed, style, expected) in [
            ("data.a.*.b", Style::Constant, json.replace(r#""Ann\u0061 7é""#, "\"masked\"")),
            ("data.a.*.b", Style::Shape, json.replace(r#""Ann\u0061 7é""#, "\"Xxxx 1x\"")),
            ("data.a.0.c", Style::Shape, json.replace("1.50e2", "1.11e2")),
            (
                "data.a.*",
                Style::Constant,
                json.replace(r#""Ann\u0061 7é""#, "\"masked\"").replace("1.50e2", "0").replace("-3", "0"),
            ),
            ("data.e", Style::Constant, json.replace("true", "false")),
        ] {
            assert_eq!(masks(&[typed]).json(json, style), expected, "{typed} {style:?}");
        }
        assert_eq!(masks(&["data.*"]).json("\"Anna\"", Style::Constant), "\"masked\"");
        assert_eq!(masks(&["data.*"]).json("[]", Style::Constant), "[]");
    }

    #[test]
    fn a_path_without_a_value_is_named() {
        let masks = masks(&["data.a", "data.b.*"]);
        masks.json(r#"{"a": 1}"#, Style::Constant);
        assert_eq!(masks.unmatched(), Some("data.b.*"));
        let error = Masks::parse(&["customer.*".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("begins with none of data, subject"), "{error}");
    }
}
