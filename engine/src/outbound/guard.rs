//! Decides which addresses and URLs are allowed. Pure functions: no look-up, no connection.
//!
//! Only addresses that are known to be public are allowed. Every other address is refused unless the operator opened its network.
//! An IPv6 address that stands for an IPv4 address (mapped or NAT64) is checked as that IPv4 address, because packets end up
//! there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use url::{Host, Url};

use crate::domain::endpoint::Reach;

/// The guard's decision on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Public,
    /// In a network that the operator opened.
    Allowed,
    Blocked(Special),
}

/// A range of addresses that are not for the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    pub net: IpNet,
    /// The kind of an address in this range, as the end of a sentence: `a private address`.
    pub what: &'static str,
    /// Whether it makes sense to suggest opening the whole range.
    whole: bool,
}

/// Whether the exchange is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Encrypted,
    Plain,
}

impl Transport {
    /// Returns the transport of `https` and `http`; other schemes cannot carry webhooks.
    pub fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "https" => Some(Self::Encrypted),
            "http" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// Checks addresses. Allows public addresses, and addresses in networks that the operator opened (`--allow-net`).
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<IpNet>,
    reach: Reach,
}

impl Guard {
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.iter().map(IpNet::trunc).collect(), reach: Reach::Opened }
    }

    /// Returns the guard for subscriptions that programs created: no network is opened for them.
    pub const fn public() -> Self {
        Self { allowed: Vec::new(), reach: Reach::Public }
    }

    pub fn judge(&self, ip: IpAddr) -> Verdict {
        let real = behind(ip);
        if self.allowed.iter().any(|net| net.contains(&ip) || net.contains(&real)) {
            return Verdict::Allowed;
        }
        match SPECIAL.iter().find(|special| special.net.contains(&real)) {
            Some(special) => Verdict::Blocked(*special),
            None if real.is_ipv6() && !GLOBAL_UNICAST.contains(&real) => Verdict::Blocked(UNASSIGNED),
            None => Verdict::Public,
        }
    }

    /// Checks whether an exchange may go to `ip`. To a public address it must be encrypted; in an allowed network it may be
    /// unencrypted.
    pub fn admit(&self, ip: IpAddr, transport: Transport) -> Result<(), BlockedAddress> {
        let why = match (self.judge(ip), transport) {
            (Verdict::Allowed, _) | (Verdict::Public, Transport::Encrypted) => return Ok(()),
            (Verdict::Public, Transport::Plain) => Why::Unencrypted,
            (Verdict::Blocked(special), _) => Why::Special(special),
        };
        Err(BlockedAddress { name: None, ip, why, reach: self.reach })
    }

    /// Checks everything about `url` that needs no look-up: its form, and its host if that is an address.
    pub fn admit_url(&self, url: &Url) -> Result<Transport, BadUrl> {
        let transport = Transport::of(url).ok_or_else(|| BadUrl::Scheme(url.scheme().to_owned()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadUrl::UserInfo);
        }
        if url.port() == Some(0) {
            return Err(BadUrl::PortZero);
        }
        match url.host() {
            Some(Host::Ipv4(ip)) => self.admit(ip.into(), transport)?,
            Some(Host::Ipv6(ip)) => self.admit(ip.into(), transport)?,
            // No network is opened for subscriptions that programs created, so no address of this name may be reached without
            // encryption.
            Some(Host::Domain(_)) if transport == Transport::Plain && self.reach == Reach::Public => {
                return Err(BadUrl::Unencrypted);
            }
            Some(Host::Domain(_)) => {}
            None => return Err(BadUrl::Unreadable(url::ParseError::EmptyHost)),
        }
        Ok(transport)
    }
}

/// Maximum length of a URL, in bytes.
pub(super) const URL_BYTES_MAX: usize = 2048;

/// Parses a URL that a person typed. The host gets the form that is dialled: `0x7f.1` becomes `127.0.0.1`.
pub(super) fn parse_url(text: &str) -> Result<Url, BadUrl> {
    if text.len() > URL_BYTES_MAX {
        return Err(BadUrl::TooLong);
    }
    let mut url = Url::parse(text).map_err(BadUrl::Unreadable)?;
    // `localhost:9555` parses as a URL with the scheme `localhost`.
    if url.cannot_be_a_base() {
        return Err(BadUrl::NoScheme);
    }
    // A fragment is for the reader of a document, and is never sent.
    url.set_fragment(None);
    // The client uses `http::Uri`, which is stricter than browsers. Both parsers must give the same host: otherwise the guard
    // would check one host and the client dial another.
    if Transport::of(&url).is_some() {
        let uri: http::Uri = url.as_str().parse().map_err(|_| BadUrl::Unsendable)?;
        if uri.host() != url.host_str() {
            return Err(BadUrl::Unsendable);
        }
    }
    Ok(url)
}

