//! The whole client against receivers on loopback: each behaviour of a receiver ends in its named outcome, in bounded time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use support::receivers::{Answer, Hostile, Identity, Reads, Receiver};
use url::Url;

use super::*;
use crate::domain::{
    certificate::ClientCertificate,
    delivery::{Attempt, AttemptOutcome},
    endpoint::Reach,
    id::EndpointId,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

/// Maximum time that a hostile receiver may take beyond its timeout.
const GRACE: Duration = Duration::from_secs(3);

/// Names, and their addresses at the first look-up, the second, and so on. Later look-ups return the last entry.
#[derive(Default)]
struct Table {
    names: HashMap<String, Vec<Vec<IpAddr>>>,
    asked: Mutex<HashMap<String, usize>>,
}

impl Table {
    fn of(name: &str, lookups: Vec<Vec<IpAddr>>) -> Arc<Self> {
        Arc::new(Self { names: HashMap::from([(name.to_owned(), lookups)]), ..Self::default() })
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

#[async_trait]
impl Resolve for Table {
    async fn resolve(&self, name: &str, _: Purpose) -> Result<Vec<IpAddr>, LookupError> {
        let mut asked = self.asked.lock().unwrap();
        let count = asked.entry(name.to_owned()).or_default();
        *count += 1;
        match self.names.get(name) {
            Some(lookups) => Ok(lookups[(*count - 1).min(lookups.len() - 1)].clone()),
            None => Err(LookupError::NotFound { name: name.to_owned(), reason: "not in the table".to_owned() }),
        }
    }
}

/// Never answers.
struct DeadNameServer;

#[async_trait]
impl Resolve for DeadNameServer {
    async fn resolve(&self, _: &str, _: Purpose) -> Result<Vec<IpAddr>, LookupError> {
        std::future::pending().await
    }
}

/// A client that may reach the networks `open`, resolves `names`, and trusts `trusted`.
fn outbound(open: &[&str], names: Arc<dyn Resolve>, trusted: &[&Identity]) -> Outbound {
    let guard = Guard::new(open.iter().map(|net| net.parse().unwrap()).collect());
    Outbound::with_trust(guard, names, trusted.iter().map(|identity| identity.certificate.clone()).collect()).unwrap()
}

/// A client that may go to loopback.
fn local() -> Outbound {
    outbound(&["127.0.0.0/8"], Arc::new(Table::default()), &[])
}

fn request(url: &str, timeout: Duration) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "dlv_1".parse().unwrap());
    Request {
        url: Url::parse(url).unwrap(),
        headers,
        body: Bytes::from_static(b"{\"a\":1}"),
        at: crate::clock::wall(),
        timeout,
        identity: None,
        reach: Reach::Opened,
    }
}

/// Sends once to `url` with a long timeout.
async fn send(outbound: &Outbound, url: &str) -> Attempt {
    outbound.send(request(url, Duration::from_secs(10))).await
}

/// Sends once with a short timeout, and checks that it ends in time.
async fn send_in_a_hurry(outbound: &Outbound, url: &str) -> Attempt {
    let (timeout, started) = (Duration::from_millis(300), Instant::now());
    let attempt = outbound.send(request(url, timeout)).await;
    assert!(started.elapsed() < timeout + GRACE, "took {:?}", started.elapsed());
    attempt
}

fn detail(attempt: &Attempt) -> &str {
    attempt.detail.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_webhook_arrives_unchanged() {
    let receiver = Receiver::answering(|_| Answer::status(201).body("thanks")).await;
    let before = crate::clock::wall();
    let attempt = send(&local(), &receiver.url("/hook?token=secret")).await;

    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 201 });
    assert_eq!(attempt.excerpt, "thanks");
    assert_eq!((attempt.detail.as_deref(), attempt.retry_after), (None, None));
    assert!(attempt.at >= before && attempt.latency > Duration::ZERO);
    let received = &receiver.wait_for_count(1, GRACE).await[0];
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/hook?token=secret"));
    assert_eq!(received.text(), "{\"a\":1}");
    assert_eq!(received.header("webhook-id"), Some("dlv_1"));
    assert_eq!(received.header("content-length"), Some("7"));
    assert_eq!(received.header("user-agent"), Some(concat!("innesco/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(received.header("host"), Some(receiver.address().to_string().as_str()));
    assert_eq!(received.header("accept-encoding"), None, "an answer is read as it comes");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let receiver = Receiver::start().await;
    let outbound = local();
    for _ in 0..20 {
        let attempt = send(&outbound, &receiver.url("/")).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 });
    }
    assert_eq!((receiver.received().len(), receiver.connections()), (20, 1));
}

#[tokio::test]
async fn retry_after_of_an_answer_is_returned() {
    let receiver = Receiver::sequence(vec![
        Answer::status(503).header("retry-after", "120"),
        Answer::status(429).header("Retry-After", "soon"),
        Answer::status(200),
    ])
    .await;
    let outbound = local();
    let mut asked = Vec::new();
    for _ in 0..3 {
        let attempt = send(&outbound, &receiver.url("/")).await;
        asked.push((attempt.outcome.status(), attempt.retry_after));
    }
    assert_eq!(asked, [(Some(503), Some(Duration::from_secs(120))), (Some(429), None), (Some(200), None)]);
}

#[tokio::test]
async fn only_the_beginning_of_an_answer_is_kept() {
    let page: String = (0..5000).map(|line| format!("{line:07}\n")).collect();
    let receiver = Receiver::answering(move |_| Answer::status(500).body(page.clone())).await;
    let attempt = send(&local(), &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 500 });
    assert_eq!(attempt.excerpt.len(), Attempt::EXCERPT_MAX);
    assert!(attempt.excerpt.starts_with(b"0000000\n0000001\n"));
}

