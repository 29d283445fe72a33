//! How far an exchange has come: for the sentence that explains a timeout, and to know a kept connection from a new one.
//!
//! The client tells neither, so the resolver and a layer around the connector note it in a task-local value.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

/// What an exchange is busy with, up to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing was dialled: a kept connection serves.
    Kept,
    LookingUp,
    Connecting,
    Connected,
}

/// Shared with the connecting, which hyper may finish in the background while the exchange goes on over another connection.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Runs `exchange` with its phases noted here.
    pub(super) async fn scope<T>(&self, exchange: impl Future<Output = T>) -> T {
        PROGRESS.scope(self.clone(), exchange).await
    }

    fn note(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        let phases = [Phase::Kept, Phase::LookingUp, Phase::Connecting, Phase::Connected];
        phases[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

tokio::task_local! {
    static PROGRESS: Progress;
}

/// Notes a phase of the exchange that the current task is making, if it is making one.
pub(super) fn note_phase(phase: Phase) {
    let _ = PROGRESS.try_with(|progress| progress.note(phase));
}

/// Wraps the connector: notes when dialling begins and when it is done.
#[derive(Clone)]
pub(super) struct NotePhase;

#[derive(Clone)]
pub(super) struct NotingConnector<S>(S);

impl<S> tower::Layer<S> for NotePhase {
    type Service = NotingConnector<S>;

    fn layer(&self, connector: S) -> NotingConnector<S> {
        NotingConnector(connector)
    }
}

impl<S, Target> tower::Service<Target> for NotingConnector<S>
where
    S: tower::Service<Target>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let progress = PROGRESS.try_with(Progress::clone).unwrap_or_default();
        progress.note(Phase::Connecting);
        let connecting = self.0.call(target);
        Box::pin(async move {
            let connection = connecting.await?;
            progress.note(Phase::Connected);
            Ok(connection)
        })
    }
}
