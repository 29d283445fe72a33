//! Compiles a plugin file in a child process, so that a file cannot harm the engine that loads it.
//!
//! Validation, encoding and compiling run hundreds of thousands of lines of third-party code that expects files written by tools.
//! A hand-made file can overflow the stack of this code, or make the code use any amount of memory and time, and nothing inside a
//! process can prevent that. So the engine starts its own program again for each unknown file. It sends the bytes to standard
//! input, and reads compiled code or a refusal from standard output. The child has a budget of memory, processor time and wall
//! time ([`Budget`]). It has no inherited files, no environment and no right to open files. It runs at low priority and is the
//! first to be killed when memory is short. If it dies, the file is refused ([`LoadError::TooComplex`]) and the engine continues.
//!
//! The result is trusted like the compile cache: the engine runs it as machine code. That is sound as long as the child executes
//! only its program. The code is then Cranelift's output for validated WebAssembly, as it would be in this process. It is not sound
//! if a file takes over the child through a memory error in the parsers, which are safe Rust. The child protects the engine from
//! exhaustion and crashes. It does not make an untrusted file trustworthy.
//!
//! `describe` does not run here: it is the plugin's code, and runs in the engine's sandbox under the limits of every run.

use std::{
    ffi::OsString,
    fs, io,
    io::{Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, setrlimit, waitid};

use super::{
    engine::{Kind, Places, Sandbox},
    error::LoadError,
    limits::{Settings, size, time},
    load::Compiled,
    log::printable,
};

/// The first argument of the child. No command has this name.
pub const COMMAND: &str = ":compile-plugin";

/// Maximum number of concurrent children. One child compiles on several cores; a second would take memory without adding speed.
const CHILDREN_MAX: usize = 1;
/// Maximum number of threads on which a child compiles. Additional threads help only with the largest files, and each takes
/// memory.
const THREADS_MAX: usize = 4;
/// Stack on which a child reads a file, in bytes. Files that tools write need less than one MiB. The rest is for the largest
/// function.
pub(super) const STACK_BYTES: usize = 16 << 20;
/// Maximum number of bytes read from a child's standard error. Only the last, short message matters.
const WORDS_BYTES: u64 = 4 << 10;
/// Maximum length of a refusal, in bytes; a longer refusal is cut. Refusals quote at most a few hundred bytes of third-party
/// errors.
const REASON_BYTES: usize = 4 << 10;

/// The budget for loading one file. It grows with the file, so that a small file never costs as much as a large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Address space in addition to that of the program, in bytes.
    memory_bytes: u64,
    /// Processor time of all threads together.
    pub cpu: Duration,
    /// Time until the engine kills the child. On a busy machine a child of low priority gets a twentieth of a core, so this is much
    /// longer than `cpu`.
    wall: Duration,
    /// The engine kills a child that has used no processor time for so long. Such a child hangs, and other files wait for it. A
    /// child that works is seen to do so even if it gets a thousandth of a core.
    stalled: Duration,
}

impl Budget {
    const MEMORY_BASE_BYTES: u64 = 384 << 20;
    // Compiling 12 MB of JavaScript on two threads maps 640 MiB and uses 380 MiB of them. Each further thread maps more.
    const MEMORY_BYTES_PER_BYTE: u64 = 64;
    const CPU_BASE: Duration = Duration::from_secs(10);
    const CPU_PER_MIB: Duration = Duration::from_secs(3);
    const WALL_PER_CPU: u32 = 30;
    const STALLED: Duration = Duration::from_secs(60);

    pub fn of(file_bytes: usize) -> Self {
        let mib = u32::try_from(file_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let cpu = Self::CPU_BASE + Self::CPU_PER_MIB * mib;
        Self {
            memory_bytes: Self::MEMORY_BASE_BYTES + Self::MEMORY_BYTES_PER_BYTE * file_bytes as u64,
            cpu,
            wall: cpu * Self::WALL_PER_CPU,
            stalled: Self::STALLED,
        }
    }
}

/// Starts children, at most [`CHILDREN_MAX`] at once.
pub struct Children {
    settings: Settings,
    places: Places,
    free: Mutex<()>,
}

const _: () = assert!(CHILDREN_MAX == 1, "`free` counts one child");

impl Children {
    pub fn new(settings: Settings, places: Places) -> Self {
        Self { settings, places, free: Mutex::new(()) }
    }