#[tokio::test]
async fn an_answer_as_long_as_the_cap_is_whole_and_one_byte_more_is_not() {
    let receiver = Receiver::answering(|received| {
        let length = received.path.trim_start_matches('/').parse().unwrap();
        Answer::status(200).body(vec![b'x'; length])
    })
    .await;
    let outbound = local();
    assert_eq!(send(&outbound, &receiver.url("/65536")).await.outcome, AttemptOutcome::Answered { status: 200 });
    assert_eq!(send(&outbound, &receiver.url("/65537")).await.outcome, AttemptOutcome::BodyTooLarge { status: 200 });
}

#[tokio::test]
async fn a_silent_receiver_ends_at_the_timeout() {
    let receiver = Hostile::hang_before_headers().await;
    let outbound = local();
    let attempt = send_in_a_hurry(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TimedOut);
    assert_eq!(detail(&attempt), "no answer within 300 ms");
    assert!(attempt.latency >= Duration::from_millis(300));
    receiver.wait_until_left().await;
}

#[tokio::test]
async fn a_large_unread_body_ends_at_the_timeout() {
    let receiver = Hostile::hang_before_reading().await;
    let mut request = request(&receiver.url("/"), Duration::from_millis(300));
    request.body = vec![b'x'; 32 * 1024 * 1024].into();
    let attempt = local().send(request).await;
    assert_eq!((attempt.outcome, detail(&attempt)), (AttemptOutcome::TimedOut, "no answer within 300 ms"));
}

#[tokio::test]
async fn a_dripping_answer_ends_at_the_timeout_and_its_status_counts() {
    let receiver = Hostile::drip(Duration::from_millis(20)).await;
    let outbound = local();
    let attempt = send_in_a_hurry(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 });
    assert!(detail(&attempt).ends_with("answered 200, and the rest of its answer did not arrive within 300 ms"), "{attempt:?}");
    assert!(attempt.excerpt.starts_with(b".."), "the part that arrived is stored");
    receiver.wait_until_left().await;
}

#[tokio::test]
async fn dripping_headers_end_at_the_timeout() {
    let receiver = Hostile::slow_headers(Duration::from_millis(20)).await;
    let outbound = local();
    let attempt = send_in_a_hurry(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 });
    assert!(detail(&attempt).ends_with("answered 200, and the rest of its answer did not arrive within 300 ms"), "{attempt:?}");
    receiver.wait_until_left().await;
}

#[tokio::test]
async fn an_endless_answer_costs_no_more_than_a_long_one() {
    for (receiver, status) in [(Hostile::endless_body().await, 200), (Hostile::huge_body().await, 500)] {
        let outbound = local();
        let attempt = send(&outbound, &receiver.url("/")).await;
        assert_eq!(attempt.outcome, AttemptOutcome::BodyTooLarge { status });
        assert_eq!(detail(&attempt), "the answer is longer than 64 KiB; the rest was not read");
        assert_eq!(attempt.excerpt.len(), Attempt::EXCERPT_MAX);
        // The receiver could send only as much as the socket buffers of both sides hold.
        let tally = receiver.wait_until_left().await;
        assert!(tally.bytes_written < 32 * 1024 * 1024, "{tally:?}");
    }
}

#[tokio::test]
async fn endless_headers_end_the_exchange() {
    let receiver = Hostile::huge_headers().await;
    let outbound = local();
    let attempt = send(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 });
    assert!(detail(&attempt).ends_with("answered 200 with too many headers; the rest was not read"), "{}", detail(&attempt));
    let tally = receiver.wait_until_left().await;
    assert!(tally.bytes_written < 32 * 1024 * 1024, "{tally:?}");
}

