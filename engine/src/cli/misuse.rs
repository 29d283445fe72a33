//! Error messages for wrong command lines: what is wrong, and what would be right.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Returns a sentence about what is wrong and one about what to do, or `None` if clap's text is better, as for requested help.
pub fn sentence(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" ")),
        _ => None,
    };
    let command = command_of(error);
    let help = match command.split_once(' ') {
        Some((program, rest)) => format!("{program} help {rest}"),
        None => format!("{command} help"),
    };
    Some(match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return None,
        ErrorKind::InvalidSubcommand => {
            let typed = text(ContextKind::InvalidSubcommand)?;
            let near = nearest(error, ContextKind::SuggestedSubcommand);
            let near = near.map(|near| format!("The nearest is: {command} {near}. ")).unwrap_or_default();
            format!("{command} has no command {typed:?}. {near}See: {help}")
        }
        ErrorKind::UnknownArgument => {
            let typed = text(ContextKind::InvalidArg)?;
            let near = nearest(error, ContextKind::SuggestedArg);
            let near = near.map(|near| format!("The nearest is {near}. ")).unwrap_or_default();
            if typed.starts_with('-') {
                return Some(format!("{command} has no option {typed}. {near}See: {help}"));
            }
            // A shell divides data without quotes into words.
            let quotes = if command.ends_with(" send") { "Put the data in single quotes. " } else { "" };
            format!("{command} has no place for {typed:?}. {quotes}{near}See: {help}")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = text(ContextKind::InvalidArg)?;
            format!("{command} needs {}. Example: {help}", missing.trim_end_matches("..."))
        }
        ErrorKind::InvalidValue => {
            let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
            let argument = argument.split(' ').next().unwrap_or_default();
            if value.is_empty() {
                return Some(format!("{argument} needs a value"));
            }
            match text(ContextKind::ValidValue) {
                Some(valid) => format!("{argument} cannot be {value:?}; it is one of: {}", valid.replace(' ', ", ")),
                None => format!("{argument} cannot be {value:?}"),
            }
        }
        ErrorKind::ValueValidation => {
            let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
            let why = std::error::Error::source(error).map(|why| why.to_string()).unwrap_or_default();
            let why = match why.as_str() {
                "" => String::new(),
                "invalid socket address syntax" => "; write an address with a port, such as 127.0.0.1:9099".to_owned(),
                "invalid digit found in string" => "; write a number".to_owned(),
                why => format!(": {why}"),
            };
            format!("{argument} cannot be {value:?}{why}")
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}. Example: {help}", line.strip_prefix("error: ").unwrap_or(line).trim_end_matches('.'))
        }
    })
}

fn nearest(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        // clap sorts the most likely name last.
        ContextValue::Strings(texts) => texts.last().cloned(),
        _ => None,
    }
}

/// Reads the command, such as `innesco endpoint`, from clap's usage line.
fn command_of(error: &clap::Error) -> String {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return "innesco".to_owned() };
    let usage = usage.to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let words: Vec<&str> = usage.split_whitespace().take_while(|word| !word.starts_with(['<', '[', '-'])).collect();
    if words.is_empty() { "innesco".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;

    fn said(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).err().expect(line);
        super::sentence(&error).unwrap_or_else(|| "help".to_owned())
    }

    #[test]
    fn errors_show_a_valid_command_line() {
        let cases = [
            ("innesco sned order.created", "innesco has no command \"sned\". The nearest is: innesco send. See: innesco help"),
            (
                "innesco event lst",
                "innesco event has no command \"lst\". The nearest is: innesco event list. See: innesco help event",
            ),
            ("innesco zzz", "innesco has no command \"zzz\". See: innesco help"),
            (
                "innesco event list --stat done",
                "innesco event list has no option --stat. The nearest is --state. See: innesco help event list",
            ),
            ("innesco event show", "innesco event show needs <EVENT>. Example: innesco help event show"),
            ("innesco send", "innesco send needs <TYPE>. Example: innesco help send"),
            ("innesco event list --limit", "--limit needs a value"),
            ("innesco event list --limit many", "--limit <COUNT> cannot be \"many\"; write a number"),
            (
                "innesco listen --listen 8181",
                "--listen <ADDRESS:PORT> cannot be \"8181\"; write an address with a port, such as 127.0.0.1:9099",
            ),
            ("innesco delivery retry", "innesco delivery retry needs <DELIVERY>. Example: innesco help delivery retry"),
            (
                "innesco send order.created {\"id\": 7}",
                "innesco send has no place for \"7}\". Put the data in single quotes. See: innesco help send",
            ),
            ("innesco completions csh", "<SHELL> cannot be \"csh\"; it is one of: bash, elvish, fish, powershell, zsh"),
            ("innesco event", "help"),
        ];
        for (line, sentence) in cases {
            assert_eq!(said(line), sentence, "{line}");
        }
    }
}
