//! Effect of floods on a healthy publisher and its receiver: each flood is an expensive kind of request or file. `ATTACK=forms`
//! measures only the floods whose name contains that word.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

use super::{
    Place, ROUNDS,
    engine::{self, Engine},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, open_loop, sink},
    wire::Wire,
};

/// Events per second of the healthy publisher.
const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(3);
/// The default of `limits.body_bytes_max`.
const BODY_BYTES: usize = 8 << 20;
/// Number of connections of an attack that needs no processor time of the attacker.
const CONNECTIONS: usize = 64;
/// Number of callers that send large bodies. Each sends its next body after the previous answer.
const CALLERS: usize = 4;
/// Pause between two plugin files.
const FILE_GAP: Duration = Duration::from_millis(200);

/// A kind of flood.
#[derive(Clone)]
enum Flood {
    /// HTTP/2 connections that send requests with a window of 0.
    Windows,
    /// Connections that request large answers and read nearly nothing.
    SlowReaders,
    /// Callers that repeat this request: a path with its headers and a body.
    Requests { path: String, headers: String, body: Vec<u8> },
    /// Plugin files that are expensive to load.
    Files(fn(usize) -> Vec<u8>),
}

/// Returns the floods, by name.
async fn floods(engine: &Engine) -> anyhow::Result<Vec<(&'static str, Flood)>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let publisher = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", engine::KEY);
    let none = engine.source("open", "none").await?;
    let signed = engine.source("signed", "standard-webhooks").await?;
    let twilio = engine.source("twilio", "twilio").await?;
    let signatures = format!(
        "content-type: text/plain\r\nwebhook-id: a\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {}\r\n",
        "v1, ".repeat(15_000)
    );
    let deep = |number: usize| format!("{number:05x}{}=", "[a]".repeat(63));
    let request =
        |path: &str, headers: &str, body: Vec<u8>| Flood::Requests { path: path.to_owned(), headers: headers.to_owned(), body };
    Ok(vec![
        ("HTTP/2, window 0", Flood::Windows),
        ("slow readers", Flood::SlowReaders),
        ("15,000 signatures", request(&signed, &signatures, vec![0; BODY_BYTES])),
        (
            "a&a&a… to Twilio",
            request(&twilio, &format!("x-twilio-signature: x\r\n{form}"), filled("", "&", "", |_| "a".to_owned())),
        ),
        ("a[a][a]… forms", request(&none, form, filled("", "&", "", deep))),
        (
            "null members",
            request("/v1/events", &publisher, filled("{\"type\":\"a.b\",", ",", "}", |n| format!("\"m{n:06}\":null"))),
        ),
        ("plugin: aliases", Flood::Files(aliases)),
        ("plugin: components in components", Flood::Files(components)),
    ])
}

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "healthy events beside",
        "quiet p99 ms",
        "p99 ms",
        "p99 ÷ quiet",
        "goal",
        "flood: answers",
        "peak memory MB",
    ]);
    let only = std::env::var("ATTACK").unwrap_or_default();
    let mut lost = 0;
    let count = {
        let folder = place.fresh()?;
        floods(&Engine::start(folder.path(), &[])?).await?.len()
    };
    for nth in 0..count {
        let folder = place.fresh()?;
        let mut engine = Engine::start(folder.path(), &[])?;
        let ledger = Ledger::new(20_000);
        engine.endpoint("receiver", &sink(&ledger).await?, &["order.*"]).await?;
        let target = Target::new(&engine.server.url, "order.created");
        let (name, flood) = floods(&engine).await?.swap_remove(nth);
        if !name.contains(&only) {
            continue;
        }
        let warm = open_loop(&target, &ledger, RATE, Duration::from_secs(1)).await;
        ledger.settled(&warm).await;
        let [mut quiet, mut beside]: [Figure; 2] = Default::default();
        let mut answers = 0;
        for _ in 0..ROUNDS {
            let phase = open_loop(&target, &ledger, RATE, TIME).await;
            ledger.settled(&phase).await;
            let report = ledger.report(phase);
            quiet.note(report.whole.p99);
            lost += report.lost;
            let (phase, answered) = {
                let counter = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
                let flooding = Flooding::start(flood.clone(), &engine, &folder.path().join("plugins"), &counter)?;
                let phase = open_loop(&target, &ledger, RATE, TIME).await;
                ledger.settled(&phase).await;
                flooding.end().await?;
                (phase, counter.load(std::sync::atomic::Ordering::Relaxed))
            };
            let report = ledger.report(phase);
            beside.note(report.whole.p99);
            lost += report.lost;
            answers += answered;
            if engine.server.has_ended() {
                break;
            }
        }
        // If a flood ends the engine, the other floods are still measured.
        let ratio: Cell = if engine.server.has_ended() { "THE ENGINE ENDED".into() } else { beside.against(&quiet).into() };
        table.row([
            name.into(),
            quiet.into(),
            beside.into(),
            ratio,
            "≤ 3".into(),
            answers.to_string().into(),
            engine.server.peak_mb().into(),
        ]);
    }
    table.print("Attacks: 200 healthy events a second, alone and beside a flood of each kind");
    println!("  {lost} healthy events did not arrive.\n");
    Ok(())
}

