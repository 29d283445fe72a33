//! Makes each `fdatasync` of a process take a millisecond longer, as on the disk of a cloud. `LD_PRELOAD` loads this library.

use std::{ffi::c_int, thread, time::Duration};

const LONGER: Duration = Duration::from_millis(1);

#[expect(unsafe_code, reason = "a function of the C library")]
unsafe extern "C" {
    fn fsync(file: c_int) -> c_int;
}

/// Replaces the function of the C library. `fsync` keeps at least the same promise.
#[expect(unsafe_code, reason = "replaces a function of the C library")]
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: the caller passes what it would pass to `fdatasync`, and both functions have the same type.
    let result = unsafe { fsync(file) };
    thread::sleep(LONGER);
    result
}
