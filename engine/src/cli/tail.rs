//! `innesco event tail`: prints what an engine does, as it happens.

use std::time::Duration;

use super::{
    client::{Client, NoAnswer},
    feed::FeedPrinter,
    output::{self, Printer},
};

/// Pause before a lost stream is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum size of one message, in bytes. No engine sends a larger one.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

#[derive(clap::Args)]
pub struct TailArgs {
    /// Only events of this type or pattern, such as 'order.*', with their runs and webhooks
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only webhooks to this endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only this plugin: its runs and its versions
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
}

/// Prints until it is interrupted. A stream that breaks is opened again. Messages in between are not printed.
pub fn run(args: &TailArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let given = [("type", &args.event_type), ("endpoint", &args.endpoint), ("plugin", &args.plugin)];
    let query: Vec<(&str, &str)> = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let mut printer = FeedPrinter::default();
    let mut was_open = false;
    loop {
        let (mut messages, mut is_open) = (Messages::default(), false);
        let followed = client.follow(&["v1", "stream"], &query, |piece| {
            match piece {
                Some(bytes) => {
                    if !std::mem::replace(&mut is_open, true) {
                        output::tell!("connected (Ctrl-C stops)");
                    }
                    for json in messages.read(bytes)? {
                        match out.for_script() {
                            true => output::print(&json)?,
                            false => printer.print(&serde_json::from_str(&json)?),
                        }
                    }
                }
                None => printer.end_second(),
            }
            Ok(())
        });
        was_open |= is_open;
        match followed {
            Err(error) if !was_open || !error.is::<NoAnswer>() => return Err(error),
            _ => {}
        }
        output::tell!("the stream ended; opening it again. Events in between are not shown; list them with: innesco event list");
        loop {
            std::thread::sleep(PAUSE);
            if client.get_text(&["readyz"]).is_ok() {
                break;
            }
        }
    }
}

/// Reads server-sent events: the `data` of each message.
#[derive(Default)]
struct Messages {
    /// The start of a line whose end has not arrived.
    rest: Vec<u8>,
}

impl Messages {
    fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<String>> {
        self.rest.extend_from_slice(bytes);
        let mut found = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                found.push(data.trim_start().to_owned());
            }
        }
        anyhow::ensure!(self.rest.len() <= MESSAGE_BYTES_MAX, "the answer is not an event stream; check the address");
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_from_pieces_of_any_size() {
        let text = b": connected\n\nevent: missed\ndata: {\"kind\":\"missed\",\"count\":2}\n\n: pulse\n\ndata:{\"a\":\"\xc3\xa4\"}\r\n\n";
        let expected = [r#"{"kind":"missed","count":2}"#, r#"{"a":"ä"}"#];
        for size in 1..=text.len() {
            let mut messages = Messages::default();
            let mut found = Vec::new();
            for piece in text.chunks(size) {
                found.extend(messages.read(piece).unwrap());
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
        assert!(Messages::default().read(&vec![b'x'; MESSAGE_BYTES_MAX + 1]).is_err());
    }
}
