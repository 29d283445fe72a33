//! Tampers with system calls of a running engine, to simulate a disk that fails or is slow.

use std::process::{Child, Command, Stdio};

use crate::engine::Engine;

/// While this value exists, the engine's calls of `calls` behave as `how` describes, such as `error=EROFS` or `delay_enter=300000`
/// (microseconds). The test needs the right to trace the engine: see `namespace.rs`.
pub struct Tampered(Child);

impl Tampered {
    pub fn with(engine: &Engine, calls: &str, how: &str) -> Self {
        let rule =
            ["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{how}"), "-o", "/dev/null", "-p"]
                .map(str::to_owned);
        let tracing = Command::new("strace").args(rule).arg(engine.pid().to_string()).stderr(Stdio::null()).spawn();
        Self(tracing.expect("this test tampers with the engine's system calls and needs a tool for it: apt-get install strace"))
    }

    pub fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // On this signal, strace detaches from the engine and ends.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("strace runs");
        self.0.wait().expect("strace has ended");
    }
}
