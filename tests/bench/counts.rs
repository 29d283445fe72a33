//! What one event makes the machine do: wake-ups, system calls, bytes written and commits, at a low rate and at the peak rate.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    Place, ROUNDS,
    engine::{KEY, bench_plugin},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, open_loop, sink},
    process::Server,
    side_by_side::{Plugins, System},
};

const SYSTEMS: [System; 3] = [System::Durable, System::Direct, System::Plugin];
const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(5);
const EVENTS: usize = 20_000;
const WARM_UP: usize = 2_000;
const TIME_MAX: Duration = Duration::from_secs(20);
/// A thread counts as woken by an event if it wakes at least once in this many events.
const SELDOM: u64 = 2;

/// Figures per event.
#[derive(Clone, Default)]
struct Counts {
    wakes: Figure,
    threads: Figure,
    calls: Figure,
    written: Figure,
    commits: Figure,
    cpu: Figure,
}

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let plugins = Plugins { own: bench_plugin(), stock: Vec::new() };
    let mut figures = vec![[Counts::default(), Counts::default()]; SYSTEMS.len()];
    for _ in 0..ROUNDS {
        for (system, [slow, fast]) in SYSTEMS.iter().zip(&mut figures) {
            let folder = place.fresh()?;
            let ledger = Ledger::new(WARM_UP + 2 * EVENTS + 2 * (RATE as usize) * TIME.as_secs() as usize);
            let server = system.start(folder.path(), &sink(&ledger).await?, &plugins).await?;
            let target = Target::new(&server.url, "order.created");
            let warm = closed_loop(&target, &ledger, 64, WARM_UP, TIME_MAX).await;
            ledger.settled(&warm).await;
            // Waits until the work after the last webhook is done.
            tokio::time::sleep(Duration::from_secs(1)).await;
            for (counts, is_slow) in [(slow, true), (fast, false)] {
                let load = async || {
                    let phase = if is_slow {
                        open_loop(&target, &ledger, RATE, TIME).await
                    } else {
                        closed_loop(&target, &ledger, 64, EVENTS, TIME_MAX).await
                    };
                    ledger.settled(&phase).await;
                    ledger.report(phase).count.max(1) as u64
                };
                let before = Reading::of(&server).await?;
                let events = load().await;
                let after = Reading::of(&server).await?;
                after.note(&before, events, counts);
                // Tracing slows the process, so system calls are counted in a separate load.
                if let Some(tracer) = Tracer::start(server.pid())? {
                    let events = load().await;
                    counts.calls.note(tracer.calls()? as f64 / events as f64);
                }
            }
        }
    }
    let mut table = Table::new(&["per event", "wake-ups", "woken threads", "system calls", "bytes written", "commits", "CPU µs"]);
    for (nth, title) in [format!("{RATE}/s"), "64 callers".to_owned()].into_iter().enumerate() {
        for (system, counts) in SYSTEMS.iter().zip(&figures) {
            let Counts { wakes, threads, calls, written, commits, cpu } = &counts[nth];
            let name = format!("{title}: {}", system.name());
            let figures = [wakes, threads, calls, written, commits, cpu].map(Cell::from);
            table.row(std::iter::once(name.into()).chain(figures));
        }
    }
    table.print("Counts: what one event makes the machine do");
    Ok(())
}

/// What a process has done so far.
struct Reading {
    /// Thread id and its voluntary context switches: how often it waited and was woken.
    threads: Vec<(String, u64)>,
    written: u64,
    commits: Option<u64>,
    cpu: Duration,
}

impl Reading {
    async fn of(server: &Server) -> anyhow::Result<Self> {
        let folder = format!("/proc/{}", server.pid());
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().parse().unwrap_or_default()
        };
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("{folder}/task"))? {
            let entry = entry?;
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            threads.push((entry.file_name().to_string_lossy().into_owned(), field(&status, "voluntary_ctxt_switches:")));
        }
        let io = fs::read_to_string(format!("{folder}/io"))?;
        // The relay has no metrics.
        let metrics = reqwest::Client::new().get(format!("{}/metrics", server.url)).bearer_auth(KEY).send().await?;
        let commits = if metrics.status().is_success() {
            let text = metrics.text().await?;
            let counts = text.lines().filter(|line| line.starts_with("innesco_store_commit_seconds_count"));
            Some(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
        } else {
            None
        };
        Ok(Self { threads, written: field(&io, "write_bytes:"), commits, cpu: server.cpu() })
    }

    /// Notes what the process has done for `events` events since `before`.
    fn note(&self, before: &Self, events: u64, counts: &mut Counts) {
        let each = |total: u64| total as f64 / events as f64;
        let woken: Vec<u64> = self
            .threads
            .iter()
            .map(|(thread, now)| now - before.threads.iter().find(|(id, _)| id == thread).map_or(0, |(_, then)| *then))
            .collect();
        counts.wakes.note(each(woken.iter().sum()));
        counts.threads.note(woken.iter().filter(|count| **count * SELDOM >= events).count() as f64);
        counts.written.note(each(self.written - before.written));
        if let (Some(now), Some(then)) = (self.commits, before.commits) {
            counts.commits.note(each(now - then));
        }
        counts.cpu.note((self.cpu - before.cpu).as_secs_f64() * 1e6 / events as f64);
    }
}

/// Counts the system calls of a process.
struct Tracer {
    process: std::process::Child,
    out: tempfile::NamedTempFile,
}

impl Tracer {
    /// Returns `None` if strace is not installed or may not trace.
    fn start(pid: u32) -> anyhow::Result<Option<Self>> {
        let out = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-qq", "-o"]).arg(out.path()).arg("-p").arg(pid.to_string());
        let Ok(process) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return Ok(None) };
        let mut tracer = Self { process, out };
        // strace has attached to the process once the kernel names a tracer.
        for _ in 0..500 {
            if fs::read_to_string(format!("/proc/{pid}/status"))?
                .lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            {
                return Ok(Some(tracer));
            }
            if tracer.process.try_wait()?.is_some() {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Stops counting and returns the number of system calls.
    fn calls(mut self) -> anyhow::Result<u64> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), rustix::process::Signal::INT)?;
        self.process.wait()?;
        let text = fs::read_to_string(self.out.path())?;
        let total = text.lines().find(|line| line.trim_end().ends_with("total")).context("strace prints a total")?;
        // Percent, seconds, microseconds per call, calls, errors if any, the word `total`.
        let fields: Vec<&str> = total.split_whitespace().collect();
        fields.get(3).and_then(|count| count.parse().ok()).with_context(|| format!("strace printed {total:?}"))
    }
}
