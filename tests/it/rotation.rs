//! A secret is rotated under load. A receiver verifies with the old secret at first, then with both secrets, and finally only with
//! the new one. It can verify every webhook.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    receivers::{Answer, Received, Receiver},
};

/// The secret with which a receiver verifies.
#[derive(Clone)]
enum Verifier {
    /// The official library.
    Official(Arc<standardwebhooks::Webhook>),
    /// A plain implementation of ed25519, which follows the rule of `v1a`, because the official library does not support `v1a`.
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl Verifier {
    /// Reads the secret from the answer to a request that created or rotated it.
    fn of(reply: &Value) -> Self {
        match reply["public_key"].as_str() {
            None => {
                let secret = reply["secret"].as_str().expect("a secret");
                Self::Official(Arc::new(standardwebhooks::Webhook::new(secret).expect("a secret of Standard Webhooks")))
            }
            Some(public) => {
                let bytes = BASE64_STANDARD.decode(public.strip_prefix("whpk_").expect("a public key")).expect("base64");
                let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes.try_into().expect("32 bytes"));
                Self::Ed25519(key.expect("a point of the curve"))
            }
        }
    }

    fn accepts(&self, received: &Received) -> bool {
        match self {
            Self::Official(webhook) => {
                let pairs = received.headers.iter();
                let headers: HeaderMap =
                    pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect();
                webhook.verify(&received.body, &headers).is_ok()
            }
            Self::Ed25519(key) => {
                let header = |name| received.header(name).expect("a header of Standard Webhooks");
                let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), received.text());
                header("webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1a,")).any(|signature| {
                    let bytes = BASE64_STANDARD.decode(signature).expect("base64");
                    let signature = ed25519_dalek::Signature::from_slice(&bytes).expect("64 bytes");
                    key.verify_strict(signed.as_bytes(), &signature).is_ok()
                })
            }
        }
    }
}

/// Sends events as fast as they are accepted, from a few callers, until stopped.
struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(engine: &Engine) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..3)
            .map(|_| {
                let (stop, accepted, url) = (Arc::clone(&stop), Arc::clone(&accepted), format!("{}/v1/events", engine.url));
                tokio::spawn(async move {
                    let client = client();
                    while !stop.load(Ordering::Relaxed) {
                        let event = json!({ "type": "a.b", "data": { "text": "grüezi" } });
                        let answer = client.post(&url).bearer_auth(KEY).json(&event).send().await.expect("an answer");
                        assert_eq!(answer.status(), 202);
                        accepted.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
            })
            .collect();
        Self { stop, accepted, callers }
    }

    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("every event was accepted");
        }
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn rotated_under_load_every_webhook_verifies(signature: &str) {
    let engine = Engine::start(&[]);
    let verifiers: Arc<Mutex<Vec<Verifier>>> = Arc::default();
    let refused: Arc<Mutex<Vec<Received>>> = Arc::default();
    let receiver = {
        let (verifiers, refused) = (Arc::clone(&verifiers), Arc::clone(&refused));
        Receiver::answering(move |received| {
            if !verifiers.lock().unwrap().iter().any(|verifier| verifier.accepts(received)) {
                refused.lock().unwrap().push(received.clone());
                return Answer::status(401);
            }
            // Every tenth webhook is retried with a new signature.
            Answer::status(if received.number % 10 == 9 { 503 } else { 200 })
        })
        .await
    };
    let waits: Vec<_> = std::iter::once("0s").chain(std::iter::repeat_n("50ms", 30)).collect();
    let endpoint = json!({ "name": "crm", "url": receiver.url("/"), "events": ["*"], "signature": signature, "schedule": waits });
    let created = engine.ok("POST", "/v1/endpoints", endpoint).await;
    *verifiers.lock().unwrap() = vec![Verifier::of(&created)];
    let load = Load::start(&engine);
    receiver.wait_for_count(60, DEADLINE).await;

    for _ in 0..2 {
        let old = verifiers.lock().unwrap()[0].clone();
        let reply = engine.ok("POST", "/v1/endpoints/crm/rotate-secret", json!({ "grace": "1s" })).await;
        let new = Verifier::of(&reply);
        // Webhooks that were signed earlier are still in flight, so the old secret stays valid.
        verifiers.lock().unwrap().push(new.clone());
        let seen = receiver.received().len();
        let both = |one: &Received| old.accepts(one) && new.accepts(one);
        receiver
            .wait_for("webhooks signed with both", DEADLINE, |all| all[seen..].iter().filter(|one| both(one)).count() >= 20)
            .await;
        let until = Instant::now() + DEADLINE;
        // A receiver notices the end of the grace period when a webhook is no longer signed with the old secret.
        while receiver.received().last().is_none_or(|one| old.accepts(one)) {
            assert!(Instant::now() < until, "the old secret still signs after its grace period");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *verifiers.lock().unwrap() = vec![new.clone()];
        let seen = receiver.received().len();
        let all = receiver.wait_for_count(seen + 60, DEADLINE).await;
        assert!(all[seen..].iter().all(|one| !old.accepts(one)), "after its grace the old secret signs nothing");
    }

    let accepted = load.finish().await;
    let ids = |all: &[Received]| -> usize {
        let taken = all.iter().filter(|one| one.number % 10 != 9);
        taken.map(|one| one.header("webhook-id").expect("an id").to_owned()).collect::<BTreeSet<_>>().len()
    };
    receiver.wait_for("every event accepted is delivered", DEADLINE, |all| ids(all) == accepted).await;
    let refused = refused.lock().unwrap().clone();
    assert!(refused.is_empty(), "{} webhooks could not be verified, the first: {:?}", refused.len(), refused[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_rotated_under_load_leaves_no_webhook_unverifiable() {
    rotated_under_load_every_webhook_verifies("v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_rotated_under_load_leaves_no_webhook_unverifiable() {
    rotated_under_load_every_webhook_verifies("v1a").await;
}
