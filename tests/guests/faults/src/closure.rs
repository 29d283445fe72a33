//! Faults in closures that an iterator calls.

use std::{cell::RefCell, collections::BTreeMap};

use innesco_sdk::prelude::*;

use super::{hidden, trap};

pub fn panic_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("panic_closure");
        panic!("unlucky {}", hidden(13)); // fault: panic_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn index_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("index_closure");
        let list = hidden(vec![1, 2, 3]);
        log::info!("{}", list[hidden(7)]); // fault: index_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn unwrap_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("unwrap_closure");
        let none: Option<u32> = hidden(None);
        log::info!("{}", none.unwrap()); // fault: unwrap_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn expect_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("expect_closure");
        let text = hidden("seven");
        log::info!("{}", text.parse::<u32>().expect("a number")); // fault: expect_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn unreachable_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("unreachable_closure");
        if hidden(true) {
            unreachable!("this is reached"); // fault: unreachable_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}

pub fn assert_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("assert_closure");
        let total = hidden(7);
        assert!(total > 8, "too small"); // fault: assert_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn divide_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("divide_closure");
        let parts = hidden(0_u32);
        log::info!("{}", hidden(7) / parts); // fault: divide_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn overflow_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("overflow_closure");
        let least = hidden(i32::MIN);
        log::info!("{}", least / hidden(-1)); // fault: overflow_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn borrow_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("borrow_closure");
        let cell = hidden(RefCell::new(7));
        let first = cell.borrow_mut();
        let second = cell.borrow_mut(); // fault: borrow_closure
        log::info!("{first} {second}");
    };
    (0..hidden(2)).for_each(fail);
}

pub fn slice_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("slice_closure");
        let text = hidden("über");
        log::info!("{}", &text[..hidden(1)]); // fault: slice_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn range_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("range_closure");
        let list = hidden([1, 2, 3]);
        log::info!("{:?}", &list[hidden(3)..hidden(2)]); // fault: range_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn map_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("map_closure");
        let map: BTreeMap<&str, u32> = hidden(BTreeMap::new());
        log::info!("{}", map["total"]); // fault: map_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn copy_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("copy_closure");
        let (mut to, from) = (hidden([0_u8; 4]), hidden(vec![1_u8; 5]));
        to.copy_from_slice(&from); // fault: copy_closure
        log::info!("{to:?}");
    };
    (0..hidden(2)).for_each(fail);
}

pub fn remove_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("remove_closure");
        let mut list = hidden(vec![1]);
        log::info!("{}", list.remove(hidden(4))); // fault: remove_closure
    };
    (0..hidden(2)).for_each(fail);
}

pub fn abort_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("abort_closure");
        if hidden(true) {
            log::info!("about to abort");
            std::process::abort(); // fault: abort_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}

pub fn trap_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("trap_closure");
        if hidden(true) {
            log::info!("about to trap");
            trap(); // fault: trap_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}

fn descend_recursion_closure(depth: u64) -> u64 {
    let room = hidden([depth; 64]);
    let more = if room[0] == u64::MAX {
        0
    } else {
        descend_recursion_closure(depth + 1) // fault: recursion_closure
    };
    more + room[63] + 84
}

pub fn recursion_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("recursion_closure");
        log::info!("{}", descend_recursion_closure(1));
    };
    (0..hidden(2)).for_each(fail);
}

pub fn memory_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("memory_closure");
        let mut hoard: Vec<u64> = Vec::new();
        loop {
            hoard.push(hidden(7)); // fault: memory_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}

pub fn strings_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("strings_closure");
        let mut text = hidden(String::from("seven"));
        loop {
            text = text.repeat(2); // fault: strings_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}

pub fn loop_closure() {
    let fail = |times: u32| {
        log::debug!("{times}");
        log::debug!("loop_closure");
        let mut count = hidden(0_u64);
        loop {
            count = hidden(count) ^ 3; // fault: loop_closure
        }
    };
    (0..hidden(2)).for_each(fail);
}
