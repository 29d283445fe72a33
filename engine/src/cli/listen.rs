//! `innesco listen`: a receiver that verifies and prints each webhook.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, Uri},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    measure,
    output::{self, DIM, GREEN, Printer, RED, Styled, indent},
    serve, wrong,
};
use crate::{
    clock,
    domain::signature::{Rejection, Verifier, verify},
};

/// Maximum size of a webhook's body, in bytes.
const BODY_MAX: usize = 16 << 20;
/// Maximum number of characters shown of a body.
const SHOWN_CHARS: usize = 4_000;
/// Longest JSON shown on one line, in characters.
const ONE_LINE: usize = 100;

#[derive(clap::Args)]
pub struct ListenArgs {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:9099", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Secret to verify with: whsec_… or whpk_…; can be repeated. Without one, webhooks are not verified
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Status of the answer; a webhook that fails the verification gets 401
    #[arg(long, default_value_t = 200, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
}

/// One received webhook.
pub struct Heard {
    pub path: String,
    pub id: String,
    /// The header `innesco-type`.
    pub event_type: Option<String>,
    pub verdict: Verdict,
    pub body: Bytes,
}

/// Result of the verification of a webhook.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Verified,
    Refused(Rejection),
    /// The webhook was not verified, for this reason.
    Unchecked(&'static str),
}

impl From<Result<(), Rejection>> for Verdict {
    fn from(verified: Result<(), Rejection>) -> Self {
        verified.map_or_else(Self::Refused, |()| Self::Verified)
    }
}

impl Heard {
    /// Formats the result of the verification.
    pub fn verdict(&self) -> String {
        match &self.verdict {
            Verdict::Unchecked(why) => Styled(DIM, format!("not verified: {why}")).to_string(),
            Verdict::Verified => Styled(GREEN, "signature verified").to_string(),
            Verdict::Refused(rejection) => Styled(RED, format!("not verified: {rejection}")).to_string(),
        }
    }

    /// Formats the body for a person: JSON on one line if it fits, otherwise indented; cut after a screenful.
    pub fn shown_body(&self) -> String {
        let text = match serde_json::from_slice::<Value>(&self.body) {
            Ok(value) if self.body.len() > ONE_LINE => serde_json::to_string_pretty(&value).unwrap_or_default(),
            _ => String::from_utf8_lossy(&self.body).into_owned(),
        };
        measure::lines(&measure::cut(&text, SHOWN_CHARS))
    }

    fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Formats time, type, id and verdict on one line, and the body below.
    fn as_text(&self) -> String {
        let in_body = || self.json().and_then(|body| body["type"].as_str().map(str::to_owned));
        let event_type = self.event_type.clone().or_else(in_body).map(|text| measure::one_line(&text));
        let path = if self.path == "/" { String::new() } else { format!("  {}", measure::one_line(&self.path)) };
        let line = format!(
            "{}  webhook  {}  {}{path}  {}",
            output::now(),
            event_type.as_deref().unwrap_or("(no type)"),
            Styled(DIM, measure::one_line(&self.id)),
            self.verdict()
        );
        if self.body.is_empty() { line } else { format!("{line}\n{}", indent(&self.shown_body())) }
    }

    fn as_json(&self) -> Value {
        let (verified, why) = match &self.verdict {
            Verdict::Unchecked(_) => (Value::Null, Value::Null),
            Verdict::Verified => (true.into(), Value::Null),
            Verdict::Refused(rejection) => (false.into(), rejection.to_string().into()),
        };
        let body = self.json().unwrap_or_else(|| String::from_utf8_lossy(&self.body).into());
        json!({ "at": clock::wall().to_string(), "id": self.id, "type": self.event_type, "path": self.path, "verified": verified, "why": why, "body": body })
    }
}

/// A callback for received webhooks. It is called before the answer is sent.
pub type Ear = Arc<dyn Fn(Heard) + Send + Sync>;

/// Verifies a webhook by its path, headers and body.
pub type Judge = Arc<dyn Fn(&str, &HeaderMap, &[u8]) -> Verdict + Send + Sync>;

#[derive(Clone)]
struct Receiver {
    judge: Judge,
    ear: Ear,
    status: StatusCode,
}

