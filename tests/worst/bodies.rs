//! Bodies that are as expensive as their size allows, for every way to read them.

/// The default of `limits.body_bytes_max`.
pub const PUBLISH_BYTES: usize = 8 << 20;
/// The limit of management requests.
pub const MANAGEMENT_BYTES: usize = 256 << 10;
/// Maximum length of a header, so that the whole head stays below 64 KiB.
const HEADER_BYTES: usize = 60_000;

pub struct Body {
    pub name: String,
    pub kind: &'static str,
    pub bytes: Vec<u8>,
}

/// Returns `before`, then the pieces 0, 1, 2 … separated by `between`, as many as fit into `bytes`, then `after`.
fn filled(bytes: usize, before: &str, between: &str, after: &str, piece: impl Fn(usize) -> String) -> Vec<u8> {
    let mut text = String::with_capacity(bytes);
    text.push_str(before);
    for number in 0.. {
        let next = piece(number);
        if text.len() + between.len() + next.len() + after.len() > bytes {
            break;
        }
        if number > 0 {
            text.push_str(between);
        }
        text.push_str(&next);
    }
    text.push_str(after);
    text.into_bytes()
}

fn same(text: &str) -> impl Fn(usize) -> String {
    move |_| text.to_owned()
}

/// Returns `open` and `close` equally often, nested.
fn nested(bytes: usize, before: &str, open: &str, close: &str, after: &str) -> Vec<u8> {
    let times = (bytes - before.len() - after.len() - 1) / (open.len() + close.len());
    [before, &open.repeat(times), "0", &close.repeat(times), after].concat().into_bytes()
}

type Make = fn(usize) -> Vec<u8>;

pub fn json_bodies(bytes: usize) -> impl Iterator<Item = Body> {
    const EVENT: &str = r#"{"type":"worst.case","#;
    let makes: [(&str, Make); 24] = [
        ("an event with very many null members", |bytes| filled(bytes, EVENT, ",", "}", |n| format!("\"m{n:06}\":null"))),
        ("an event with one null member repeated", |bytes| filled(bytes, EVENT, ",", "}", same("\"m\":null"))),
        ("an event with very many members", |bytes| filled(bytes, EVENT, ",", "}", |n| format!("\"m{n:06}\":1"))),
        ("an event with members of escaped names", |bytes| filled(bytes, EVENT, ",", "}", |n| format!("\"\\u0061{n:06}\":null"))),
        ("an event with a long member name", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"", "", "\":1}", same("x"))),
        ("data of zeros", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"data\":[", ",", "]}", same("0"))),
        ("data of whole floats", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"data\":[", ",", "]}", same("1.0"))),
        ("data of empty objects", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"data\":[", ",", "]}", same("{}"))),
        ("data of empty texts", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"data\":[", ",", "]}", same("\"\""))),
        ("data with very many members", |bytes| {
            filled(bytes, "{\"type\":\"worst.case\",\"data\":{", ",", "}}", |n| format!("\"{n:06}\":0"))
        }),
        ("deep lists in data", |bytes| nested(bytes, "{\"type\":\"worst.case\",\"data\":", "[", "]", "}")),
        ("deep objects in data", |bytes| nested(bytes, "{\"type\":\"worst.case\",\"data\":", "{\"a\":", "}", "}")),
        ("deep lists", |bytes| nested(bytes, "", "[", "]", "")),
        ("deep objects", |bytes| nested(bytes, "", "{\"a\":", "}", "")),
        ("lists that never close", |bytes| vec![b'['; bytes]),
        ("a list of zeros", |bytes| filled(bytes, "[", ",", "]", same("0"))),
        ("a list of whole floats in a member", |bytes| filled(bytes, "{\"a\":[", ",", "]}", same("1.0"))),
        ("a batch of small events", |bytes| filled(bytes, "[", ",", "]", same("{\"type\":\"a\"}"))),
        ("a batch of empty objects", |bytes| filled(bytes, "[", ",", "]", same("{}"))),
        ("a subject of escapes", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"subject\":\"", "", "\"}", same("\\u0041"))),
        ("a number of very many digits", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"n\":", "", "}", same("1"))),
        ("data in base64", |bytes| filled(bytes, "{\"type\":\"worst.case\",\"data_base64\":\"", "", "\"}", same("AAAA"))),
        ("data in base64 that is invalid at its end", |bytes| {
            filled(bytes, "{\"type\":\"worst.case\",\"data_base64\":\"", "", "!\"}", same("AAAA"))
        }),
        ("spaces before an empty object", |bytes| filled(bytes, "", "", "{}", same(" "))),
    ];
    makes.into_iter().map(move |(name, make)| Body { name: name.to_owned(), kind: "application/json", bytes: make(bytes) })
}

