//! Faults in plain functions.

use std::{cell::RefCell, collections::BTreeMap};

use innesco_sdk::prelude::*;

use super::{hidden, trap};

pub fn panic_plain() {
    log::debug!("panic_plain");
    panic!("unlucky {}", hidden(13)); // fault: panic_plain
}

pub fn index_plain() {
    log::debug!("index_plain");
    let list = hidden(vec![1, 2, 3]);
    log::info!("{}", list[hidden(7)]); // fault: index_plain
}

pub fn unwrap_plain() {
    log::debug!("unwrap_plain");
    let none: Option<u32> = hidden(None);
    log::info!("{}", none.unwrap()); // fault: unwrap_plain
}

pub fn expect_plain() {
    log::debug!("expect_plain");
    let text = hidden("seven");
    log::info!("{}", text.parse::<u32>().expect("a number")); // fault: expect_plain
}

pub fn unreachable_plain() {
    log::debug!("unreachable_plain");
    if hidden(true) {
        unreachable!("this is reached"); // fault: unreachable_plain
    }
}

pub fn assert_plain() {
    log::debug!("assert_plain");
    let total = hidden(7);
    assert!(total > 8, "too small"); // fault: assert_plain
}

pub fn divide_plain() {
    log::debug!("divide_plain");
    let parts = hidden(0_u32);
    log::info!("{}", hidden(7) / parts); // fault: divide_plain
}

pub fn overflow_plain() {
    log::debug!("overflow_plain");
    let least = hidden(i32::MIN);
    log::info!("{}", least / hidden(-1)); // fault: overflow_plain
}

pub fn borrow_plain() {
    log::debug!("borrow_plain");
    let cell = hidden(RefCell::new(7));
    let first = cell.borrow_mut();
    let second = cell.borrow_mut(); // fault: borrow_plain
    log::info!("{first} {second}");
}

pub fn slice_plain() {
    log::debug!("slice_plain");
    let text = hidden("über");
    log::info!("{}", &text[..hidden(1)]); // fault: slice_plain
}

pub fn range_plain() {
    log::debug!("range_plain");
    let list = hidden([1, 2, 3]);
    log::info!("{:?}", &list[hidden(3)..hidden(2)]); // fault: range_plain
}

pub fn map_plain() {
    log::debug!("map_plain");
    let map: BTreeMap<&str, u32> = hidden(BTreeMap::new());
    log::info!("{}", map["total"]); // fault: map_plain
}

pub fn copy_plain() {
    log::debug!("copy_plain");
    let (mut to, from) = (hidden([0_u8; 4]), hidden(vec![1_u8; 5]));
    to.copy_from_slice(&from); // fault: copy_plain
    log::info!("{to:?}");
}

pub fn remove_plain() {
    log::debug!("remove_plain");
    let mut list = hidden(vec![1]);
    log::info!("{}", list.remove(hidden(4))); // fault: remove_plain
}

pub fn abort_plain() {
    log::debug!("abort_plain");
    if hidden(true) {
        log::info!("about to abort");
        std::process::abort(); // fault: abort_plain
    }
}

pub fn trap_plain() {
    log::debug!("trap_plain");
    if hidden(true) {
        log::info!("about to trap");
        trap(); // fault: trap_plain
    }
}

fn descend_recursion_plain(depth: u64) -> u64 {
    let room = hidden([depth; 64]);
    let more = if room[0] == u64::MAX {
        0
    } else {
        descend_recursion_plain(depth + 1) // fault: recursion_plain
    };
    more + room[63] + 81
}

pub fn recursion_plain() {
    log::debug!("recursion_plain");
    log::info!("{}", descend_recursion_plain(1));
}

pub fn memory_plain() {
    log::debug!("memory_plain");
    let mut hoard: Vec<u64> = Vec::new();
    loop {
        hoard.push(hidden(7)); // fault: memory_plain
    }
}

pub fn strings_plain() {
    log::debug!("strings_plain");
    let mut text = hidden(String::from("seven"));
    loop {
        text = text.repeat(2); // fault: strings_plain
    }
}

pub fn loop_plain() {
    log::debug!("loop_plain");
    let mut count = hidden(0_u64);
    loop {
        count = hidden(count) ^ 3; // fault: loop_plain
    }
}