#[tokio::test]
async fn a_broken_connection_is_a_reset() {
    let place = |receiver: &Hostile| format!("http://{}", receiver.address());
    for receiver in [Hostile::reset().await, Hostile::close_without_answer().await] {
        let attempt = send(&local(), &receiver.url("/hook?token=secret")).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Reset);
        assert_eq!(detail(&attempt), format!("{} closed the connection without an answer", place(&receiver)));
        assert_eq!(receiver.tally().requests, 1, "a new connection that breaks is not tried again");
    }
    let receiver = Hostile::not_http().await;
    let attempt = send(&local(), &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Reset);
    assert_eq!(detail(&attempt), format!("the answer of {} is not HTTP", place(&receiver)));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced() {
    let (identity, answer) = (Identity::self_signed("localhost"), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    for tls in [None, Some(&identity)] {
        let outbound = outbound(&["127.0.0.0/8"], Table::of("localhost", vec![vec![LOOPBACK]]), &[&identity]);
        let receiver = Hostile::raw(answer, Reads::Whole, tls).await;
        let url = at_localhost(&receiver);
        for _ in 0..50 {
            let attempt = send(&outbound, &url).await;
            assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 }, "{attempt:?}");
            receiver.wait_until_left().await;
        }
        assert_eq!(receiver.tally().requests, 50);
    }
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_sent_again() {
    let (identity, outbound) = (Identity::self_signed("localhost"), Table::of("localhost", vec![vec![LOOPBACK]]));
    let outbound = self::outbound(&["127.0.0.0/8"], outbound, &[&identity]);
    for tls in [None, Some(&identity)] {
        // Each connection accepts a second request, and closes without an answer.
        let receiver = Hostile::raw("", Reads::HeadOfSecond, tls).await;
        let url = at_localhost(&receiver);
        for _ in 0..5 {
            assert_eq!(send(&outbound, &url).await.outcome, AttemptOutcome::Answered { status: 200 });
            let attempt = send(&outbound, &url).await;
            assert_eq!(attempt.outcome, AttemptOutcome::Reset, "{attempt:?}");
        }
        assert_eq!(receiver.tally().requests, 10, "each attempt sends one request");
    }
}

/// Returns the URL of a receiver, with the name for which its certificate was issued.
fn at_localhost(receiver: &Hostile) -> String {
    receiver.url("/hook?token=secret").replace("127.0.0.1", "localhost")
}