/// Why a URL is refused when an endpoint is saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("the URL is not valid ({0}); write it like https://example.com/hook")]
    Unreadable(url::ParseError),
    #[error("the URL has no scheme; begin it with https:// or http://, such as https://example.com/hook")]
    NoScheme,
    #[error("the URL is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("the URL contains a character that cannot be sent; percent-encode it")]
    Unsendable,
    #[error("webhook URLs begin with https:// (or http:// for allowed networks), not {0}://")]
    Scheme(String),
    #[error("the URL contains a user name or password; put credentials into a header of the endpoint")]
    UserInfo,
    #[error("the URL's port is 0, which is not a valid port")]
    PortZero,
    #[error("http:// is not encrypted; use https://")]
    Unencrypted,
    #[error(transparent)]
    Blocked(#[from] BlockedAddress),
}

impl BadUrl {
    /// Returns whether only the address of the URL is refused, not its form.
    pub const fn is_blocked(&self) -> bool {
        matches!(self, Self::Blocked(_) | Self::Unencrypted)
    }
}

/// An address that the guard refuses, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedAddress {
    /// The name that resolved to it; `None` if the URL itself has the address.
    name: Option<Box<str>>,
    ip: IpAddr,
    why: Why,
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Special(Special),
    Unencrypted,
}

impl BlockedAddress {
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub(super) fn behind_name(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Returns the network to open: the whole range if that is usual, otherwise only this address.
    fn cure(&self) -> IpNet {
        match self.why {
            Why::Special(special) if special.whole => special.net,
            _ => behind(self.ip).into(),
        }
    }

    /// Formats the refusal for a program that subscribes. The program must not learn addresses inside the operator's networks.
    fn write_for_public(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why == Why::Unencrypted {
            return f.write_str("http:// is not encrypted; use https://");
        }
        match &self.name {
            Some(name) => write!(f, "{name} resolves to an address that is not public")?,
            None => write!(f, "{} is not a public address", self.ip)?,
        }
        f.write_str(
            "; a subscription of a key with the role subscribe reaches only public addresses: create it with a key \
             of the role operate, or create an endpoint (innesco endpoint add)",
        )
    }
}

impl std::error::Error for BlockedAddress {}

impl fmt::Display for BlockedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reach == Reach::Public {
            return self.write_for_public(f);
        }
        if let Some(name) = &self.name {
            write!(f, "{name} resolves to ")?;
        }
        let (ip, real) = (self.ip, behind(self.ip));
        write!(f, "{ip}")?;
        if ip != real {
            write!(f, " ({real})")?;
        }
        f.write_str(if self.name.is_some() { ", which is " } else { " is " })?;
        match self.why {
            Why::Special(special) => write!(f, "{}; ", special.what)?,
            Why::Unencrypted => f.write_str("a public address, and http:// is not encrypted; use https://, or ")?,
        }
        write!(f, "allow it with --allow-net {} when you start the engine", self.cure())
    }
}

/// Returns the address where packets to `ip` end up: IPv4-mapped and NAT64 addresses (RFC 4291, 6052) embed an IPv4 address.
///
/// NAT64 is checked instead of refused, because on an IPv6-only network every IPv4 receiver is reached through it.
fn behind(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into()
        }
        _ => ip,
    }
}

/// All IPv6 addresses that are assigned for use between networks.
const GLOBAL_UNICAST: IpNet = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const UNASSIGNED: Special = one(v6([0; 8], 0), "not a public address");

