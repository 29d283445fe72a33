//! The plugin's allocator. It hands out memory from front to back, and frees only the most recent allocation.
//!
//! Each event gets a fresh instance, which is discarded afterwards, so most memory never needs to be freed. Each instance starts
//! with a block of memory that costs nothing. Growing the instance's memory costs more than a whole small run, but the block is
//! enough for most events. An engine that reuses an instance for many events must not use this allocator (see the feature `arena`).

/// A range of free memory, used from its front. The type holds only addresses and accesses no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    next: usize,
    end: usize,
}

impl Stretch {
    /// Takes `size` bytes and returns their address, or returns `None` and changes nothing if they do not fit.
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        let at = self.next.checked_next_multiple_of(align)?;
        let next = at.checked_add(size)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(at)
    }

    /// Frees this allocation if it is the most recent one. Ignores any other.
    fn give_back(&mut self, at: usize, size: usize) {
        if self.is_last(at, size) {
            self.next = at;
        }
    }

    fn is_last(&self, at: usize, size: usize) -> bool {
        at + size == self.next
    }

    /// Resizes an allocation in place. Returns `false` and changes nothing if that is not possible.
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

    /// Continues with new memory, joined with the remaining memory if it is adjacent.
    fn extend(&mut self, start: usize, end: usize) {
        if start != self.end {
            self.next = start;
        }
        self.end = end;
    }
}

#[cfg(all(target_arch = "wasm32", feature = "arena"))]
#[expect(unsafe_code, reason = "an allocator works on addresses")]
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

    /// Size of the block. Its zeros are not stored in the plugin file. It is small enough that the engine can reset stack, statics
    /// and block by overwriting them. If they had one page more than the engine
    /// overwrites, resetting would cost more than a whole small run.
    const BLOCK_BYTES: usize = 128 * 1024;
    const PAGE_BYTES: usize = 64 * 1024;
    /// The minimum growth once the block is full. Growing is expensive, and most of its cost does not depend on the number of
    /// pages.
    const GROW_PAGES: usize = 8;

    #[repr(align(16))]
    struct Block(UnsafeCell<[u8; BLOCK_BYTES]>);

    struct Arena {
        stretch: Cell<Stretch>,
        started: Cell<bool>,
    }

    // SAFETY: WebAssembly without atomics has one thread; with atomics this module does not compile.
    unsafe impl Sync for Block {}
    // SAFETY: as above.
    unsafe impl Sync for Arena {}

    static BLOCK: Block = Block(UnsafeCell::new([0; BLOCK_BYTES]));

    #[global_allocator]
    static ARENA: Arena = Arena { stretch: Cell::new(Stretch { next: 0, end: 0 }), started: Cell::new(false) };

    impl Arena {
        /// Calls `attempt`, which needs at most `bytes` of memory: first with the remaining memory, then with the block, then with
        /// more memory.
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

    /// Adds at least `bytes` to the range. Returns `false` if the engine gives no more memory.
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

    // SAFETY: every address handed out is inside memory that only this allocator uses (the block, or pages that this allocator
    // added), and aligned as requested. No byte is handed out twice unless it was freed.
    unsafe impl GlobalAlloc for Arena {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // Alignment may add up to `align` bytes.
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
                // SAFETY: both ranges belong to this allocator and do not overlap. The old one has `layout.size()` bytes and the
                // new one more, because a smaller size is resized in place.
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
    fn takes_aligned_memory_from_the_front() {
        let mut stretch = Stretch { next: 100, end: 200 };
        assert_eq!(stretch.take(1, 1), Some(100));
        assert_eq!(stretch.take(8, 8), Some(104));
        assert_eq!(stretch.take(88, 4), Some(112));
        assert_eq!((stretch.take(1, 1), stretch.next), (None, 200));
        assert_eq!(stretch.take(usize::MAX, 16), None);
    }

    #[test]
    fn frees_and_grows_only_the_most_recent_allocation() {
        let mut stretch = Stretch { next: 0, end: 100 };
        let first = stretch.take(10, 1).unwrap();
        let last = stretch.take(10, 1).unwrap();
        stretch.give_back(first, 10);
        assert_eq!(stretch.next, 20, "the first is followed by another");
        assert!(!stretch.resize(first, 10, 11));
        assert!(stretch.resize(first, 10, 5), "shrinking is always possible");
        assert!(stretch.resize(last, 10, 90));
        assert!(!stretch.resize(last, 90, 91));
        stretch.give_back(last, 90);
        assert_eq!(stretch.next, 10);
    }

    #[test]
    fn joins_adjacent_new_memory() {
        let mut stretch = Stretch { next: 90, end: 100 };
        stretch.extend(100, 200);
        assert_eq!(stretch.take(110, 1), Some(90));
        stretch.extend(300, 400);
        assert_eq!(stretch.take(100, 1), Some(300));
    }
}
