//! The engine's functions for a native build, over plain maps.
//!
//! One world per thread, so that tests which run side by side do not see each other. [`with`] puts a world in place for
//! the length of a call; outside of it each thread has an empty one, so that a helper that logs can be tested alone.

use std::{cell::RefCell, collections::BTreeMap};

use crate::testing::Line;

/// What a plugin can reach of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub config: BTreeMap<String, String>,
    pub state: BTreeMap<String, Vec<u8>>,
    pub log: Vec<Line>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Runs `call` in this world, and puts the thread's former one back, also after a panic.
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
    WORLD.with_borrow_mut(|world| world.log.push(Line { level: level.to_owned(), message: message.to_owned() }));
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    WORLD.with_borrow(|world| world.config.get(key).cloned())
}

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    WORLD.with_borrow(|world| world.state.get(key).cloned())
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    WORLD.with_borrow_mut(|world| world.state.insert(key.to_owned(), value.to_vec()));
}

pub(crate) fn state_delete(key: &str) {
    WORLD.with_borrow_mut(|world| world.state.remove(key));
}
