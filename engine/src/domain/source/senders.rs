//! Differences between real senders. Each kind of difference has a test with a table of senders. If a sender publishes no test
//! vector, the signature is computed here from the signed text that the sender documents.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    vectors::{AT, WHSEC, at, headers, preset, source},
    *,
};

const SECRET: &str = "a-secret-of-theirs";
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn mac(algorithm: Algorithm, key: &[u8], content: &str) -> Vec<u8> {
    algorithm.sign(key, &[content.as_bytes()])
}

fn hex(content: &str) -> String {
    signature::hex(&mac(Algorithm::Sha256, SECRET.as_bytes(), content))
}

fn base64(algorithm: Algorithm, content: &str) -> String {
    BASE64_STANDARD.encode(mac(algorithm, SECRET.as_bytes(), content))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// A request at [`AT`].
struct Sent<'a> {
    method: &'a str,
    query: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

impl Sent<'_> {
    /// Returns the type, the id and the data of the resulting event.
    fn to(&self, source: &Source) -> Result<(String, String, String), Refusal> {
        let headers = headers(&self.headers);
        let url = format!("https://hooks.example/in/shop{}{}", if self.query.is_empty() { "" } else { "?" }, self.query);
        let body = self.body.as_bytes();
        let request = Incoming { method: self.method, url: &url, query: self.query, headers: &headers, body };
        let head = source.check_head(&Incoming { body: b"", ..request }, at(0), at(AT))?;
        let believed = head.map_or_else(|| source.verify(&request, at(0), at(AT)), Ok)?;
        let event = source.event(&request, &Bytes::copy_from_slice(body), &believed);
        let data = String::from_utf8_lossy(event.content.bytes()).into_owned();
        Ok((event.event_type.to_string(), event.id.as_deref().unwrap_or("-").to_owned(), data))
    }
}

fn post<'a>(headers: Vec<(&'a str, &'a str)>, body: &'a str) -> Sent<'a> {
    Sent { method: "POST", query: "", headers, body }
}

