//! Tests of verification, with published vectors, with malformed requests, and with every byte changed.

use std::time::Duration;

use proptest::prelude::*;

use super::{verify::FIELDS_MAX, *};

const BODY: &[u8] = br#"{"test": 2432232314}"#;
pub(super) const AT: i64 = 1_614_265_330;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub(super) fn source(draft: Draft, secrets: &[&str]) -> Source {
    let settings = draft.settle().unwrap();
    let held = |text: &&str| HeldSecret { secret: Secret::Text((*text).to_owned()), until: None };
    Source {
        id: SourceId::from_i64(1),
        created_at: at(0),
        new: NewSource {
            name: Slug::parse("shop").unwrap(),
            title: None,
            token: Token::from_seed([7; 16]),
            former: Vec::new(),
            secrets: secrets.iter().map(held).collect(),
            verify_token: None,
            draft,
            settings,
        },
    }
}

pub(super) fn preset(preset: &str, secrets: &[&str]) -> Source {
    source(Draft { preset: preset.to_owned(), ..Draft::default() }, secrets)
}

pub(super) fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn post<'a>(headers: &'a [(String, String)], body: &'a [u8]) -> Incoming<'a> {
    Incoming { method: "POST", url: "https://hooks.example/in/shop", query: "", headers, body }
}

fn check(source: &Source, pairs: &[(&str, &str)], body: &[u8], now: i64) -> Result<Believed, Refusal> {
    source.verify(&post(&headers(pairs), body), at(0), at(now))
}

const STANDARD: [(&str, &str); 3] = [
    ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
    ("webhook-timestamp", "1614265330"),
    ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
];
pub(super) const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SLACK_BODY: &[u8] = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";

/// The headers that carry a proof.
type Proof = Vec<(&'static str, &'static str)>;

/// Returns a request of each of several senders that sign: the source, the request's headers, its body, and its time.
fn signers() -> Vec<(Source, Proof, &'static [u8], i64)> {
    let github = ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    let stripe = "t=1614265330,v1=10c96c6fd3f320fcfc264cdc4f476c15060ede8e8a08404cea2ddf3b72544a9c";
    let slack = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let base64 = "xL5cCS2Qf6JA8tpSTB/YKRNwU3knTRE8rNXsOmZ61NQ=";
    vec![
        (preset("standard-webhooks", &[WHSEC]), STANDARD.to_vec(), BODY, AT),
        (preset("github", &["It's a Secret to Everybody"]), vec![github], b"Hello, World!", 0),
        (preset("stripe", &["whsec_test_secret"]), vec![("stripe-signature", stripe)], BODY, AT),
        (preset("shopify", &["secret"]), vec![("x-shopify-hmac-sha256", base64)], BODY, 0),
        (preset("woocommerce", &["secret"]), vec![("x-wc-webhook-signature", base64)], BODY, 0),
        (
            preset("slack", &["8f742231b10e8888abcd99yyyzzz85a5"]),
            vec![("x-slack-signature", slack), ("x-slack-request-timestamp", "1531420618")],
            SLACK_BODY,
            1_531_420_618,
        ),
        (preset("gitea", &["It's a Secret to Everybody"]), vec![("x-gitea-signature", &github.1[7..])], b"Hello, World!", 0),
    ]
}

#[test]
fn accepts_published_vectors() {
    for (source, pairs, body, now) in signers() {
        let name = source.new.settings.preset.as_str();
        let believed = check(&source, &pairs, body, now).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert!(believed.digest.is_some(), "{name}");
        // During a rotation, both secrets are valid.
        let other = HeldSecret { secret: Secret::Text(WHSEC.replace('M', "N")), until: None };
        let mut rotated = source.clone();
        rotated.new.secrets.insert(0, other.clone());
        let again = check(&rotated, &pairs, body, now).map(|believed| (believed.id, believed.digest));
        assert_eq!(again, Ok((believed.id, believed.digest)), "{name}");
        rotated.new.secrets = vec![other];
        assert_eq!(check(&rotated, &pairs, body, now), Err(Refusal::Mismatch), "{name}");
        rotated.new.secrets.clear();
        assert!(check(&rotated, &pairs, body, now).is_err(), "{name}");
        for (missing, _) in &pairs {
            let rest: Vec<_> = pairs.iter().copied().filter(|(name, _)| name != missing).collect();
            assert!(matches!(check(&source, &rest, body, now), Err(Refusal::Missing(_))), "{name} without {missing}");
            let twice = [pairs.as_slice(), &[(*missing, "x")]].concat();
            assert!(matches!(check(&source, &twice, body, now), Err(Refusal::Malformed { .. })), "{name} with two of {missing}");
        }
        assert_eq!(check(&source, &pairs, b"", now), Err(Refusal::Mismatch), "{name}");
    }
}

