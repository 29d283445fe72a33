//! The only place that asks the system for the time.
//!
//! Two clocks with two meanings. The wall clock is for what people and receivers read: when something happened, what a signature
//! says. The steady clock is for what the engine waits for: due times, leases, the grace of a replaced secret. It goes on from
//! where the store saw it last ([`continue_from`]) and never steps, so that setting the machine's clock an hour forward or back
//! expires no lease, delays no retry and ends no grace: neither while the engine runs nor over a restart.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::time::Timestamp;

/// Apart by less than this the two clocks count as one: nobody set anything, they only drifted.
const DRIFT: Duration = Duration::from_secs(1);

/// What the wall clock says.
pub fn wall() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// The wall clock to its last digit, for those who measure with it.
pub fn system() -> SystemTime {
    SystemTime::now()
}

/// What the steady clock read at one instant, and the instant.
static START: OnceLock<(Timestamp, Instant)> = OnceLock::new();

/// The clock of due times and leases: never steps while the engine runs.
pub fn steady() -> Timestamp {
    let (reading, at) = START.get_or_init(|| (wall(), Instant::now()));
    reading.plus(at.elapsed())
}

/// Lets the steady clock go on from what an earlier process kept of it. Without effect once the clock runs.
pub fn continue_from(kept: Option<&Kept>) {
    START.get_or_init(|| (continued(kept, boot().as_ref(), wall()), Instant::now()));
}

/// An instant of the steady clock as people read it: by the wall clock as it is set now.
pub fn as_wall(instant: Timestamp) -> Timestamp {
    shown(instant, steady(), wall())
}

fn shown(instant: Timestamp, steady: Timestamp, wall: Timestamp) -> Timestamp {
    let (ahead, behind) = (wall.since(steady), steady.since(wall));
    if ahead.max(behind) < DRIFT { instant } else { instant.plus(ahead).minus(behind) }
}

/// How long the machine has been up, and which of its starts that counts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    pub id: String,
    pub up: Duration,
}

/// A reading of the steady clock, kept for the next process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub reading: Timestamp,
    /// Where the system tells it.
    pub boot: Option<Boot>,
}

/// What is to be kept at this moment.
pub fn keep() -> Kept {
    Kept { reading: steady(), boot: boot() }
}

/// What the steady clock reads at the start of a process.
///
/// Since the same start of the machine its own uptime says how much time has passed, whatever the wall clock was set to. After
/// another one that counts from zero again, and only the wall clock is left; a machine whose clock fell back (an empty battery
/// shows 1970) must not make everything wait for decades, so it never begins before what was read last.
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

/// Elsewhere the wall clock is all that outlives a process.
#[cfg(not(target_os = "linux"))]
fn boot() -> Option<Boot> {
    None
}

/// Processor time that the calling thread has used. Unlike elapsed time it does not count what others were given meanwhile.
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
    fn the_steady_clock_goes_on_over_a_restart() {
        let kept = Kept { reading: at(5000), boot: Some(boot("a", 100)) };
        for (now, wall, expected, what) in [
            (Some(boot("a", 130)), 5030, 5030, "a plain restart"),
            (Some(boot("a", 130)), 8630, 5030, "the wall clock was set an hour forward"),
            (Some(boot("a", 130)), 1430, 5030, "the wall clock was set an hour back"),
            (Some(boot("b", 20)), 5100, 5100, "the machine was started again and counts from zero"),
            (Some(boot("b", 20)), 20, 5000, "and its wall clock has fallen back"),
            (Some(boot("b", 900)), 5900, 5900, "it has been up for longer than it had been before"),
            (Some(boot("a", 20)), 5100, 5100, "the same start, and yet it counts from later: another namespace"),
            (None, 5030, 5030, "a system that does not tell"),
            (None, 20, 5000, "which has fallen back"),
        ] {
            assert_eq!(continued(Some(&kept), now.as_ref(), at(wall)), at(expected), "{what}");
        }
        assert_eq!(continued(None, Some(&boot("a", 1)), at(7)), at(7), "a new store");
    }

    #[test]
    fn people_read_due_times_by_the_wall_clock_as_it_is_set() {
        let due = at(5060);
        for (steady, wall, expected) in [(5000, 5000, 5060), (5000, 8600, 8660), (5000, 1400, 1460)] {
            assert_eq!(shown(due, at(steady), at(wall)), at(expected));
        }
        let drifted = Timestamp::from_millis(5_000_400);
        assert_eq!((shown(due, at(5000), drifted), shown(due, drifted, at(5000))), (due, due), "not another text at each look");
    }

    #[test]
    fn what_is_kept_is_continued() {
        let before = keep();
        let after = continued(Some(&before), super::boot().as_ref(), Timestamp::from_millis(0));
        assert!(after >= before.reading && after <= steady().plus(DRIFT), "{before:?} {after:?}");
    }
}
