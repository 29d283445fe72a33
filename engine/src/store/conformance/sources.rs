//! Cases about sources, and about the requests of their events.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::bench::*;
use crate::{
    domain::{
        endpoint::HeldSecret,
        event::NewEvent,
        id::SourceId,
        request::Request,
        signature::Secret,
        source::{Draft, FormerToken, NewSource, Refused, Requests, Source, Token},
        time::Timestamp,
    },
    store::{Error, Store},
};

fn held(text: &str, until: Option<i64>) -> HeldSecret {
    HeldSecret { secret: Secret::Text(text.to_owned()), until: until.map(Timestamp::from_millis) }
}

fn source(name: &str, draft: Draft) -> NewSource {
    NewSource {
        name: slug(name),
        title: None,
        token: Token::from_seed([9; 16]),
        former: Vec::new(),
        settings: draft.settle().unwrap(),
        draft,
        secrets: vec![held("a-secret-of-theirs", None)],
        verify_token: None,
    }
}

fn github() -> Draft {
    Draft { preset: "github".to_owned(), ..Draft::default() }
}

async fn find(bench: &Bench, id: SourceId) -> Source {
    let found = bench.store.sources().await.unwrap().into_iter().find(|source| source.id == id);
    found.expect("the source exists")
}

fn shown(source: &Source) -> String {
    let secrets: Vec<_> = source.new.secrets.iter().map(|held| (held.secret.reveal(), held.until)).collect();
    let addresses: Vec<_> = source.addresses().collect();
    let verify_token = source.new.verify_token.as_ref().map(Secret::reveal);
    format!("{source:?} {secrets:?} {addresses:?} {verify_token:?}")
}

pub async fn a_source_reads_back_and_is_changed_as_a_whole(bench: &Bench) {
    let some = |text: &str| Some(text.to_owned());
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let draft = Draft {
        preset: "hmac".to_owned(),
        header: some("x-sig"),
        signature: None,
        secret_encoding: some("base64"),
        algorithm: some("sha512"),
        encoding: some("base64"),
        prefix: some("v1,"),
        template: some("{timestamp}.{body}"),
        list_key: some("v1"),
        timestamp: some("list:t"),
        tolerance: some("10m"),
        username: None,
        challenge: some("query:challenge"),
        type_from: some("body:/kind"),
        type_prefix: some("crm"),
        dedupe: some("digest"),
        attributes: vec![("channel".to_owned(), "body:/list".to_owned())],
        methods: list(&["POST", "PUT"]),
        content_types: list(&["application/json"]),
        body_as: Some("json".into()),
        allow: list(&["192.0.2.0/24"]),
        headers: Some(list(&["x-topic"])),
        body_bytes_max: Some(1000),
        rate: some("50/s"),
        answer_status: Some(202),
        answer_body: some("ok é\n"),
        answer_content_type: some("text/plain"),
    };
    let new = NewSource {
        title: some("Our CRM"),
        secrets: vec![held("the-newest-one", None), held("an-older-one", Some(77))],
        verify_token: Some(Secret::Text("what-a-hub-knows".to_owned())),
        former: vec![FormerToken { token: Token::from_seed([8; 16]), until: Timestamp::from_millis(99) }],
        ..source("crm", draft)
    };
    let created = bench.store.create_source(new).await.unwrap();
    let after = bench.after_a_crash().await;
    let read = find(&after, created.id).await;
    assert_eq!(shown(&read), shown(&created));

    let token = Token::from_seed([1; 16]);
    let changed = Source { new: NewSource { token, secrets: vec![], ..source("crm", github()) }, ..read };
    after.store.update_source(changed.clone()).await.unwrap();
    assert_eq!(shown(&find(&after.after_a_crash().await, created.id).await), shown(&changed));
    let unknown = Source { id: SourceId::from_i64(99), ..changed.clone() };
    assert_eq!(bench.store.update_source(unknown).await, Err(Error::NotFound { what: "source" }));
    let renamed = Source { new: NewSource { name: slug("other"), ..changed.new.clone() }, ..changed };
    assert_eq!(bench.store.update_source(renamed).await, Err(Error::NotFound { what: "source" }), "its name is fixed");
}

pub async fn a_sources_name_is_unique_until_it_is_deleted(bench: &Bench) {
    let create = async |name: &str| bench.store.create_source(source(name, github())).await.map(|source| source.id);
    let first = create("shop").await.unwrap();
    assert_eq!(create("shop").await, Err(Error::Taken { what: "source", name: "shop".into() }));
    bench.store.delete_source(first).await.unwrap();
    assert_eq!(bench.store.delete_source(first).await, Err(Error::NotFound { what: "source" }));
    assert_ne!(create("shop").await.unwrap(), first, "its id is never issued again");
    create("a").await.unwrap();
    let names: Vec<_> = bench.store.sources().await.unwrap().iter().map(|one| one.new.name.to_string()).collect();
    assert_eq!(names, ["a", "shop"]);
}

