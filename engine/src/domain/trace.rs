//! The trace of an event: W3C Trace Context, stored as the attributes of CloudEvents' distributed-tracing extension.
//!
//! An event carries `traceparent` and `tracestate` as received. Span ids are derived from the ids of their subjects (event, run,
//! attempt). So the parent of a run's span can be computed, the `traceparent` of a webhook names its attempt, and no span id has
//! to be stored.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{
    event::{Event, NewEvent},
    id::{DeliveryId, EndpointId, EventId, Tag},
    name::Attributes,
};

/// Name of both the header and the attribute.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// Maximum number of characters of `tracestate` that are passed on; the standard requires at least 512.
const STATE_LEN_MAX: usize = 512;
/// Maximum number of entries of `tracestate`, from the standard.
const STATE_COUNT_MAX: usize = 32;

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

/// A position in a trace, as in `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Bit 0: sampled. Bit 1: the trace id is random. The other bits have no meaning yet.
    pub flags: u8,
}

impl TraceParent {
    const SAMPLED: u8 = 1;
    const KNOWN_FLAGS: u8 = 3;

    /// Reads `traceparent`. Returns `None` if it is malformed and must be ignored. A `traceparent` of a later version may be
    /// longer.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (version, rest) = bytes.split_at_checked(2)?;
        let version = hex::<1>(version)?[0];
        let whole = match version {
            0xff => false,
            0 => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes.len() > 55 && bytes[55] == b'-',
        };
        let dashes = whole && rest[0] == b'-' && rest[33] == b'-' && rest[50] == b'-';
        if !dashes {
            return None;
        }
        let parent =
            Self { trace: hex(&rest[1..33])?, span: hex(&rest[34..50])?, flags: hex::<1>(&rest[51..53])?[0] & Self::KNOWN_FLAGS };
        (parent.trace != [0; 16] && parent.span != [0; 8]).then_some(parent)
    }

    pub const fn is_sampled(self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// Returns the same trace with another span.
    #[must_use]
    pub const fn at(self, span: SpanId) -> Self {
        Self { span, ..self }
    }

    /// Returns the trace in an event's attributes.
    pub fn of(event: &NewEvent) -> Option<Self> {
        Self::parse(event.attributes.get(TRACEPARENT)?)
    }

    /// Starts a trace for an event that came without a trace.
    pub fn begin(tag: Tag, event: EventId) -> Self {
        Self {
            trace: derived(&[b"trace", tag.as_str().as_bytes(), &number(event.as_i64())]),
            span: accept_span(tag, event),
            flags: Self::SAMPLED,
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// Reads hexadecimal digits in lower case. The standard does not allow upper case.
pub(super) fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Returns the `tracestate` that is passed on. It has as many entries as fit, starting from the left, where the newest entries
/// are. Returns `None` if the text is malformed. The caller then drops the whole text.
pub fn trace_state(text: &str) -> Option<String> {
    let mut kept = String::new();
    let entries = text.split(',').map(|entry| entry.trim_matches([' ', '\t'])).filter(|entry| !entry.is_empty());
    for (place, entry) in entries.enumerate() {
        let (key, value) = entry.split_once('=')?;
        let key_char = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-*/@".contains(&c);
        let key_ok = !key.is_empty() && key.len() <= 256 && key.bytes().all(key_char);
        let value_ok = !value.is_empty() && value.len() <= 256 && value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
        if !key_ok || !value_ok || place >= STATE_COUNT_MAX {
            return None;
        }
        if kept.len() + entry.len() < STATE_LEN_MAX {
            if !kept.is_empty() {
                kept.push(',');
            }
            kept.push_str(entry);
        }
    }
    (!kept.is_empty()).then_some(kept)
}

/// Adds a trace to attributes that contain no trace, if there is room.
pub fn adopt(attributes: &mut Attributes, parent: &str, state: Option<&str>) {
    if attributes.get(TRACEPARENT).is_none() && attributes.push(TRACEPARENT, parent.to_owned()).is_ok() {
        // An existing state stays. If there is no room, the state is left out, as the standard allows.
        let _ = state.map(|state| attributes.push(TRACESTATE, state.to_owned()));
    }
}

/// Adds the trace of the causing event to an emitted event.
pub fn inherit(attributes: &mut Attributes, cause: &Event) {
    if TraceParent::of(&cause.new).is_some()
        && let Some(parent) = cause.new.attributes.get(TRACEPARENT)
    {
        adopt(attributes, parent, cause.new.attributes.get(TRACESTATE));
    }
}

/// Returns the span of an event's acceptance.
pub fn accept_span(tag: Tag, event: EventId) -> SpanId {
    derived(&[b"accept", tag.as_str().as_bytes(), &number(event.as_i64())])
}

/// Returns the span of one try of one run.
pub fn run_span(tag: Tag, event: EventId, round: u32, plugin: &str, endpoint: Option<EndpointId>, tries: u32) -> SpanId {
    let (round, tries) = (number(round.into()), number(tries.into()));
    let endpoint = number(endpoint.map_or(0, EndpointId::as_i64));
    derived(&[b"run", tag.as_str().as_bytes(), &number(event.as_i64()), &round, &endpoint, &tries, plugin.as_bytes()])
}

/// Returns the span of one attempt.
pub fn attempt_span(tag: Tag, delivery: DeliveryId, n: u32) -> SpanId {
    derived(&[b"attempt", tag.as_str().as_bytes(), &number(delivery.as_i64()), &number(n.into())])
}

const fn number(number: i64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Derives an id that looks random. The id is never all zeros, because the standard forbids that.
fn derived<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut id = [0; N];
    id.copy_from_slice(&digest[..N]);
    if id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_and_written() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.to_string(), GOOD);
        assert!(parent.is_sampled());
        assert_eq!((parent.trace[0], parent.span[7]), (0x0a, 0x31));
        // A later version of `traceparent` is read as far as it is known, and written as the supported version.
        let newer = GOOD.replacen("00", "cc", 1) + "-what-the-future-will-be-like";
        assert_eq!(TraceParent::parse(&newer).unwrap().to_string(), GOOD);
        let unknown_flags = GOOD.replace("-01", "-fe");
        assert_eq!(TraceParent::parse(&unknown_flags).unwrap().flags, 2);
    }

    #[test]
    fn refuses_a_malformed_parent() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.extra",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
            "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn keeps_as_many_entries_of_a_state_as_fit() {
        assert_eq!(trace_state("a=1, b@x=2 ,,c=3").as_deref(), Some("a=1,b@x=2,c=3"));
        for bad in ["", ",", "novalue", "A=1", "a=", "a=b=c", "a=\u{7f}"] {
            assert_eq!(trace_state(bad), None, "{bad}");
        }
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=v")).collect();
        assert_eq!(trace_state(&many.join(",")), None);
        let long = format!("a={},b={},c=1", "x".repeat(250), "y".repeat(250));
        assert!(
            trace_state(&format!("{long},d={}", "z".repeat(250))).is_some_and(|kept| kept.ends_with(",c=1") && kept.len() < 520)
        );
    }

    #[test]
    fn spans_differ_by_their_subject() {
        let tag = Tag::from_random([7; 4]);
        let event = EventId::from_i64(5);
        let spans = [
            accept_span(tag, event),
            accept_span(Tag::from_random([8; 4]), event),
            run_span(tag, event, 0, "a", None, 1),
            run_span(tag, event, 0, "a", None, 2),
            run_span(tag, event, 1, "a", None, 1),
            run_span(tag, event, 0, "b", None, 1),
            attempt_span(tag, event.delivery(0), 1),
            attempt_span(tag, event.delivery(0), 2),
        ];
        for (place, span) in spans.iter().enumerate() {
            assert!(!spans[..place].contains(span), "{place}");
        }
        assert_eq!(accept_span(tag, event), spans[0], "a span id is the same each time");
    }
}
