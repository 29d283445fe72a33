//! Test guest that fails as its event type requests, such as `fault.unwrap_closure`. The line of each fault ends with a comment that
//! names it, so that a test knows the line. The compiler merges functions that are equal, so each one logs its name.

mod closure;
mod generic;
mod inline;
mod method;
mod plain;

use std::hint::black_box;

use innesco_sdk::prelude::*;

struct Faults;

impl Plugin for Faults {
    const ON: &'static [&'static str] = &["fault.*"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let name = event.event_type.strip_prefix("fault.").unwrap_or_default();
        if let Some((_, fail)) = FAULTS.iter().find(|(known, _)| *known == name) {
            fail();
        }
        Ok(Outcome::none())
    }
}

/// A fault behind a trait object.
trait Fault {
    fn fail(&self);
}

/// Hides a value from the optimiser.
fn hidden<T>(value: T) -> T {
    black_box(value)
}

/// Stops without a message.
fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort()
}

const FAULTS: &[(&str, fn())] = &[
    ("panic_plain", plain::panic_plain),
    ("panic_inline", inline::panic_inline),
    ("panic_method", method::panic_method),
    ("panic_closure", closure::panic_closure),
    ("panic_generic", generic::panic_generic),
    ("index_plain", plain::index_plain),
    ("index_inline", inline::index_inline),
    ("index_method", method::index_method),
    ("index_closure", closure::index_closure),
    ("index_generic", generic::index_generic),
    ("unwrap_plain", plain::unwrap_plain),
    ("unwrap_inline", inline::unwrap_inline),
    ("unwrap_method", method::unwrap_method),
    ("unwrap_closure", closure::unwrap_closure),
    ("unwrap_generic", generic::unwrap_generic),
    ("expect_plain", plain::expect_plain),
    ("expect_inline", inline::expect_inline),
    ("expect_method", method::expect_method),
    ("expect_closure", closure::expect_closure),
    ("expect_generic", generic::expect_generic),
    ("unreachable_plain", plain::unreachable_plain),
    ("unreachable_inline", inline::unreachable_inline),
    ("unreachable_method", method::unreachable_method),
    ("unreachable_closure", closure::unreachable_closure),
    ("unreachable_generic", generic::unreachable_generic),
    ("assert_plain", plain::assert_plain),
    ("assert_inline", inline::assert_inline),
    ("assert_method", method::assert_method),
    ("assert_closure", closure::assert_closure),
    ("assert_generic", generic::assert_generic),
    ("divide_plain", plain::divide_plain),
    ("divide_inline", inline::divide_inline),
    ("divide_method", method::divide_method),
    ("divide_closure", closure::divide_closure),
    ("divide_generic", generic::divide_generic),
    ("overflow_plain", plain::overflow_plain),
    ("overflow_inline", inline::overflow_inline),
    ("overflow_method", method::overflow_method),
    ("overflow_closure", closure::overflow_closure),
    ("overflow_generic", generic::overflow_generic),
    ("borrow_plain", plain::borrow_plain),
    ("borrow_inline", inline::borrow_inline),
    ("borrow_method", method::borrow_method),
    ("borrow_closure", closure::borrow_closure),
    ("borrow_generic", generic::borrow_generic),
    ("slice_plain", plain::slice_plain),
    ("slice_inline", inline::slice_inline),
    ("slice_method", method::slice_method),
    ("slice_closure", closure::slice_closure),
    ("slice_generic", generic::slice_generic),
    ("range_plain", plain::range_plain),
    ("range_inline", inline::range_inline),
    ("range_method", method::range_method),
    ("range_closure", closure::range_closure),
    ("range_generic", generic::range_generic),
    ("map_plain", plain::map_plain),
    ("map_inline", inline::map_inline),
    ("map_method", method::map_method),
    ("map_closure", closure::map_closure),
    ("map_generic", generic::map_generic),
    ("copy_plain", plain::copy_plain),
    ("copy_inline", inline::copy_inline),
    ("copy_method", method::copy_method),
    ("copy_closure", closure::copy_closure),
    ("copy_generic", generic::copy_generic),
    ("remove_plain", plain::remove_plain),
    ("remove_inline", inline::remove_inline),
    ("remove_method", method::remove_method),
    ("remove_closure", closure::remove_closure),
    ("remove_generic", generic::remove_generic),
    ("abort_plain", plain::abort_plain),
    ("abort_inline", inline::abort_inline),
    ("abort_method", method::abort_method),
    ("abort_closure", closure::abort_closure),
    ("abort_generic", generic::abort_generic),
    ("trap_plain", plain::trap_plain),
    ("trap_inline", inline::trap_inline),
    ("trap_method", method::trap_method),
    ("trap_closure", closure::trap_closure),
    ("trap_generic", generic::trap_generic),
    ("recursion_plain", plain::recursion_plain),
    ("recursion_inline", inline::recursion_inline),
    ("recursion_method", method::recursion_method),
    ("recursion_closure", closure::recursion_closure),
    ("recursion_generic", generic::recursion_generic),
    ("memory_plain", plain::memory_plain),
    ("memory_inline", inline::memory_inline),
    ("memory_method", method::memory_method),
    ("memory_closure", closure::memory_closure),
    ("memory_generic", generic::memory_generic),
    ("strings_plain", plain::strings_plain),
    ("strings_inline", inline::strings_inline),
    ("strings_method", method::strings_method),
    ("strings_closure", closure::strings_closure),
    ("strings_generic", generic::strings_generic),
    ("loop_plain", plain::loop_plain),
    ("loop_inline", inline::loop_inline),
    ("loop_method", method::loop_method),
    ("loop_closure", closure::loop_closure),
    ("loop_generic", generic::loop_generic),
];

innesco_sdk::export!(Faults);
