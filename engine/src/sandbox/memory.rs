//! Linear memories of ordinary plugins. After each run, exactly the pages that the run wrote are cleared.
//!
//! wasmtime's pool clears a fixed part at the start of a memory and returns the rest to the kernel. But the memory of a plugin
//! built by cargo begins with a stack of 1 MiB, and the plugin writes to pages after that stack. With the pool, each run would
//! return all these pages, which interrupts all cores, and the next run would fault them in again. Together that takes half of
//! the processor time of an event. Here the kernel says which pages hold data (`PAGEMAP_SCAN`, since Linux 6.7), and these pages
//! are overwritten with zeros.
//!
//! What must stay true: a memory that is handed out reads as zeros everywhere. wasmtime has the same scan as an option. That option
//! is not used, because it expects a written page to be present. But a page is not present while it is swapped out (wasmtime pull
//! request 14357), or while the kernel moves it, which also happens without swap. Such a page would keep its content for the next
//! run. Here every page is cleared unless the kernel says that it is empty. If anything fails while a memory is cleared, that
//! memory is never used again.

use std::{
    io,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use self::pagemap::Pagemap;

/// Maximum size of the pages that a memory keeps for its next run, in bytes. It also limits the time of clearing them.
const KEPT_BYTES: usize = 2 << 20;

/// Creates memories for wasmtime, and takes them back.
pub struct Memories(Arc<Shelf>);

struct Shelf {
    pagemap: Pagemap,
    free: Mutex<Vec<Space>>,
    /// Maximum number of free memories.
    free_max: usize,
}

impl Memories {
    /// Address space of a memory, in bytes: all that 32 bits can address, so that no access needs a check.
    pub const RESERVED_BYTES: u64 = 4 << 30;
    /// Size of each guard, in bytes. An access with a smaller constant offset needs no bounds check. The size is wasmtime's
    /// default.
    pub const GUARD_BYTES: u64 = 32 << 20;

    /// Reserves this many memories. Fails if there is no room for them, or if this kernel does not say which pages hold data.
    pub fn new(count: usize) -> io::Result<Self> {
        let pagemap = Pagemap::open()?;
        let map = |_| Space::map(Self::RESERVED_BYTES as usize, Self::GUARD_BYTES as usize);
        let free = (0..count).map(map).collect::<io::Result<_>>()?;
        // A plugin may have two memories.
        Ok(Self(Arc::new(Shelf { pagemap, free: Mutex::new(free), free_max: 2 * count })))
    }
}

#[expect(unsafe_code, reason = "memory for WebAssembly is mapped here")]
// SAFETY: a new memory reads as zeros: its pages were just mapped, or `Space::clear` has cleared them. Nothing else refers to it,
// because it was taken off the shelf. It is followed by as much inaccessible address space as wasmtime asks for.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reserved = reserved.filter(|reserved| *reserved >= minimum).ok_or("a memory needs a reservation for its growth")?;
        let free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let space = match free {
            Some(space) if (space.reserved, space.guard) == (reserved, guard) => Ok(space),
            _ => Space::map(reserved, guard),
        };
        let resized = space.and_then(|mut space| space.make_accessible(minimum).map(|()| space));
        let space = resized.map_err(|error| format!("no memory for a run: {error}"))?;
        Ok(Box::new(Memory { space: Some(space), size: minimum, shelf: Arc::clone(&self.0) }))
    }
}

/// A memory in use.
struct Memory {
    /// `None` only after the drop.
    space: Option<Space>,
    size: usize,
    shelf: Arc<Shelf>,
}

impl Memory {
    fn space(&self) -> &Space {
        self.space.as_ref().expect("only drop takes it")
    }
}