    /// Compiles a file in a child, and waits for it.
    ///
    /// # Errors
    ///
    /// The reason why the file does not load; [`LoadError::TooComplex`] if the file made the child fail; [`LoadError::NoLoader`]
    /// if the child failed for another reason.
    pub fn compile(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        let budget = Budget::of(bytes.len());
        let order = Order {
            places: self.places,
            small_memory_bytes: self.settings.limits.memory_bytes,
            big_memory_bytes: self.settings.limits.big_memory_bytes,
            file_bytes: bytes.len(),
        };
        let _place = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let end = run(&order, budget, bytes).map_err(|error| LoadError::NoLoader { detail: error.to_string() })?;
        if end.status.success()
            && let Some(reply) = end.reply
        {
            return reply;
        }
        let cause = match end.killed {
            Some(Killed::TimeOver) => Cause::File(format!("loading it took more than {}", time(budget.wall))),
            Some(Killed::Stalled) => Cause::Elsewhere(format!("it used no processor time for {}", time(budget.stalled))),
            None => Cause::of_death(end.status, &end.words, budget),
        };
        Err(match cause {
            Cause::File(reason) => LoadError::TooComplex { reason },
            Cause::Elsewhere(detail) => LoadError::NoLoader { detail },
        })
    }
}

/// How a child ended.
struct End {
    status: ExitStatus,
    /// `None` if it is incomplete.
    reply: Option<Result<Compiled, LoadError>>,
    /// Its output on standard error.
    words: String,
    /// Why the engine killed it, if it did.
    killed: Option<Killed>,
}

/// Why the engine killed a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    /// Its wall time was over.
    TimeOver,
    /// It made no progress.
    Stalled,
}

/// Why a child gave no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The file exceeds the child's budget, and would exceed it again.
    File(String),
    /// Something outside killed it, or it did not start. The file may be good.
    Elsewhere(String),
}

impl Cause {
    /// Returns why a child died, from its status and its last message.
    pub fn of_death(status: ExitStatus, words: &str, budget: Budget) -> Self {
        let signal = status.signal();
        if signal == Some(Signal::XCPU.as_raw()) {
            return Cause::File(format!("loading it took more than {} of processor time", time(budget.cpu)));
        }
        if words.contains("has overflowed its stack") {
            return Cause::File("loading it nests calls too deep".to_owned());
        }
        if words.contains("memory allocation of") {
            return Cause::File(format!("loading it took more than {} of memory", size(budget.memory_bytes as usize)));
        }
        if signal == Some(Signal::KILL.as_raw()) {
            return Cause::File("the system killed the process that loaded it, usually because memory was short".to_owned());
        }
        match signal {
            // These signals mean that the compiler crashed.
            Some(signal) if [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL].map(Signal::as_raw).contains(&signal) => {
                Cause::File(format!("loading it crashed the compiler (signal {signal})"))
            }
            _ => Cause::Elsewhere(format!("it ended with {status}")),
        }
    }
}

/// Runs a child until it ends.
fn run(order: &Order, budget: Budget, bytes: &[u8]) -> io::Result<End> {
    let mut child = Command::new(program()?)
        .arg0("innesco")
        .arg(COMMAND)
        .args(order.arguments())
        .args([budget.memory_bytes.to_string(), budget.cpu.as_secs().to_string()])
        .env_clear()
        // Without these variables, the allocator reserves a GiB before the child can limit itself, and the compiler uses every
        // core.
        .env("MIMALLOC_ARENA_RESERVE", "0")
        .env("RAYON_NUM_THREADS", threads().to_string())
        .current_dir("/")
        // Ctrl-C is for the engine, which then stops the child.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_child(&child);
    let (mut input, output, words) = (
        child.stdin.take().expect("it is piped"),
        child.stdout.take().expect("it is piped"),
        child.stderr.take().expect("it is piped"),
    );
    thread::scope(|scope| {
        // Writing fails if the child dies. The status of the child then shows the cause.
        scope.spawn(move || drop(input.write_all(bytes)));
        let words = scope.spawn(move || last_words(words));
        let (ended, has_ended) = mpsc::channel::<()>();
        // The process id belongs to the child until the engine waits for the child, which happens only after this thread has ended.
        let watch = scope.spawn(move || watch(pid, budget, &has_ended));
        let mut reply = Vec::new();
        // A valid reply is never larger than the child's memory. The rest of a longer reply is not read.
        let read = output.take(budget.memory_bytes).read_to_end(&mut reply);
        // The child may close its output and continue to run, so the watch continues until the child has ended.
        let ended_by_now = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        drop(ended);
        let killed = watch.join().unwrap_or(None);
        let status = child.wait()?;
        read?;
        ended_by_now?;
        Ok(End { status, reply: parse_reply(reply), words: words.join().unwrap_or_default(), killed })
    })
}

