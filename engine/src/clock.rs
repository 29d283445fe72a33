//! The only module that reads the system's clocks.
//!
//! There are two clocks. The wall clock is for people and receivers: times of events and signatures. The steady clock is for
//! waiting: due times, leases, the grace period of a replaced secret. It continues from its last stored reading
//! ([`continue_from`]) and never steps. So setting the machine's clock an hour forward or back expires no lease, delays no retry
//! and ends no grace period, neither while the engine runs nor across a restart.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::time::Timestamp;

/// If the two clocks differ by less than this, they count as equal, because such a difference is only drift.
const DRIFT: Duration = Duration::from_secs(1);

/// Returns the wall clock.
pub fn wall() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// Returns the wall clock with full precision, for measurements.
pub fn system() -> SystemTime {
    SystemTime::now()
}

/// A reading of the steady clock, and the instant of the reading.
static START: OnceLock<(Timestamp, Instant)> = OnceLock::new();

/// Returns the steady clock, which due times and leases use. It never steps while the engine runs.
pub fn steady() -> Timestamp {
    let (reading, at) = START.get_or_init(|| (wall(), Instant::now()));
    reading.plus(at.elapsed())
}

/// Continues the steady clock from the reading of an earlier process. Has no effect once the clock runs.
pub fn continue_from(kept: Option<&Kept>) {
    START.get_or_init(|| (continued(kept, boot().as_ref(), wall()), Instant::now()));
}

/// Converts a time of the steady clock to the current wall clock, for people.
pub fn as_wall(instant: Timestamp) -> Timestamp {
    shown(instant, steady(), wall())
}

fn shown(instant: Timestamp, steady: Timestamp, wall: Timestamp) -> Timestamp {
    let (ahead, behind) = (wall.since(steady), steady.since(wall));
    if ahead.max(behind) < DRIFT { instant } else { instant.plus(ahead).minus(behind) }
}

/// The machine's uptime, and the id of the start from which the uptime counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    pub id: String,
    pub up: Duration,
}

/// A reading of the steady clock, stored for the next process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub reading: Timestamp,
    /// `None` if the system does not report its uptime.
    pub boot: Option<Boot>,
}

/// Returns the reading to store now.
pub fn keep() -> Kept {
    Kept { reading: steady(), boot: boot() }
}

/// Returns the first reading of the steady clock in a process.
///
/// If the machine has not restarted, its uptime shows how much time has passed, regardless of the wall clock. After a restart of
/// the machine the uptime counts from zero, so only the wall clock can show how much time has passed. The wall clock may have
/// fallen back (with an empty battery it shows 1970). This must not make everything wait for decades, so the steady clock never
/// starts before its last reading.
fn continued(kept: Option<&Kept>, boot: Option<&Boot>, wall: Timestamp) -> Timestamp {
    let Some(kept) = kept else { return wall };
    match (&kept.boot, boot) {
        (Some(then), Some(now)) if then.id == now.id && then.up <= now.up => kept.reading.plus(now.up - then.up),
        _ => wall.max(kept.reading),
    }
}

#[cfg(target_os = "linux")]
fn boot() -> Option<Boot> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Boot { id: id.trim().to_owned(), up: elapsed(rustix::time::ClockId::Boottime) })
}

/// Other systems do not report the uptime, so only the wall clock shows how long the engine was stopped.
#[cfg(not(target_os = "linux"))]
fn boot() -> Option<Boot> {
    None
}

/// Returns the processor time that the calling thread has used. Unlike elapsed time it does not include other threads.
pub fn thread_cpu() -> Duration {
    elapsed(rustix::time::ClockId::ThreadCPUTime)
}

fn elapsed(clock: rustix::time::ClockId) -> Duration {
    let elapsed = rustix::time::clock_gettime(clock);
    Duration::new(elapsed.tv_sec.unsigned_abs(), u32::try_from(elapsed.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn boot(id: &str, up: u64) -> Boot {
        Boot { id: id.into(), up: Duration::from_secs(up) }
    }

    #[test]
    fn the_steady_clock_continues_across_a_restart() {
        let kept = Kept { reading: at(5000), boot: Some(boot("a", 100)) };
        for (now, wall, expected, what) in [
            (Some(boot("a", 130)), 5030, 5030, "only the process was restarted"),
            (Some(boot("a", 130)), 8630, 5030, "the wall clock was set an hour forward"),
            (Some(boot("a", 130)), 1430, 5030, "the wall clock was set an hour back"),
            (Some(boot("b", 20)), 5100, 5100, "the machine was started again and counts from zero"),
            (Some(boot("b", 20)), 20, 5000, "the machine was started again and its wall clock has fallen back"),
            (Some(boot("b", 900)), 5900, 5900, "the machine was started again and has been up for longer than before"),
            (Some(boot("a", 20)), 5100, 5100, "the same start with a smaller uptime: another namespace"),
            (None, 5030, 5030, "a system that does not report its uptime"),
            (None, 20, 5000, "a system that does not report its uptime, and whose wall clock has fallen back"),
        ] {
            assert_eq!(continued(Some(&kept), now.as_ref(), at(wall)), at(expected), "{what}");
        }
        assert_eq!(continued(None, Some(&boot("a", 1)), at(7)), at(7), "a new store");
    }

    #[test]
    fn due_times_are_shown_by_the_current_wall_clock() {
        let due = at(5060);
        for (steady, wall, expected) in [(5000, 5000, 5060), (5000, 8600, 8660), (5000, 1400, 1460)] {
            assert_eq!(shown(due, at(steady), at(wall)), at(expected));
        }
        let drifted = Timestamp::from_millis(5_000_400);
        assert_eq!((shown(due, at(5000), drifted), shown(due, drifted, at(5000))), (due, due), "the same text each time");
    }

    #[test]
    fn a_stored_reading_is_continued() {
        let before = keep();
        let after = continued(Some(&before), super::boot().as_ref(), Timestamp::from_millis(0));
        assert!(after >= before.reading && after <= steady().plus(DRIFT), "{before:?} {after:?}");
    }
}