pub async fn requests_to_a_source_add_up_until_it_is_deleted(bench: &Bench) {
    let shop = bench.store.create_source(source("shop", github())).await.unwrap();
    assert!(bench.store.source_requests().await.unwrap()[&shop.id].is_empty());
    let refused = |at: i64, detail: &str| Refused {
        at: Timestamp::from_millis(at),
        address: "2001:db8::1".parse().unwrap(),
        reason: "mismatch".into(),
        detail: detail.to_owned(),
    };
    let first = Requests {
        accepted: 2,
        duplicates: 1,
        refused: 1,
        last_accepted: Some(Timestamp::from_millis(5)),
        refusals: vec![refused(4, "\"é\" is not\nexpected")],
    };
    let second = Requests { accepted: 1, refused: 2, refusals: vec![refused(7, "b")], ..Requests::default() };
    let mut all = first.clone();
    all.add(second.clone());
    bench.store.add_source_requests(vec![(shop.id, first)]).await.unwrap();
    let unknown = SourceId::from_i64(99);
    bench.store.add_source_requests(vec![(unknown, second.clone()), (shop.id, second)]).await.unwrap();
    let after = bench.after_a_crash().await;
    assert_eq!(after.store.source_requests().await.unwrap(), HashMap::from([(shop.id, all.clone())]));
    let changed = Source { new: NewSource { title: Some("Shop".to_owned()), ..shop.new.clone() }, ..shop };
    after.store.update_source(changed.clone()).await.unwrap();
    assert_eq!(
        after.store.source_requests().await.unwrap()[&changed.id],
        all,
        "a change of the source keeps the counts of its requests"
    );
    after.store.delete_source(changed.id).await.unwrap();
    let again = after.store.create_source(source("shop", github())).await.unwrap();
    assert!(after.store.source_requests().await.unwrap()[&again.id].is_empty());
}

pub async fn secrets_of_a_source_open_after_a_change_of_the_master_key(bench: &Bench) {
    let before = bench.store.create_source(source("shop", github())).await.unwrap();
    bench.store.reseal().await.unwrap();
    assert_eq!(shown(&find(bench, before.id).await), shown(&before));
    assert_eq!(shown(&find(&bench.after_a_crash().await, before.id).await), shown(&before));
}

pub async fn a_sealed_value_opens_for_its_context_only_and_after_a_restart(bench: &Bench) {
    let sealed = bench.store.seal("session", b"one").unwrap();
    let open = |store: &dyn Store, context: &str, sealed: &[u8]| store.unseal(context, sealed).map(|plain| plain.to_vec());
    assert_eq!(open(&*bench.store, "session", &sealed).as_deref(), Some(&b"one"[..]));
    assert_eq!(open(&*bench.store, "other", &sealed), None);
    let mut changed = sealed.clone();
    changed[30] ^= 1;
    assert_eq!(open(&*bench.store, "session", &changed), None);
    assert_eq!(open(&*bench.store, "session", b"short"), None);
    let after = bench.after_a_crash().await;
    assert_eq!(open(&*after.store, "session", &sealed).as_deref(), Some(&b"one"[..]));
    after.store.reseal().await.unwrap();
    assert!(open(&*after.store, "session", &sealed).is_some(), "the old key is kept until a restart");
}

pub async fn the_request_of_an_event_is_stored_with_it(bench: &Bench) {
    let request = |body: Option<&'static [u8]>| Request {
        method: "PUT".to_owned(),
        query: "a=1&b=%20".to_owned(),
        headers: vec![("x-topic".to_owned(), "\"é\"".to_owned()), ("x-topic".to_owned(), "again".to_owned())],
        body: body.map(Bytes::from_static),
    };
    let kept = [Some(request(Some(b"\x00\xff"))), Some(request(None)), None];
    let mut ids = Vec::new();
    for request in &kept {
        let claim = bench.accept(NewEvent { request: request.clone().map(Arc::new), ..event("a") }).await;
        assert_eq!(claim.event.new.request.as_deref(), request.as_ref());
        ids.push(claim.event.id);
    }
    let after = bench.after_a_crash().await;
    assert_eq!(after.claim().await, kept.len());
    let claims = after.events().await;
    for (id, request) in ids.into_iter().zip(&kept) {
        assert_eq!(after.story(id).await.event.new.request.as_deref(), request.as_ref());
        let again = claims.iter().find(|one| one.event.id == id).expect("it is claimed again");
        assert_eq!(again.event.new.request.as_deref(), request.as_ref(), "a later run sees the request too");
    }
}
