//! Cases about counts over time.

use std::time::Duration;

use super::bench::*;
use crate::domain::{
    id::EndpointId,
    stats::{About, Cell, Counts, Latencies},
    time::Timestamp,
};

fn accepted(accepted: u64) -> Counts {
    Counts { accepted, ..Counts::default() }
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + minutes * 60_000)
}

pub async fn counts_add_up_by_minute_and_by_hour(bench: &Bench) {
    let (crm, idle) = (About::Endpoint(EndpointId::from_i64(3)), About::Plugin(slug("idle")));
    let add = async |counts: &[(&About, u64)], minutes| {
        let counts = counts.iter().map(|(about, count)| ((*about).clone(), accepted(*count))).collect();
        bench.store.add_counts(counts, at(minutes)).await.unwrap();
    };
    add(&[(&About::Engine, 1), (&crm, 1)], 0).await;
    add(&[(&crm, 2), (&About::Engine, 2)], 0).await;
    add(&[(&About::Engine, 4)], 1).await;
    add(&[(&About::Engine, 8), (&crm, 8)], 60).await;
    let mut latencies = Latencies::default();
    latencies.note(Duration::from_millis(7));
    let slow = Counts { latencies, attempts_failed: 1, ..Counts::default() };
    bench.store.add_counts(vec![(About::Engine, slow.clone())], at(60)).await.unwrap();

    let after = bench.after_a_crash().await;
    let counts = async |about: &[&About], cell, since| {
        let about = about.iter().map(|about| (*about).clone()).collect();
        let found = after.store.counts(about, cell, since).await.unwrap();
        found.into_iter().map(|(about, at, counts)| (about.key(), at, counts.accepted)).collect::<Vec<_>>()
    };
    let minute = |minutes| at(minutes);
    let engine = |minutes, count| ("engine".to_owned(), minute(minutes), count);
    assert_eq!(counts(&[&About::Engine], Cell::Minute, at(0)).await, [engine(0, 3), engine(1, 4), engine(60, 8)]);
    assert_eq!(counts(&[&About::Engine], Cell::Minute, at(60)).await, [engine(60, 8)], "reads from the sheet of that hour");
    let hour = |minutes| Cell::Hour.start(Cell::Hour.place(at(minutes)).0, Cell::Hour.place(at(minutes)).1);
    let of_crm = |minutes, count| (crm.key(), hour(minutes), count);
    assert_eq!(counts(&[&idle, &crm], Cell::Hour, at(0)).await, [of_crm(0, 3), of_crm(60, 8)]);
    assert_eq!(counts(&[&crm], Cell::Minute, at(0)).await, [], "only the engine is counted by the minute");
    let whole = after.store.counts(vec![About::Engine], Cell::Minute, at(60)).await.unwrap().remove(0).2;
    assert_eq!((whole.attempts_failed, &whole.latencies), (1, &slow.latencies));
}

pub async fn old_counts_are_deleted(bench: &Bench) {
    let write = async |minutes| bench.store.add_counts(vec![(About::Engine, accepted(1))], at(minutes)).await.unwrap();
    let known = async |cell| bench.store.counts(vec![About::Engine], cell, at(0)).await.unwrap().len();
    write(0).await;
    write(25 * 60).await;
    assert_eq!((known(Cell::Minute).await, known(Cell::Hour).await), (2, 2));
    write(27 * 60).await;
    assert_eq!((known(Cell::Minute).await, known(Cell::Hour).await), (2, 3), "minutes are kept for a day");
    write(10 * 24 * 60).await;
    assert_eq!((known(Cell::Minute).await, known(Cell::Hour).await), (1, 1), "hours are kept for a week");
}
