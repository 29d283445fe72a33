//! One thing as a person reads it: a headline, and below it a line for each member that there is something to say of.

use serde_json::Value;

use super::{
    measure,
    output::{DIM, Styled, text},
};

/// Lines under a headline; each begins with a name, all of which are as wide.
pub struct Card(Vec<String>);

impl Card {
    pub fn new(headline: String) -> Self {
        Self(vec![headline])
    }

    /// With a word before the headline: what has become of the thing.
    pub fn after(mut self, verb: &str) -> Self {
        self.0[0] = format!("{verb} {}", self.0[0]);
        self
    }

    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push(format!("  {:<9} {}", Styled(DIM, name), value.as_ref()));
    }

    /// A line about a member that may be `null`: then there is none.
    pub fn known(&mut self, name: &str, value: &Value) {
        if !value.is_null() {
            self.line(name, one_line(value));
        }
    }

    /// A secret, which only this answer has.
    pub fn secret(&mut self, secret: &Value) {
        self.0.push(String::new());
        self.line("secret", text(secret));
        self.below("copy it now: it is not shown again");
    }

    /// One line more about what the line before says.
    pub fn below(&mut self, words: &str) {
        self.0.push(format!("            {words}"));
    }

    /// A sentence of its own at the end.
    pub fn remark(&mut self, words: &str) {
        self.0.extend([String::new(), words.to_owned()]);
    }

    pub fn into_text(self) -> String {
        self.0.join("\n")
    }
}

/// What a member holds, fit for a line of a terminal.
pub fn one_line(value: &Value) -> String {
    measure::one_line(&text(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_has_a_line_for_what_is_known() {
        let mut card = Card::new("crm  ● active".to_owned()).after("added");
        card.known("title", &Value::Null);
        card.known("rate", &json!("50/s\n"));
        card.secret(&json!("whsec_x"));
        card.below("and so on");
        card.remark("That is all.");
        let expected = "\
added crm  ● active
  rate      50/s\\n

  secret    whsec_x
            copy it now: it is not shown again
            and so on

That is all.";
        assert_eq!(anstream::adapter::strip_str(&card.into_text()).to_string(), expected);
    }
}