type Counter = std::sync::Arc<std::sync::atomic::AtomicUsize>;

fn note(counter: &Counter) {
    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// A running flood.
///
/// It runs on a thread of low priority. A real attacker has its own processors, so its work must not take processor time from the
/// engine and the healthy publisher.
struct Flooding {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Flooding {
    /// `answers` counts the engine's answers, or the dropped files.
    fn start(flood: Flood, engine: &Engine, plugins: &Path, answers: &Counter) -> anyhow::Result<Self> {
        let address = engine.server.url.trim_start_matches("http://").to_owned();
        let (plugins, answers) = (plugins.to_owned(), answers.clone());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            // On Linux this applies only to the calling thread.
            let _ = rustix::process::nice(10);
            runtime.block_on(async {
                let _tasks = begin(&flood, address, &plugins, &answers);
                // Leaving this block drops the tasks, which ends the flood.
                let _ = stopped.await;
            });
        });
        Ok(Self { stop, thread })
    }

    async fn end(self) -> anyhow::Result<()> {
        // The flood may have ended by a panic. Then sending fails, and joining shows the panic.
        let _ = self.stop.send(());
        let ended = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        ended.map_err(|_| anyhow::anyhow!("a flood panicked"))
    }
}

fn begin(flood: &Flood, address: String, plugins: &Path, answers: &Counter) -> JoinSet<()> {
    let mut flooding = JoinSet::new();
    match flood {
        Flood::Windows => {
            for _ in 0..CONNECTIONS {
                let (address, answers) = (address.clone(), answers.clone());
                flooding.spawn(async move {
                    loop {
                        // A connection that is refused is opened again, like one that was closed.
                        let _ = window(&address).await;
                        note(&answers);
                        sleep(Duration::from_millis(20)).await;
                    }
                });
            }
        }
        Flood::SlowReaders => {
            for _ in 0..CONNECTIONS {
                let (address, answers) = (address.clone(), answers.clone());
                flooding.spawn(async move {
                    loop {
                        let _ = slow_reader(&address).await;
                        note(&answers);
                        sleep(Duration::from_millis(20)).await;
                    }
                });
            }
        }
        Flood::Requests { path, headers, body } => {
            let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}content-length: {}\r\n\r\n", body.len());
            let message = bytes::Bytes::from([head.as_bytes(), body].concat());
            for _ in 0..CALLERS {
                let (address, answers, message) = (address.clone(), answers.clone(), message.clone());
                flooding.spawn(async move {
                    loop {
                        // A refusal may end the connection.
                        let _ = requests(&address, &message, &answers).await;
                        sleep(Duration::from_millis(5)).await;
                    }
                });
            }
        }
        Flood::Files(make) => {
            let (folder, answers, make) = (plugins.to_owned(), answers.clone(), *make);
            flooding.spawn(async move {
                for nth in 0.. {
                    // Each file differs, because a known file is not loaded again.
                    let file = make(nth);
                    if drop_in(&folder, nth, &file).await.is_ok() {
                        note(&answers);
                    }
                    sleep(FILE_GAP).await;
                }
            });
        }
    }
    flooding
}

