//! Formats one thing for a person: a headline, and a line for each known member.

use super::{
    measure::one_line,
    output::{DIM, Styled},
};

/// Lines under a headline. Each starts with a name of the same width.
pub struct Card(Vec<String>);

impl Card {
    pub fn new(headline: String) -> Self {
        Self(vec![headline])
    }

    /// Adds a word before the headline, such as `added`.
    pub fn after(mut self, verb: &str) -> Self {
        self.0[0] = format!("{verb} {}", self.0[0]);
        self
    }

    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push(format!("  {:<9} {}", Styled(DIM, name), value.as_ref()));
    }

    /// Adds a line for a member, unless it is `null`.
    pub fn known(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(name, one_line(value));
        }
    }

    /// Adds a secret. Only this answer contains it.
    pub fn secret(&mut self, secret: &str) {
        self.0.push(String::new());
        self.line("secret", secret);
        self.below("copy it now: it is not shown again");
    }

    /// Adds a line that continues the previous one.
    pub fn below(&mut self, words: &str) {
        self.0.push(format!("            {words}"));
    }

    /// Adds a sentence at the end.
    pub fn remark(&mut self, words: &str) {
        self.0.extend([String::new(), words.to_owned()]);
    }

    pub fn into_text(self) -> String {
        self.0.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_a_line_for_each_known_member() {
        let mut card = Card::new("crm  ● active".to_owned()).after("added");
        card.known("title", None);
        card.known("rate", Some("50/s\n"));
        card.secret("whsec_x");
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