#[expect(unsafe_code, reason = "memory for WebAssembly is mapped here")]
// SAFETY: the address stays the same. `size` bytes are accessible, and what follows up to the end of the guard is not.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.space().reserved
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let space = self.space.as_mut().expect("only drop takes it");
        space.make_accessible(new_size.max(self.size))?;
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.space().start.as_ptr()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(mut space) = self.space.take() else { return };
        // If anything fails, the space is unmapped, and its content is dropped too.
        if space.clear(&self.shelf.pagemap).is_ok() {
            let mut free = self.shelf.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < self.shelf.free_max {
                free.push(space);
            }
        }
    }
}

/// Address space of one memory, with a guard before and after it.
struct Space {
    start: NonNull<u8>,
    reserved: usize,
    guard: usize,
    /// Number of bytes, from the start, that can be read and written.
    accessible: usize,
}

#[expect(unsafe_code, reason = "a pointer to memory that belongs to this value alone")]
// SAFETY: the address space belongs to this value alone, and every change of it needs `&mut`.
unsafe impl Send for Space {}
#[expect(unsafe_code, reason = "a pointer to memory that belongs to this value alone")]
// SAFETY: as above.
unsafe impl Sync for Space {}

impl Space {
    #[expect(unsafe_code, reason = "maps memory")]
    fn map(reserved: usize, guard: usize) -> io::Result<Self> {
        let whole = guard.checked_mul(2).and_then(|guards| guards.checked_add(reserved)).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: this creates a new mapping, which replaces no other mapping and is not accessible.
        let before = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE)? };
        // A huge page would be cleared as a whole for one written byte. A kernel without huge pages refuses the advice.
        // SAFETY: the range is this mapping, and the advice changes no content.
        let _ = unsafe { madvise(before, whole, Advice::LinuxNoHugepage) };
        // SAFETY: the guard is within the mapping.
        let start = unsafe { before.cast::<u8>().add(guard) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, reserved, guard, accessible: 0 })
    }

    /// Makes exactly the first `size` bytes accessible, rounded up to whole pages.
    #[expect(unsafe_code, reason = "changes the protection of memory")]
    fn make_accessible(&mut self, size: usize) -> io::Result<()> {
        let size = size.next_multiple_of(rustix::param::page_size());
        if size > self.reserved {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let (from, to, protection) = match size > self.accessible {
            true => (self.accessible, size, MprotectFlags::READ | MprotectFlags::WRITE),
            false => (size, self.accessible, MprotectFlags::empty()),
        };
        if from < to {
            // SAFETY: the range is within this space, which nothing else refers to.
            unsafe { mprotect(self.start.as_ptr().add(from).cast(), to - from, protection)? };
        }
        self.accessible = size;
        Ok(())
    }

    /// Clears the accessible bytes.
    fn clear(&mut self, pagemap: &Pagemap) -> io::Result<()> {
        let (start, end) = (self.start.as_ptr() as usize, self.start.as_ptr() as usize + self.accessible);
        let (mut at, mut kept) = (start, 0);
        while at < end {
            let scanned = pagemap.scan(at, end)?;
            for run in scanned.runs() {
                let length = run.end.checked_sub(run.start).filter(|_| run.start >= at && run.end <= end);
                let length = length.ok_or(io::ErrorKind::InvalidData)?;
                kept += length;
                if kept > KEPT_BYTES {
                    return self.release(run.start - start);
                }
                self.zero(run.start - start, length);
            }
            if scanned.end <= at {
                return Err(io::ErrorKind::InvalidData.into());
            }
            at = scanned.end;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "writes memory of WebAssembly")]
    fn zero(&mut self, from: usize, length: usize) {
        assert!(from + length <= self.accessible);
        // SAFETY: the range is accessible, and nothing else refers to it.
        unsafe { self.start.as_ptr().add(from).write_bytes(0, length) };
    }

    /// Gives all accessible pages after the offset `from` back to the kernel. They then read as zeros.
    #[expect(unsafe_code, reason = "drops the content of memory")]
    fn release(&mut self, from: usize) -> io::Result<()> {
        // SAFETY: the range is within this space, which nothing else refers to.
        unsafe { madvise(self.start.as_ptr().add(from).cast(), self.accessible - from, Advice::LinuxDontNeed)? };
        Ok(())
    }
}