/// Kills a child that is over its wall time or makes no progress. Returns once `has_ended` is closed, or the child is killed.
fn watch(pid: Pid, budget: Budget, has_ended: &mpsc::Receiver<()>) -> Option<Killed> {
    let began = Instant::now();
    let (mut used, mut progress) = (cpu_ticks(pid), began);
    let why = loop {
        let next = (began + budget.wall).min(progress + budget.stalled);
        // Checks a few times until the child counts as stalled, so that progress is noticed soon after it was made.
        let wait = next.saturating_duration_since(Instant::now()).min(budget.stalled / 4);
        if has_ended.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
            return None;
        }
        let now = Instant::now();
        let ticks = cpu_ticks(pid);
        // Without these numbers, only the wall time counts.
        if ticks.is_none() || ticks != used {
            (used, progress) = (ticks, now);
        }
        if now >= began + budget.wall {
            break Killed::TimeOver;
        }
        if now >= progress + budget.stalled {
            break Killed::Stalled;
        }
    };
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    Some(why)
}

/// Returns the processor time that all threads of a process have used, in ticks of the kernel; `None` if it is not known.
fn cpu_ticks(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name of the program is in brackets and may contain spaces. Fields 14 and 15 are the times in user and kernel mode.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Returns the running program by its `/proc` link, not by its path: after an upgrade the path may name another file.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

fn last_words(mut words: impl io::Read) -> String {
    let mut text = Vec::new();
    let _ = (&mut words).take(WORDS_BYTES).read_to_end(&mut text);
    // Discards the rest, so that the child never waits for a reader of its output.
    let _ = io::copy(&mut words, &mut io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

/// The input that a child needs to compile exactly as the engine would: everything that affects the result, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    places: Places,
    small_memory_bytes: usize,
    big_memory_bytes: usize,
    file_bytes: usize,
}

impl Order {
    fn arguments(&self) -> [String; 4] {
        let places = self.places.as_str().to_owned();
        [places, self.small_memory_bytes.to_string(), self.big_memory_bytes.to_string(), self.file_bytes.to_string()]
    }

    fn parse(arguments: &[String]) -> Option<(Self, Budget)> {
        let [places, small, big, file, memory, cpu] = arguments else { return None };
        let order = Self {
            places: Places::ALL.into_iter().find(|known| known.as_str() == places)?,
            small_memory_bytes: small.parse().ok()?,
            big_memory_bytes: big.parse().ok()?,
            file_bytes: file.parse().ok()?,
        };
        // The engine measures wall time.
        let cpu = Duration::from_secs(cpu.parse().ok()?);
        Some((order, Budget { memory_bytes: memory.parse().ok()?, cpu, wall: Duration::MAX, stalled: Duration::MAX }))
    }
}

/// Runs the child process, from its arguments to its exit code. If its arguments are not those that the engine passes, it ends with
/// an error, because this is not a command for people.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Option<Vec<String>> = arguments.map(|argument| argument.into_string().ok()).collect();
    let Some((order, budget)) = arguments.as_deref().and_then(Order::parse) else {
        let _ = writeln!(io::stderr(), "{COMMAND} is only for the engine");
        return ExitCode::from(2);
    };
    match serve(&order, budget) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(order: &Order, budget: Budget) -> anyhow::Result<()> {
    confine(budget)?;
    let mut bytes = Vec::with_capacity(order.file_bytes);
    io::stdin().take(order.file_bytes as u64).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() == order.file_bytes, "the engine has ended");
    let mut settings = Settings { threads: 1, plugin_bytes_max: order.file_bytes, ..Settings::default() };
    settings.limits.memory_bytes = order.small_memory_bytes;
    settings.limits.big_memory_bytes = order.big_memory_bytes;
    let places = order.places;
    let work = move || anyhow::Ok(reply(&Sandbox::compiler(&settings, places)?.compile(&bytes)));
    let worker = thread::Builder::new().name("loader".into()).stack_size(STACK_BYTES).spawn(work)?;
    let parts = worker.join().map_err(|_| anyhow::anyhow!("the loader panicked"))??;
    let mut output = io::stdout().lock();
    parts.iter().try_for_each(|part| output.write_all(part))?;
    Ok(output.flush()?)
}

/// Drops all rights that loading a file does not need. Called before a byte of the file is read.
fn confine(budget: Budget) -> anyhow::Result<()> {
    close_inherited();
    // The next three calls protect the engine's performance. If the system refuses them, the limits below still hold.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::nice(10);
    // When memory is short, the child is killed first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    limit_cpu(budget.cpu)?;
    limit_memory(budget)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // The child keeps its standard streams, and can open neither files nor sockets.
    limit(Resource::Nofile, 3)
}

pub(super) fn limit_memory(budget: Budget) -> anyhow::Result<()> {
    limit(Resource::As, mapped_bytes().saturating_add(budget.memory_bytes))
}

/// Makes the kernel kill this process with a distinct signal after this much processor time.
pub(super) fn limit_cpu(cpu: Duration) -> anyhow::Result<()> {
    let limit = Rlimit { current: Some(cpu.as_secs()), maximum: getrlimit(Resource::Cpu).maximum };
    Ok(setrlimit(Resource::Cpu, limit)?)
}

fn limit(resource: Resource, value: u64) -> anyhow::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Returns the address space of the program itself, which does not count for loading.
pub(super) fn mapped_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    // If the system does not report the size, this assumes more than any build of the program takes.
    pages.map_or(1 << 30, |pages| pages * rustix::param::page_size() as u64)
}