pub fn forms(bytes: usize) -> impl Iterator<Item = Body> {
    let makes: [(&str, Make); 9] = [
        ("fields without a value", |bytes| filled(bytes, "", "&", "", same("a"))),
        ("one field with a long value", |bytes| filled(bytes, "a=", "", "", same("a"))),
        ("fields with different names", |bytes| filled(bytes, "", "&", "", |n| format!("{n}="))),
        ("fields with deeply nested names", |bytes| filled(bytes, "", "&", "", |n| format!("{n:05x}{}=", "[a]".repeat(63)))),
        ("one endlessly nested name", |bytes| filled(bytes, "a", "", "=", same("[a]"))),
        ("one long list", |bytes| filled(bytes, "", "&", "", same("a[]="))),
        ("lists in lists", |bytes| filled(bytes, "", "&", "", |n| format!("a{n}[][][]="))),
        ("numbered members", |bytes| filled(bytes, "", "&", "", |n| format!("a[{n}]="))),
        ("fields of escapes", |bytes| filled(bytes, "", "&", "", |n| format!("%41{n}=%41"))),
    ];
    makes.into_iter().map(move |(name, make)| Body {
        name: format!("form, {name}"),
        kind: "application/x-www-form-urlencoded",
        bytes: make(bytes),
    })
}

pub fn other_bodies(bytes: usize) -> impl Iterator<Item = Body> {
    let makes: [(&str, &str, Make); 11] = [
        ("application/xml", "attributes", |bytes| filled(bytes, "<a ", " ", "/>", |n| format!("a{n}=\"\""))),
        ("application/xml", "attributes of one name", |bytes| filled(bytes, "<a ", " ", "/>", same("a=\"\""))),
        ("application/xml", "elements", |bytes| filled(bytes, "<a>", "", "</a>", same("<b/>"))),
        ("application/xml", "elements of many names", |bytes| filled(bytes, "<a>", "", "</a>", |n| format!("<b{n}/>"))),
        ("application/xml", "elements within each other", |bytes| nested(bytes, "", "<a>", "</a>", "")),
        ("application/xml", "entities", |bytes| filled(bytes, "<a>", "", "</a>", same("&amp;"))),
        ("application/xml", "namespaces", |bytes| filled(bytes, "<a ", " ", "/>", |n| format!("xmlns:a{n}=\"x\""))),
        ("application/xml", "a comment", |bytes| filled(bytes, "<a><!--", "", "--></a>", same("x"))),
        ("text/plain", "text", |bytes| vec![b'a'; bytes]),
        ("application/octet-stream", "bytes that are no text", |bytes| vec![0xff; bytes]),
        ("multipart/form-data; boundary=x", "parts", |bytes| filled(bytes, "", "\r\n", "\r\n--x--", same("--x\r\n\r\n"))),
    ];
    makes.into_iter().map(move |(kind, name, make)| Body { name: format!("{kind}, {name}"), kind, bytes: make(bytes) })
}

/// Writes a body of about this many bytes for a field.
type MakeBody = fn(&str, usize) -> Vec<u8>;

/// Returns bodies for each field of a request, with every allowed kind of value in the field and with some that are not allowed.
pub fn field_bodies(fields: &[String], bytes: usize) -> impl Iterator<Item = Body> {
    let makes: [(&str, MakeBody); 5] = [
        ("a list of texts", |field, bytes| filled(bytes, &format!("{{\"{field}\":["), ",", "]}", |n| format!("\"a{n}.*\""))),
        ("a list of whole floats", |field, bytes| filled(bytes, &format!("{{\"{field}\":["), ",", "]}", same("1.0"))),
        ("an object", |field, bytes| filled(bytes, &format!("{{\"{field}\":{{"), ",", "}}", |n| format!("\"a{n}\":\"x\""))),
        ("an object of lists", |field, bytes| {
            filled(bytes, &format!("{{\"{field}\":{{"), ",", "}}", |n| format!("\"a{n}\":[1.0]"))
        }),
        ("a text", |field, bytes| filled(bytes, &format!("{{\"{field}\":\""), "", "\"}", same("x"))),
    ];
    fields.iter().flat_map(move |field| {
        makes.map(|(name, make)| Body { name: format!("{field}: {name}"), kind: "application/json", bytes: make(field, bytes) })
    })
}

/// Returns the headers that can list signatures, each with as many entries as fit into a head.
pub fn signatures() -> impl Iterator<Item = (&'static str, String)> {
    let list = |entry: &str| entry.repeat(HEADER_BYTES / entry.len());
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    [
        ("webhook-signature", list("v1, ")),
        ("webhook-signature", list(&format!("v1,{} ", "A".repeat(43) + "="))),
        ("webhook-signature", list(&format!("v1a,{}== ", "A".repeat(86)))),
        ("svix-signature", list("v1, ")),
        ("stripe-signature", format!("t={},{}v1=0", now(), list("v1=00,"))),
        ("x-hub-signature-256", list("sha256=00,")),
        ("x-shopify-hmac-sha256", list("AAAA")),
        ("x-slack-signature", list("v0=00,")),
        ("x-twilio-signature", list("AAAA")),
        ("authorization", format!("Basic {}", list("AAAA"))),
        ("x-signature", list("00,")),
    ]
    .into_iter()
}