impl Drop for Space {
    #[expect(unsafe_code, reason = "unmaps memory")]
    fn drop(&mut self) {
        // SAFETY: this is the mapping of `Space::map`, which nothing else refers to any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().sub(self.guard).cast(), self.reserved + 2 * self.guard) };
        debug_assert!(unmapped.is_ok(), "a space is one mapping: {unmapped:?}");
    }
}

/// Finds the pages of this process that may hold data.
mod pagemap {
    use std::{ffi::c_void, fs::File, io, mem::MaybeUninit};

    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

    /// Maximum number of ranges of neighbouring pages that one scan reports. A plugin writes to ten or twenty ranges.
    const RUNS_MAX: usize = 64;

    /// The kernel's record of this process's pages.
    pub struct Pagemap(File);

    impl Pagemap {
        /// Opens the record, and checks that this kernel supports the scan.
        pub fn open() -> io::Result<Self> {
            let pagemap = Self(File::open("/proc/self/pagemap")?);
            pagemap.scan(0, 0)?;
            Ok(pagemap)
        }

        /// Finds the pages that are not empty: those that are in memory, swapped out, or being moved, except for the zero page.
        #[expect(unsafe_code, reason = "calls the kernel")]
        pub fn scan(&self, start: usize, end: usize) -> io::Result<Scanned> {
            let mut scanned = Scanned { runs: [const { MaybeUninit::uninit() }; RUNS_MAX], count: 0, end: start };
            let scan = Scan(Arguments {
                size: size_of::<Arguments>() as u64,
                start: start as u64,
                end: end as u64,
                runs: scanned.runs.as_mut_ptr() as u64,
                runs_max: RUNS_MAX as u64,
                inverted: ZERO_PAGE,
                all_of: ZERO_PAGE,
                any_of: PRESENT | SWAPPED,
                ..Arguments::default()
            });
            // SAFETY: `Scan` describes the call as the kernel defines it, and `runs` outlives the call.
            let (count, walked_to) = unsafe { ioctl(&self.0, scan)? };
            scanned.count = count.min(RUNS_MAX);
            scanned.end = walked_to as usize;
            Ok(scanned)
        }
    }

    /// The result of a scan.
    pub struct Scanned {
        runs: [MaybeUninit<Run>; RUNS_MAX],
        count: usize,
        /// Where the scan ended: at the end of the range, or earlier if it found as many ranges of pages as it can report.
        pub end: usize,
    }

    impl Scanned {
        #[expect(unsafe_code, reason = "reads what the kernel wrote")]
        pub fn runs(&self) -> impl Iterator<Item = Run> {
            // SAFETY: the kernel has written the first `count` elements.
            self.runs[..self.count].iter().map(|run| unsafe { run.assume_init() })
        }
    }