/// The IANA registries of special-purpose addresses, and the metadata addresses of clouds. The first match names the address, so
/// a narrower range is before a wider range that contains it. An IPv6 address outside of [`GLOBAL_UNICAST`] is refused even if it
/// is not listed.
const SPECIAL: &[Special] = &[
    one(v4(0, 0, 0, 0, 8), "an unspecified address, which leads to this machine"),
    whole(v4(127, 0, 0, 0, 8), "a loopback address"),
    whole(v4(10, 0, 0, 0, 8), "a private address"),
    whole(v4(172, 16, 0, 0, 12), "a private address"),
    whole(v4(192, 168, 0, 0, 16), "a private address"),
    one(v4(100, 100, 100, 200, 32), "a cloud's metadata address"),
    whole(v4(100, 64, 0, 0, 10), "a carrier's shared address"),
    one(v4(169, 254, 169, 254, 32), "a cloud's metadata address"),
    one(v4(169, 254, 0, 0, 16), "a link-local address"),
    one(v4(168, 63, 129, 16, 32), "a cloud's metadata address"),
    one(v4(192, 0, 0, 0, 24), "an address reserved for protocols"),
    one(v4(192, 0, 2, 0, 24), "a documentation address"),
    one(v4(198, 51, 100, 0, 24), "a documentation address"),
    one(v4(203, 0, 113, 0, 24), "a documentation address"),
    one(v4(192, 88, 99, 0, 24), "a 6to4 relay address"),
    one(v4(198, 18, 0, 0, 15), "a benchmarking address"),
    one(v4(224, 0, 0, 0, 4), "a multicast address"),
    one(v4(255, 255, 255, 255, 32), "the broadcast address"),
    one(v4(240, 0, 0, 0, 4), "a reserved address"),
    one(v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "an unspecified address, which leads to this machine"),
    whole(v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback address"),
    one(v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "an IPv4-compatible address"),
    one(v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "a local NAT64 address"),
    one(v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "a discard address"),
    one(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address"),
    one(v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "a benchmarking address"),
    one(v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), "an ORCHID, which is not routable"),
    one(v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), "an ORCHID, which is not routable"),
    one(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an address reserved for protocols"),
    one(v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "a documentation address"),
    one(v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "a documentation address"),
    one(v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a 6to4 address"),
    one(v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "a segment-routing address"),
    one(v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), "a cloud's metadata address"),
    whole(v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a private address"),
    one(v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local address"),
    one(v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "a site-local address"),
    one(v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
];

const fn one(net: IpNet, what: &'static str) -> Special {
    Special { net, what, whole: false }
}

const fn whole(net: IpNet, what: &'static str) -> Special {
    Special { net, what, whole: true }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn admit(guard: &Guard, url: &str) -> Result<Transport, String> {
        parse_url(url).and_then(|url| guard.admit_url(&url)).map_err(|bad| bad.to_string())
    }

    #[test]
    fn a_refusal_names_the_address_and_the_remedy() {
        let guard = Guard::default();
        let said = |url| admit(&guard, url).unwrap_err();
        assert_eq!(
            said("https://10.0.0.7/a"),
            "10.0.0.7 is a private address; allow it with --allow-net 10.0.0.0/8 when you start the engine"
        );
        assert_eq!(
            said("https://169.254.169.254/"),
            "169.254.169.254 is a cloud's metadata address; allow it with --allow-net 169.254.169.254/32 when you start the engine"
        );
        assert_eq!(
            said("https://[::1]/"),
            "::1 is a loopback address; allow it with --allow-net ::1/128 when you start the engine"
        );
        assert_eq!(
            said("https://[64:ff9b::a00:7]/"),
            "64:ff9b::a00:7 (10.0.0.7) is a private address; allow it with --allow-net 10.0.0.0/8 when you start the engine"
        );
        assert_eq!(
            said("http://9.9.9.9/"),
            "9.9.9.9 is a public address, and http:// is not encrypted; use https://, or allow it with --allow-net 9.9.9.9/32 when you start the engine"
        );
        let named = guard.admit([10, 0, 0, 7].into(), Transport::Encrypted).unwrap_err().behind_name("crm.example");
        assert_eq!(
            named.to_string(),
            "crm.example resolves to 10.0.0.7, which is a private address; allow it with --allow-net 10.0.0.0/8 when you start the engine"
        );
    }

    #[test]
    fn no_notation_hides_an_address() {
        let guard = Guard::default();
        for host in [
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.0.0.1.",
            "127.0.0.1:8443",
            "１２７.０.０.１",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b:1::127.0.0.1]",
            "[2002:7f00:1::]",
            "[2001:0:7f00:1::1]",
            "0",
            "[::]",
        ] {
            let said = admit(&guard, &format!("https://{host}/")).expect_err(host);
            assert!(said.contains("--allow-net"), "{host}: {said}");
        }
    }

    #[test]
    fn checks_the_form_of_a_url() {
        let guard = Guard::default();
        let said = |url: &str| admit(&guard, url).unwrap_err();
        assert_eq!(admit(&guard, "https://crm.example/hook?token=x"), Ok(Transport::Encrypted));
        assert_eq!(admit(&guard, "http://crm.example"), Ok(Transport::Plain), "its addresses decide later");
        assert_eq!(
            admit(&Guard::public(), "http://crm.example"),
            Err("http:// is not encrypted; use https://".to_owned()),
            "for programs no address can allow it"
        );
        assert_eq!(said("ftp://crm.example/"), "webhook URLs begin with https:// (or http:// for allowed networks), not ftp://");
        assert_eq!(said("file:///etc/passwd"), "webhook URLs begin with https:// (or http:// for allowed networks), not file://");
        assert!(said("https://me:pass@crm.example/").contains("user name"));
        assert!(said("https://me@crm.example/").contains("user name"));
        assert!(said("https://crm.example:0/").contains("port is 0"));
        assert!(said("https://crm.example:70000/").contains("not valid"));
        assert!(said("https://").contains("not valid"));
        assert!(said("crm.example/hook").contains("https://example.com/hook"));
        assert!(said(&format!("https://crm.example/{}", "x".repeat(3000))).contains("longer"));
        assert_eq!(parse_url("https://crm.example/a#b").unwrap().as_str(), "https://crm.example/a");
    }

    #[test]
    fn only_an_opened_network_is_allowed() {
        let guard = Guard::new(vec!["10.1.2.3/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        assert_eq!(guard.judge([10, 200, 0, 1].into()), Verdict::Allowed);
        assert_eq!(guard.judge("::ffff:10.0.0.7".parse().unwrap()), Verdict::Allowed);
        assert_eq!(guard.judge("fd12::1".parse().unwrap()), Verdict::Allowed);
        assert!(matches!(guard.judge([192, 168, 0, 1].into()), Verdict::Blocked(_)));
        assert_eq!(admit(&guard, "http://10.0.0.7:8080/"), Ok(Transport::Plain));
        assert_eq!(guard.judge([9, 9, 9, 9].into()), Verdict::Public);
    }

    /// States the special ranges a second time, mostly by functions of the standard library, so that an error in the table is
    /// detected.
    fn plainly_special(ip: Ipv4Addr) -> bool {
        let [a, b, c, _] = ip.octets();
        ip.is_loopback()
            || ip.is_private()
            || ip.is_link_local()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.is_documentation()
            || a == 0
            || a >= 240
            || (a == 100 && b & 0xc0 == 64)
            || (a == 198 && b & 0xfe == 18)
            || (a, b, c) == (192, 0, 0)
            || (a, b, c) == (192, 88, 99)
            || ip == Ipv4Addr::new(168, 63, 129, 16)
    }

    /// Generates an address of a special range. The bits after the range's prefix are random.
    fn special() -> impl Strategy<Value = IpAddr> {
        (select(SPECIAL), any::<u128>()).prop_map(|(special, noise)| match special.net {
            IpNet::V4(net) => {
                let host = noise as u32 & !u32::from(net.netmask());
                Ipv4Addr::from(u32::from(net.network()) | host).into()
            }
            IpNet::V6(net) => {
                let host = noise & !u128::from(net.netmask());
                Ipv6Addr::from(u128::from(net.network()) | host).into()
            }
        })
    }

    fn embeddings(ip: Ipv4Addr) -> [Ipv6Addr; 7] {
        let [a, b, c, d] = ip.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 0x1234, 0x5678, 0, 0, !high, !low),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0, 1),
        ]
    }

    proptest! {
        #[test]
        fn every_special_address_is_refused(ip in special()) {
            let verdict = Guard::default().judge(ip);
            prop_assert!(matches!(verdict, Verdict::Blocked(_)), "{} is {:?}", ip, verdict);
        }

        #[test]
        fn refuses_a_special_address_in_every_embedding(ip in special()) {
            if let IpAddr::V4(ip) = ip {
                for wrapped in embeddings(ip) {
                    let verdict = Guard::default().judge(wrapped.into());
                    prop_assert!(matches!(verdict, Verdict::Blocked(_)), "{} is {:?}", wrapped, verdict);
                }
            }
        }

        #[test]
        fn an_ipv4_address_is_public_exactly_when_it_is_not_special(bits in any::<u32>()) {
            let ip = Ipv4Addr::from(bits);
            let public = Guard::default().judge(ip.into()) == Verdict::Public;
            prop_assert_eq!(public, !plainly_special(ip), "{}", ip);
            let [mapped, _, nat64, ..] = embeddings(ip);
            prop_assert_eq!(Guard::default().judge(mapped.into()) == Verdict::Public, public);
            prop_assert_eq!(Guard::default().judge(nat64.into()) == Verdict::Public, public);
        }

        #[test]
        fn ordinary_ipv6_addresses_are_public(bits in any::<u128>(), registry in select(&[0x2400u16, 0x2600, 0x2800, 0x2a00, 0x2c00][..])) {
            let ip = Ipv6Addr::from(bits >> 16 | u128::from(registry) << 112);
            prop_assert_eq!(Guard::default().judge(ip.into()), Verdict::Public, "{}", ip);
        }

        #[test]
        fn ipv6_outside_global_unicast_is_refused(bits in any::<u128>()) {
            let ip = Ipv6Addr::from(bits);
            let outside = bits >> 125 != 1;
            if outside && behind(ip.into()).is_ipv6() {
                prop_assert!(matches!(Guard::default().judge(ip.into()), Verdict::Blocked(_)), "{}", ip);
            }
        }
    }
}
