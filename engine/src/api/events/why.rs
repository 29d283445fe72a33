//! Explains why an endpoint did or did not receive an event: gathers facts from the store and the catalog for `domain::why`.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::event_id;
use crate::{
    api::{Api, error::Problem, page::Query, path::Path},
    clock,
    domain::{
        delivery::DeliveryState,
        id::{EndpointId, EventId, Tag},
        name::Slug,
        run::RunState,
        why::{DeliveryFact, PluginFact, RunFact, Situation, Target, Why, why},
    },
    store::{PassageDelivery, StoredRun},
    wire::{WhyStepView, WhyView},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// Name or id of the endpoint. It need not exist.
    #[param(example = "crm")]
    endpoint: String,
}

/// Explain why an endpoint did or did not receive an event.
///
/// The answer names what decided (type, `where`, plugins and their outcomes, state of the endpoint, circuit breaker, rate, order,
/// schedule) and what would change the decision. Circuit breaker, rate and concurrency are those of the node that answers.
#[utoipa::path(
    get, path = "/v1/events/{event}/why", operation_id = "explain_event", tag = "events",
    params(("event" = EventId, Path, description = "Id of the event, `evt_…`."), Asked),
    responses((status = 200, description = "What decided, and what would change it.", body = WhyView)),
)]
pub async fn explain(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(Asked { endpoint }): Query<Asked>,
) -> Result<Json<WhyView>, Problem> {
    let why = answer(&api, event_id(&api, &id)?, &endpoint).await?;
    Ok(Json(WhyView::new(id, endpoint, &why, api.store.tag())))
}

/// Asks the store and the catalog about one event and one endpoint, by name or id.
pub async fn answer(api: &Api, event: EventId, endpoint: &str) -> Result<Why, Problem> {
    let (tag, endpoints, plugins) = (api.store.tag(), api.catalog.endpoints(), api.catalog.plugins());
    let by_id = EndpointId::parse(endpoint, tag);
    let known = by_id.and_then(|id| endpoints.get(id)).or_else(|| endpoints.named(endpoint));
    let id = known.map(|known| known.id).or_else(|| endpoints.deleted(endpoint)).or(by_id);
    let passage = api.store.passage(event, id).await?;
    let target = match known {
        Some(known) => Target::Exists(known),
        None => match passage.deliveries.first().filter(|_| by_id.is_some()) {
            Some(delivery) => Target::Deleted { name: &delivery.summary.endpoint_name },
            None if endpoints.deleted(endpoint).is_some() => Target::Deleted { name: endpoint },
            None => Target::Missing { name: endpoint, nearest: endpoints.nearest(endpoint) },
        },
    };
    let situation = Situation {
        tag,
        now: clock::wall(),
        event: &passage.event,
        to_run: passage.parts.to_run,
        endpoint: target,
        plugins: plugins
            .iter()
            .map(|entry| PluginFact { name: entry.row.name.clone(), on: entry.on.clone(), halt: entry.row.halt })
            .collect(),
        runs: passage.runs.iter().map(run_fact).collect(),
        deliveries: passage.deliveries.iter().map(delivery_fact).collect(),
        // A plugin whose name no longer parses cannot exist now.
        senders: passage.senders.iter().filter_map(|name| Slug::parse(name).ok()).collect(),
        standing: id.and_then(|id| api.catalog.standing(id)),
    };
    Ok(why(&situation))
}

fn run_fact(run: &StoredRun) -> RunFact {
    let state = match run.state {
        RunState::Waiting { due } => RunState::Waiting { due: clock::as_wall(due) },
        other => other,
    };
    RunFact {
        id: run.id,
        round: run.round,
        plugin: run.plugin.clone(),
        is_endpoints: run.endpoint.is_some(),
        state,
        outcome: run.outcome,
        message: run.message.clone(),
        wants: run.wants.clone(),
        tries: run.tries,
        webhooks: run.webhooks,
    }
}

fn delivery_fact(PassageDelivery { summary, is_claimed, behind }: &PassageDelivery) -> DeliveryFact {
    let state = match summary.state {
        DeliveryState::Pending { due } => DeliveryState::Pending { due: clock::as_wall(due) },
        DeliveryState::Retrying { due } => DeliveryState::Retrying { due: clock::as_wall(due) },
        other => other,
    };
    DeliveryFact {
        id: summary.id,
        round: summary.round,
        run: summary.run,
        state,
        attempts: summary.attempts,
        last: summary.last.as_ref().map(|last| last.attempt.outcome),
        is_claimed: *is_claimed,
        behind: *behind,
    }
}

impl WhyView {
    fn new(event: String, endpoint: String, why: &Why, tag: Tag) -> Self {
        let step = |step: &crate::domain::why::Step| WhyStepView {
            link: step.link.as_str().into(),
            stopped: step.stopped.map(|verdict| verdict.as_str().into()),
            found: step.found.clone(),
        };
        Self {
            event,
            endpoint,
            verdict: why.verdict.as_str().into(),
            link: why.link.as_str().into(),
            reason: why.reason.clone(),
            at: why.at.map(|at| at.to_string()),
            change: why.change.clone(),
            commands: why.commands.clone(),
            run: why.run.map(|run| run.text(tag)),
            delivery: why.delivery.map(|delivery| delivery.text(tag)),
            chain: why.chain.iter().map(step).collect(),
        }
    }
}