#[test]
fn signed_times_have_a_window() {
    for (source, pairs, body, now) in signers() {
        let Some(tolerance) = (match source.new.settings.proofs.main() {
            Rule::Standard => Some(300),
            Rule::Hmac(rule) => rule.stamp.as_ref().map(|stamp| stamp.tolerance.as_secs().cast_signed()),
            _ => None,
        }) else {
            continue;
        };
        let window = Duration::from_secs(tolerance.unsigned_abs());
        for (offset, good) in [(tolerance, true), (-tolerance, true), (tolerance + 1, false), (-tolerance - 1, false)] {
            let expected = if good { Ok(()) } else { Err(Refusal::OutsideWindow(window)) };
            assert_eq!(check(&source, &pairs, body, now + offset).map(drop), expected, "{offset} s");
        }
    }
}

#[test]
fn a_twilio_signature_covers_the_address_and_the_form() {
    let source = preset("twilio", &["12345"]);
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    let body = b"Digits=1234&To=%2B18005551212&From=%2B14158675309&Caller=%2B14158675309&CallSid=CA1234567890ABCDE";
    let form = [("content-type", "application/x-www-form-urlencoded"), ("x-twilio-signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")];
    let check = |url: &str, pairs: &[(&str, &str)], body: &[u8]| {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        source.verify(&Incoming { method: "POST", url, query, headers: &headers(pairs), body }, at(0), at(0)).map(drop)
    };
    assert_eq!(check(url, &form, body), Ok(()));
    assert_eq!(check("https://mycompany.com:443/myapp.php?foo=1&bar=2", &form, body), Ok(()));
    assert_eq!(check("https://mycompany.com:8443/myapp.php?foo=1&bar=2", &form, body), Err(Refusal::Mismatch));
    assert_eq!(check("https://mycompany.com/myapp.php?foo=1&bar=3", &form, body), Err(Refusal::Mismatch));
    assert_eq!(check(url, &form, b"Digits=1235"), Err(Refusal::Mismatch));
    let json = [("content-type", "application/json"), ("x-twilio-signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")];
    assert_eq!(check(url, &json, b"{}"), Err(Refusal::NotCovered));
    assert_eq!(check(&format!("{url}&bodySHA256=00"), &json, b"{}"), Err(Refusal::Mismatch));
}

