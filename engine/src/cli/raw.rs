//! Formats JSON without changing its digits, order and escapes. Parsing the JSON into a value would lose them.

/// Spreads JSON over lines, with two spaces per level. Strings and numbers are copied.
pub fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut rest = json.trim();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => string_len(rest),
            '{' | '}' | '[' | ']' | ',' | ':' => 1,
            _ => rest.find(['{', '}', '[', ']', ',', ':', ' ', '\n', '\r', '\t']).unwrap_or(rest.len()),
        };
        let token = &rest[..end];
        rest = rest[end..].trim_start();
        match first {
            '{' | '[' => {
                out.push(first);
                let closing = rest.strip_prefix(if first == '{' { '}' } else { ']' });
                if let Some(after) = closing {
                    out.push(if first == '{' { '}' } else { ']' });
                    rest = after.trim_start();
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(first);
            }
            ',' => {
                out.push(',');
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push_str(token),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Returns the length of the first string of the text, including its quotes.
pub fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return place + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_copied() {
        for (json, shown) in [
            (
                r#"{"z":1,"id":123456789012345678901234,"p":1.10}"#,
                "{\n  \"z\": 1,\n  \"id\": 123456789012345678901234,\n  \"p\": 1.10\n}",
            ),
            ("[1E2, 1e999 , -0.0]", "[\n  1E2,\n  1e999,\n  -0.0\n]"),
            (r#""half \ud83d \" {[,:]} \\""#, r#""half \ud83d \" {[,:]} \\""#),
            (r#"{"a":{},"b":[ ],"a":[{}]}"#, "{\n  \"a\": {},\n  \"b\": [],\n  \"a\": [\n    {}\n  ]\n}"),
            (" true ", "true"),
            ("é", "é"),
        ] {
            assert_eq!(pretty(json), shown, "{json}");
        }
        assert_eq!(pretty(r#"{"é":"ü"}"#), "{\n  \"é\": \"ü\"\n}");
    }
}
