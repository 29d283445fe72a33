//! The caller's address: the other end of the connection, or the address that a trusted proxy reports.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The header in which trusted proxies report their caller. Only one of the two headers is trusted: a proxy that writes one of them
/// passes the other header on unchanged, so any caller could choose the content of that other header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

impl ForwardedHeader {
    pub const ALL: [Self; 2] = [Self::XForwardedFor, Self::Forwarded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|header| header.as_str() == text)
    }
}

/// The trusted proxies.
#[derive(Clone, Debug)]
pub struct Proxies {
    pub trusted: Vec<IpNet>,
    pub header: ForwardedHeader,
}

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// Returns the caller's address. Reads the entries of the header from last to first. The first address that is not a trusted
    /// proxy is the caller's.
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut caller = peer.to_canonical();
        let lines = headers.get_all(self.header.as_str()).iter().filter_map(|value| value.to_str().ok());
        let entries: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        for entry in entries.iter().rev() {
            if !self.trusts(caller) {
                break;
            }
            let text = match self.header {
                ForwardedHeader::XForwardedFor => Some(*entry),
                ForwardedHeader::Forwarded => of_forwarded(entry),
            };
            // Entries before an unreadable one cannot be trusted.
            let Some(address) = text.and_then(address) else { break };
            caller = address;
        }
        caller
    }
}

/// Returns the value of `for` in an entry such as `for="[2001:db8::1]:4711";proto=https`.
fn of_forwarded(entry: &str) -> Option<&str> {
    entry.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// Parses an address, also with a port or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let whole = text.parse::<IpAddr>().ok().or_else(bare);
    whole.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip())).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).to_vec();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.as_str(), line.parse().unwrap());
        }
        Proxies { trusted, header }.caller(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn trusts_only_configured_proxies() {
        use ForwardedHeader::{Forwarded, XForwardedFor};
        for (header, peer, lines, expected) in [
            (XForwardedFor, "192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            (XForwardedFor, "10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            (XForwardedFor, "::ffff:10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            (XForwardedFor, "10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            (XForwardedFor, "10.0.0.1", &["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            (XForwardedFor, "10.0.0.1", &["203.0.113.9, who"], "10.0.0.1"),
            (XForwardedFor, "10.0.0.1", &[], "10.0.0.1"),
            (Forwarded, "10.0.0.1", &["for=203.0.113.9, For=\"[2001:db8::7]:4711\";proto=https"], "2001:db8::7"),
            (Forwarded, "10.0.0.1", &["for=203.0.113.9;by=x, for=\"[2001:db8:1::7]\""], "203.0.113.9"),
            (Forwarded, "10.0.0.1", &["for=_hidden"], "10.0.0.1"),
        ] {
            assert_eq!(caller(header, peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
