//! Faults behind a trait object.

use std::{cell::RefCell, collections::BTreeMap};

use innesco_sdk::prelude::*;

use super::{Fault, hidden, trap};

struct Panic(u32);

impl Fault for Panic {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("panic_method");
        panic!("unlucky {}", hidden(13)); // fault: panic_method
    }
}

pub fn panic_method() {
    hidden(Box::new(Panic(1)) as Box<dyn Fault>).fail();
}

struct Index(u32);

impl Fault for Index {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("index_method");
        let list = hidden(vec![1, 2, 3]);
        log::info!("{}", list[hidden(7)]); // fault: index_method
    }
}

pub fn index_method() {
    hidden(Box::new(Index(1)) as Box<dyn Fault>).fail();
}

struct Unwrap(u32);

impl Fault for Unwrap {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("unwrap_method");
        let none: Option<u32> = hidden(None);
        log::info!("{}", none.unwrap()); // fault: unwrap_method
    }
}

pub fn unwrap_method() {
    hidden(Box::new(Unwrap(1)) as Box<dyn Fault>).fail();
}

struct Expect(u32);

impl Fault for Expect {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("expect_method");
        let text = hidden("seven");
        log::info!("{}", text.parse::<u32>().expect("a number")); // fault: expect_method
    }
}

pub fn expect_method() {
    hidden(Box::new(Expect(1)) as Box<dyn Fault>).fail();
}

struct Unreachable(u32);

impl Fault for Unreachable {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("unreachable_method");
        if hidden(true) {
            unreachable!("this is reached"); // fault: unreachable_method
        }
    }
}

pub fn unreachable_method() {
    hidden(Box::new(Unreachable(1)) as Box<dyn Fault>).fail();
}

struct Assert(u32);

impl Fault for Assert {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("assert_method");
        let total = hidden(7);
        assert!(total > 8, "too small"); // fault: assert_method
    }
}

pub fn assert_method() {
    hidden(Box::new(Assert(1)) as Box<dyn Fault>).fail();
}

struct Divide(u32);

impl Fault for Divide {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("divide_method");
        let parts = hidden(0_u32);
        log::info!("{}", hidden(7) / parts); // fault: divide_method
    }
}

pub fn divide_method() {
    hidden(Box::new(Divide(1)) as Box<dyn Fault>).fail();
}

struct Overflow(u32);

impl Fault for Overflow {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("overflow_method");
        let least = hidden(i32::MIN);
        log::info!("{}", least / hidden(-1)); // fault: overflow_method
    }
}

pub fn overflow_method() {
    hidden(Box::new(Overflow(1)) as Box<dyn Fault>).fail();
}

struct Borrow(u32);

impl Fault for Borrow {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("borrow_method");
        let cell = hidden(RefCell::new(7));
        let first = cell.borrow_mut();
        let second = cell.borrow_mut(); // fault: borrow_method
        log::info!("{first} {second}");
    }
}

pub fn borrow_method() {
    hidden(Box::new(Borrow(1)) as Box<dyn Fault>).fail();
}

struct Slice(u32);

impl Fault for Slice {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("slice_method");
        let text = hidden("über");
        log::info!("{}", &text[..hidden(1)]); // fault: slice_method
    }
}

pub fn slice_method() {
    hidden(Box::new(Slice(1)) as Box<dyn Fault>).fail();
}

struct Range(u32);

impl Fault for Range {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("range_method");
        let list = hidden([1, 2, 3]);
        log::info!("{:?}", &list[hidden(3)..hidden(2)]); // fault: range_method
    }
}

pub fn range_method() {
    hidden(Box::new(Range(1)) as Box<dyn Fault>).fail();
}

struct Map(u32);

impl Fault for Map {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("map_method");
        let map: BTreeMap<&str, u32> = hidden(BTreeMap::new());
        log::info!("{}", map["total"]); // fault: map_method
    }
}

pub fn map_method() {
    hidden(Box::new(Map(1)) as Box<dyn Fault>).fail();
}

struct Copy(u32);

impl Fault for Copy {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("copy_method");
        let (mut to, from) = (hidden([0_u8; 4]), hidden(vec![1_u8; 5]));
        to.copy_from_slice(&from); // fault: copy_method
        log::info!("{to:?}");
    }
}

pub fn copy_method() {
    hidden(Box::new(Copy(1)) as Box<dyn Fault>).fail();
}

struct Remove(u32);

impl Fault for Remove {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("remove_method");
        let mut list = hidden(vec![1]);
        log::info!("{}", list.remove(hidden(4))); // fault: remove_method
    }
}

pub fn remove_method() {
    hidden(Box::new(Remove(1)) as Box<dyn Fault>).fail();
}

struct Abort(u32);

impl Fault for Abort {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("abort_method");
        if hidden(true) {
            log::info!("about to abort");
            std::process::abort(); // fault: abort_method
        }
    }
}

pub fn abort_method() {
    hidden(Box::new(Abort(1)) as Box<dyn Fault>).fail();
}

struct Trap(u32);

impl Fault for Trap {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("trap_method");
        if hidden(true) {
            log::info!("about to trap");
            trap(); // fault: trap_method
        }
    }
}

pub fn trap_method() {
    hidden(Box::new(Trap(1)) as Box<dyn Fault>).fail();
}

fn descend_recursion_method(depth: u64) -> u64 {
    let room = hidden([depth; 64]);
    let more = if room[0] == u64::MAX {
        0
    } else {
        descend_recursion_method(depth + 1) // fault: recursion_method
    };
    more + room[63] + 83
}

struct Recursion(u32);

impl Fault for Recursion {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("recursion_method");
        log::info!("{}", descend_recursion_method(1));
    }
}

pub fn recursion_method() {
    hidden(Box::new(Recursion(1)) as Box<dyn Fault>).fail();
}

struct Memory(u32);

impl Fault for Memory {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("memory_method");
        let mut hoard: Vec<u64> = Vec::new();
        loop {
            hoard.push(hidden(7)); // fault: memory_method
        }
    }
}

pub fn memory_method() {
    hidden(Box::new(Memory(1)) as Box<dyn Fault>).fail();
}

struct Strings(u32);

impl Fault for Strings {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("strings_method");
        let mut text = hidden(String::from("seven"));
        loop {
            text = text.repeat(2); // fault: strings_method
        }
    }
}

pub fn strings_method() {
    hidden(Box::new(Strings(1)) as Box<dyn Fault>).fail();
}

struct Loop(u32);

impl Fault for Loop {
    fn fail(&self) {
        log::debug!("{}", self.0);
        log::debug!("loop_method");
        let mut count = hidden(0_u64);
        loop {
            count = hidden(count) ^ 3; // fault: loop_method
        }
    }
}

pub fn loop_method() {
    hidden(Box::new(Loop(1)) as Box<dyn Fault>).fail();
}