#[test]
fn reads_lists_of_signatures() {
    let source = preset("stripe", &["whsec_test_secret"]);
    let good = "10c96c6fd3f320fcfc264cdc4f476c15060ede8e8a08404cea2ddf3b72544a9c";
    let check = |value: &str| check(&source, &[("stripe-signature", value)], BODY, AT).map(drop);
    assert_eq!(check(&format!("t={AT},v1={},v1={good},v0=00", "0".repeat(64))), Ok(()));
    assert_eq!(check(&format!("t={AT},v0={good}")), Err(Refusal::malformed("stripe-signature", "has no entry v1=…".to_owned())));
    assert_eq!(check(&format!("v1={good}")), Err(Refusal::malformed("stripe-signature", "has no entry t=…".to_owned())));
    assert_eq!(
        check(&format!("t={AT},t=1,v1={good}")),
        Err(Refusal::malformed("stripe-signature", "has more than one entry t=…".to_owned()))
    );
    assert_eq!(check(&format!("t=noon,v1={good}")), Err(Refusal::BadTimestamp));
    assert_eq!(check(&format!("t={AT},v1={}", good.to_uppercase())), Ok(()));

    let standard = preset("standard-webhooks", &[WHSEC]);
    let of = |signatures: &str| {
        super::vectors::check(&standard, &[STANDARD[0], STANDARD[1], ("webhook-signature", signatures)], BODY, AT)
    };
    assert!(of(&format!("v1,AAAA v2,{} {}", &STANDARD[2].1[3..], STANDARD[2].1)).is_ok());
    for bad in ["v1,", "v1", &STANDARD[2].1[..40], "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="] {
        assert_eq!(of(bad), Err(Refusal::Mismatch), "{bad}");
    }
    let svix: Vec<_> = STANDARD.iter().map(|(name, value)| (name.replace("webhook", "svix"), (*value).to_owned())).collect();
    assert!(standard.verify(&post(&svix, BODY), at(0), at(AT)).is_ok());
    let public = preset("standard-webhooks", &["whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="]);
    let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
    assert!(super::vectors::check(&public, &[STANDARD[0], STANDARD[1], ("webhook-signature", v1a)], BODY, AT).is_ok());
    let dotted = [("webhook-id", "a.b"), STANDARD[1], STANDARD[2]];
    assert_eq!(
        super::vectors::check(&standard, &dotted, BODY, AT),
        Err(Refusal::malformed("webhook-id", "has a dot".to_owned()))
    );
}

#[test]
fn compares_sent_secrets_completely() {
    let cases = [
        (preset("bearer", &["a-long-token"]), "authorization", "Bearer a-long-token"),
        (preset("basic", &["a-long-token"]), "authorization", "Basic aW5uZXNjbzphLWxvbmctdG9rZW4="),
        (preset("gitlab", &["a-long-token"]), "x-gitlab-token", "a-long-token"),
        (preset("header-token", &["a-long-token"]), "x-webhook-token", "a-long-token"),
    ];
    for (source, header, good) in cases {
        assert_eq!(check(&source, &[(header, good)], b"x", 0).map(|believed| believed.digest), Ok(None), "{good}");
        for bad in [&good[..good.len() - 1], &format!("{good}x"), "Bearer", "Basic !", "Basic aW5uZXNjbw==", "x"] {
            assert!(check(&source, &[(header, bad)], b"x", 0).is_err(), "{bad}");
        }
        let missing = check(&source, &[], b"x", 0).unwrap_err();
        assert!(matches!(&missing, Refusal::Missing(what) if what.ends_with(header)), "{missing}");
    }
    assert!(check(&preset("none", &[]), &[], b"x", 0).is_ok());
}

#[test]
fn a_described_signature_is_verified() {
    let some = |text: &str| Some(text.to_owned());
    let draft = Draft {
        preset: "hmac".to_owned(),
        header: some("X-Sig"),
        template: some("{timestamp}{body}"),
        timestamp: some("header:x-time"),
        encoding: some("base64"),
        ..Draft::default()
    };
    let (source, stamp) = (source(draft, &["secret"]), "2021-02-25T15:02:10Z");
    let mac = Algorithm::Sha256;
    let Rule::Hmac(rule) = source.new.settings.proofs.main() else { panic!() };
    assert_eq!(rule.algorithm, mac);
    use ::hmac::{Hmac, KeyInit as _, Mac as _};
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let mut hmac = Hmac::<sha2::Sha256>::new_from_slice(b"secret").unwrap();
    hmac.update(&[stamp.as_bytes(), BODY].concat());
    let signature = BASE64_STANDARD.encode(hmac.finalize().into_bytes());
    let pairs = [("x-sig", signature.as_str()), ("x-time", stamp)];
    assert!(check(&source, &pairs, BODY, AT).is_ok());
    assert_eq!(check(&source, &pairs, BODY, AT + 301), Err(Refusal::OutsideWindow(Duration::from_secs(300))));
    // Moving a byte from the time to the body makes the time unreadable.
    let shifted = [("x-sig", signature.as_str()), ("x-time", &stamp[..stamp.len() - 1])];
    assert_eq!(check(&source, &shifted, &[b"Z", BODY].concat(), AT), Err(Refusal::BadTimestamp));
}

