//! Faults in generic functions.

use std::{cell::RefCell, collections::BTreeMap, fmt::Display};

use innesco_sdk::prelude::*;

use super::{hidden, trap};

fn panic_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("panic_generic");
    panic!("unlucky {}", hidden(13)); // fault: panic_generic
}

pub fn panic_generic() {
    panic_generic_of(hidden(7));
}

fn index_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("index_generic");
    let list = hidden(vec![1, 2, 3]);
    log::info!("{}", list[hidden(7)]); // fault: index_generic
}

pub fn index_generic() {
    index_generic_of(hidden(7));
}

fn unwrap_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("unwrap_generic");
    let none: Option<u32> = hidden(None);
    log::info!("{}", none.unwrap()); // fault: unwrap_generic
}

pub fn unwrap_generic() {
    unwrap_generic_of(hidden(7));
}

fn expect_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("expect_generic");
    let text = hidden("seven");
    log::info!("{}", text.parse::<u32>().expect("a number")); // fault: expect_generic
}

pub fn expect_generic() {
    expect_generic_of(hidden(7));
}

fn unreachable_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("unreachable_generic");
    if hidden(true) {
        unreachable!("this is reached"); // fault: unreachable_generic
    }
}

pub fn unreachable_generic() {
    unreachable_generic_of(hidden(7));
}

fn assert_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("assert_generic");
    let total = hidden(7);
    assert!(total > 8, "too small"); // fault: assert_generic
}

pub fn assert_generic() {
    assert_generic_of(hidden(7));
}

fn divide_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("divide_generic");
    let parts = hidden(0_u32);
    log::info!("{}", hidden(7) / parts); // fault: divide_generic
}

pub fn divide_generic() {
    divide_generic_of(hidden(7));
}

fn overflow_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("overflow_generic");
    let least = hidden(i32::MIN);
    log::info!("{}", least / hidden(-1)); // fault: overflow_generic
}

pub fn overflow_generic() {
    overflow_generic_of(hidden(7));
}

fn borrow_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("borrow_generic");
    let cell = hidden(RefCell::new(7));
    let first = cell.borrow_mut();
    let second = cell.borrow_mut(); // fault: borrow_generic
    log::info!("{first} {second}");
}

pub fn borrow_generic() {
    borrow_generic_of(hidden(7));
}

fn slice_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("slice_generic");
    let text = hidden("über");
    log::info!("{}", &text[..hidden(1)]); // fault: slice_generic
}

pub fn slice_generic() {
    slice_generic_of(hidden(7));
}

fn range_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("range_generic");
    let list = hidden([1, 2, 3]);
    log::info!("{:?}", &list[hidden(3)..hidden(2)]); // fault: range_generic
}

pub fn range_generic() {
    range_generic_of(hidden(7));
}

fn map_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("map_generic");
    let map: BTreeMap<&str, u32> = hidden(BTreeMap::new());
    log::info!("{}", map["total"]); // fault: map_generic
}

pub fn map_generic() {
    map_generic_of(hidden(7));
}

fn copy_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("copy_generic");
    let (mut to, from) = (hidden([0_u8; 4]), hidden(vec![1_u8; 5]));
    to.copy_from_slice(&from); // fault: copy_generic
    log::info!("{to:?}");
}

pub fn copy_generic() {
    copy_generic_of(hidden(7));
}

fn remove_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("remove_generic");
    let mut list = hidden(vec![1]);
    log::info!("{}", list.remove(hidden(4))); // fault: remove_generic
}

pub fn remove_generic() {
    remove_generic_of(hidden(7));
}

fn abort_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("abort_generic");
    if hidden(true) {
        log::info!("about to abort");
        std::process::abort(); // fault: abort_generic
    }
}

pub fn abort_generic() {
    abort_generic_of(hidden(7));
}

fn trap_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("trap_generic");
    if hidden(true) {
        log::info!("about to trap");
        trap(); // fault: trap_generic
    }
}

pub fn trap_generic() {
    trap_generic_of(hidden(7));
}

fn descend_recursion_generic(depth: u64) -> u64 {
    let room = hidden([depth; 64]);
    let more = if room[0] == u64::MAX {
        0
    } else {
        descend_recursion_generic(depth + 1) // fault: recursion_generic
    };
    more + room[63] + 85
}

fn recursion_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("recursion_generic");
    log::info!("{}", descend_recursion_generic(1));
}

pub fn recursion_generic() {
    recursion_generic_of(hidden(7));
}

fn memory_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("memory_generic");
    let mut hoard: Vec<u64> = Vec::new();
    loop {
        hoard.push(hidden(7)); // fault: memory_generic
    }
}

pub fn memory_generic() {
    memory_generic_of(hidden(7));
}

fn strings_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("strings_generic");
    let mut text = hidden(String::from("seven"));
    loop {
        text = text.repeat(2); // fault: strings_generic
    }
}

pub fn strings_generic() {
    strings_generic_of(hidden(7));
}

fn loop_generic_of<T: Display>(value: T) {
    log::debug!("{value}");
    log::debug!("loop_generic");
    let mut count = hidden(0_u64);
    loop {
        count = hidden(count) ^ 3; // fault: loop_generic
    }
}

pub fn loop_generic() {
    loop_generic_of(hidden(7));
}