/// Answers whose status counts. For each: its name, its bytes, the status, and the detail about the rest of the answer.
fn imperfect_answers() -> Vec<(&'static str, Vec<u8>, u16, Option<&'static str>)> {
    let ok = |rest: &str| [b"HTTP/1.1 200 OK\r\n".as_slice(), rest.as_bytes()].concat();
    let header = |line: &str| ok(&format!("{line}\r\ncontent-length: 2\r\n\r\nok"));
    let cut_off = Some("answered 200 and closed the connection in the middle of its answer");
    let not_http = Some("answered 200; the data after that is not HTTP");
    let too_many = Some("answered 200 with too many headers; the rest was not read");
    vec![
        // Ends of answers.
        ("no content-length, the end of TCP ends the answer", ok("connection: close\r\n\r\nok"), 200, None),
        ("no header lines", ok("\r\nok"), 200, None),
        ("a body shorter than its content-length", ok("content-length: 8\r\n\r\nok"), 200, cut_off),
        ("chunks without the last chunk", ok("transfer-encoding: chunked\r\n\r\n2\r\nok\r\n"), 200, cut_off),
        ("a chunk shorter than its size", ok("transfer-encoding: chunked\r\n\r\n8\r\nok"), 200, cut_off),
        ("a chunk size that is no number", ok("transfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"), 200, cut_off),
        ("a body longer than its content-length", ok("content-length: 2\r\n\r\nok and more"), 200, None),
        ("only a status line", b"HTTP/1.1 410 Gone\r\n".to_vec(), 410, Some("answered 410 and closed the connection")),
        ("cut off in a header line", ok("x-a: b\r\nx-"), 200, cut_off),
        ("cut off before the blank line after the headers", ok("content-length: 2\r\n"), 200, cut_off),
        // Header lines.
        ("a folded header line (RFC 9112, 5.2)", header("x-a: b\r\n c"), 200, None),
        ("a header line folded with a tab", header("x-a: b\r\n\tc"), 200, None),
        ("a header line with a blank before the colon", header("x-a : b"), 200, None),
        ("a warning of PHP among the headers", header("PHP Warning: x in y on line 3"), 200, None),
        ("a header line without a colon", header("preload"), 200, None),
        ("a header line without a name", header(": x"), 200, None),
        ("a header value with a control character", header("x-a: b\x01c"), 200, None),
        ("a header name with invalid characters", header("x(a): b"), 200, None),
        ("a header value in UTF-8", header("x-a: grün"), 200, None),
        ("an empty header value", header("x-a:"), 200, None),
        ("line feeds without carriage returns", b"HTTP/1.1 200 OK\nx-a: b\ncontent-length: 2\n\nok".to_vec(), 200, None),
        ("200 header lines", header(&vec!["set-cookie: a=b"; 200].join("\r\n")), 200, None),
        ("1,000 header lines", header(&vec!["set-cookie: a=b"; 1000].join("\r\n")), 200, too_many),
        ("a header line of 1 MB", header(&format!("x-a: {}", "b".repeat(1 << 20))), 200, too_many),
        // Lengths.
        ("a content-length that is no number", ok("content-length: two\r\n\r\nok"), 200, not_http),
        ("two different content-lengths", ok("content-length: 2\r\ncontent-length: 3\r\n\r\nok"), 200, not_http),
        ("the same content-length twice", ok("content-length: 2\r\ncontent-length: 2\r\n\r\nok"), 200, None),
        ("an unknown transfer-encoding", ok("transfer-encoding: x\r\n\r\nok"), 200, None),
        ("content-encoding gzip without gzip data", ok("content-encoding: gzip\r\ncontent-length: 2\r\n\r\nok"), 200, None),
        // The status line.
        ("a status line without a reason", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok".to_vec(), 200, None),
        ("a reason in Latin-1", b"HTTP/1.1 200 D\xe9j\xe0\r\ncontent-length: 2\r\n\r\nok".to_vec(), 200, None),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nok".to_vec(), 200, None),
        ("an empty line before the status line", [b"\r\n".to_vec(), ok("content-length: 2\r\n\r\nok")].concat(), 200, None),
        (
            "a final answer after interim answers",
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\n".to_vec(), ok("\r\nok")].concat(),
            200,
            None,
        ),
        (
            "a final answer after an interim answer, cut off",
            [b"HTTP/1.1 103 Hints\r\n\r\n".to_vec(), ok("x-a")].concat(),
            200,
            cut_off,
        ),
        ("a status that HTTP does not define", b"HTTP/1.1 999 No\r\ncontent-length: 0\r\n\r\n".to_vec(), 999, None),
    ]
}

#[tokio::test]
async fn a_status_counts_even_if_the_rest_of_the_answer_is_faulty() {
    let identity = Identity::self_signed("localhost");
    let outbound = outbound(&["127.0.0.0/8"], Table::of("localhost", vec![vec![LOOPBACK]]), &[&identity]);
    for (what, answer, status, said) in imperfect_answers() {
        for tls in [None, Some(&identity)] {
            let receiver = Hostile::raw(answer.clone(), Reads::Whole, tls).await;
            let attempt = send(&outbound, &at_localhost(&receiver)).await;
            let what = format!("{what}, {}: {attempt:?}", if tls.is_some() { "TLS" } else { "plain" });
            assert_eq!(attempt.outcome, AttemptOutcome::Answered { status }, "{what}");
            match said {
                Some(said) => assert!(detail(&attempt).contains(said) && !detail(&attempt).contains("secret"), "{what}"),
                None => assert_eq!(
                    (attempt.detail.as_deref(), attempt.excerpt.starts_with(b"ok") || status == 999),
                    (None, true),
                    "{what}"
                ),
            }
            assert_eq!(receiver.tally().requests, 1, "{what}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_status_does_not_count() {
    for answer in [
        "",
        "HTTP/1.1 20",
        "220 mail.example ESMTP\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 103 Hints\r\n\r\n",
        "\x15\x03\x03\0\x02\x02\x28",
    ] {
        let receiver = Hostile::raw(answer, Reads::Whole, None).await;
        let attempt = send(&local(), &receiver.url("/")).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Reset, "{answer:?}: {attempt:?}");
        assert_eq!(receiver.tally().requests, 1);
    }
}

#[tokio::test]
async fn retry_after_is_read_behind_a_bad_header_line() {
    let answer = "HTTP/1.1 429 Slow\r\npreload\r\nx-a: b\r\n c\r\nretry-after: 120\r\ncontent-length: 9\r\n\r\nhalf";
    let receiver = Hostile::raw(answer, Reads::Whole, None).await;
    let attempt = send(&local(), &receiver.url("/")).await;
    assert_eq!(attempt.retry_after, Some(Duration::from_secs(120)), "{attempt:?}");
    assert_eq!((attempt.outcome, &attempt.excerpt[..]), (AttemptOutcome::Answered { status: 429 }, &b"half"[..]));
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_read_counts_and_nothing_is_sent_twice() {
    const ROUNDS: usize = 20;
    let identity = Identity::self_signed("localhost");
    let outbound = outbound(&["127.0.0.0/8"], Table::of("localhost", vec![vec![LOOPBACK]]), &[&identity]);
    let answer = "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
    for reads in [Reads::Head, Reads::HeadOfSecond] {
        for tls in [None, Some(&identity)] {
            let receiver = Hostile::raw(answer, reads, tls).await;
            let mut request = request(&at_localhost(&receiver), Duration::from_secs(10));
            for _ in 0..ROUNDS {
                request.body = Bytes::from_static(b"{}");
                if reads == Reads::HeadOfSecond {
                    assert_eq!(outbound.send(request.clone()).await.outcome, AttemptOutcome::Answered { status: 200 });
                }
                request.body = vec![b'x'; 5 << 20].into();
                let attempt = outbound.send(request.clone()).await;
                assert_eq!(
                    attempt.outcome,
                    AttemptOutcome::Answered { status: 413 },
                    "{reads:?}, {tls:?}: {attempt:?}",
                    tls = tls.is_some()
                );
                assert_eq!(attempt.excerpt, "big");
            }
            let requests = if reads == Reads::Head { ROUNDS } else { 2 * ROUNDS };
            assert_eq!(receiver.tally().requests, requests, "each attempt sends one request");
        }
    }
}

#[tokio::test]
async fn a_delivery_goes_through_while_500_urls_wait_for_name_servers_that_swallow_queries() {
    let receiver = Receiver::start().await;
    let (server, names) = lookups::tests::Swallowing::start();
    let outbound = Arc::new(outbound(&["127.0.0.0/8"], Arc::new(names), &[]));
    let mut checks = tokio::task::JoinSet::new();
    for n in 0..500 {
        let outbound = Arc::clone(&outbound);
        checks.spawn(async move { outbound.check_url(&format!("https://hook.slow{n}.example/"), Reach::Opened).await });
    }
    server.swallowed(32).await;
    for n in 0..20 {
        let url = format!("http://crm{n}.example:{}/", receiver.address().port());
        assert_eq!(send(&outbound, &url).await.outcome, AttemptOutcome::Answered { status: 200 });
    }
    assert_eq!(server.swallowed(0).await.len(), 32);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let attempt = send(&local(), &format!("http://{address}/?token=secret")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Refused);
    assert_eq!(detail(&attempt), format!("nothing listens at http://{address}"));
}

#[tokio::test]
async fn a_redirect_is_reported_and_never_followed() {
    let target = Receiver::start().await;
    let receiver = Hostile::redirect_to(&target.url("/secret?token=secret")).await;
    let attempt = send(&local(), &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 302 });
    assert_eq!(detail(&attempt), format!("a redirect to http://{}, which is not followed", target.address()));
    let long = format!("http://{}/", "a".repeat(5000));
    let metadata = "http://169.254.169.254/latest/meta-data";
    for strange in [metadata, &long, "//[zz", "mailto:me@example.com", "http://a b/", "http://[::1", "x:y"] {
        let receiver = Hostile::redirect_to(strange).await;
        let attempt = send(&local(), &receiver.url("/")).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 302 }, "{strange}: {attempt:?}");
        assert!(detail(&attempt).starts_with("a redirect") && detail(&attempt).len() < 400, "{strange}: {attempt:?}");
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn a_status_is_an_answer() {
    for status in [200, 204, 304, 410, 429, 500, 599] {
        let receiver = Hostile::status(status).await;
        assert_eq!(send(&local(), &receiver.url("/")).await.outcome, AttemptOutcome::Answered { status });
    }
}

#[tokio::test]
async fn kinds_of_bad_tls_have_different_explanations() {
    let (trusted, expired, other) =
        (Identity::self_signed("localhost"), Identity::expired("localhost"), Identity::self_signed("other.example"));
    let names = Table::of("localhost", vec![vec![LOOPBACK]]);
    let without_authorities = outbound(&["127.0.0.0/8"], Arc::clone(&names) as Arc<dyn Resolve>, &[]);
    let outbound = outbound(&["127.0.0.0/8"], names, &[&trusted, &expired, &other]);
    let at = |port: u16| format!("https://localhost:{port}");

    let receiver = Hostile::bad_tls().await;
    let port = receiver.address().port();
    let attempt = send(&without_authorities, &at(port)).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed);
    let said =
        format!("the certificate of {} is self-signed and not among the trusted ones; name its file in SSL_CERT_FILE", at(port));
    assert_eq!(detail(&attempt), said);

    for (identity, said) in [(&expired, "has expired"), (&other, "is for another name")] {
        let receiver = Receiver::with_tls(identity, |_| Answer::status(200)).await;
        let attempt = send(&outbound, &at(receiver.address().port())).await;
        assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed);
        assert!(detail(&attempt).ends_with(said), "{}", detail(&attempt));
        assert!(receiver.received().is_empty());
    }

    let receiver = Hostile::no_tls().await;
    let attempt = send(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed);
    assert!(detail(&attempt).ends_with("does not speak TLS"), "{}", detail(&attempt));

    let receiver = Hostile::hang_in_tls().await;
    let attempt = send_in_a_hurry(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TimedOut);
    assert_eq!(detail(&attempt), format!("no connection to https://{} within 300 ms", receiver.address()));

    let receiver = Receiver::with_tls(&trusted, |_| Answer::status(200).body("safe")).await;
    let attempt = send(&outbound, &at(receiver.address().port())).await;
    assert_eq!((attempt.outcome, attempt.excerpt.as_ref()), (AttemptOutcome::Answered { status: 200 }, &b"safe"[..]));
}

#[tokio::test]
async fn http2_is_used_if_the_receiver_offers_it() {
    let identity = Identity::self_signed("localhost");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let connections = Arc::new(AtomicUsize::new(0));
    let app = axum::Router::new().fallback(|request: axum::extract::Request| async move {
        let endless = request.uri().path() == "/endless";
        let version = format!("{:?}", request.version());
        if endless { axum::body::Body::from(vec![b'x'; 64 * 1024 * 1024]) } else { axum::body::Body::from(version) }
    });
    let server = TlsListener { listener, tls: identity.acceptor(&[b"h2", b"http/1.1"]), connections: Arc::clone(&connections) };
    let serving = tokio::spawn(async move { axum::serve(server, app).await });

    let outbound = outbound(&["127.0.0.0/8"], Table::of("localhost", vec![vec![LOOPBACK]]), &[&identity]);
    for _ in 0..3 {
        let attempt = send(&outbound, &url).await;
        assert_eq!(attempt.excerpt, "HTTP/2.0", "{attempt:?}");
    }
    let endless = send(&outbound, &format!("{url}endless")).await;
    assert_eq!(endless.outcome, AttemptOutcome::BodyTooLarge { status: 200 });
    // The server answers before it has read the body: it takes back its window and resets the stream.
    for _ in 0..5 {
        let mut request = request(&url, Duration::from_secs(10));
        request.body = vec![b'x'; 5 << 20].into();
        let attempt = outbound.send(request).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 }, "{attempt:?}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "all of it over one connection");
    serving.abort();
}

struct TlsListener {
    listener: tokio::net::TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    connections: Arc<AtomicUsize>,
}

impl axum::serve::Listener for TlsListener {
    type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(stream).await {
                self.connections.fetch_add(1, Ordering::Relaxed);
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_is_blocked() {
    let receiver = Receiver::start().await;
    let outbound = outbound(&[], Table::of("evil.example", vec![vec![LOOPBACK]]), &[]);
    for scheme in ["http", "https"] {
        let attempt = send(&outbound, &format!("{scheme}://evil.example:{}/", receiver.address().port())).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Blocked);
        assert_eq!(
            detail(&attempt),
            "evil.example resolves to 127.0.0.1, which is a loopback address; allow it with --allow-net 127.0.0.0/8 when you start the engine"
        );
    }
    let attempt = send(&outbound, &receiver.url("/")).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Blocked);
    assert_eq!(
        detail(&attempt),
        "127.0.0.1 is a loopback address; allow it with --allow-net 127.0.0.0/8 when you start the engine"
    );
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_after_it_was_checked_is_blocked_at_the_connection() {
    let receiver = Receiver::start().await;
    let names = Table::of("rebinding.example", vec![vec![PUBLIC], vec![LOOPBACK]]);
    let outbound = outbound(&[], Arc::clone(&names) as Arc<dyn Resolve>, &[]);
    let url = format!("https://rebinding.example:{}/", receiver.address().port());
    assert_eq!(outbound.check_url(&url, Reach::Opened).await.unwrap().as_str(), url);
    assert_eq!(send(&outbound, &url).await.outcome, AttemptOutcome::Blocked);
    assert_eq!(names.asked("rebinding.example"), 2, "once to check, once to connect, and not again");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn only_the_allowed_addresses_of_a_name_are_used() {
    let receiver = Receiver::start().await;
    let forbidden = [IpAddr::from([127, 0, 0, 2]), "::1".parse().unwrap(), [10, 0, 0, 7].into(), PUBLIC];
    let mixed = forbidden.into_iter().chain([LOOPBACK]).collect();
    let outbound = outbound(&["127.0.0.1/32"], Table::of("mixed.example", vec![mixed]), &[]);
    // PUBLIC is refused because http:// is not encrypted. A connection to it would be tried first and hang.
    let attempt = send_in_a_hurry(&outbound, &format!("http://mixed.example:{}/", receiver.address().port())).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 }, "{attempt:?}");
}

#[tokio::test]
async fn unencrypted_goes_to_opened_networks_only() {
    let outbound = outbound(&["127.0.0.0/8"], Table::of("public.example", vec![vec![PUBLIC]]), &[]);
    let attempt = send_in_a_hurry(&outbound, "http://public.example/").await;
    assert_eq!(attempt.outcome, AttemptOutcome::Blocked);
    assert!(detail(&attempt).contains("use https://"), "{}", detail(&attempt));
    let attempt = send_in_a_hurry(&outbound, "http://9.9.9.9/").await;
    assert_eq!(attempt.outcome, AttemptOutcome::Blocked);
    assert_eq!(send_in_a_hurry(&outbound, "ftp://public.example/").await.outcome, AttemptOutcome::Blocked);
    assert_eq!(send_in_a_hurry(&outbound, "https://a:b@public.example/").await.outcome, AttemptOutcome::Blocked);
}

#[tokio::test]
async fn unknown_names_and_hanging_name_servers_have_named_outcomes() {
    let attempt = send(&local(), "https://nowhere.example/?token=secret").await;
    assert_eq!(attempt.outcome, AttemptOutcome::NameNotFound);
    assert_eq!(detail(&attempt), "the name nowhere.example has no address (not in the table)");

    let outbound = outbound(&[], Arc::new(DeadNameServer), &[]);
    let attempt = send_in_a_hurry(&outbound, "https://slow.example/").await;
    assert_eq!(attempt.outcome, AttemptOutcome::TimedOut);
    assert_eq!(detail(&attempt), "the name slow.example was not looked up within 300 ms");
}

#[tokio::test]
async fn a_url_is_checked_when_it_is_saved() {
    let names = Arc::new(Table {
        names: HashMap::from([
            ("good.example".to_owned(), vec![vec![PUBLIC]]),
            ("half.example".to_owned(), vec![vec![PUBLIC, [10, 0, 0, 7].into()]]),
            ("inside.example".to_owned(), vec![vec![LOOPBACK]]),
        ]),
        ..Table::default()
    });
    let outbound = outbound(&["127.0.0.0/8"], names, &[]);
    let check = async |url: &str| outbound.check_url(url, Reach::Opened).await.map(String::from).map_err(|bad| bad.to_string());

    assert_eq!(check("https://Good.example/a?b#c").await, Ok("https://good.example/a?b".to_owned()));
    assert_eq!(check("http://inside.example:8080/").await, Ok("http://inside.example:8080/".to_owned()));
    assert_eq!(check("http://127.1/").await, Ok("http://127.0.0.1/".to_owned()));
    assert_eq!(check("https://not-yet.example/").await, Ok("https://not-yet.example/".to_owned()));
    assert_eq!(
        check("https://half.example/").await,
        Err("half.example resolves to 10.0.0.7, which is a private address; allow it with --allow-net 10.0.0.0/8 when you start the engine".to_owned())
    );
    assert!(check("http://good.example/").await.unwrap_err().contains("use https://"));
    assert!(check("https://169.254.169.254/latest").await.unwrap_err().contains("metadata"));
    assert!(check("gopher://good.example/").await.is_err());
    assert!(check("https://user@good.example/").await.is_err());
}

#[tokio::test]
async fn subscriptions_of_programs_cannot_reach_an_opened_network() {
    let (server, known) = (Identity::self_signed("localhost"), Identity::client("known"));
    let receiver = Receiver::with_tls(&server, |_| Answer::status(200)).await;
    let port = receiver.address().port();
    let names = Table::of("localhost", vec![vec![LOOPBACK]]);
    let outbound = outbound(&["127.0.0.0/8"], names, &[&server]);
    let url = format!("https://localhost:{port}/");
    let certificate = || super::Identity {
        endpoint: EndpointId::from_i64(1),
        certificate: Arc::new(ClientCertificate { chain: known.pem(), key: known.key_pem() }),
    };
    let send = async |url: &str, reach: Reach, identity: Option<super::Identity>| {
        outbound.send(Request { reach, identity, ..request(url, Duration::from_secs(10)) }).await
    };
    for identity in [None, Some(certificate())] {
        let attempt = send(&url, Reach::Opened, identity.clone()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 }, "{attempt:?}");
        // The connection is still open, and would be used again by the same client.
        let attempt = send(&url, Reach::Public, identity).await;
        assert_eq!(attempt.outcome, AttemptOutcome::Blocked, "{attempt:?}");
        assert!(detail(&attempt).starts_with("localhost resolves to an address that is not public; "), "{attempt:?}");
        assert!(!detail(&attempt).contains("127."), "the refusal must not reveal the internal address: {attempt:?}");
    }
    for url in [format!("https://127.0.0.1:{port}/"), format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/")] {
        assert_eq!(send(&url, Reach::Public, None).await.outcome, AttemptOutcome::Blocked, "{url}");
        assert!(outbound.check_url(&url, Reach::Public).await.is_err_and(|bad| bad.is_blocked()), "{url}");
        assert!(outbound.check_url(&url, Reach::Opened).await.is_ok(), "{url}");
    }
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn debug_output_of_a_request_holds_no_credential() {
    let mut request = request("https://crm.example/planted?key=planted", Duration::from_secs(1));
    request.headers.insert("authorization", "Bearer planted".parse().unwrap());
    request.body = Bytes::from_static(b"planted");
    let certificate = Arc::new(ClientCertificate { chain: "planted".into(), key: "planted".into() });
    request.identity = Some(super::Identity { endpoint: EndpointId::from_i64(1), certificate });
    for text in [format!("{request:?}"), format!("{request:#?}")] {
        assert!(text.contains("authorization") && text.contains("https://crm.example/***"), "{text}");
        assert!(!text.contains("planted"), "{text}");
    }
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    // The environment belongs to the whole process, so the part of the test that sets variables runs in a separate process.
    const CHILD: &str = "INNESCO_TEST_PROXY_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let receiver = Receiver::start().await;
        assert_eq!(send(&local(), &receiver.url("/")).await.outcome, AttemptOutcome::Answered { status: 200 });
        return;
    }
    let proxy = Receiver::start().await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "outbound::tests::proxies_of_the_environment_are_ignored"]).env(CHILD, "1");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(name, proxy.url(""));
    }
    for name in ["no_proxy", "NO_PROXY", "REQUEST_METHOD"] {
        child.env_remove(name);
    }
    let output = child.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_hanging_receiver_delays_no_other() {
    let (hanging, quick) = (Hostile::hang_before_headers().await, Receiver::start().await);
    let outbound = Arc::new(local());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (outbound, url) = (Arc::clone(&outbound), hanging.url("/"));
        waiting.spawn(async move { outbound.send(request(&url, Duration::from_secs(2))).await.outcome });
    }
    hanging.wait_for("all 100 requests to hang", GRACE, |tally| tally.requests == 100).await;
    for _ in 0..20 {
        assert!(send(&outbound, &quick.url("/")).await.latency < Duration::from_secs(1));
    }
    for outcome in waiting.join_all().await {
        assert_eq!(outcome, AttemptOutcome::TimedOut);
    }
    hanging.wait_until_left().await;
}

