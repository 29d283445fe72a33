//! The only place that asks the system for the time.
//!
//! Two clocks with two meanings. The wall clock is for what people and receivers read: when something happened, what a signature
//! says. The steady clock is for what the engine waits for: due times and leases. It starts at the wall clock's reading and never
//! steps, so that setting the machine's clock an hour forward or back expires no lease and delays no retry.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::time::Timestamp;

/// What the wall clock says.
pub fn wall() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// The clock of due times and leases: never steps while the engine runs.
pub fn steady() -> Timestamp {
    static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (wall(), Instant::now()));
    START.0.plus(START.1.elapsed())
}

/// Processor time that the calling thread has used. Unlike elapsed time it does not count what others were given meanwhile.
pub fn thread_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}