    /// Neighbouring pages, by their addresses. The kernel's `struct page_region`.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct Run {
        pub start: usize,
        pub end: usize,
        categories: u64,
    }

    const PRESENT: u64 = 1 << 3;
    /// A page that is swapped out, or that the kernel is moving at this moment.
    const SWAPPED: u64 = 1 << 4;
    /// The shared page of zeros, which stands in for pages that were only read.
    const ZERO_PAGE: u64 = 1 << 5;

    /// The kernel's `struct pm_scan_arg`.
    #[derive(Default)]
    #[repr(C)]
    struct Arguments {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        runs: u64,
        runs_max: u64,
        pages_max: u64,
        inverted: u64,
        all_of: u64,
        any_of: u64,
        reported: u64,
    }

    struct Scan(Arguments);

    #[expect(unsafe_code, reason = "describes a call of the kernel")]
    // SAFETY: the kernel defines `PAGEMAP_SCAN` as `_IOWR('f', 16, struct pm_scan_arg)`; it writes to the arguments.
    unsafe impl Ioctl for Scan {
        type Output = (usize, u64);

        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            opcode::read_write::<Arguments>(b'f', 16)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            (&raw mut self.0).cast()
        }

        unsafe fn output_from_ptr(found: IoctlOutput, arguments: *mut c_void) -> rustix::io::Result<Self::Output> {
            // SAFETY: rustix passes the pointer of `as_ptr`.
            let walk_end = unsafe { (*arguments.cast::<Arguments>()).walk_end };
            let found = usize::try_from(found).map_err(|_| rustix::io::Errno::INVAL)?;
            Ok((found, walk_end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    /// Returns the opened value, or `None` on a kernel before Linux 6.7, where the engine does not use this module.
    fn offered<T>(opened: io::Result<T>) -> Option<T> {
        opened.inspect_err(|error| eprintln!("this kernel does not say which pages hold something: {error}")).ok()
    }

    fn bytes(space: &Space) -> &[u8] {
        #[expect(unsafe_code, reason = "reads memory of WebAssembly")]
        // SAFETY: these bytes are accessible, and nothing writes them meanwhile.
        unsafe {
            std::slice::from_raw_parts(space.start.as_ptr(), space.accessible)
        }
    }

    fn write(space: &mut Space, at: usize) {
        assert!(at < space.accessible);
        #[expect(unsafe_code, reason = "writes memory of WebAssembly")]
        // SAFETY: this byte is accessible, and nothing else refers to it.
        unsafe {
            space.start.as_ptr().add(at).write(1);
        }
    }

    #[test]
    fn everything_that_was_written_is_cleared() {
        let Some(pagemap) = offered(Pagemap::open()) else { return };
        let page = rustix::param::page_size();
        // The bytes that each case writes: none; one at each end; more ranges of pages than one scan reports; more pages than are
        // kept; all.
        let cases: [fn(usize, usize) -> bool; 5] = [
            |_, _| false,
            |at, pages| at == 0 || at + 1 == pages,
            |at, _| at % 2 == 1 && at < 400,
            |at, _| at % 3 != 0,
            |_, _| true,
        ];
        let mut space = Space::map(1 << 30, PAGE).unwrap();
        for round in 0..3 {
            for (nth, is_written) in cases.into_iter().enumerate() {
                space.make_accessible((64 + 8 * nth) * PAGE).unwrap();
                assert!(bytes(&space).iter().all(|byte| *byte == 0), "round {round}, case {nth}, before");
                let pages = space.accessible / page;
                for at in (0..pages).filter(|at| is_written(*at, pages)) {
                    write(&mut space, at * page + at % page);
                }
                space.clear(&pagemap).unwrap();
                assert!(bytes(&space).iter().all(|byte| *byte == 0), "round {round}, case {nth}, after");
            }
        }
    }

    #[test]
    fn a_memory_grows_in_place_and_starts_small_again() {
        let Some(memories) = offered(Memories::new(1)) else { return };
        let new = |size| {
            let (reserved, guard) = (Memories::RESERVED_BYTES as usize, Memories::GUARD_BYTES as usize);
            memories.new_memory(MemoryType::new(1, None), size, None, Some(reserved), guard).unwrap()
        };
        let mut first = new(PAGE);
        let start = first.as_ptr();
        first.grow_to(40 * PAGE).unwrap();
        assert_eq!((first.as_ptr(), first.byte_size()), (start, 40 * PAGE));
        assert!(first.grow_to(5 << 30).is_err() && first.byte_size() == 40 * PAGE);
        drop(first);
        let again = new(2 * PAGE);
        assert_eq!((again.as_ptr(), again.byte_size()), (start, 2 * PAGE));
        // While this memory is in use, another one has another address.
        assert_ne!(new(PAGE).as_ptr(), start);
    }
}
