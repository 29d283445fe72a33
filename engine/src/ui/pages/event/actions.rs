//! Changes from the page of an event. Each goes through the API and then redirects to the page, which shows what was done beside
//! the changed part.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};

use super::read;
use crate::{
    api::Problem,
    clock,
    ui::{
        Ui,
        form::Form,
        parts::{segment, with_query},
        view::back,
    },
};

/// Redirects to the page, which then shows what was done to a part.
fn said(form: &Form, action: &str, part: &str) -> Response {
    let to = with_query(back(form.fields.get("back")), "said", Some(&format!("{action}~{part}~{}", clock::wall())));
    Redirect::to(&with_query(&to, "ask", None)).into_response()
}

pub async fn retry_delivery(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/deliveries/{}/retry", segment(&id)), None).await?;
    Ok(said(&form, "retried", &id))
}

pub async fn cancel_delivery(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/deliveries/{}/cancel", segment(&id)), None).await?;
    Ok(said(&form, "cancelled", &id))
}

pub async fn retry_run(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/runs/{}/retry", segment(&id)), None).await?;
    Ok(said(&form, "retried", &id))
}

pub async fn replay(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/events/{}/replay", segment(&id)), None).await?;
    Ok(said(&form, "replayed", &id))
}

/// Cancels what an event has not caused yet, and shows the number of cancelled parts.
pub async fn cancel(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    let done = ui.act(&form.visit, Method::POST, &format!("/v1/events/{}/cancel", segment(&id)), None).await?;
    let number: u64 = ["waiting", "runs", "deliveries", "scheduled"].iter().filter_map(|part| done[*part].as_u64()).sum();
    Ok(said(&form, &format!("cancelled-{number}"), &id))
}

/// Retries every dead or waiting delivery and every parked run of an event. A part that changed in the meantime is skipped.
///
/// # Errors
/// If no part could be retried. Returns the first problem.
pub async fn retry_failed(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    let story = read(&ui, &id, None).await?;
    let runs = story.runs.iter().filter(|run| run.run.state == "parked").map(|run| format!("/v1/runs/{}/retry", run.run.id));
    let is_failed = |state: &str| matches!(state, "dead" | "retrying");
    let deliveries = story.deliveries.iter().map(|one| &one.delivery).filter(|one| is_failed(&one.state));
    let deliveries = deliveries.map(|one| format!("/v1/deliveries/{}/retry", one.id));
    let (mut done, mut first) = (0, None);
    for path in runs.chain(deliveries) {
        match ui.act(&form.visit, Method::POST, &path, None).await {
            Ok(_) => done += 1,
            Err(problem) => first = first.or(Some(problem)),
        }
    }
    match first {
        Some(problem) if done == 0 => Err(problem),
        _ => Ok(said(&form, "retried", &id)),
    }
}