/// A preset accepts every spelling of its sender. If a request has several proofs, only one decides: the first proof in the
/// preset's list for which the source has a secret.
#[test]
fn presets_accept_every_spelling_of_their_senders() {
    let body = r#"{"id":7}"#;
    let (good, in_hex) = (base64(Algorithm::Sha256, body), hex(body));
    let other = base64(Algorithm::Sha256, "other");
    let key = BASE64_STANDARD.decode(&WHSEC[6..]).unwrap();
    let signed = BASE64_STANDARD.encode(mac(Algorithm::Sha256, &key, &format!("m1.{AT}.{body}")));
    let (signed, stamp, payload) = (format!("v1,{signed}"), AT.to_string(), "payload=%7B%22id%22%3A7%7D");
    let standard = vec![("webhook-id", "m1"), ("webhook-timestamp", stamp.as_str()), ("webhook-signature", signed.as_str())];
    let with = |more: &[(&'static str, &'static str)]| [standard.as_slice(), more].concat();
    let prefixed = format!("sha256={in_hex}");
    let (shopify, gitea) = (preset("shopify", &[SECRET]), preset("gitea", &[SECRET]));
    let (gitlab, plain_gitlab) = (preset("gitlab", &[WHSEC]), preset("gitlab", &[SECRET]));
    let both_gitlab = preset("gitlab", &[SECRET, WHSEC]);
    let x_shopify = vec![("x-shopify-hmac-sha256", good.as_str()), ("x-shopify-topic", "orders/create")];
    let new_shopify = vec![("shopify-hmac-sha256", good.as_str()), ("shopify-topic", "orders/create")];
    for (name, source, sent, verdict) in [
        ("shopify with x-", &shopify, post(x_shopify.clone(), body), Ok("shopify.orders.create")),
        ("shopify without x-", &shopify, post(new_shopify.clone(), body), Ok("shopify.orders.create")),
        ("shopify with both", &shopify, post([x_shopify.as_slice(), &new_shopify].concat(), body), Ok("shopify.orders.create")),
        (
            "shopify with both: the newer header decides",
            &shopify,
            post([&[("shopify-hmac-sha256", other.as_str())], x_shopify.as_slice()].concat(), body),
            Err(Refusal::Mismatch),
        ),
        (
            "shopify with both: the older header is ignored",
            &shopify,
            post([&[("x-shopify-hmac-sha256", other.as_str())], new_shopify.as_slice()].concat(), body),
            Ok("shopify.orders.create"),
        ),
        ("shopify without x-, another body", &shopify, post(new_shopify, r#"{"id":8}"#), Err(Refusal::Mismatch)),
        ("gitlab signed", &gitlab, post(with(&[("x-gitlab-event", "Push Hook")]), body), Ok("gitlab.push_hook")),
        ("gitlab signed, with its token", &gitlab, post(with(&[("x-gitlab-token", WHSEC)]), body), Ok("gitlab.received")),
        ("gitlab: both secrets are known", &both_gitlab, post(with(&[("x-gitlab-token", SECRET)]), body), Ok("gitlab.received")),
        (
            "gitlab: a wrong signature beside a right token",
            &gitlab,
            post(with(&[("x-gitlab-token", WHSEC)]), r#"{"id":8}"#),
            Err(Refusal::Mismatch),
        ),
        ("gitlab by token", &gitlab, post(vec![("x-gitlab-token", WHSEC)], body), Ok("gitlab.received")),
        ("gitlab by a wrong token", &gitlab, post(vec![("x-gitlab-token", SECRET)], body), Err(Refusal::Mismatch)),
        (
            "gitlab: no secret here is a signing token, so the token decides",
            &plain_gitlab,
            post(with(&[("x-gitlab-token", SECRET)]), body),
            Ok("gitlab.received"),
        ),
        (
            "gitlab: signed, but the source has no signing token",
            &plain_gitlab,
            post(standard.clone(), body),
            Err(Refusal::Mismatch),
        ),
        (
            "gitlab with neither",
            &gitlab,
            post(vec![], body),
            Err(Refusal::Missing("the header webhook-signature or x-gitlab-token".to_owned())),
        ),
        ("gitea", &gitea, post(vec![JSON, ("x-gitea-signature", &in_hex), ("x-gitea-event", "push")], body), Ok("gitea.push")),
        ("gitea as a form", &gitea, post(vec![FORM, ("x-gitea-signature", &in_hex)], payload), Ok("gitea.received")),
        (
            "gitea by GET",
            &gitea,
            Sent { method: "GET", query: payload, headers: vec![("x-gitea-signature", &in_hex)], body: "" },
            Ok("gitea.received"),
        ),
        (
            "gitea by GET with an unsigned payload",
            &gitea,
            Sent { method: "GET", query: "payload=%7B%7D", headers: vec![("x-gitea-signature", &in_hex)], body: "" },
            Err(Refusal::Mismatch),
        ),
        (
            "gitea as a form without a payload",
            &gitea,
            post(vec![FORM, ("x-gitea-signature", &in_hex)], "a=1"),
            Err(Refusal::Missing("the field payload".to_owned())),
        ),
        (
            "forgejo alone",
            &gitea,
            post(vec![JSON, ("x-forgejo-signature", &in_hex), ("x-forgejo-event", "push")], body),
            Ok("gitea.push"),
        ),
        ("gogs alone", &gitea, post(vec![JSON, ("x-gogs-signature", &in_hex), ("x-gogs-event", "push")], body), Ok("gitea.push")),
        (
            "gitea without a secret sends empty signatures",
            &gitea,
            post(vec![JSON, ("x-gitea-signature", ""), ("x-hub-signature-256", &prefixed)], body),
            Err(Refusal::Missing("the header x-gitea-signature".to_owned())),
        ),
    ] {
        let event = sent.to(source);
        assert_eq!(event.as_ref().map(|(event_type, _, _)| event_type.as_str()).map_err(Clone::clone), verdict, "{name}");
        if let Ok((_, _, data)) = event {
            assert_eq!(data, body, "{name}: the signed part is the data");
        }
    }
    // Only the signed field is data. Other fields are not, nor is a second field with its name.
    for body in
        ["payload=%7B%22id%22%3A7%7D&ref=evil", "payload=%7B%22id%22%3A7%7D&payload=evil", "a=1&payload=%7B%22id%22%3A7%7D"]
    {
        let (_, _, data) = post(vec![FORM, ("x-gitea-signature", &in_hex)], body).to(&gitea).unwrap();
        assert_eq!(data, r#"{"id":7}"#, "{body}");
    }
    let (_, id, _) = post(with(&[("idempotency-key", "forged")]), body).to(&gitlab).unwrap();
    assert_eq!(id, "m1", "the signed id, not an unsigned one");
}

/// An id that the signature does not cover is combined with the digest of the signed text. So if an attacker sends a captured
/// request under the id of another event, that other event is still accepted.
#[test]
fn only_a_signed_id_is_used_alone() {
    let hmac = |template: &str, dedupe: &str| {
        let draft = Draft {
            preset: "hmac".to_owned(),
            header: some("x-sig"),
            template: some(template),
            timestamp: template.contains("{timestamp}").then(|| "header:x-time".to_owned()),
            dedupe: some(dedupe),
            ..Draft::default()
        };
        source(draft, &[SECRET])
    };
    let stamp = AT.to_string();
    let body = r#"{"id":"i1","event_id":"i1","token":"t1"}"#;
    let timed = format!(r#"{{"id":"i1","webhookTimestamp":{}}}"#, AT * 1000);
    let (in_hex, in_base64) = (hex(body), base64(Algorithm::Sha256, body));
    let prefixed = format!("sha256={in_hex}");
    let stripe = format!("t={stamp},v1={}", hex(&format!("{stamp}.{body}")));
    let slack = format!("v0={}", hex(&format!("v0:{stamp}:{body}")));
    let zendesk = base64(Algorithm::Sha256, &format!("{stamp}{body}"));
    let (with_header, with_time) = (hex(&format!("i1.{body}")), hex(&format!("{stamp}{body}")));
    let (of_token, of_linear) = (hex("t1"), hex(&timed));
    for (name, source, headers, body, is_signed) in [
        ("Stripe", preset("stripe", &[SECRET]), vec![("stripe-signature", &*stripe)], body, true),
        (
            "Slack",
            preset("slack", &[SECRET]),
            vec![("x-slack-signature", &*slack), ("x-slack-request-timestamp", stamp.as_str())],
            body,
            true,
        ),
        (
            "GitHub",
            preset("github", &[SECRET]),
            vec![("x-hub-signature-256", &*prefixed), ("x-github-delivery", "i1")],
            body,
            false,
        ),
        (
            "Shopify",
            preset("shopify", &[SECRET]),
            vec![("x-shopify-hmac-sha256", &*in_base64), ("x-shopify-webhook-id", "i1")],
            body,
            false,
        ),
        (
            "WooCommerce",
            preset("woocommerce", &[SECRET]),
            vec![("x-wc-webhook-signature", &*in_base64), ("x-wc-webhook-delivery-id", "i1")],
            body,
            false,
        ),
        (
            "Zendesk",
            preset("zendesk", &[SECRET]),
            vec![
                ("x-zendesk-webhook-signature", &*zendesk),
                ("x-zendesk-webhook-signature-timestamp", stamp.as_str()),
                ("x-zendesk-webhook-invocation-id", "i1"),
            ],
            body,
            false,
        ),
        (
            "Gitea",
            preset("gitea", &[SECRET]),
            vec![JSON, ("x-gitea-signature", &*in_hex), ("x-gitea-delivery", "i1")],
            body,
            false,
        ),
        (
            "Linear",
            preset("linear", &[SECRET]),
            vec![("linear-signature", &*of_linear), ("linear-delivery", "i1")],
            timed.as_str(),
            false,
        ),
        (
            "the id is in a signed header",
            hmac("{header:x-id}.{body}", "header:x-id"),
            vec![("x-sig", &*with_header), ("x-id", "i1")],
            body,
            true,
        ),
        (
            "the id is in an unsigned header",
            hmac("{body}", "header:x-id"),
            vec![("x-sig", &*in_hex), ("x-id", "i1")],
            body,
            false,
        ),
        (
            "the id is in the signed body",
            hmac("{timestamp}{body}", "body:/id"),
            vec![("x-sig", &*with_time), ("x-time", stamp.as_str())],
            body,
            true,
        ),
        (
            "the id is in an unsigned member of the body",
            hmac("{body:/token}", "body:/id"),
            vec![JSON, ("x-sig", &*of_token)],
            body,
            false,
        ),
    ] {
        let (_, id, _) = post(headers, body).to(&source).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let digest = id.strip_prefix("i1-").filter(|digest| digest.len() == 16);
        assert_eq!((id == "i1", digest.is_some()), (is_signed, !is_signed), "{name}: {id}");
    }
}

/// Cases: encodings and places of signatures, times and keys, each as a sender's documentation describes it.
#[test]
fn signatures_of_other_senders_can_be_described() {
    let hmac = || Draft { preset: "hmac".to_owned(), ..Draft::default() };
    let body = r#"{"id":7}"#;
    let stamp = AT.to_string();
    let url = "https://hooks.example/in/shop";
    let teams = "vqF0En+Z0ucuRTM/01o2GuhMH3hKKk/N2bOmlM31zaA=";
    let teams_signature = BASE64_STANDARD.encode(mac(Algorithm::Sha256, &BASE64_STANDARD.decode(teams).unwrap(), body));
    let timed = format!(r#"{{"id":7,"webhookTimestamp":{}}}"#, AT * 1000);
    let mailgun = format!(
        r#"{{"signature":{{"timestamp":"{AT}","token":"t1","signature":"{}"}},"event-data":{{"event":"opened"}}}}"#,
        hex(&format!("{AT}t1"))
    );
    let mailgun_sub = mailgun.replace(
        r#""signature":""#,
        &format!(r#""signature":"{}","parent-signature":""#, signature::hex(&mac(Algorithm::Sha256, b"another-key", "x"))),
    );
    let part = |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let mailgun_parts = [
        "--b\r\nContent-Disposition: form-data; name=\"token\"; filename=\"token.txt\"\r\n\r\nan attachment\r\n".to_owned(),
        part("timestamp", &AT.to_string()),
        part("token", "t1"),
        part("signature", &hex(&format!("{AT}t1"))),
        "--b--\r\n".to_owned(),
    ]
    .concat();
    let mailgun_form = format!("timestamp={AT}&token=t1&signature={}&event=opened", hex(&format!("{AT}t1")));
    let (in_hex, upper) = (hex(body), hex(body).to_uppercase());
    let hubspot = base64(Algorithm::Sha256, &format!("POST{url}{body}{stamp}"));
    let square = base64(Algorithm::Sha256, &format!("{url}{body}"));
    let trello = base64(Algorithm::Sha1, &format!("{body}{url}"));
    let sha512 = signature::hex(&mac(Algorithm::Sha512, SECRET.as_bytes(), body));
    let sha1 = signature::hex(&mac(Algorithm::Sha1, SECRET.as_bytes(), body));
    let by_hex_key = signature::hex(&mac(Algorithm::Sha256, &[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4], body));
    let base64url = base64(Algorithm::Sha256, body).replace('+', "-").replace('/', "_");
    let colon = hex(&format!("{stamp}:{body}"));
    let dotted = hex(&format!("{stamp}.{body}"));
    let header = |name: &'static str, value: String| vec![(name, value)];
    for (name, secret, draft, headers, body) in [
        (
            "Microsoft Teams: a key in base64, a blank behind the prefix",
            teams,
            Draft {
                header: some("authorization"),
                prefix: some("HMAC "),
                encoding: some("base64"),
                secret_encoding: some("base64"),
                ..hmac()
            },
            header("authorization", format!("HMAC {teams_signature}")),
            body,
        ),
        (
            "the prefix is written without its blank",
            teams,
            Draft {
                header: some("authorization"),
                prefix: some("HMAC"),
                encoding: some("base64"),
                secret_encoding: some("base64"),
                ..hmac()
            },
            header("authorization", format!("HMAC {teams_signature}")),
            body,
        ),
        (
            "Adyen: a key in hex",
            "DEADBEEF01020304",
            Draft { header: some("x-sig"), secret_encoding: some("hex"), ..hmac() },
            header("x-sig", by_hex_key),
            body,
        ),
        ("hex in capitals", SECRET, Draft { header: some("x-sig"), ..hmac() }, header("x-sig", upper), body),
        (
            "base64 for URLs, with padding",
            SECRET,
            Draft { header: some("x-sig"), encoding: some("base64url"), ..hmac() },
            header("x-sig", base64url.clone()),
            body,
        ),
        (
            "base64 for URLs, without padding",
            SECRET,
            Draft { header: some("x-sig"), encoding: some("base64url"), ..hmac() },
            header("x-sig", base64url.trim_end_matches('=').to_owned()),
            body,
        ),
        (
            "DocuSign: base64, here without its padding",
            SECRET,
            Draft { header: some("x-docusign-signature-1"), encoding: some("base64"), ..hmac() },
            header("x-docusign-signature-1", base64(Algorithm::Sha256, body).trim_end_matches('=').to_owned()),
            body,
        ),
        (
            "Typeform: base64 behind sha256=",
            SECRET,
            Draft { header: some("typeform-signature"), prefix: some("sha256="), encoding: some("base64"), ..hmac() },
            header("typeform-signature", format!("sha256={}", base64(Algorithm::Sha256, body))),
            body,
        ),
        (
            "Intercom: sha1",
            SECRET,
            Draft { header: some("x-hub-signature"), prefix: some("sha1="), algorithm: some("sha1"), ..hmac() },
            header("x-hub-signature", format!("sha1={sha1}")),
            body,
        ),
        (
            "Paystack: sha512",
            SECRET,
            Draft { header: some("x-paystack-signature"), algorithm: some("sha512"), ..hmac() },
            header("x-paystack-signature", sha512),
            body,
        ),
        (
            "Paddle: a list with semicolons",
            SECRET,
            Draft {
                header: some("paddle-signature"),
                list_key: some("h1"),
                timestamp: some("list:ts"),
                template: some("{timestamp}:{body}"),
                ..hmac()
            },
            header("paddle-signature", format!("ts={stamp};h1={colon}")),
            body,
        ),
        (
            "Calendly: a list with commas",
            SECRET,
            Draft {
                header: some("calendly-webhook-signature"),
                list_key: some("v1"),
                timestamp: some("list:t"),
                template: some("{timestamp}.{body}"),
                ..hmac()
            },
            header("calendly-webhook-signature", format!("t={stamp}, v1={dotted}")),
            body,
        ),
        (
            "PagerDuty: several signatures during a rotation",
            SECRET,
            Draft { header: some("x-pagerduty-signature"), list_key: some("v1"), ..hmac() },
            header("x-pagerduty-signature", format!("v1={},v1={in_hex}", "00".repeat(32))),
            body,
        ),
        (
            "HubSpot: method, address, body and time",
            SECRET,
            Draft {
                header: some("x-hubspot-signature-v3"),
                encoding: some("base64"),
                template: some("{method}{url}{body}{timestamp}"),
                timestamp: some("header:x-hubspot-request-timestamp"),
                ..hmac()
            },
            vec![("x-hubspot-signature-v3", hubspot), ("x-hubspot-request-timestamp", stamp.clone())],
            body,
        ),
        (
            "Square: the address first",
            SECRET,
            Draft {
                header: some("x-square-hmacsha256-signature"),
                encoding: some("base64"),
                template: some("{url}{body}"),
                ..hmac()
            },
            header("x-square-hmacsha256-signature", square),
            body,
        ),
        (
            "Trello: the address last, by sha1",
            SECRET,
            Draft {
                header: some("x-trello-webhook"),
                encoding: some("base64"),
                algorithm: some("sha1"),
                template: some("{body}{url}"),
                ..hmac()
            },
            header("x-trello-webhook", trello),
            body,
        ),
        (
            "Linear: the time in the body",
            SECRET,
            Draft { preset: "linear".to_owned(), ..Draft::default() },
            header("linear-signature", hex(&timed)),
            timed.as_str(),
        ),
        (
            "Mailgun: time, token and signature in the body",
            SECRET,
            Draft { preset: "mailgun".to_owned(), ..Draft::default() },
            header("content-type", "application/json".to_owned()),
            mailgun.as_str(),
        ),
        (
            "Mailgun: an event of a subaccount, checked with the key of the primary account",
            SECRET,
            Draft { preset: "mailgun".to_owned(), ..Draft::default() },
            header("content-type", "application/json".to_owned()),
            mailgun_sub.as_str(),
        ),
        (
            "Mailgun: a mail that a route forwards",
            SECRET,
            Draft { preset: "mailgun".to_owned(), ..Draft::default() },
            header("content-type", FORM.1.to_owned()),
            mailgun_form.as_str(),
        ),
        (
            "Mailgun: a mail with attachments",
            SECRET,
            Draft { preset: "mailgun".to_owned(), ..Draft::default() },
            header("content-type", "multipart/form-data; boundary=b".to_owned()),
            mailgun_parts.as_str(),
        ),
        (
            "time, token and signature in the fields of a form",
            SECRET,
            Draft {
                signature: some("body:/signature"),
                template: some("{timestamp}{body:/token}"),
                timestamp: some("body:/timestamp"),
                ..hmac()
            },
            header("content-type", FORM.1.to_owned()),
            mailgun_form.as_str(),
        ),
    ] {
        let source = source(draft, &[secret]);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sent = post(headers.clone(), body);
        assert!(sent.to(&source).is_ok(), "{name}: {:?}", sent.to(&source));
        // A change of the signed text is detected.
        let changed = match body {
            body if body.contains("t1") => body.replacen("t1", "t2", 1),
            body => body.replacen('7', "8", 1),
        };
        assert_eq!(post(headers, &changed).to(&source).map(drop), Err(Refusal::Mismatch), "{name}, changed");
    }
}

#[test]
fn a_refusal_names_the_wrong_part() {
    let list = Draft {
        preset: "hmac".to_owned(),
        header: some("x-sig"),
        list_key: some("v1"),
        timestamp: some("list:t"),
        template: some("{timestamp}.{body}"),
        ..Draft::default()
    };
    let zeros = "00".repeat(32);
    let stale = format!("t=1,v1={zeros}");
    let timeless = format!("v1={zeros}");
    let linear = r#"{"webhookTimestamp":"noon"}"#;
    for (source, headers, body, said) in [
        (preset("github", &[SECRET]), vec![], "{}", "the header x-hub-signature-256 is missing"),
        (preset("github", &[SECRET]), vec![("x-hub-signature-256", zeros.as_str())], "{}", "does not begin with \"sha256=\""),
        (preset("github", &[SECRET]), vec![("x-hub-signature-256", "sha256=xyz")], "{}", "is not hex"),
        (
            preset("github", &[SECRET]),
            vec![("x-hub-signature-256", "sha256=00")],
            "{}",
            "is not as long as a signature by sha256",
        ),
        (preset("shopify", &[SECRET]), vec![("x-shopify-hmac-sha256", "_-_-")], "{}", "is not base64"),
        (source(list.clone(), &[SECRET]), vec![("x-sig", "abc")], "{}", "has no entry v1=…"),
        (source(list.clone(), &[SECRET]), vec![("x-sig", timeless.as_str())], "{}", "has no entry t=…"),
        (source(list, &[SECRET]), vec![("x-sig", stale.as_str())], "{}", "the signed time differs from now by more than 5m"),
        (
            preset("linear", &[SECRET]),
            vec![("linear-signature", zeros.as_str())],
            "{}",
            "the member /webhookTimestamp of the body is missing",
        ),
        (preset("linear", &[SECRET]), vec![("linear-signature", zeros.as_str())], linear, "the signed time cannot be read"),
        (preset("mailgun", &[SECRET]), vec![JSON], "{}", "the member /signature/signature or /signature of the body is missing"),
        (preset("mailgun", &[SECRET]), vec![FORM], "a=1", "the member /signature/signature or /signature of the body is missing"),
        (preset("mailgun", &[SECRET]), vec![FORM], "signature=x", "the signature in the body is not hex"),
        (preset("bearer", &[SECRET]), vec![("authorization", "Basic x")], "{}", "does not begin with \"Bearer \""),
        (preset("basic", &[SECRET]), vec![("authorization", "Basic !")], "{}", "the base64 of NAME:PASSWORD"),
    ] {
        let refusal = post(headers, body).to(&source).unwrap_err().to_string();
        assert!(refusal.contains(said), "{refusal}");
    }
}

/// Questions are answered and create no event. Requests that only look like questions become events.
#[test]
fn questions_of_senders_are_answered() {
    let with_token = |draft: Draft| {
        let mut made = source(draft, &[SECRET]);
        made.new.verify_token = Some(Secret::Text("T-0123456789".to_owned()));
        made
    };
    let of = |name: &str| Draft { preset: name.to_owned(), ..Draft::default() };
    let hub = |token: &str| format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=PROBE%20123");
    let text = |body: &str| Ok(Some((Some("text/plain; charset=utf-8"), body.to_owned())));
    let wrong_token = || {
        Err(Refusal::Malformed {
            part: "hub.verify_token (or hub.topic)".to_owned(),
            why: "is not the verify_token of this source".to_owned(),
        })
    };
    let challenge = |parameter: &str| Draft { challenge: some(&format!("query:{parameter}")), ..of("none") };
    for (name, source, method, query, pairs, answer) in [
        ("HEAD", preset("github", &[SECRET]), "HEAD", String::new(), vec![], Ok(Some((None, String::new())))),
        ("Meta", with_token(of("meta")), "GET", hub("T-0123456789"), vec![], text("PROBE 123")),
        ("Meta, wrong token", with_token(of("meta")), "GET", hub("other"), vec![], wrong_token()),
        ("Meta, no token", with_token(of("meta")), "GET", "hub.mode=subscribe&hub.challenge=x".to_owned(), vec![], wrong_token()),
        ("Meta by POST", with_token(of("meta")), "POST", hub("T-0123456789"), vec![], Ok(None)),
        ("no verify_token here", preset("meta", &[SECRET]), "GET", hub("T-0123456789"), vec![], Ok(None)),
        (
            "Strava",
            with_token(of("strava")),
            "GET",
            "hub.verify_token=T-0123456789&hub.challenge=15f7d1a91c1f40a&hub.mode=subscribe".to_owned(),
            vec![],
            Ok(Some((Some("application/json"), r#"{"hub.challenge":"15f7d1a91c1f40a"}"#.to_owned()))),
        ),
        (
            "WebSub",
            with_token(of("none")),
            "GET",
            "hub.mode=subscribe&hub.topic=T-0123456789&hub.challenge=abc&hub.lease_seconds=60".to_owned(),
            vec![],
            text("abc"),
        ),
        (
            "WebSub denies",
            with_token(of("none")),
            "GET",
            "hub.mode=denied&hub.topic=T-0123456789".to_owned(),
            vec![],
            Ok(Some((None, String::new()))),
        ),
        ("an event of a hub", with_token(of("meta")), "GET", "a=1".to_owned(), vec![], Ok(None)),
        ("Dropbox", source(challenge("challenge"), &[]), "GET", "challenge=abc".to_owned(), vec![], text("abc")),
        (
            "Microsoft Graph",
            source(challenge("validationToken"), &[]),
            "POST",
            "validationToken=a%3a+b".to_owned(),
            vec![],
            text("a: b"),
        ),
        (
            "Okta",
            source(
                Draft { challenge: some("header:X-Okta-Verification-Challenge=verification"), ..of("header-token") },
                &[SECRET],
            ),
            "GET",
            String::new(),
            vec![("x-okta-verification-challenge", "a\"b"), ("x-webhook-token", SECRET)],
            Ok(Some((Some("application/json"), r#"{"verification":"a\"b"}"#.to_owned()))),
        ),
        (
            "Smartsheet",
            source(Draft { challenge: some("header:smartsheet-hook-challenge=smartsheetHookResponse"), ..of("none") }, &[]),
            "POST",
            String::new(),
            vec![("smartsheet-hook-challenge", "abc")],
            Ok(Some((Some("application/json"), r#"{"smartsheetHookResponse":"abc"}"#.to_owned()))),
        ),
        (
            "Nylas, Prelude",
            source(challenge("challenge"), &[]),
            "GET",
            "event=activate&challenge=1234".to_owned(),
            vec![],
            text("1234"),
        ),
        ("without the parameter", source(challenge("challenge"), &[]), "GET", "other=abc".to_owned(), vec![], Ok(None)),
        (
            "a challenge beside a proof",
            source(Draft { challenge: some("query:challenge"), ..of("github") }, &[SECRET]),
            "POST",
            "challenge=abc".to_owned(),
            vec![("x-hub-signature-256", "x")],
            Ok(None),
        ),
        (
            "a challenge that is too long",
            source(challenge("challenge"), &[]),
            "GET",
            format!("challenge={}", "a".repeat(2000)),
            vec![],
            Ok(None),
        ),
    ] {
        let headers = headers(&pairs);
        let head = Incoming { method, url: "", query: &query, headers: &headers, body: b"" };
        let answered = source.answer_head(&head).map(|reply| reply.map(|reply| (reply.content_type, reply.body)));
        assert_eq!(answered, answer, "{name}");
    }

    // monday.com puts its challenge into the JSON of a request without a proof.
    for (secrets, name) in [(&[SECRET][..], "header-token"), (&[], "none")] {
        let monday = source(Draft { challenge: some("body:/challenge=challenge"), ..of(name) }, secrets);
        let json = headers(&[JSON]);
        let long = format!(r#"{{"challenge":"{}"}}"#, "a".repeat(600));
        for (body, answer) in [
            (r#"{"challenge":"abc"}"#, Some(r#"{"challenge":"abc"}"#)),
            (r#"{"event":{"type":"create_pulse"}}"#, None),
            (r#"{"challenge":{}}"#, None),
            (long.as_str(), None),
        ] {
            let request = Incoming { method: "POST", url: "", query: "", headers: &json, body: body.as_bytes() };
            let asked = match secrets {
                [] => monday.challenge(&request, &Believed::default(), at(0)),
                _ if !monday.may_be_probe(&request, Some(body.len() as u64)) => None,
                _ => monday.answer_probe(&request),
            };
            assert_eq!(asked.map(|reply| reply.body).as_deref(), answer, "{name} {body:.40}");
        }
        let proved = headers(&[JSON, ("x-webhook-token", SECRET)]);
        let request = Incoming { method: "POST", url: "", query: "", headers: &proved, body: br#"{"challenge":"abc"}"# };
        if name == "header-token" {
            assert!(monday.answer_probe(&request).is_none() && monday.challenge(&request, &Believed::default(), at(0)).is_none());
        }
    }

    let slack = preset("slack", &[SECRET]);
    let form = headers(&[FORM]);
    for (body, asks) in [
        ("ssl_check=1&token=abc", true),
        ("token=abc&ssl_check=1", true),
        ("ssl_check=0", false),
        ("command=%2Fdo&text=ssl_check%3D1", false),
    ] {
        let request = Incoming { method: "POST", url: "", query: "", headers: &form, body: body.as_bytes() };
        assert!(slack.may_be_probe(&Incoming { body: b"", ..request }, Some(body.len() as u64)));
        assert_eq!(slack.answer_probe(&request), asks.then(Reply::default), "{body}");
        assert_eq!(slack.challenge(&request, &Believed::default(), at(0)), asks.then(Reply::default), "signed: {body}");
    }

    let zoom = preset("zoom", &["a-newer-secret", SECRET]);
    let body = r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#;
    let request = Incoming { method: "POST", url: "", query: "", headers: &[], body: body.as_bytes() };
    let signed_with_the_older = Believed { secret: 1, ..Believed::default() };
    let reply = zoom.challenge(&request, &signed_with_the_older, at(0)).unwrap();
    let hashed = hex("qgg8vlvZRS6UYooatFL8Aw");
    assert_eq!(reply.body, format!(r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{hashed}"}}"#));
    let event = Incoming { body: br#"{"event":"meeting.started"}"#, ..request };
    assert_eq!(zoom.challenge(&event, &signed_with_the_older, at(0)), None);
}

/// Some senders follow instructions in the answer. They get an answer without instructions.
#[test]
fn senders_get_answers_in_their_format() {
    let answer = |draft: Draft| source(draft, &[]).new.settings.answer;
    let of = |name: &str| Draft { preset: name.to_owned(), ..Draft::default() };
    assert_eq!(answer(of("slack")).body.as_deref(), Some(""));
    let twilio = answer(of("twilio"));
    assert!(twilio.content_type == "text/xml" && twilio.body.unwrap().ends_with("<Response></Response>"));
    assert_eq!((answer(of("github")).body, answer(of("github")).content_type.as_str()), (None, "application/json"));
    let own =
        Draft { answer_body: some("<Response><Say>hi</Say></Response>"), answer_content_type: some("text/xml"), ..of("twilio") };
    assert_eq!(answer(own).body.as_deref(), Some("<Response><Say>hi</Say></Response>"));
    assert_eq!(answer(Draft { answer_body: some("ok"), ..of("slack") }).body.as_deref(), Some("ok"));
}
