//! Callers that misbehave: silent, slow, dripping, lying, flooding. Each takes little memory and ends at a named limit, while
//! good callers are served.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    receivers::Receiver,
};

fn address(engine: &Engine) -> SocketAddr {
    engine.url.strip_prefix("http://").expect("a plain address").parse().expect("an address with a port")
}

/// Opens a connection and sends `bytes`.
async fn dial(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    // The engine may already have closed this connection to make room.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Returns everything received until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut all)).await;
    assert!(read.is_ok(), "the connection is still open after {DEADLINE:?}; it has answered: {}", String::from_utf8_lossy(&all));
    String::from_utf8_lossy(&all).into_owned()
}

/// Returns the status of the last answer received, or 0 if no answer was received.
fn status(text: &str) -> u16 {
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|line| line.split(' ').next()?.parse().ok()).last().unwrap_or(0)
}

fn head(more: &str) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: innesco\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n{more}\r\n"
    )
}

/// Opens a connection and starts a request without its body. Returns once `100 Continue` shows that the engine waits for the body.
async fn busy(to: SocketAddr, length: usize) -> TcpStream {
    let mut stream = dial(to, head(&format!("content-length: {length}\r\nexpect: 100-continue\r\n")).as_bytes()).await;
    let mut told = [0; 25];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut told)).await.expect("in time").expect("the connection still works");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// A good caller: sends events one after another, each over a new connection, until stopped. Any answer but 202 fails the test.
struct GoodCaller {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    calling: JoinHandle<()>,
}

