//! Test guest with the stack and the allocator that cargo gives every crate. It looks for a secret of an earlier instance in its
//! stack, its statics and its heap. If it finds a secret, it fails with the code `leak`. Otherwise it leaves a secret in all of
//! these places and succeeds.

use std::{
    hint::black_box,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use innesco_sdk::prelude::*;

/// The secret, eight times the same byte.
const SECRET: u64 = 0xa5a5_a5a5_a5a5_a5a5;
/// Lowest address of the part of the stack that is searched. Nothing is ever written below it.
const STACK_FROM: usize = 4_096;
/// Size of the part of the stack below this frame that is not searched, because functions called from here may use it.
const FRAMES_BYTES: usize = 32 << 10;
/// Size of the heap. The allocator has to ask for more memory for it. Stack and heap together exceed the memory that the engine
/// keeps for the next run.
const HEAP_BYTES: usize = 5 << 18;

static ZEROS: [AtomicU64; 4_096] = [const { AtomicU64::new(0) }; 4_096];
static NUMBERS: [AtomicU64; 4_096] = [const { AtomicU64::new(7) }; 4_096];

struct Stock;

impl Plugin for Stock {
    const ON: &'static [&'static str] = &["hostile.*"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let leak = |place: &str| Err(Error::permanent("leak", format!("{place} holds something of an earlier instance")));
        let frame = black_box(0_u64);
        let stack = (STACK_FROM, (&raw const frame as usize - FRAMES_BYTES) & !7);
        // An instance that is stopped in the middle leaves more behind than an instance that ends.
        let is_stopped = event.subject.as_deref() == Some("stop");
        if holds_secret(stack) {
            return leak("the stack");
        }
        if ZEROS.iter().any(|word| word.load(Ordering::Relaxed) != 0) {
            return leak("a static of zeros");
        }
        if NUMBERS.iter().any(|word| word.load(Ordering::Relaxed) != 7) {
            return leak("a static with a value");
        }
        let mut heap: Vec<u64> = Vec::with_capacity(HEAP_BYTES / 8);
        let start = heap.as_ptr() as usize;
        if holds_secret((start, start + HEAP_BYTES)) {
            return leak("the heap");
        }
        fill(stack, SECRET);
        for word in ZEROS.iter().chain(&NUMBERS) {
            word.store(SECRET, Ordering::Relaxed);
        }
        heap.resize(HEAP_BYTES / 8, SECRET);
        black_box(&heap);
        if is_stopped {
            panic!("stopped in the middle");
        }
        Ok(Outcome::none())
    }
}

/// Returns whether this range of addresses contains the secret. Other values do not count: this instance may have written them when
/// it received its event.
#[expect(unsafe_code, reason = "reads memory that holds no value")]
fn holds_secret((from, to): (usize, usize)) -> bool {
    // SAFETY: the range is inside the memory of this instance, which has one thread.
    (from..to).step_by(8).any(|at| unsafe { ptr::with_exposed_provenance::<u64>(at).read_volatile() } == SECRET)
}

/// Fills this range of addresses with a word.
#[expect(unsafe_code, reason = "writes memory that holds no value")]
fn fill((from, to): (usize, usize), word: u64) {
    for at in (from..to).step_by(8) {
        // SAFETY: as above, and nothing is stored there.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(at).write_volatile(word) };
    }
}

innesco_sdk::export!(Stock);