async fn window(address: &str) -> std::io::Result<()> {
    const ASK: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\
        \0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(ASK).await?;
    let mut answer = [0; 64];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

async fn slow_reader(address: &str) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = socket.connect(address).await?;
    stream.write_all("GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100).as_bytes()).await?;
    let mut byte = [0; 1];
    while stream.read(&mut byte).await? > 0 {
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn requests(address: &str, message: &[u8], answers: &Counter) -> std::io::Result<()> {
    let mut wire = Wire::new(TcpStream::connect(address).await?)?;
    loop {
        wire.write(message).await?;
        if wire.read().await?.is_none() {
            return Ok(());
        }
        note(answers);
    }
}

async fn drop_in(folder: &Path, nth: usize, file: &[u8]) -> std::io::Result<()> {
    let draft: PathBuf = folder.with_file_name("draft");
    tokio::fs::write(&draft, file).await?;
    tokio::fs::rename(draft, folder.join(format!("flood-{}.wasm", nth % 4))).await
}

/// Returns `before`, then the pieces 0, 1, 2 … separated by `between`, as many as fit, then `after`.
fn filled(before: &str, between: &str, after: &str, piece: impl Fn(usize) -> String) -> Vec<u8> {
    let mut text = before.to_owned();
    for number in 0.. {
        let next = piece(number);
        if text.len() + between.len() + next.len() + after.len() > BODY_BYTES {
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

/// Encodes an unsigned number for WebAssembly (LEB128).
fn unsigned(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// Encodes a number that is not negative as a signed number for WebAssembly (LEB128).
fn signed(number: usize) -> Vec<u8> {
    let mut bytes = unsigned(number);
    if let Some(last) = bytes.last_mut()
        && *last & 0x40 != 0
    {
        *last |= 0x80;
        bytes.push(0);
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [unsigned(text.len()), text.as_bytes().to_vec()].concat()
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [vec![id], unsigned(body.len()), body.to_vec()].concat()
}

/// Returns a module whose component type is a chain of 100,000 aliases, each of the previous one.
fn aliases(nth: usize) -> Vec<u8> {
    let count = 100_000 + nth;
    let name = |word: &str| [vec![0], text(word)].concat();
    let mut types = b"\x01\x7d".to_vec();
    for number in 0..count {
        types.extend([b"\x04".to_vec(), name(&format!("a{number}")), b"\x03\0".to_vec(), unsigned(number)].concat());
    }
    types.extend([b"\x01\x40\x01".to_vec(), text("p"), signed(count), b"\x01\0".to_vec()].concat());
    types.extend([b"\x04".to_vec(), name("f"), b"\x01".to_vec(), unsigned(count + 1)].concat());
    let world = [
        b"\x41\x02\x01\x42".to_vec(),
        unsigned(count + 3),
        types,
        b"\x03".to_vec(),
        name("innesco:plugin/evil@1.0.0"),
        b"\x05\0".to_vec(),
    ]
    .concat();
    let exported =
        [b"\x01\x41\x02\x01".to_vec(), world, b"\x04".to_vec(), name("innesco:plugin/w@1.0.0"), b"\x04\0".to_vec()].concat();
    let component = [
        b"\0asm\x0d\0\x01\0".to_vec(),
        section(0, &[text("wit-component-encoding"), b"\x04\0".to_vec()].concat()),
        section(7, &exported),
        section(11, &[b"\x01".to_vec(), name("w"), b"\x03\0\0".to_vec()].concat()),
    ]
    .concat();
    let import = [b"\x01".to_vec(), text("innesco:plugin/evil@1.0.0"), text("f"), b"\0\0".to_vec()].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\x01\x7f\0"),
        section(2, &import),
        section(0, &[text("component-type:x"), component].concat()),
    ]
    .concat()
}

/// Returns 10,000 components, each nested in the previous one.
fn components(nth: usize) -> Vec<u8> {
    const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";
    // The size of each component, from the innermost outwards.
    let mut sizes = vec![HEAD.len()];
    for level in 0..10_000 + nth {
        let inner = sizes[level];
        sizes.push(HEAD.len() + 1 + unsigned(inner).len() + inner);
    }
    let mut file = HEAD.to_vec();
    for inner in sizes.iter().rev().skip(1) {
        file.push(4);
        file.extend(unsigned(*inner));
        file.extend(HEAD);
    }
    file
}