impl GoodCaller {
    fn start(engine: &Engine) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (url, until, count) = (format!("{}/v1/events", engine.url), Arc::clone(&stop), Arc::clone(&sent));
        drop(client());
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(DEADLINE).build().expect("a client");
        let calling = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let event = json!({ "type": "good.one", "data": {} });
                let answer = client.post(&url).bearer_auth(KEY).json(&event).send().await.expect("a good caller is answered");
                let status = answer.status();
                assert_eq!(status, 202, "{}", answer.text().await.unwrap_or_default());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, sent, calling }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until the caller has sent `more` further events.
    async fn still_works(&self, more: usize) {
        let (from, until) = (self.sent(), Instant::now() + DEADLINE);
        while self.sent() < from + more {
            assert!(!self.calling.is_finished(), "the good caller has failed");
            assert!(Instant::now() < until, "a good caller sent only {} of {more} events", self.sent() - from);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the caller and returns the number of accepted events.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.calling.await.expect("the good caller was served throughout");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Waits until the engine has nearly as few open files as before.
async fn wait_until_left(engine: &Engine, before: usize) {
    let until = Instant::now() + DEADLINE;
    while engine.open_files() > before + 40 {
        assert!(Instant::now() < until, "{} files are still open; there were {before}", engine.open_files());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_block_no_caller() {
    const SILENT: usize = 10_000;
    raise_file_limit(SILENT + 1_000);
    let engine = Engine::start_set(&[("INNESCO_LIMITS_HEAD_TIME_MAX", "3s"), ("INNESCO_LIMITS_CONNECTIONS_MAX", "4096")]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    engine.send("good.one", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let (files, memory) = (engine.open_files(), engine.memory_kib());

    let good = GoodCaller::start(&engine);
    let to = address(&engine);
    let mut silent = Vec::with_capacity(SILENT);
    let (mut most_files, mut most_memory) = (0, 0);
    for number in 0..SILENT {
        let half: &[u8] = if number % 2 == 0 { b"" } else { b"POST /v1/events HTTP/1.1\r\nhost: in" };
        silent.push(dial(to, half).await);
        if number % 500 == 0 {
            most_files = most_files.max(engine.open_files());
            most_memory = most_memory.max(engine.memory_kib());
        }
    }
    good.still_works(20).await;
    assert!(most_files <= 4096 + files + 300, "{most_files} files are open; 4,096 connections are allowed");
    let grown = most_memory.saturating_sub(memory);
    assert!(grown < 100 << 10, "silent connections took {grown} KiB");

    // The test closes none of the connections: the engine does.
    wait_until_left(&engine, files).await;
    for stream in silent.iter_mut().rev().take(10) {
        assert_eq!(rest(stream).await, "", "closed without an answer");
    }
    let accepted = 1 + good.finish().await;
    receiver.wait_for_count(accepted, DEADLINE).await;
}

/// Raises the limit of open files of this process, because every connection is a file.
fn raise_file_limit(needed: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may go up to the hard one");
    let enough = limit.current.is_none_or(|current| current >= needed as u64);
    assert!(enough, "this test opens {needed} connections; allow it so many files: ulimit -n {}", 2 * needed);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_by_their_limits() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_HEAD_TIME_MAX", "500ms"), ("INNESCO_LIMITS_IDLE_TIME_MAX", "3s")]);
    let to = address(&engine);
    let began = Instant::now();
    let mut used = dial(to, b"GET /healthz HTTP/1.1\r\nhost: innesco\r\n\r\n").await;
    let mut silent = dial(to, b"").await;
    let mut half = dial(to, b"GET /healthz HT").await;
    for stream in [&mut silent, &mut half] {
        assert_eq!(rest(stream).await, "");
    }
    // After its first request, a connection may be idle for longer (3 s here). This caller exceeds that limit too.
    let answer = rest(&mut used).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(3), "a used connection may be idle for 3 s, not {:?}", began.elapsed());

    let mut dripping = dial(to, b"GET /healthz HTTP/1.1\r\nhost: innesco\r\n\r\n").await;
    let (mut reader, mut writer) = dripping.split();
    let mut all = Vec::new();
    let drip = async {
        while writer.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // If the engine closes the connection while data is unread, the system resets the connection. Either way it has ended.
        read = tokio::time::timeout(DEADLINE, reader.read_to_end(&mut all)) => drop(read.expect("closed in time")),
        () = drip => {}
    }
    assert_eq!(status(&String::from_utf8_lossy(&all)), 200, "the first request was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_beyond_the_limit_of_busy_connections_gets_an_answer() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_CONNECTIONS_MAX", "6"), ("INNESCO_LIMITS_BODY_TIME_MAX", "4s")]);
    let to = address(&engine);
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(busy(to, 50).await);
    }
    let mut told = dial(to, b"GET /healthz HTTP/1.1\r\nhost: innesco\r\n\r\n").await;
    let told = rest(&mut told).await;
    assert_eq!(status(&told), 503, "{told}");
    assert!(told.to_ascii_lowercase().contains("retry-after: 1"), "{told}");
    assert!(told.contains("\"overloaded\"") && told.contains("limits.connections_max"), "{told}");

    // The first caller completes its body, so its event is accepted. The other callers time out. Then a new caller can connect
    // again.
    let body = r#"{"type":"a.b","data":"0123456789012345678901234"}"#;
    let body = format!("{body:<50}");
    all[0].write_all(body.as_bytes()).await.expect("the connection is still open");
    let mut answer = [0; 12];
    all[0].read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 202");
    for stream in &mut all[1..] {
        let answer = rest(stream).await;
        assert_eq!(status(&answer), 408, "{answer}");
        assert!(answer.contains("\"request_timeout\"") && answer.contains("limits.body_time_max"), "{answer}");
    }
    engine.send("good.one", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_bodies_time_out_and_free_their_memory() {
    const EACH: usize = 100;
    let engine = Engine::start_set(&[("INNESCO_LIMITS_BODY_TIME_MAX", "3s")]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    let to = address(&engine);
    let memory = engine.memory_kib();
    let good = GoodCaller::start(&engine);

    // Each of these requests announces 8 MiB, or may send that much in chunks. Together this is far more than the budget of all
    // bodies.
    let announced = head(&format!("content-length: {}\r\n", 8 << 20));
    let chunked = head("transfer-encoding: chunked\r\n");
    let mut slow = tokio::task::JoinSet::new();
    for number in 0..2 * EACH {
        let (head, piece): (String, &[u8]) =
            if number < EACH { (announced.clone(), b" ") } else { (chunked.clone(), b"1\r\n \r\n") };
        slow.spawn(async move {
            let mut stream = dial(to, head.as_bytes()).await;
            let (mut reader, mut writer) = stream.split();
            let drip = async {
                while writer.write_all(piece).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut all = vec![0; 4096];
            let answer = async {
                let length = reader.read(&mut all).await.expect("an answer before the end");
                String::from_utf8_lossy(&all[..length]).into_owned()
            };
            tokio::select! {
                answer = tokio::time::timeout(DEADLINE, answer) => answer.expect("the engine gives up on a slow body in time"),
                () = drip => unreachable!("the caller drips until it gets an answer"),
            }
        });
    }
    good.still_works(10).await;
    let grown = engine.memory_kib().saturating_sub(memory);
    assert!(grown < 64 << 10, "slow bodies took {grown} KiB");
    while let Some(answer) = slow.join_next().await {
        let answer = answer.expect("a caller with a slow body gets an answer");
        assert_eq!(status(&answer), 408, "{answer}");
    }

    // This caller sends endless chunks, as fast as the engine reads them.
    let mut endless = dial(to, chunked.as_bytes()).await;
    let (mut reader, mut writer) = endless.split();
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    let mut answer = vec![0; 4096];
    let length = tokio::select! {
        length = reader.read(&mut answer) => length.expect("an answer"),
        () = async {
            while writer.write_all(&chunk).await.is_ok() {}
            std::future::pending::<()>().await;
        } => unreachable!("the caller gets an answer first"),
    };
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert_eq!(status(&answer), 413, "{answer}");

    // One request announces more data than it has, the other one less. Neither becomes an event.
    let mut more = dial(to, format!("{}{}", head("content-length: 500\r\n"), r#"{"type":"bad.more"}"#).as_bytes()).await;
    more.shutdown().await.expect("half closed");
    let answer = rest(&mut more).await;
    assert!([0, 400].contains(&status(&answer)), "{answer}");
    let mut less = dial(to, format!("{}{}", head("content-length: 10\r\n"), r#"{"type":"bad.less"}"#).as_bytes()).await;
    let answer = rest(&mut less).await;
    assert_eq!(status(&answer), 400, "{answer}");

    let accepted = good.finish().await;
    receiver.wait_for_count(accepted, DEADLINE).await;
    let page = engine.get("/v1/events?limit=200").await;
    let strangers = page["items"].as_array().unwrap().iter().filter(|event| event["type"] != "good.one").count();
    assert_eq!(strangers, 0, "{page:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_limit_of_management_requests_is_low() {
    let engine = Engine::start_set(&[]);
    let large = format!(r#"{{"name":"crm","url":"https://crm.example.com/","title":"{}"}}"#, "x".repeat(256 << 10));
    let post = |path: &str| engine.request("POST", path).header("content-type", "application/json").body(large.clone()).send();
    let answer = post("/v1/endpoints").await.expect("an answer");
    assert_eq!(answer.status(), 413);
    let answer = answer.text().await.expect("a problem");
    assert!(answer.contains("body_too_large") && answer.contains("262144 bytes"), "{answer}");
    let event = format!(r#"{{"type":"good.one","data":{large}}}"#);
    let answer = engine.request("POST", "/v1/events").header("content-type", "application/json").body(event).send();
    assert_eq!(answer.await.expect("an answer").status(), 202, "an event may be larger");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_recovers_when_files_run_out() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let engine = Engine::start_set(&[("INNESCO_LIMITS_HEAD_TIME_MAX", "2s")]);
    let to = address(&engine);
    engine.send("good.one", json!({})).await;
    let files = engine.open_files();
    let most = files as u64 + 30;
    let pid = Pid::from_raw(engine.pid().cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) }).expect("the engine's limit is lowered");

    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(dial(to, b"").await);
    }
    let until = Instant::now() + DEADLINE;
    while !engine.log().contains("connection could not be accepted") {
        assert!(Instant::now() < until, "the engine never ran out of files: {} are open", engine.open_files());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The engine closes silent connections to make room for connections with requests.
    engine.send("good.one", json!({})).await;
    wait_until_left(&engine, files).await;
    engine.send("good.one", json!({})).await;
    let said = engine.log().matches("connection could not be accepted").count();
    assert!(said <= 200, "the engine waits between two tries to accept a connection: {said} lines");
}

/// Malformed or oversized requests. None causes an internal error, and none becomes an event.
#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_refused_and_change_nothing() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_HEAD_TIME_MAX", "2s"), ("INNESCO_LIMITS_IDLE_TIME_MAX", "500ms")]);
    let to = address(&engine);
    let memory = engine.memory_kib();
    let event = r#"{"type":"smuggled.in"}"#;
    let hidden = format!("{}{event}", head(&format!("content-length: {}\r\n", event.len())));
    let post = |more: &str, body: &str| format!("{}{body}", head(more)).into_bytes();
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: innesco\r\nauthorization: Bearer {KEY}\r\n{more}\r\n").into_bytes()
    };
    let query = "q".repeat(100_000);
    let many: String = (0..1_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let mut raw_path = b"GET /v1/events/".to_vec();
    raw_path.extend_from_slice(b"\xff\xfe\x80 HTTP/1.1\r\nhost: innesco\r\n\r\n");
    let gzip = post(&format!("content-encoding: gzip\r\ncontent-length: {}\r\n", event.len()), event);

    let odd: Vec<(&str, Vec<u8>, &[u16])> = vec![
        // Two conflicting lengths of a body. The hidden bytes must not be read as a request.
        (
            "content-length, then chunked transfer-encoding",
            post(
                &format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", hidden.len() + 5),
                &format!("0\r\n\r\n{hidden}"),
            ),
            &[400],
        ),
        (
            "chunked transfer-encoding, then content-length",
            post(
                &format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", hidden.len() + 5),
                &format!("0\r\n\r\n{hidden}"),
            ),
            &[400],
        ),
        ("two different content-lengths", post("content-length: 2\r\ncontent-length: 3\r\n", "{} "), &[400]),
        ("a list of content-lengths", post("content-length: 2, 3\r\n", "{} "), &[400]),
        ("a content-length with a plus sign", post("content-length: +22\r\n", event), &[400]),
        ("a negative content-length", post("content-length: -1\r\n", event), &[400]),
        ("a hexadecimal content-length", post("content-length: 0x16\r\n", event), &[400]),
        ("a content-length above 64 bits", post("content-length: 99999999999999999999999\r\n", event), &[400]),
        ("an unknown transfer-encoding", post("transfer-encoding: xchunked\r\n", &hidden), &[400, 501]),
        (
            "a transfer-encoding in which chunked is not last",
            post("transfer-encoding: chunked, identity\r\n", &format!("0\r\n\r\n{hidden}")),
            &[400],
        ),
        (
            "a header with a space before the colon",
            post("transfer-encoding : chunked\r\n", &format!("0\r\n\r\n{hidden}")),
            &[400],
        ),
        ("a folded header", post("x-a: b\r\n transfer-encoding: chunked\r\n", ""), &[400]),
        ("a header with a bare carriage return", post("x-a: b\rtransfer-encoding: chunked\r\n", ""), &[400]),
        ("a header with a zero byte", post("x-a: b\0c\r\n", ""), &[400]),
        ("a chunk size above 64 bits", post("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"), &[400]),
        ("a chunk size that is not hexadecimal", post("transfer-encoding: chunked\r\n", "zz\r\n"), &[400]),
        ("a body without a length", post("", event), &[400]),
        // Requests that are too large.
        ("a header of 1 MB", get("/healthz", &format!("x-a: {}\r\n", "y".repeat(1 << 20))), &[431]),
        ("a thousand headers", get("/healthz", &many), &[431]),
        ("a query of 100 kB", get(&format!("/v1/events?{query}"), ""), &[414, 431]),
        ("a query parameter of 20 kB", get(&format!("/v1/events?state={}", "q".repeat(20_000)), ""), &[400]),
        ("a path of 20 kB", get(&format!("/v1/events/{}", "q".repeat(20_000)), ""), &[404]),
        // Requests that are not text.
        ("a path with bytes that are not ASCII", raw_path, &[400, 401]),
        ("a path with an escape that is not UTF-8", get("/v1/events/%ff%fe", ""), &[400, 404]),
        ("an id with an escape that is not UTF-8", get("/v1/deliveries/%00%ff", ""), &[400, 404]),
        ("a query with an escape that is not UTF-8", get("/v1/events?type=%ff", ""), &[200, 400]),
        ("a query with an escape that is not hexadecimal", get("/v1/events?type=%zz", ""), &[200, 400]),
        // Compressed bodies could expand to any size.
        ("a compressed body", gzip, &[415]),
        ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("a request line without a version", b"GET /healthz\r\n\r\n".to_vec(), &[400]),
        ("HTTP/3.0 in the request line", b"GET /healthz HTTP/3.0\r\nhost: innesco\r\n\r\n".to_vec(), &[400, 505]),
        (
            "a target with a host, as sent to a proxy",
            b"GET http://elsewhere.example/v1/events HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n".to_vec(),
            &[401],
        ),
        (
            "CONNECT to open a tunnel",
            b"CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n".to_vec(),
            &[400, 404, 405],
        ),
        ("OPTIONS with the target *", b"OPTIONS * HTTP/1.1\r\nhost: innesco\r\n\r\n".to_vec(), &[400, 404, 405]),
        ("an upgrade to WebSocket", get("/healthz", "connection: upgrade\r\nupgrade: websocket\r\n"), &[200]),
    ];
    for (what, bytes, expected) in &odd {
        let mut stream = TcpStream::connect(to).await.expect("a connection");
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        // An answer may arrive before everything is sent, and later data resets the connection.
        let (_, read) = tokio::join!(
            writer.write_all(bytes),
            tokio::time::timeout(DEADLINE, async { while matches!(reader.read_buf(&mut answer).await, Ok(1..)) {} })
        );
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(read.is_ok(), "{what}: still open after {DEADLINE:?}; it has answered: {text}");
        let statuses: Vec<u16> =
            text.split("HTTP/1.1 ").skip(1).filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        assert!(
            statuses.first().is_some_and(|first| expected.contains(first)),
            "{what}: {expected:?} was expected, not:\n{text}"
        );
        assert!(statuses.iter().all(|status| *status < 500 || *status == 501 || *status == 505), "{what}: {text}");
    }
    assert_eq!(engine.get("/v1/events").await["items"], json!([]), "no request became an event");
    let grown = engine.memory_kib().saturating_sub(memory);
    assert!(grown < 32 << 10, "odd requests took {grown} KiB");
}

/// Opens a connection with small buffers, requests 100 answers of about 260 kB, and reads none.
async fn takes_nothing(to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(to).await.expect("a connection");
    let asked = "GET /openapi.json HTTP/1.1\r\nhost: innesco\r\n\r\n".repeat(100);
    // The engine may close the connection before it has read all requests.
    let _ = stream.write_all(asked.as_bytes()).await;
    stream
}

/// Returns the number of bytes that the server at `server` has written for `caller` and that the system still buffers.
#[cfg(target_os = "linux")]
fn unreceived(server: SocketAddr, caller: SocketAddr) -> u64 {
    // `/proc/net/tcp` has addresses in the processor's byte order, so only the ports are compared.
    let ports = |local: &str, remote: &str| Some((local.rsplit_once(':')?.1.to_owned(), remote.rsplit_once(':')?.1.to_owned()));
    let wanted = (format!("{:04X}", server.port()), format!("{:04X}", caller.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the system's list of connections");
    let row = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queues = row.filter(|fields| ports(fields[1], fields[2]) == Some(wanted.clone())).map(|fields| fields[4].to_owned());
    let queues: Vec<_> = queues.collect();
    let [queue] = queues.as_slice() else { panic!("one connection has these ports: {wanted:?} {queues:?}") };
    u64::from_str_radix(queue.split(':').next().expect("bytes to send"), 16).expect("hex digits")
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_system_buffers_little_of_an_unread_answer() {
    let engine = Engine::start(&[]);
    let to = address(&engine);
    let stalled = takes_nothing(to).await;
    let caller = stalled.local_addr().expect("an address");
    // The buffer is full once it no longer grows.
    let (mut before, mut same) = (0, 0);
    let until = Instant::now() + DEADLINE;
    while same < 10 {
        assert!(Instant::now() < until, "{before} bytes wait, and the number grows");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = unreceived(to, caller);
        same = if now > 0 && now == before { same + 1 } else { 0 };
        before = now;
    }
    // The limit is 128 KiB, and one write may exceed it. Without the limit, the system would hold 3 MiB.
    assert!(before < 512 << 10, "the system holds {before} bytes for one connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_read_no_answer_are_evicted_and_delay_no_stop() {
    const PLACES: usize = 5;
    let mut engine = Engine::start_set(&[("INNESCO_LIMITS_CONNECTIONS_MAX", "5"), ("INNESCO_DRAIN", "1h")]);
    let to = address(&engine);
    let mut stalled = Vec::new();
    for _ in 0..PLACES {
        stalled.push(takes_nothing(to).await);
    }
    // A new caller may be refused at first, because the engine evicts the others only after a moment in which they read nothing.
    let fresh = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(DEADLINE).build().expect("a client");
    let until = Instant::now() + DEADLINE;
    for _ in 0..2 * PLACES {
        loop {
            let answer = fresh.get(format!("{}/healthz", engine.url)).send().await;
            let status = answer.map_or(0, |answer| answer.status().as_u16());
            if status == 200 {
                break;
            }
            assert!(Instant::now() < until, "callers that read nothing occupy all connections; the last answer was {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    for _ in 0..PLACES - 1 {
        stalled.push(takes_nothing(to).await);
    }
    // If these callers delayed the stop, it would take as long as `drain`: an hour.
    assert!(tokio::task::spawn_blocking(move || engine.stop()).await.expect("it got the stop signal"), "the engine exits with 0");
}

/// Requests an event over a connection with small buffers, and reads only the status of the answer.
async fn takes_a_status(to: SocketAddr, event: &str) -> (TcpStream, String) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(to).await.expect("a connection");
    let ask = format!("GET /v1/events/{event} HTTP/1.1\r\nhost: innesco\r\nauthorization: Bearer {KEY}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("the engine reads");
    let mut status = [0; 12];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut status)).await.expect("in time").expect("an answer");
    (stream, String::from_utf8_lossy(&status).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_large_answers_hold_bounded_memory() {
    const CALLERS: usize = 40;
    let engine = Engine::start(&[]);
    let to = address(&engine);
    let event = engine.send("a.b", json!("x".repeat(8_000_000))).await;
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(takes_a_status(to, &event).await);
    }
    let answered = |with: &str| callers.iter().filter(|(_, status)| status.ends_with(with)).count();
    assert_eq!((answered("200"), answered("503")), (16, CALLERS - 16), "128 MiB are sixteen such answers");
    assert_eq!(engine.get("/v1/events").await["items"][0]["event"], json!(event), "small answers need no reserved memory");
    drop(callers);
    engine.wait(&format!("/v1/events/{event}"), "a large answer fits into memory again", |story| story["type"] == "a.b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_refused_and_its_callers_hold_no_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// SETTINGS with an initial window of 0: with it an answer could wait for ever.
    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    /// `:method: GET`, `:scheme: http`, `:path: /`, all from HPACK's static table, on stream 1.
    const GET: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    const GOAWAY: u8 = 7;
    const HTTP_1_1_REQUIRED: &[u8] = b"\0\0\0\x0d";
    let engine = Engine::start_set(&[("INNESCO_LIMITS_CONNECTIONS_MAX", "5")]);
    let to = address(&engine);
    for _ in 0..20 {
        let mut stream = dial(to, &[PREFACE, SETTINGS, GET].concat()).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        read.expect("the engine closes the connection").expect("after an answer");
        let (settings, goaway) = answer.split_at_checked(9).expect("a frame");
        assert_eq!(settings, b"\0\0\0\x04\0\0\0\0\0", "the preface of a server is its SETTINGS");
        assert_eq!((goaway[3], &goaway[13..17]), (GOAWAY, HTTP_1_1_REQUIRED));
    }
    // An HTTP/1.1 connection cannot change to HTTP/2.
    let upgrade = "GET /healthz HTTP/1.1\r\nhost: innesco\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
                   http2-settings: AAQAAAAA\r\n\r\n";
    let answer = rest(&mut dial(to, upgrade.as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(engine.call("GET", "/readyz", Value::Null).await.0, 200);
}