/// Closes files inherited from the engine's parent. Files that the engine opens itself are not inherited.
#[expect(unsafe_code, reason = "closes files by their number")]
fn close_inherited() {
    let Ok(listed) = fs::read_dir("/proc/self/fd") else { return };
    let files: Vec<i32> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The listing's file descriptor was already closed.
    let is_open = |file: &i32| fs::symlink_metadata(format!("/proc/self/fd/{file}")).is_ok();
    for file in files.into_iter().filter(|file| *file > 2 && is_open(file)) {
        // SAFETY: this is the first action of the process, in its only thread; it has opened no file that it still uses.
        unsafe { rustix::io::close(file) };
    }
}

/// Encodes a reply: its kind (one byte), its length, its content. For compiled code, the content is the length of the code, the
/// code, and the table of its lines.
fn reply(result: &Result<Compiled, LoadError>) -> [Vec<u8>; 2] {
    let (tag, content) = match result {
        Ok(Compiled { kind, code, lines }) => {
            let content = [&(code.len() as u64).to_le_bytes()[..], code, lines].concat();
            (if *kind == Kind::Small { b's' } else { b'b' }, content)
        }
        // This refusal is sent too, so that the engine records it.
        Err(LoadError::TooComplex { reason }) => (b't', reason.clone().into_bytes()),
        Err(error) => (if error.may_be_incomplete() { b'i' } else { b'r' }, error.to_string().into_bytes()),
    };
    [[&[tag][..], &(content.len() as u64).to_le_bytes()].concat(), content]
}

