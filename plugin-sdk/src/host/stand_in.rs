//! A replacement of the engine's functions for native builds. It works on plain maps.
//!
//! Each thread has a separate world, so that parallel tests do not affect each other. [`with`] installs a world during a call.
//! Outside of such a call, a thread has an empty world, so that a test can call a helper function that logs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    time::Duration,
};

use crate::{Error, rules, testing::Line};

/// The part of the engine that a plugin can reach.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub config: BTreeMap<String, String>,
    pub state: BTreeMap<String, Kept>,
    /// When the run began, on the clock of the test engine.
    pub now: Duration,
    pub log: Vec<Line>,
    /// The keys of state that the run has used; `None` outside of a run, where no limit applies.
    pub used: Option<BTreeSet<String>>,
}

/// A value of state, with the time at which it expires.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub value: Vec<u8>,
    pub until: Option<Duration>,
}

impl World {
    /// Returns a value that has not expired.
    pub fn state(&self, key: &str) -> Option<&[u8]> {
        let kept = self.state.get(key)?;
        kept.until.is_none_or(|until| self.now < until).then_some(&kept.value)
    }
}

/// The payload of the unwinding that ends a run in the middle, as the engine ends it when a plugin exceeds a limit of its state.
pub(crate) struct Ended(pub Error);

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Runs `call` in this world, then restores the thread's previous world, also after a panic.
pub(crate) fn with<T>(world: &mut World, call: impl FnOnce() -> T) -> T {
    struct Swapped<'a>(&'a mut World);
    impl Drop for Swapped<'_> {
        fn drop(&mut self) {
            WORLD.with_borrow_mut(|current| std::mem::swap(current, self.0));
        }
    }
    WORLD.with_borrow_mut(|current| std::mem::swap(current, world));
    let _swapped = Swapped(world);
    call()
}

pub(crate) fn log_write(level: &str, message: &str) {
    log_write_with(level, message, Vec::new());
}

pub(crate) fn log_write_with(level: &str, message: &str, fields: Vec<(String, String)>) {
    WORLD.with_borrow_mut(|world| world.log.push(Line { level: level.to_owned(), message: message.to_owned(), fields }));
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    WORLD.with_borrow(|world| world.config.get(key).cloned())
}

/// Records the use of a key. If the use exceeds a limit, ends the run.
fn admit(key: &str, value: Option<&[u8]>) {
    let admitted = WORLD.with_borrow_mut(|world| {
        let Some(used) = &mut world.used else { return Ok(()) };
        rules::check_state(used, key, value)?;
        used.insert(key.to_owned());
        Ok(())
    });
    if let Err(error) = admitted {
        // This unwinds without `panic!`, because the panic hook would print a message.
        resume_unwind(Box::new(Ended(error)));
    }
}

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    admit(key, None);
    WORLD.with_borrow(|world| world.state(key).map(<[u8]>::to_vec))
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    keep(key, value, None);
}

pub(crate) fn state_set_for(key: &str, value: &[u8], milliseconds: u64) {
    keep(key, value, Some(Duration::from_millis(milliseconds)));
}

fn keep(key: &str, value: &[u8], lifetime: Option<Duration>) {
    admit(key, Some(value));
    WORLD.with_borrow_mut(|world| {
        let until = lifetime.map(|lifetime| world.now.saturating_add(lifetime));
        world.state.insert(key.to_owned(), Kept { value: value.to_vec(), until })
    });
}

pub(crate) fn state_delete(key: &str) {
    admit(key, None);
    WORLD.with_borrow_mut(|world| world.state.remove(key));
}
