//! Cases about the audit trail: an entry is stored before its change, and completed with the result of the change.

use std::time::Duration;

use super::bench::*;
use crate::{
    clock,
    domain::{retention::Retention, time::Timestamp},
    store::{AuditEntry, AuditFilter, NewAudit, PageRequest},
};

fn change(key: &str, action: &str, at: Timestamp) -> NewAudit {
    NewAudit { at, key: key.into(), action: action.into(), target: None }
}

async fn trail(bench: &Bench, filter: AuditFilter) -> Vec<AuditEntry> {
    bench.store.audit(filter, PageRequest { cursor: None, limit: 1_000 }).await.unwrap().items
}

pub async fn a_change_is_recorded_before_it_is_made(bench: &Bench) {
    let at = clock::wall();
    let named = NewAudit { target: Some("crm".into()), ..change("ops", "endpoint.update", at) };
    let (first, second) = (
        bench.store.begin_audit(named.clone()).await.unwrap(),
        bench.store.begin_audit(change("ops", "key.create", at)).await.unwrap(),
    );
    let bench = bench.after_a_crash().await;
    let entries = trail(&bench, AuditFilter::default()).await;
    assert_eq!(entries.iter().map(|entry| (entry.id, entry.status)).collect::<Vec<_>>(), [(second, None), (first, None)]);
    assert_eq!(entries[1].new, named);

    bench.store.finish_audit(first, 200, Some("ep_7".into()), Some(vec!["url".into(), "é,".into()])).await.unwrap();
    bench.store.finish_audit(second, 422, Some("key_9".into()), None).await.unwrap();
    let entries = trail(&bench.after_a_crash().await, AuditFilter::default()).await;
    let shown: Vec<_> = entries.iter().map(|entry| (entry.status, entry.new.target.as_deref())).collect();
    assert_eq!(shown, [(Some(422), Some("key_9")), (Some(200), Some("crm"))], "a target that was known before stays");
    assert_eq!((entries[0].members.len(), &entries[1].members[..]), (0, &["url".to_owned(), "é,".to_owned()][..]));
}

pub async fn an_entry_of_a_change_that_was_not_made_is_withdrawn(bench: &Bench) {
    let at = clock::wall();
    let mut ids = Vec::new();
    for action in ["endpoint.create", "endpoint.update", "endpoint.delete"] {
        ids.push(bench.store.begin_audit(change("ops", action, at)).await.unwrap());
    }
    bench.store.finish_audit(ids[1], 422, None, None).await.unwrap();
    for _ in 0..2 {
        bench.store.withdraw_audit(ids[1]).await.unwrap();
    }
    let left: Vec<_> = trail(bench, AuditFilter::default()).await.into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, [ids[2], ids[0]]);
    let next = bench.store.begin_audit(change("ops", "endpoint.create", at)).await.unwrap();
    assert!(!ids.contains(&next), "the id of an entry that was withdrawn is not used again");
}

pub async fn the_trail_is_filtered_and_comes_in_pages(bench: &Bench) {
    let at = |seconds: u64| Timestamp::from_millis(1_000_000).plus(Duration::from_secs(seconds));
    for seconds in 0..6 {
        let key = if seconds % 2 == 0 { "even" } else { "odd" };
        let action = if seconds < 3 { "endpoint.create" } else { "endpoint.delete" };
        bench.store.begin_audit(change(key, action, at(seconds))).await.unwrap();
    }
    let when = async |filter| {
        let entries = trail(bench, filter).await;
        entries.iter().map(|entry| entry.new.at.since(at(0)).as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(when(AuditFilter::default()).await, [5, 4, 3, 2, 1, 0]);
    let odd = AuditFilter { key: Some("odd".into()), ..AuditFilter::default() };
    assert_eq!(when(odd.clone()).await, [5, 3, 1]);
    assert_eq!(when(AuditFilter { action: Some("endpoint.delete".into()), ..odd }).await, [5, 3]);
    assert_eq!(when(AuditFilter { since: Some(at(2)), until: Some(at(4)), ..AuditFilter::default() }).await, [3, 2]);

    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let page = bench.store.audit(AuditFilter::default(), PageRequest { cursor, limit: 4 }).await.unwrap();
        pages.push(page.items.len());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [4, 2]);
}

pub async fn old_entries_are_deleted(bench: &Bench) {
    let retention = Retention { audit: Duration::from_secs(3600), ..Retention::default() };
    let now = clock::wall();
    // These are more entries than one step deletes.
    for _ in 0..700 {
        bench.store.begin_audit(change("ops", "endpoint.update", now.minus(Duration::from_secs(3601)))).await.unwrap();
    }
    let young = bench.store.begin_audit(change("ops", "key.create", now.minus(Duration::from_secs(3599)))).await.unwrap();
    while bench.store.retire(retention, now).await.unwrap() > 0 {}
    let entries = trail(bench, AuditFilter::default()).await;
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [young]);
    let next = bench.after_a_crash().await.store.begin_audit(change("ops", "key.create", now)).await.unwrap();
    assert!(next > young);
}