#[test]
fn an_event_has_its_senders_type_and_id() {
    let event = |source: &Source, pairs: &[(&str, &str)], body: &'static [u8]| {
        let headers = headers(pairs);
        let signed = source.new.settings.proofs.sign();
        let id = (source.new.settings.preset == Preset::StandardWebhooks).then(|| "msg_1".to_owned());
        let believed = Believed { id, digest: signed.then_some([0xab; 32]), ..Believed::default() };
        let event = source.event(&post(&headers, body), &Bytes::from_static(body), &believed);
        (event.event_type.to_string(), event.id.as_deref().unwrap_or("-").to_owned())
    };
    let digest = format!("sha256:{}", "ab".repeat(32));
    let json = ("content-type", "application/json");
    for (name, pairs, body, event_type, id) in [
        (
            "github",
            vec![json, ("x-github-event", "push"), ("x-github-delivery", "d-1")],
            &b"{}"[..],
            "github.push",
            "d-1-abababababababab",
        ),
        ("github", vec![json], b"{}", "github.received", digest.as_str()),
        ("stripe", vec![json], br#"{"id":"evt_1","type":"invoice.paid"}"#, "stripe.invoice.paid", "evt_1"),
        (
            "shopify",
            vec![json, ("x-shopify-topic", "orders/create"), ("x-shopify-webhook-id", "w")],
            b"{}",
            "shopify.orders.create",
            "w-abababababababab",
        ),
        (
            "woocommerce",
            vec![json, ("x-wc-webhook-topic", "order.created"), ("x-wc-webhook-delivery-id", "9")],
            b"{}",
            "woocommerce.order.created",
            "9-abababababababab",
        ),
        ("slack", vec![json], br#"{"event_id":"Ev1","event":{"type":"app_mention"}}"#, "slack.app_mention", "Ev1"),
        ("gitlab", vec![json, ("x-gitlab-event", "Push Hook")], b"{}", "gitlab.push_hook", digest.as_str()),
        (
            "standard-webhooks",
            vec![json, ("webhook-id", "forged"), ("svix-id", "msg_1")],
            br#"{"type":"Order.Created"}"#,
            "shop.Order.Created",
            "msg_1",
        ),
        ("hmac", vec![json], b"{}", "shop.received", digest.as_str()),
        ("bearer", vec![json], b"{}", "shop.received", "-"),
    ] {
        let draft = Draft { preset: name.to_owned(), header: (name == "hmac").then(|| "x-sig".to_owned()), ..Draft::default() };
        assert_eq!(event(&source(draft, &[]), &pairs, body), (event_type.to_owned(), id.to_owned()), "{name}");
    }
    let own = Draft {
        preset: "none".to_owned(),
        type_from: Some("body:/kind".to_owned()),
        type_prefix: Some(String::new()),
        dedupe: Some("header:x-id".to_owned()),
        attributes: vec![("initiator".to_owned(), "body:/by".to_owned()), ("channel".to_owned(), "body:/none".to_owned())],
        ..Draft::default()
    };
    let own = source(own, &[]);
    let long = "i".repeat(600);
    let (event_type, id) = event(&own, &[json, ("x-id", &long)], br#"{"kind":"innesco.endpoint.disabled"}"#);
    assert_eq!(event_type, "shop.received", "senders cannot send operational events");
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let headers = headers(&[("content-type", "application/x-www-form-urlencoded"), ("cookie", "c"), ("x-id", "1")]);
    let made = own.event(&post(&headers, b"kind=a.b&by=admin"), &Bytes::from_static(b"kind=a.b&by=admin"), &Believed::default());
    assert_eq!((&*made.event_type, &*made.source, made.id.as_deref()), ("a.b", "shop", Some("1")));
    assert_eq!(
        (&made.content.bytes()[..], made.attributes.0.as_slice()),
        (&br#"{"kind":"a.b","by":"admin"}"#[..], &[("initiator".to_owned(), "admin".to_owned())][..])
    );
    let request = made.request.unwrap();
    assert_eq!(request.body.as_deref(), Some(&b"kind=a.b&by=admin"[..]));
    assert_eq!(request.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["content-type", "x-id"]);
}

#[test]
fn known_peculiarities_of_senders_are_handled() {
    let woo = preset("woocommerce", &["secret"]);
    let probe = |headers: &[(String, String)], body: &[u8]| {
        let head = post(headers, b"");
        let may_be = woo.may_be_probe(&head, Some(body.len() as u64));
        may_be && woo.answer_probe(&post(headers, body)).is_some()
    };
    assert!(probe(&[], b"webhook_id=7"));
    assert!(!probe(&headers(&[("x-wc-webhook-signature", "x")]), b"webhook_id=7"));
    for body in [&b"webhook_id="[..], b"webhook_id=7&a=b", b"webhook_id=x", b"webhook_id=777777777777777777777", &[b'7'; 600]] {
        assert!(!probe(&[], body));
    }
    assert!(!woo.may_be_probe(&post(&[], b""), None), "a body without a length is not read");
    let github = preset("github", &["secret"]);
    assert!(!github.may_be_probe(&post(&[], b""), Some(12)) && github.answer_probe(&post(&[], b"webhook_id=7")).is_none());

    let slack = preset("slack", &["secret"]);
    let asked = br#"{"token":"t","challenge":"3eZbrw1a","type":"url_verification"}"#;
    assert_eq!(slack.challenge(&post(&[], asked), &Believed::default(), at(0)).unwrap().body, "3eZbrw1a");
    assert_eq!(slack.challenge(&post(&[], br#"{"type":"event_callback","challenge":"x"}"#), &Believed::default(), at(0)), None);
    assert_eq!(preset("none", &[]).challenge(&post(&[], asked), &Believed::default(), at(0)), None);

    let listed =
        Draft { preset: "none".to_owned(), allow: vec!["192.0.2.0/24".into(), "2001:db8::1".into()], ..Draft::default() };
    let listed = source(listed, &[]);
    for (address, admitted) in
        [("192.0.2.9", true), ("::ffff:192.0.2.9", true), ("2001:db8::1", true), ("192.0.3.1", false), ("2001:db8::2", false)]
    {
        assert_eq!(listed.admits(address.parse().unwrap()), admitted, "{address}");
    }
}

#[test]
fn a_replaced_secret_is_valid_during_its_grace_period() {
    let mut source = preset("header-token", &["first-secret"]);
    source.rotate(Secret::Text("second-secret".into()), at(10), Duration::from_secs(5));
    let believes = |token: &str, now: i64| {
        let headers = headers(&[("x-webhook-token", token)]);
        source.verify(&post(&headers, b""), at(now), at(0)).is_ok()
    };
    assert!(believes("first-secret", 14) && believes("second-secret", 14));
    assert!(!believes("first-secret", 15) && believes("second-secret", 15));
    let mut many = source.clone();
    (0..20).for_each(|_| many.rotate(Secret::Text("another-secret".into()), at(11), Duration::from_secs(60)));
    assert_eq!(many.new.secrets.len(), SECRETS_MAX);
}

#[test]
fn a_replaced_address_is_valid_during_its_grace_period() {
    let mut source = preset("none", &[]);
    let token = |byte| Token::from_seed([byte; 16]);
    let old = source.address();
    source.rotate_address(token(1), at(10), Duration::from_secs(5));
    assert_eq!(source.address(), format!("shop-{}", "01".repeat(16)));
    assert_eq!(source.addresses().collect::<Vec<_>>(), [(source.address(), None), (old, Some(at(15)))]);
    let second = source.address();
    source.rotate_address(token(2), at(14), Duration::from_secs(60));
    let ends: Vec<_> = source.addresses().map(|(_, until)| until).collect();
    assert_eq!(ends, [None, Some(at(74)), Some(at(15))], "a later rotation does not extend a grace period");
    source.rotate_address(token(3), at(15), Duration::from_secs(10));
    assert_eq!(source.addresses().nth(2), Some((second, Some(at(25)))), "a later rotation may shorten a grace period");
    (0..20).for_each(|byte| source.rotate_address(token(byte), at(16), Duration::from_secs(60)));
    assert_eq!(source.new.former.len(), FORMER_MAX);
    source.rotate_address(token(9), at(16), Duration::ZERO);
    assert_eq!(source.addresses().count(), 1, "without a grace period all others end at once");
}

/// Counts the work for one request before its sender is verified, with the maximum number of secrets.
#[test]
fn work_before_verification_is_bounded() {
    let secrets: Vec<String> = (0..SECRETS_MAX).map(|n| format!("secret-number-{n}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let form = ("content-type", "application/x-www-form-urlencoded");
    let (hex, sha1) = ("00".repeat(32), "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let list = |times: usize| format!("t={AT}{}", format!(",v1={hex}").repeat(times));
    let (many_fields, few) = ("a&".repeat(4_000_000), "a&".repeat(FIELDS_MAX));
    for (name, pairs, body, refusal, computed) in [
        ("stripe", vec![("stripe-signature", list(10))], "{}", Refusal::Mismatch, SECRETS_MAX),
        (
            "stripe",
            vec![("stripe-signature", list(11))],
            "{}",
            Refusal::malformed("stripe-signature", "lists more than 10 signatures".to_owned()),
            0,
        ),
        ("github", vec![("x-hub-signature-256", format!("sha256={hex}"))], "{}", Refusal::Mismatch, SECRETS_MAX),
        (
            "twilio",
            vec![("x-twilio-signature", sha1.to_owned()), (form.0, form.1.to_owned())],
            &few,
            Refusal::Mismatch,
            2 * SECRETS_MAX,
        ),
        (
            "twilio",
            vec![("x-twilio-signature", sha1.to_owned()), (form.0, form.1.to_owned())],
            &many_fields,
            Refusal::TooManyFields,
            0,
        ),
    ] {
        let source = preset(name, &secrets);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (verdict, work) = signature::work::of(|| check(&source, &pairs, body.as_bytes(), AT));
        assert_eq!((verdict, work), (Err(refusal), computed), "{name}");
    }
}

/// A request that can be refused by its head is refused before the body is read.
#[test]
fn refuses_a_head_without_a_usable_proof_before_the_body() {
    let now = AT.to_string();
    let signed = |value: &str| headers(&[("stripe-signature", value)]);
    let hex = "00".repeat(32);
    let standard = |id: &str, stamp: &str, signature: &str| {
        headers(&[("webhook-id", id), ("webhook-timestamp", stamp), ("webhook-signature", signature)])
    };
    for (name, head, refused) in [
        ("github", vec![], true),
        ("github", headers(&[("x-hub-signature-256", "sha256=00")]), true),
        ("github", headers(&[("x-hub-signature-256", &format!("sha1={hex}"))]), true),
        ("github", headers(&[("x-hub-signature-256", &format!("sha256={hex}"))]), false),
        ("stripe", signed(&format!("t=1,v1={hex}")), true),
        ("stripe", signed(&format!("t={now},v0={hex}")), true),
        ("stripe", signed(&format!("t={now},v1={hex}")), false),
        ("standard-webhooks", standard("a", "1", "v1,AAAA"), true),
        ("standard-webhooks", standard("a.b", &now, "v1,AAAA"), true),
        ("standard-webhooks", standard("a", &now, "v1,AAAA"), false),
        ("twilio", headers(&[("x-twilio-signature", "x")]), true),
        ("bearer", headers(&[("authorization", "Bearer another")]), true),
        ("basic", headers(&[("authorization", "Basic aW5uZXNjbzpub3Bl")]), true),
        ("gitlab", headers(&[("x-gitlab-token", "another")]), true),
        ("header-token", headers(&[("x-webhook-token", "another")]), true),
    ] {
        let source = preset(name, &[WHSEC]);
        let (verdict, work) = signature::work::of(|| source.check_head(&post(&head, b""), at(0), at(AT)));
        assert_eq!((verdict.is_err(), work), (refused, 0), "{name} {head:?}: {verdict:?}");
        if let Ok(decided) = verdict {
            assert_eq!(decided, None, "{name}: the body decides");
        }
    }
    for (name, header, value) in
        [("bearer", "authorization", format!("Bearer {WHSEC}")), ("header-token", "x-webhook-token", WHSEC.to_owned())]
    {
        let decided = preset(name, &[WHSEC]).check_head(&post(&headers(&[(header, &value)]), b""), at(0), at(AT));
        assert_eq!(decided, Ok(Some(Believed::default())), "{name} needs no body");
    }
}

/// An attacker who changes an unsigned id cannot make another event look like a duplicate.
#[test]
fn detects_duplicates_by_the_signed_text() {
    let standard = preset("standard-webhooks", &[WHSEC]);
    let id_of = |pairs: &[(String, String)]| {
        let request = post(pairs, BODY);
        let believed = standard.verify(&request, at(0), at(AT))?;
        Ok(standard.event(&request, &Bytes::from_static(BODY), &believed).id.as_deref().map(str::to_owned))
    };
    let svix: Vec<_> = STANDARD.iter().map(|(name, value)| (name.replace("webhook", "svix"), (*value).to_owned())).collect();
    assert_eq!(id_of(&headers(&STANDARD)), Ok(Some(STANDARD[0].1.to_owned())));
    assert_eq!(id_of(&svix), Ok(Some(STANDARD[0].1.to_owned())));
    for (name, value) in [("webhook-id", "forged-1"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AAAA")] {
        let both = [svix.clone(), headers(&[(name, value)])].concat();
        assert_eq!(id_of(&both), Err(Refusal::BothFamilies), "{name} beside svix-…");
    }

    // GitHub signs only the body: one captured request cannot claim the id of another.
    let github = preset("github", &["It's a Secret to Everybody"]);
    let event = |delivery: &str, digest: [u8; 32]| {
        let headers = headers(&[("x-github-delivery", delivery)]);
        let believed = Believed { digest: Some(digest), ..Believed::default() };
        github.event(&post(&headers, b"{}"), &Bytes::from_static(b"{}"), &believed).id
    };
    assert_eq!(event("d-1", [1; 32]), event("d-1", [1; 32]));
    assert_ne!(event("d-1", [1; 32]), event("d-1", [2; 32]));
}

/// Twilio's signed text has no separators and counts a repeated field once. The data has the fields as they were signed. A form
/// with the same signed text, but other borders between fields, is a duplicate.
#[test]
fn data_has_exactly_the_pairs_that_twilio_signed() {
    let source = preset("twilio", &["12345678"]);
    let url = "https://hooks.example/in/shop";
    let signature = {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        BASE64_STANDARD.encode(Algorithm::Sha1.sign(b"12345678", &[url.as_bytes(), b"Body1From2"]))
    };
    let headers = headers(&[("content-type", "application/x-www-form-urlencoded"), ("x-twilio-signature", &signature)]);
    let made = |body: &'static [u8]| {
        let request = Incoming { url, ..post(&headers, body) };
        let believed = source.verify(&request, at(0), at(0)).unwrap();
        let event = source.event(&request, &Bytes::from_static(body), &believed);
        assert_eq!(event.request.unwrap().body.as_deref(), Some(body), "the form is unchanged");
        (String::from_utf8(event.content.bytes().to_vec()).unwrap(), event.id)
    };
    let (data, id) = made(b"From=2&Body=1");
    assert_eq!(data, r#"{"Body":"1","From":"2"}"#);
    assert_eq!(made(b"From=2&Body=1&Body=1&From=2"), (data, id.clone()));
    assert_eq!(made(b"Bo=dy1&From=2").1, id, "a form that is divided elsewhere is the same event");
}

/// Unsigned parts do not become data.
#[test]
fn a_query_becomes_data_if_it_is_verified() {
    let some = |text: &str| Some(text.to_owned());
    let hmac =
        |template: &str| Draft { preset: "hmac".to_owned(), header: some("x-sig"), template: some(template), ..Draft::default() };
    let data = |source: Source, digest: bool| {
        let request = Incoming { method: "GET", query: "a=1", ..post(&[], b"") };
        let believed = Believed { digest: digest.then_some([1; 32]), ..Believed::default() };
        String::from_utf8(source.event(&request, &Bytes::new(), &believed).content.bytes().to_vec()).unwrap()
    };
    for (source, digest, expected) in [
        (source(hmac("{body}"), &[]), true, ""),
        (source(hmac("{url}{body}"), &[]), true, r#"{"a":"1"}"#),
        (source(hmac("{query}.{body}"), &[]), true, r#"{"a":"1"}"#),
        (preset("standard-webhooks", &[]), true, ""),
        (preset("twilio", &[]), true, r#"{"a":"1"}"#),
        (preset("bearer", &[]), false, r#"{"a":"1"}"#),
        (preset("none", &[]), false, r#"{"a":"1"}"#),
    ] {
        let name = source.new.settings.preset.as_str();
        assert_eq!(data(source, digest), expected, "{name}");
    }
}

/// Returns whether a header differs only in letter case: hex may be upper case.
fn is_same_hex(source: &Source, value: &str, changed: &str) -> bool {
    let Rule::Hmac(rule) = source.new.settings.proofs.main() else { return false };
    let (before, after) = value.split_at(value.rfind('=').map_or(0, |place| place + 1));
    let rest = changed.strip_prefix(before);
    rule.encoding == Encoding::Hex && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(after))
}

/// Changes every byte of a proof: its lowest bit, and the case of its letter.
#[test]
fn every_changed_byte_is_refused() {
    for (source, pairs, body, now) in signers() {
        let name = source.new.settings.preset.as_str();
        for (place, bit) in (0..body.len()).flat_map(|place| [(place, 1), (place, 0x20)]) {
            let mut changed = body.to_vec();
            changed[place] ^= bit;
            assert!(check(&source, &pairs, &changed, now).is_err(), "{name}: byte {place} of the body");
        }
        for (part, (header, value)) in pairs.iter().enumerate() {
            for (place, bit) in (0..value.len()).flat_map(|place| [(place, 1), (place, 0x20)]) {
                let mut bytes = value.as_bytes().to_vec();
                bytes[place] ^= bit;
                let mut changed = headers(&pairs);
                changed[part].1 = String::from_utf8(bytes).expect("ASCII stays ASCII");
                if is_same_hex(&source, value, &changed[part].1) {
                    continue;
                }
                let verdict = source.verify(&post(&changed, body), at(0), at(now));
                assert!(verdict.is_err(), "{name}: byte {place} of {header}");
            }
        }
    }
}

proptest! {
    /// Changes any byte in the body, in the signature or in the signed time.
    #[test]
    fn any_change_of_a_byte_is_refused(which in 0..7_usize, place in any::<prop::sample::Index>(), byte in 1..=u8::MAX, part in 0..3_usize) {
        let (source, pairs, body, now) = signers().swap_remove(which);
        let part = part % (pairs.len() + 1);
        if part == pairs.len() {
            let mut body = body.to_vec();
            let place = place.index(body.len());
            body[place] ^= byte;
            prop_assert!(check(&source, &pairs, &body, now).is_err());
        } else {
            let mut value = pairs[part].1.as_bytes().to_vec();
            let place = place.index(value.len());
            value[place] ^= byte;
            // Bytes that are not text are refused earlier.
            let Ok(value) = String::from_utf8(value) else { return Ok(()) };
            if is_same_hex(&source, pairs[part].1, &value) {
                return Ok(());
            }
            let mut changed = headers(&pairs);
            changed[part].1 = value;
            let verdict = source.verify(&post(&changed, body), at(0), at(now));
            prop_assert!(verdict.is_err(), "{:?}", changed[part]);
        }
    }

    /// Random headers and bodies are refused under every rule, and nothing panics.
    #[test]
    fn no_random_request_is_verified(which in 0..7_usize, value in "[a-zA-Z0-9+/=,. vt]{0,80}", body in prop::collection::vec(any::<u8>(), 0..100)) {
        let (source, pairs, _, now) = signers().swap_remove(which);
        let changed: Vec<_> = pairs.iter().map(|(name, _)| ((*name).to_owned(), value.clone())).collect();
        prop_assert!(source.verify(&post(&changed, &body), at(0), at(now)).is_err());
        let twilio = preset("twilio", &["12345"]);
        let changed = headers(&[("x-twilio-signature", &value), ("content-type", "application/x-www-form-urlencoded")]);
        prop_assert!(twilio.verify(&post(&changed, &body), at(0), at(now)).is_err());
    }
}
