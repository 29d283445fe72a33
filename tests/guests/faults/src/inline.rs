//! Faults in functions that the compiler must inline.

use std::{cell::RefCell, collections::BTreeMap};

use innesco_sdk::prelude::*;

use super::{hidden, trap};

#[inline(always)]
fn panic_inline_inner() {
    log::debug!("panic_inline");
    panic!("unlucky {}", hidden(13)); // fault: panic_inline
}

pub fn panic_inline() {
    panic_inline_inner();
    hidden(());
}

#[inline(always)]
fn index_inline_inner() {
    log::debug!("index_inline");
    let list = hidden(vec![1, 2, 3]);
    log::info!("{}", list[hidden(7)]); // fault: index_inline
}

pub fn index_inline() {
    index_inline_inner();
    hidden(());
}

#[inline(always)]
fn unwrap_inline_inner() {
    log::debug!("unwrap_inline");
    let none: Option<u32> = hidden(None);
    log::info!("{}", none.unwrap()); // fault: unwrap_inline
}

pub fn unwrap_inline() {
    unwrap_inline_inner();
    hidden(());
}

#[inline(always)]
fn expect_inline_inner() {
    log::debug!("expect_inline");
    let text = hidden("seven");
    log::info!("{}", text.parse::<u32>().expect("a number")); // fault: expect_inline
}

pub fn expect_inline() {
    expect_inline_inner();
    hidden(());
}

#[inline(always)]
fn unreachable_inline_inner() {
    log::debug!("unreachable_inline");
    if hidden(true) {
        unreachable!("this is reached"); // fault: unreachable_inline
    }
}

pub fn unreachable_inline() {
    unreachable_inline_inner();
    hidden(());
}

#[inline(always)]
fn assert_inline_inner() {
    log::debug!("assert_inline");
    let total = hidden(7);
    assert!(total > 8, "too small"); // fault: assert_inline
}

pub fn assert_inline() {
    assert_inline_inner();
    hidden(());
}

#[inline(always)]
fn divide_inline_inner() {
    log::debug!("divide_inline");
    let parts = hidden(0_u32);
    log::info!("{}", hidden(7) / parts); // fault: divide_inline
}

pub fn divide_inline() {
    divide_inline_inner();
    hidden(());
}

#[inline(always)]
fn overflow_inline_inner() {
    log::debug!("overflow_inline");
    let least = hidden(i32::MIN);
    log::info!("{}", least / hidden(-1)); // fault: overflow_inline
}

pub fn overflow_inline() {
    overflow_inline_inner();
    hidden(());
}

#[inline(always)]
fn borrow_inline_inner() {
    log::debug!("borrow_inline");
    let cell = hidden(RefCell::new(7));
    let first = cell.borrow_mut();
    let second = cell.borrow_mut(); // fault: borrow_inline
    log::info!("{first} {second}");
}

pub fn borrow_inline() {
    borrow_inline_inner();
    hidden(());
}

#[inline(always)]
fn slice_inline_inner() {
    log::debug!("slice_inline");
    let text = hidden("über");
    log::info!("{}", &text[..hidden(1)]); // fault: slice_inline
}

pub fn slice_inline() {
    slice_inline_inner();
    hidden(());
}

#[inline(always)]
fn range_inline_inner() {
    log::debug!("range_inline");
    let list = hidden([1, 2, 3]);
    log::info!("{:?}", &list[hidden(3)..hidden(2)]); // fault: range_inline
}

pub fn range_inline() {
    range_inline_inner();
    hidden(());
}

#[inline(always)]
fn map_inline_inner() {
    log::debug!("map_inline");
    let map: BTreeMap<&str, u32> = hidden(BTreeMap::new());
    log::info!("{}", map["total"]); // fault: map_inline
}

pub fn map_inline() {
    map_inline_inner();
    hidden(());
}

#[inline(always)]
fn copy_inline_inner() {
    log::debug!("copy_inline");
    let (mut to, from) = (hidden([0_u8; 4]), hidden(vec![1_u8; 5]));
    to.copy_from_slice(&from); // fault: copy_inline
    log::info!("{to:?}");
}

pub fn copy_inline() {
    copy_inline_inner();
    hidden(());
}

#[inline(always)]
fn remove_inline_inner() {
    log::debug!("remove_inline");
    let mut list = hidden(vec![1]);
    log::info!("{}", list.remove(hidden(4))); // fault: remove_inline
}

pub fn remove_inline() {
    remove_inline_inner();
    hidden(());
}

#[inline(always)]
fn abort_inline_inner() {
    log::debug!("abort_inline");
    if hidden(true) {
        log::info!("about to abort");
        std::process::abort(); // fault: abort_inline
    }
}

pub fn abort_inline() {
    abort_inline_inner();
    hidden(());
}

#[inline(always)]
fn trap_inline_inner() {
    log::debug!("trap_inline");
    if hidden(true) {
        log::info!("about to trap");
        trap(); // fault: trap_inline
    }
}

pub fn trap_inline() {
    trap_inline_inner();
    hidden(());
}

fn descend_recursion_inline(depth: u64) -> u64 {
    let room = hidden([depth; 64]);
    let more = if room[0] == u64::MAX {
        0
    } else {
        descend_recursion_inline(depth + 1) // fault: recursion_inline
    };
    more + room[63] + 82
}

#[inline(always)]
fn recursion_inline_inner() {
    log::debug!("recursion_inline");
    log::info!("{}", descend_recursion_inline(1));
}

pub fn recursion_inline() {
    recursion_inline_inner();
    hidden(());
}

#[inline(always)]
fn memory_inline_inner() {
    log::debug!("memory_inline");
    let mut hoard: Vec<u64> = Vec::new();
    loop {
        hoard.push(hidden(7)); // fault: memory_inline
    }
}

pub fn memory_inline() {
    memory_inline_inner();
    hidden(());
}

#[inline(always)]
fn strings_inline_inner() {
    log::debug!("strings_inline");
    let mut text = hidden(String::from("seven"));
    loop {
        text = text.repeat(2); // fault: strings_inline
    }
}

pub fn strings_inline() {
    strings_inline_inner();
    hidden(());
}

#[inline(always)]
fn loop_inline_inner() {
    log::debug!("loop_inline");
    let mut count = hidden(0_u64);
    loop {
        count = hidden(count) ^ 3; // fault: loop_inline
    }
}

pub fn loop_inline() {
    loop_inline_inner();
    hidden(());
}