/// Decodes a reply, if it is complete.
fn parse_reply(mut bytes: Vec<u8>) -> Option<Result<Compiled, LoadError>> {
    let (&[tag, ref length @ ..], content) = bytes.split_first_chunk::<9>()?;
    if u64::from_le_bytes(*length) != content.len() as u64 {
        return None;
    }
    bytes.drain(..9);
    let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes), REASON_BYTES);
    let compiled = |kind, mut bytes: Vec<u8>| {
        let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
        bytes.drain(..8);
        let lines = bytes.get(length..)?.to_vec();
        bytes.truncate(length);
        Some(Ok(Compiled { kind, code: bytes, lines }))
    };
    Some(match tag {
        b's' => compiled(Kind::Small, bytes)?,
        b'b' => compiled(Kind::Big, bytes)?,
        b't' => Err(LoadError::TooComplex { reason: text(&bytes) }),
        b'r' => Err(LoadError::Refused { sentence: text(&bytes), may_be_incomplete: false }),
        b'i' => Err(LoadError::Refused { sentence: text(&bytes), may_be_incomplete: true }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_encoding() {
        let order = Order { places: Places::OnDemand, small_memory_bytes: 1, big_memory_bytes: 2, file_bytes: 3 };
        let budget = Budget { memory_bytes: 4, cpu: Duration::from_secs(5), wall: Duration::MAX, stalled: Duration::MAX };
        let arguments = [&order.arguments()[..], &["4".to_owned(), "5".to_owned()]].concat();
        assert_eq!(Order::parse(&arguments), Some((order, budget)));
        assert_eq!(Order::parse(&arguments[1..]), None);
        assert_eq!(Order::parse(&["help".to_owned()]), None);
    }

    /// Watches a program until it is killed or has ended.
    fn watched(program: &str, arguments: &[&str], wall: Duration, stalled: Duration) -> (Option<Killed>, ExitStatus) {
        let budget = Budget { wall, stalled, ..Budget::of(0) };
        let mut child = Command::new(program).args(arguments).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (ended, has_ended) = mpsc::channel::<()>();
        let watch = thread::spawn(move || watch(pid, budget, &has_ended));
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        drop(ended);
        (watch.join().unwrap(), child.wait().unwrap())
    }

    #[test]
    fn kills_a_child_that_hangs_and_not_one_that_works() {
        let (soon, late) = (Duration::from_millis(400), Duration::from_secs(600));
        let (killed, status) = watched("sleep", &["600"], late, soon);
        assert_eq!((killed, status.signal()), (Some(Killed::Stalled), Some(Signal::KILL.as_raw())));
        let endless = ["-c", "while :; do :; done"];
        assert_eq!(watched("sh", &endless, soon * 6, late).0, Some(Killed::TimeOver));
        // It works for three times as long as a child may hang.
        let works =
            "end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done";
        let (killed, status) = watched("sh", &["-c", works], late, Duration::from_secs(1));
        assert_eq!((killed, status.code()), (None, Some(0)));
    }

    #[test]
    fn ignores_an_incomplete_reply() {
        let compiled = Ok(Compiled { kind: Kind::Big, code: b"code".to_vec(), lines: b"lines".to_vec() });
        let whole = reply(&compiled).concat();
        let parsed = parse_reply(whole.clone()).unwrap().unwrap();
        assert_eq!((parsed.kind, &parsed.code[..], &parsed.lines[..]), (Kind::Big, &b"code"[..], &b"lines"[..]));
        for length in 0..whole.len() {
            assert!(parse_reply(whole[..length].to_vec()).is_none(), "{length} of {} bytes", whole.len());
        }
        let refusals = [
            LoadError::Empty,
            LoadError::NoHandler,
            LoadError::TooComplex { reason: "loading it nests calls too deep".to_owned() },
        ];
        for error in refusals {
            let (text, may_be_incomplete) = (error.to_string(), error.may_be_incomplete());
            let parsed = parse_reply(reply(&Err(error)).concat()).unwrap().err().unwrap();
            assert_eq!((parsed.to_string(), parsed.may_be_incomplete()), (text, may_be_incomplete));
        }
    }

    #[test]
    fn explains_why_a_child_died() {
        let budget = Budget::of(1 << 20);
        let signal = |signal: Signal, words: &str| Cause::of_death(ExitStatus::from_raw(signal.as_raw()), words, budget);
        let file = |reason: &str| Cause::File(reason.to_owned());
        let overflow = "thread 'loader' has overflowed its stack\nfatal runtime error: stack overflow, aborting";
        assert_eq!(signal(Signal::ABORT, overflow), file("loading it nests calls too deep"));
        assert_eq!(
            signal(Signal::ABORT, "memory allocation of 8 bytes failed"),
            file("loading it took more than 448 MiB of memory")
        );
        assert_eq!(signal(Signal::XCPU, ""), file("loading it took more than 13 s of processor time"));
        assert_eq!(signal(Signal::SEGV, ""), file("loading it crashed the compiler (signal 11)"));
        assert!(matches!(signal(Signal::KILL, ""), Cause::File(_)));
        // Another process or the engine is the cause, not the file.
        assert!(matches!(signal(Signal::TERM, ""), Cause::Elsewhere(_)));
        assert!(matches!(Cause::of_death(ExitStatus::from_raw(1 << 8), "the engine has ended", budget), Cause::Elsewhere(_)));
    }
}