/// Starts a receiver that accepts only client certificates issued by `wanted`. Also returns its port.
async fn mutual_tls(server: &Identity, wanted: &Identity) -> (Receiver, u16) {
    let receiver = Receiver::with_mutual_tls(server, wanted, |_| Answer::status(200).body("known")).await;
    let port = receiver.address().port();
    (receiver, port)
}

#[tokio::test]
async fn an_endpoints_client_certificate_is_presented() {
    let (server, known, stranger) = (Identity::self_signed("localhost"), Identity::client("known"), Identity::client("stranger"));
    let (receiver, port) = mutual_tls(&server, &known).await;
    let outbound = outbound(&["127.0.0.0/8"], Table::of("localhost", vec![vec![LOOPBACK]]), &[&server]);
    let at = format!("https://localhost:{port}");
    let as_endpoint = async |endpoint: i64, identity: Option<&Identity>| {
        let mut request = request(&format!("{at}/hook?token=secret"), Duration::from_secs(10));
        request.identity = identity.map(|identity| super::Identity {
            endpoint: EndpointId::from_i64(endpoint),
            certificate: Arc::new(ClientCertificate { chain: identity.pem(), key: identity.key_pem() }),
        });
        outbound.send(request).await
    };

    for _ in 0..3 {
        let attempt = as_endpoint(1, Some(&known)).await;
        assert_eq!(
            (attempt.outcome, &attempt.excerpt[..]),
            (AttemptOutcome::Answered { status: 200 }, &b"known"[..]),
            "{attempt:?}"
        );
    }
    assert_eq!(receiver.connections(), 1, "its connection is kept");
    // Each endpoint has separate connections; none uses those of another.
    let attempt = as_endpoint(2, None).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed, "{attempt:?}");
    assert_eq!(detail(&attempt), format!("{at} requires a client certificate; set client_certificate of the endpoint"));
    let attempt = as_endpoint(3, Some(&stranger)).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed, "{attempt:?}");
    assert!(detail(&attempt).starts_with(&format!("{at} does not accept the endpoint's client certificate")), "{attempt:?}");
    // A replaced certificate is not used again, even if its connection is still open.
    let attempt = as_endpoint(1, Some(&stranger)).await;
    assert_eq!(attempt.outcome, AttemptOutcome::TlsFailed, "{attempt:?}");
    let attempt = as_endpoint(1, Some(&known)).await;
    assert_eq!(attempt.outcome, AttemptOutcome::Answered { status: 200 }, "{attempt:?}");
    assert_eq!(receiver.received().len(), 4);
}

