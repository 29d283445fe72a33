//! The plugin's allocator: it hands out memory from front to back, and takes back only what it handed out last.
//!
//! Each event meets a fresh instance, which is thrown away whole after it, so nothing needs to be given back in between.
//! And memory that is there from the start costs nothing to get, while asking the engine for more moves the edge of the
//! instance's memory, which costs more than a whole small run: hence the block, which most events never outgrow.
//! An engine that keeps an instance for many events would be wrong for this allocator (see the feature `arena`).

/// A stretch of memory, used up from its front. Addresses only: it touches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    next: usize,
    end: usize,
}

impl Stretch {
    /// Takes `size` bytes, and says where they are; or `None`, unchanged, when they do not fit.
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        let at = self.next.checked_next_multiple_of(align)?;
        let next = at.checked_add(size)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(at)
    }

    /// Gives back what was taken last; anything else stays taken.
    fn give_back(&mut self, at: usize, size: usize) {
        if self.is_last(at, size) {
            self.next = at;
        }
    }

    fn is_last(&self, at: usize, size: usize) -> bool {
        at + size == self.next
    }

    /// Makes what was taken larger or smaller where it is; `false`, unchanged, when that is not possible.
    fn resize(&mut self, at: usize, size: usize, new_size: usize) -> bool {
        if !self.is_last(at, size) {
            return new_size <= size;
        }
        match at.checked_add(new_size) {
            Some(next) if next <= self.end => {
                self.next = next;
                true
            }
            _ => false,
        }
    }

    /// Goes on with new memory: together with what is left, if it lies right behind.
    fn extend(&mut self, start: usize, end: usize) {
        if start != self.end {
            self.next = start;
        }
        self.end = end;
    }
}

#[cfg(all(target_arch = "wasm32", feature = "arena"))]
#[expect(unsafe_code, reason = "an allocator is made of addresses")]
mod global {
    use std::{
        alloc::{GlobalAlloc, Layout},
        arch::wasm32::memory_grow,
        cell::{Cell, UnsafeCell},
        ptr,
    };

    use super::Stretch;

    #[cfg(target_feature = "atomics")]
    compile_error!("the arena serves one thread: build innesco-sdk without the feature `arena`");

    /// There from the start, as zeroes that no file holds.
    const BLOCK_BYTES: usize = 512 * 1024;
    const PAGE_BYTES: usize = 64 * 1024;
    /// What is asked for at least when the block is full: growing is dear, and most of it is the asking.
    const GROW_PAGES: usize = 8;

    #[repr(align(16))]
    struct Block(UnsafeCell<[u8; BLOCK_BYTES]>);

    struct Arena {
        stretch: Cell<Stretch>,
        started: Cell<bool>,
    }

    // SAFETY: WebAssembly without atomics has one thread; with them this module does not compile.
    unsafe impl Sync for Block {}
    // SAFETY: as above.
    unsafe impl Sync for Arena {}

    static BLOCK: Block = Block(UnsafeCell::new([0; BLOCK_BYTES]));

    #[global_allocator]
    static ARENA: Arena = Arena { stretch: Cell::new(Stretch { next: 0, end: 0 }), started: Cell::new(false) };

    impl Arena {
        /// Makes an attempt that needs `bytes` at most: with what is left, then with the block, then with more memory.
        fn attempt<T>(&self, bytes: usize, attempt: impl Fn(&mut Stretch) -> Option<T>) -> Option<T> {
            let mut stretch = self.stretch.get();
            let mut found = attempt(&mut stretch);
            if found.is_none() && !self.started.replace(true) {
                let start = BLOCK.0.get() as usize;
                stretch.extend(start, start + BLOCK_BYTES);
                found = attempt(&mut stretch);
            }
            if found.is_none() && grow(&mut stretch, bytes) {
                found = attempt(&mut stretch);
            }
            self.stretch.set(stretch);
            found
        }
    }

    /// Adds at least `bytes` to the stretch; `false` when the engine gives no more.
    fn grow(stretch: &mut Stretch, bytes: usize) -> bool {
        let needed = bytes.div_ceil(PAGE_BYTES);
        for pages in [needed.max(GROW_PAGES), needed] {
            let former_pages = memory_grow::<0>(pages);
            if former_pages != usize::MAX {
                let start = former_pages * PAGE_BYTES;
                stretch.extend(start, start + pages * PAGE_BYTES);
                return true;
            }
        }
        false
    }

    // SAFETY: what is handed out lies inside memory that is ours alone (the block, or pages that we grew), aligned as asked,
    // and a stretch never hands out a byte twice unless it was given back.
    unsafe impl GlobalAlloc for Arena {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // Aligning may cost up to `align` bytes on top.
            let bytes = layout.size().saturating_add(layout.align());
            self.attempt(bytes, |stretch| stretch.take(layout.size(), layout.align())).map_or(ptr::null_mut(), |at| at as *mut u8)
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            let mut stretch = self.stretch.get();
            stretch.give_back(at as usize, layout.size());
            self.stretch.set(stretch);
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            let in_place = if self.stretch.get().is_last(at as usize, layout.size()) {
                self.attempt(new_size, |stretch| stretch.resize(at as usize, layout.size(), new_size).then_some(())).is_some()
            } else {
                new_size <= layout.size()
            };
            if in_place {
                return at;
            }
            // SAFETY: the caller promises that `new_size` is not zero and fits a layout of this alignment.
            let new = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
            if !new.is_null() {
                // SAFETY: both are ours and apart, the old one `layout.size()` long, and the new one longer: what does not grow
                // stayed in place above.
                unsafe { ptr::copy_nonoverlapping(at, new, layout.size()) };
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_front_to_back_and_aligned() {
        let mut stretch = Stretch { next: 100, end: 200 };
        assert_eq!(stretch.take(1, 1), Some(100));
        assert_eq!(stretch.take(8, 8), Some(104));
        assert_eq!(stretch.take(88, 4), Some(112));
        assert_eq!((stretch.take(1, 1), stretch.next), (None, 200));
        assert_eq!(stretch.take(usize::MAX, 16), None);
    }

    #[test]
    fn only_the_last_piece_is_given_back_or_grows_in_place() {
        let mut stretch = Stretch { next: 0, end: 100 };
        let first = stretch.take(10, 1).unwrap();
        let last = stretch.take(10, 1).unwrap();
        stretch.give_back(first, 10);
        assert_eq!(stretch.next, 20, "the first lies in front of another");
        assert!(!stretch.resize(first, 10, 11));
        assert!(stretch.resize(first, 10, 5), "smaller is always possible");
        assert!(stretch.resize(last, 10, 90));
        assert!(!stretch.resize(last, 90, 91));
        stretch.give_back(last, 90);
        assert_eq!(stretch.next, 10);
    }

    #[test]
    fn new_memory_right_behind_joins_what_is_left() {
        let mut stretch = Stretch { next: 90, end: 100 };
        stretch.extend(100, 200);
        assert_eq!(stretch.take(110, 1), Some(90));
        stretch.extend(300, 400);
        assert_eq!(stretch.take(100, 1), Some(300));
    }
}
