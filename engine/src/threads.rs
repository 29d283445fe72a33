//! Threads without which the engine cannot work.

use std::{io, process, thread};

/// Starts a thread that is needed as long as the engine runs. If it panics, the process exits with 1. Without this thread the engine could
/// not work, but would seem to run. A supervisor starts a process that has ended again, and no accepted event is lost. Threads that
/// run plugins are started elsewhere: without one of them the engine can still finish its work before it ends.
///
/// # Errors
/// If the system starts no thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    let work = move || {
        let _end = EndsProcess;
        work();
    };
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Ends the process if a panic drops it. The panic hook has reported the panic.
struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_panic_of_a_needed_thread_ends_the_process() {
        let child = ["--exact", "threads::tests::as_a_child", "--ignored"];
        let ended = Command::new(std::env::current_exe().unwrap()).args(child).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    }

    #[test]
    #[ignore = "it is the child of another test"]
    fn as_a_child() {
        let _ = spawn("needed", || panic!("it fails")).unwrap().join();
    }
}