#[tokio::test]
async fn the_guard_applies_with_a_client_certificate_too() {
    let (server, known) = (Identity::self_signed("localhost"), Identity::client("known"));
    let (receiver, port) = mutual_tls(&server, &known).await;
    let outbound = outbound(&[], Table::of("evil.example", vec![vec![LOOPBACK]]), &[&server]);
    let mut request = request(&format!("https://evil.example:{port}/"), Duration::from_secs(10));
    request.identity = Some(super::Identity {
        endpoint: EndpointId::from_i64(1),
        certificate: Arc::new(ClientCertificate { chain: known.pem(), key: known.key_pem() }),
    });
    assert_eq!(outbound.send(request).await.outcome, AttemptOutcome::Blocked);
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn a_client_certificate_is_checked_when_it_is_saved() {
    let (known, other) = (Identity::client("known"), Identity::client("other"));
    let check = |chain: String, key: String| check_certificate(&ClientCertificate { chain, key }).map_err(|bad| bad.to_string());
    assert_eq!(check(known.pem(), known.key_pem()), Ok(()));
    assert_eq!(check(known.pem() + &other.pem(), known.key_pem()), Ok(()), "a chain begins with the endpoint's certificate");
    assert_eq!(check(known.pem(), other.key_pem()), Err("key: does not belong to the first certificate".to_owned()));
    assert!(check(known.key_pem(), known.key_pem()).unwrap_err().starts_with("certificate: is not PEM"));
    assert!(check("-----BEGIN CERTIFICATE-----\n!".to_owned(), known.key_pem()).unwrap_err().starts_with("certificate: "));
    assert!(check(known.pem(), known.pem()).unwrap_err().starts_with("key: is not PEM with a private key"));
    let encrypted = known.key_pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(check(known.pem(), encrypted).unwrap_err().contains("decrypt an encrypted one first"));
    let (begin, end) = ("-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n");
    assert!(
        check(format!("{begin}bm8gY2VydGlmaWNhdGU={end}"), known.key_pem())
            .unwrap_err()
            .starts_with("certificate: cannot be used: ")
    );
    let shown = format!("{:?}", ClientCertificate { chain: known.pem(), key: known.key_pem() });
    assert_eq!(shown, "ClientCertificate(not shown)");
}