/// Receives webhooks until `stop`.
pub async fn receive(
    listener: TcpListener,
    judge: Judge,
    ear: Ear,
    status: StatusCode,
    stop: CancellationToken,
) -> io::Result<()> {
    let limit = axum::extract::DefaultBodyLimit::max(BODY_MAX);
    let router = Router::new().fallback(hear).layer(limit).with_state(Receiver { judge, ear, status });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn hear(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, BytesRejection> {
    let body = body.inspect_err(|error| {
        output::tell!("a webhook was not received: {}", measure::one_line(&error.to_string()));
    })?;
    let verdict = (receiver.judge)(uri.path(), &headers, &body);
    let id = header(&headers, "webhook-id").unwrap_or("(no id)").to_owned();
    let event_type = header(&headers, "innesco-type").map(str::to_owned);
    let heard = Heard { path: uri.path().to_owned(), id, event_type, verdict, body };
    // Refuses a webhook that fails the verification, as every receiver should.
    let status = if matches!(heard.verdict, Verdict::Refused(_)) { StatusCode::UNAUTHORIZED } else { receiver.status };
    (receiver.ear)(heard);
    Ok(status)
}

/// Returns a header of Standard Webhooks. Some senders still use its older name, which is accepted too.
fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    let older = || headers.get(format!("svix-{}", name.trim_start_matches("webhook-")));
    headers.get(name).or_else(older).and_then(|value| value.to_str().ok())
}

pub fn run(args: &ListenArgs, out: &Printer) -> anyhow::Result<()> {
    let verifiers = verifiers(&args.secret)?;
    let status = StatusCode::from_u16(args.status)?;
    let stop = CancellationToken::new();
    let json = out.for_script();
    let ear: Ear = {
        let stop = stop.clone();
        Arc::new(move |heard: Heard| {
            let text = if json { heard.as_json().to_string() } else { heard.as_text() };
            if output::print(&text).is_err() {
                // The reader of standard output has closed it.
                stop.cancel();
            }
        })
    };
    serve::runtime()?.block_on(async {
        let listener = serve::listen(args.listen)?;
        let verifying = match verifiers.len() {
            0 => "not verifying: no --secret was given".to_owned(),
            secrets => format!("verifying with {}", measure::count(secrets as u64, "secret")),
        };
        output::tell!("listening at http://{}  {verifying}; Ctrl-C ends", listener.local_addr()?);
        serve::stop_on_signal(stop.clone())?;
        Ok(receive(listener, judge(verifiers), ear, status, stop).await?)
    })
}

/// Returns a callback that verifies webhooks with these secrets on every path.
fn judge(verifiers: Vec<Verifier>) -> Judge {
    Arc::new(move |_, headers, body| match verifiers.is_empty() {
        true => Verdict::Unchecked("no --secret was given"),
        false => verify(&verifiers, |name| header(headers, name), body, clock::wall()).into(),
    })
}

fn verifiers(secrets: &[String]) -> anyhow::Result<Vec<Verifier>> {
    let read = |secret: &String| {
        Verifier::parse(secret.trim()).map_err(|_| {
            wrong(
                "--secret is malformed: give the sender's secret, whsec_ and base64; \
                 or for ed25519 its public key, whpk_ and base64",
            )
        })
    };
    secrets.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn heard(body: &'static [u8], verdict: Verdict) -> Heard {
        Heard { path: "/".into(), id: "dlv_1".into(), event_type: None, verdict, body: Bytes::from_static(body) }
    }

    fn text_of(heard: &Heard) -> String {
        let text = anstream::adapter::strip_str(&heard.as_text()).to_string();
        text.split_once("  ").unwrap().1.to_owned()
    }

    #[test]
    fn formats_received_webhooks() {
        let short = heard(b"{\"type\": \"order.created\", \"data\": {\"id\": 7}}", Verdict::Verified);
        let expected =
            "webhook  order.created  dlv_1  signature verified\n          {\"type\": \"order.created\", \"data\": {\"id\": 7}}";
        assert_eq!(text_of(&short), expected);
        let unsigned = heard(b"\x1b[2Jplain", Verdict::Refused(Rejection::Missing("webhook-signature")));
        assert_eq!(
            text_of(&unsigned),
            "webhook  (no type)  dlv_1  not verified: the header webhook-signature is missing\n          \\u{1b}[2Jplain"
        );
        assert_eq!(
            text_of(&heard(b"", Verdict::Unchecked("no --secret was given"))),
            "webhook  (no type)  dlv_1  not verified: no --secret was given"
        );
        let of_a_plugin =
            Heard { event_type: Some("order.big".into()), ..heard(b"{\"type\": \"the receiver's\"}", Verdict::Verified) };
        assert!(text_of(&of_a_plugin).starts_with("webhook  order.big  dlv_1"), "the header decides: {}", text_of(&of_a_plugin));
        let json = short.as_json();
        assert_eq!((&json["verified"], &json["why"], &json["body"]["data"]["id"]), (&true.into(), &Value::Null, &7.into()));
    }

    #[test]
    fn refuses_malformed_secrets() {
        assert_eq!(verifiers(&[SECRET.into(), " whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=\n".into()]).unwrap().len(), 2);
        let error = verifiers(&["whsec_secret!".into()]).err().unwrap().to_string();
        assert!(!error.contains("secret!"), "the error does not repeat a possible secret: {error}");
    }

    /// Uses a real socket. A webhook that the official library signed is verified, and a changed one is refused.
    #[tokio::test]
    async fn the_receiver_verifies_the_official_signer() {
        // The error is ignored, because another test may have installed the provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (all, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let ear: Ear = {
            let all = Arc::clone(&all);
            Arc::new(move |one| all.lock().unwrap().push(one))
        };
        let verifier = Verifier::parse(SECRET).unwrap();
        let receiving = tokio::spawn(receive(listener, judge(vec![verifier]), ear, StatusCode::NO_CONTENT, stop.clone()));

        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let now = clock::wall().seconds();
        let signer = standardwebhooks::Webhook::new(SECRET).unwrap();
        let body = "{\"type\":\"order.created\"}";
        let send = |prefix: &str, body: &str, at: i64| {
            let signature = signer.sign("msg_1", at, b"{\"type\":\"order.created\"}").unwrap();
            http.post(&url)
                .header(format!("{prefix}-id"), "msg_1")
                .header(format!("{prefix}-timestamp"), at.to_string())
                .header(format!("{prefix}-signature"), signature)
                .body(body.to_owned())
                .send()
        };
        assert_eq!(send("webhook", body, now).await.unwrap().status(), 204);
        assert_eq!(send("svix", body, now).await.unwrap().status(), 204);
        assert_eq!(send("webhook", "{\"type\":\"order.deleted\"}", now).await.unwrap().status(), 401);
        assert_eq!(send("webhook", body, now - 400).await.unwrap().status(), 401);
        stop.cancel();
        drop(http);
        receiving.await.unwrap().unwrap();
        let verdicts: Vec<_> = all.lock().unwrap().drain(..).map(|heard| heard.verdict).collect();
        let refused = Verdict::Refused;
        assert_eq!(
            verdicts,
            [Verdict::Verified, Verdict::Verified, refused(Rejection::NoMatch), refused(Rejection::TooOldOrNew)]
        );
    }
}
