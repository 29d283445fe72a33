//! `innesco listen`: a receiver that verifies and prints each webhook.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    output::{self, DIM, GREEN, RED, Styled},
    serve,
};
use crate::{
    clock,
    domain::signature::{Rejection, Verifier, verify},
};

/// Bytes of one webhook that are taken.
const BODY_MAX: usize = 16 << 20;

#[derive(clap::Args)]
pub struct ListenArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9099", value_name = "ADDRESS:PORT")]
    listen: std::net::SocketAddr,
    /// A secret to verify with: whsec_… or whpk_…; can be repeated. Without one, webhooks are printed unverified
    #[arg(long)]
    secret: Vec<String>,
    /// What to answer
    #[arg(long, default_value_t = 200, value_name = "STATUS")]
    status: u16,
}

/// One webhook, as it arrived.
pub struct Heard {
    pub path: String,
    pub id: String,
    /// `None` where there is nothing to verify with.
    pub verified: Option<Result<(), Rejection>>,
    pub body: Bytes,
}

impl Heard {
    /// What the verification came to, in words.
    pub fn verdict(&self) -> String {
        match &self.verified {
            None => Styled(DIM, "not verified: no --secret was given").to_string(),
            Some(Ok(())) => Styled(GREEN, "signature verified").to_string(),
            Some(Err(rejection)) => Styled(RED, format!("NOT VERIFIED: {rejection}")).to_string(),
        }
    }

    /// The body on one line if it is short JSON, else as it is, cut to a screenful.
    pub fn shown_body(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        match serde_json::from_slice::<Value>(&self.body) {
            Ok(value) if text.len() > 120 => serde_json::to_string_pretty(&value).unwrap_or_default(),
            _ => text.chars().take(4_000).collect(),
        }
    }
}

/// Whoever wants to know what was heard. Called before the answer is sent.
pub type Ear = Arc<dyn Fn(Heard) + Send + Sync>;

/// What the webhooks of a path are verified with.
pub type Keyring = Arc<dyn Fn(&str) -> Vec<Verifier> + Send + Sync>;

#[derive(Clone)]
struct Receiver {
    verifiers: Keyring,
    ear: Ear,
    status: StatusCode,
}

/// Receives until `stop`. `verifiers` says what a path's webhooks are verified with.
pub async fn receive(
    listener: TcpListener,
    verifiers: Keyring,
    ear: Ear,
    status: StatusCode,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new().fallback(hear).layer(axum::extract::DefaultBodyLimit::max(BODY_MAX)).with_state(Receiver {
        verifiers,
        ear,
        status,
    });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn hear(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
    let verifiers = (receiver.verifiers)(uri.path());
    let verified = (!verifiers.is_empty()).then(|| verify(&verifiers, header, &body, clock::wall()));
    let heard = Heard { path: uri.path().to_owned(), id: header("webhook-id").unwrap_or("-").to_owned(), verified, body };
    // As a receiver should: what does not verify is not taken.
    let status = if matches!(heard.verified, Some(Err(_))) { StatusCode::UNAUTHORIZED } else { receiver.status };
    (receiver.ear)(heard);
    status
}

pub fn run(args: &ListenArgs) -> anyhow::Result<()> {
    let verifiers = args
        .secret
        .iter()
        .map(|secret| Verifier::parse(secret).map_err(|bad| anyhow::anyhow!("--secret: {bad}, or \"whpk_\" and the public key")))
        .collect::<Result<Vec<_>, _>>()?;
    let status = StatusCode::from_u16(args.status)
        .map_err(|_| anyhow::anyhow!("--status {}: write a status of HTTP, such as 200 or 503", args.status))?;
    let ear: Ear = Arc::new(|heard: Heard| {
        let time = output::local_time(&clock::wall().to_string());
        anstream::println!("{}  webhook  {}  {}  {}", Styled(DIM, time), heard.path, heard.id, heard.verdict());
        for line in heard.shown_body().lines() {
            anstream::println!("          {line}");
        }
    });
    serve::runtime()?.block_on(async {
        let listener = serve::listen(args.listen).await?;
        anstream::println!("listening at http://{}; Ctrl-C ends", listener.local_addr()?);
        let stop = CancellationToken::new();
        serve::stop_on_signal(stop.clone())?;
        Ok(receive(listener, Arc::new(move |_| verifiers.clone()), ear, status, stop).await?)
    })
}
