//! Starts a server process, measures it through the kernel, and ends it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// The unit of processor time in `/proc`; the same on every supported Linux.
const TICK: Duration = Duration::from_millis(10);

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Server {
    /// Starts the process and waits until it prints its address.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("a server cannot be started")?;
        let mut lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let url = loop {
            let line = lines.next().context("a server ended before it listened")??;
            if let Some(at) = line.find("http://") {
                break line[at..].split_whitespace().next().expect("a URL").to_owned();
            }
        };
        // Reads the rest of the process's output, so that the process never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url })
    }

    /// Returns the processor time used so far.
    pub fn cpu(&self) -> Duration {
        cpu(&self.child.id().to_string())
    }

    /// Returns the peak resident memory, in MB.
    pub fn peak_mb(&self) -> f64 {
        self.memory("VmHWM:")
    }

    /// Returns the resident memory, in MB.
    pub fn resident_mb(&self) -> f64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).map_or(f64::NAN, |kib: f64| kib * 1024.0 / 1e6)
    }

    /// Returns the number of open files and sockets.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `SIGTERM` and waits for the end. Returns `None` if it has not ended by the deadline.
    pub fn terminate(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a running process takes signals");
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the processor time of this process, to the nanosecond.
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Returns the processor time of a process and its children, including ended ones.
pub fn tree_cpu(root: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{root}/task/{root}/children")).unwrap_or_default();
    let ended = ticks(&root.to_string(), [13, 14]);
    children.split_whitespace().map(cpu).sum::<Duration>() + cpu(&root.to_string()) + ended
}

fn cpu(process: &str) -> Duration {
    ticks(process, [11, 12])
}

fn ticks(process: &str, fields_at: [usize; 2]) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may contain any character, so fields are counted after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    TICK * fields_at.into_iter().filter_map(|at| fields.get(at)?.parse::<u32>().ok()).sum::<u32>()
}

/// Returns the load of the machine in the last minute. If it is above the number of cores, other programs are computing too.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}
