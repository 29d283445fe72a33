//! Endpoints: creating, changing and deleting them. Every change raises the config version in its transaction.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Postgres, accept,
    db::{clean, execute, found, get, row, rows, the_row},
    jobs,
    nodes::raise_config_version,
    rows::{self as values, ENDPOINT_COLUMNS},
};
use crate::{
    clock,
    domain::{
        command::{EndpointUse, may_delete},
        delivery::{CancelReason, DeadReason},
        endpoint::{Endpoint, EndpointState, NewEndpoint, Policy},
        event::NewEvent,
        id::EndpointId,
        name::Slug,
        time::Timestamp,
    },
    metrics::meters,
    store::{
        Deletion, Endpoints, Error, Seal,
        columns::{EndpointColumns, Place},
        endpoints::{BACKLOG_COUNTED_MAX, Backlog, DELETED_KNOWN_MAX, SENT_CHECKED_MAX, WAITING_COUNTED_MAX},
    },
};

/// Maximum number of deliveries that one step of [`Endpoints::close_deliveries`] closes.
const CLOSE_MAX: i64 = 500;

#[async_trait]
impl Endpoints for Postgres {
    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error> {
        self.step_sealing(move |tx, seal| {
            let endpoint = endpoint.clone();
            Box::pin(async move { create(tx, &seal, endpoint).await })
        })
        .await
    }

    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error> {
        self.step_sealing(move |tx, seal| {
            let endpoint = endpoint.clone();
            Box::pin(async move { update(tx, &seal, endpoint).await })
        })
        .await
    }

    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        notice: Option<NewEvent>,
    ) -> Result<bool, Error> {
        let from = from.to_vec();
        let changed = self
            .step_as_node(move |tx, local, node, after| {
                Box::pin(async move {
                    let changed = set_state(tx, id, &from, to).await?;
                    if changed {
                        accept::insert_all(tx, local, node, notice.into_iter().collect(), after).await?;
                    }
                    if changed && to == EndpointState::Active {
                        jobs::hurry(tx, id, clock::wall(), after).await?;
                    }
                    Ok(changed)
                })
            })
            .await?;
        self.local.due(clock::steady());
        Ok(changed)
    }

    async fn delete_endpoint(&self, id: EndpointId, deletion: Deletion, notice: Option<NewEvent>) -> Result<(), Error> {
        self.step_as_node(move |tx, local, node, after| {
            Box::pin(async move {
                if let Deletion::Unused { serving } = deletion {
                    refuse_used(tx, id, &serving).await?;
                }
                delete(tx, id).await?;
                accept::insert_all(tx, local, node, notice.into_iter().collect(), after).await
            })
        })
        .await
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.read_sealed(|tx, local| Box::pin(async move { all(tx, &local.seals.all()).await })).await
    }

    async fn backlogs(&self, endpoints: &[EndpointId]) -> Result<Vec<Backlog>, Error> {
        let endpoints: Vec<i64> = endpoints.iter().map(|id| id.as_i64()).collect();
        self.read(move |tx, _| Box::pin(async move { backlogs(tx, &endpoints).await })).await
    }

    async fn deleted_endpoints(&self) -> Result<Vec<(Slug, EndpointId)>, Error> {
        self.read(|tx, _| Box::pin(all_deleted(tx))).await
    }

    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
        self.step(move |tx, _| {
            Box::pin(async move {
                let sql = "UPDATE endpoint SET failing_since = $1 WHERE id = $2";
                execute(tx, sql, &[&since.map(Timestamp::millis), &id.as_i64()]).await?;
                Ok(())
            })
        })
        .await
    }

    async fn failing_endpoints(&self) -> Result<Vec<(EndpointId, Timestamp)>, Error> {
        self.read(|tx, _| Box::pin(all_failing(tx))).await
    }

    async fn close_deliveries(&self, at: Timestamp) -> Result<usize, Error> {
        let (closed, dead) = self.step(move |tx, _| Box::pin(close_deliveries(tx, at))).await?;
        meters().dead(DeadReason::EndpointDisabled.as_str(), dead);
        Ok(closed)
    }
}

/// Returns whether only one node at a time may send to an endpoint. Several nodes together could not enforce an order, a rate, or
/// a concurrency below the default.
pub fn is_single(policy: &Policy) -> bool {
    policy.rate.is_some() || policy.ordering.is_some() || policy.concurrency < Policy::CONCURRENCY_DEFAULT
}

async fn create(tx: &Transaction<'_>, seal: &Seal, new: NewEndpoint) -> Result<Endpoint, Error> {
    let created_at = clock::wall();
    let columns = EndpointColumns::of(&new, seal)?;
    let sql =
        "INSERT INTO endpoint (name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed, single)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
               ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING RETURNING id";
    let created = row(
        tx,
        sql,
        &[
            &columns.name,
            &columns.title.as_deref().map(clean),
            &columns.url,
            &columns.events,
            &columns.conditions,
            &columns.plugin,
            &columns.scheme,
            &columns.state,
            &created_at.millis(),
            &columns.policy,
            &columns.sealed,
            &is_single(&new.policy),
        ],
    )
    .await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "endpoint", name: new.name.to_string() });
    };
    raise_config_version(tx).await?;
    Ok(Endpoint { id: EndpointId::from_i64(get(&created, 0)?), created_at, failing_since: None, new })
}

async fn update(tx: &Transaction<'_>, seal: &Seal, mut endpoint: Endpoint) -> Result<(), Error> {
    let id = endpoint.id.as_i64();
    let known = row(tx, "SELECT name FROM endpoint WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", &[&id]).await?;
    let known = known.ok_or(Error::NotFound { what: "endpoint" })?;
    // The name of an endpoint never changes, and its secrets are bound to the name.
    endpoint.new.name = Slug::parse(get(&known, 0)?).map_err(|_| Place { table: "endpoint", id }.corrupt("name"))?;
    let columns = EndpointColumns::of(&endpoint.new, seal)?;
    execute(
        tx,
        "UPDATE endpoint SET title = $1, url = $2, events = $3, conditions = $4, plugin = $5, scheme = $6, policy = $7, sealed = $8,
             single = $9
         WHERE id = $10",
        &[
            &columns.title.as_deref().map(clean),
            &columns.url,
            &columns.events,
            &columns.conditions,
            &columns.plugin,
            &columns.scheme,
            &columns.policy,
            &columns.sealed,
            &is_single(&endpoint.new.policy),
            &id,
        ],
    )
    .await?;
    raise_config_version(tx).await
}

async fn set_state(tx: &Transaction<'_>, id: EndpointId, from: &[EndpointState], to: EndpointState) -> Result<bool, Error> {
    let from: Vec<&str> = from.iter().map(|state| state.as_str()).collect();
    let sql = "UPDATE endpoint SET state = $1 WHERE id = $2 AND state = ANY($3) AND deleted_at IS NULL";
    let changed = execute(tx, sql, &[&to.as_str(), &id.as_i64(), &from]).await? > 0;
    if changed {
        raise_config_version(tx).await?;
    }
    Ok(changed)
}

/// Refuses to delete an endpoint if deliveries wait for it, or if one of these plugins recently sent webhooks to it by its name.
async fn refuse_used(tx: &Transaction<'_>, id: EndpointId, serving: &[Slug]) -> Result<(), Error> {
    let id = id.as_i64();
    let known = row(tx, "SELECT name FROM endpoint WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", &[&id]).await?;
    let known = known.ok_or(Error::NotFound { what: "endpoint" })?;
    // Each kind of delivery has a separate index.
    let sql =
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM live WHERE endpoint = $1 AND lease IS NULL AND ordering IS NULL LIMIT $2) l)
                   + (SELECT count(*) FROM (SELECT 1 FROM live WHERE endpoint = $1 AND ordering IS NOT NULL LIMIT $2) l)
                   + (SELECT count(*) FROM live WHERE endpoint = $1 AND lease IS NOT NULL AND ordering IS NULL)";
    let waiting: i64 = get(&the_row(tx, sql, &[&id, &WAITING_COUNTED_MAX]).await?, 0)?;
    let used = EndpointUse { waiting: waiting.unsigned_abs(), senders: senders(tx, id).await? };
    may_delete(get(&known, 0)?, &used.by(serving)).map_err(Error::Conflict)
}

async fn backlogs(tx: &Transaction<'_>, endpoints: &[i64]) -> Result<Vec<Backlog>, Error> {
    // Each kind of delivery has a separate index. The leased deliveries are few, and are read once for all endpoints.
    let sql = "WITH leased AS MATERIALIZED (
                   SELECT endpoint, count(*) AS number, min(id) AS first FROM live WHERE lease IS NOT NULL AND ordering IS NULL GROUP BY endpoint)
               SELECT w.number, (SELECT accepted_at FROM event WHERE id = w.first >> 14)
               FROM unnest($1::bigint[]) WITH ORDINALITY AS e (id, place)
               LEFT JOIN leased l ON l.endpoint = e.id
               CROSS JOIN LATERAL (SELECT count(*) AS number, min(id) AS first FROM (
                   (SELECT id FROM live WHERE endpoint = e.id AND lease IS NULL AND ordering IS NULL LIMIT $2)
                   UNION ALL (SELECT id FROM live WHERE endpoint = e.id AND ordering IS NOT NULL LIMIT $2)) i) f
               CROSS JOIN LATERAL (SELECT f.number + coalesce(l.number, 0) AS number, least(f.first, l.first) AS first) w
               ORDER BY e.place";
    let found = rows(tx, sql, &[&endpoints, &(BACKLOG_COUNTED_MAX + 1)]).await?;
    let read = |row: &Row| {
        let (waiting, oldest) = (get::<i64>(row, 0)?, get::<Option<i64>>(row, 1)?);
        let is_counted = waiting <= BACKLOG_COUNTED_MAX;
        Ok(Backlog {
            waiting: is_counted.then(|| waiting.unsigned_abs()),
            oldest: oldest.filter(|_| is_counted).map(Timestamp::from_millis),
        })
    };
    found.iter().map(read).collect()
}

/// Returns the plugins that recently sent webhooks to the endpoint by its name. For each plugin, returns the number of its webhooks
/// among the endpoint's last deliveries.
pub async fn senders(tx: &Transaction<'_>, id: i64) -> Result<Vec<(String, u64)>, Error> {
    let sql = "SELECT r.plugin, count(*) FROM (SELECT id FROM delivery WHERE endpoint = $1 ORDER BY id DESC LIMIT $2) d
               JOIN payload p ON p.id = d.id JOIN run r ON r.id = p.run WHERE r.endpoint IS NULL GROUP BY r.plugin ORDER BY r.plugin";
    let senders = rows(tx, sql, &[&id, &SENT_CHECKED_MAX]).await?;
    senders.iter().map(|row| Ok((get(row, 0)?, get::<i64>(row, 1)?.unsigned_abs()))).collect()
}

async fn all_failing(tx: &Transaction<'_>) -> Result<Vec<(EndpointId, Timestamp)>, Error> {
    let sql = "SELECT id, failing_since FROM endpoint WHERE failing_since IS NOT NULL AND deleted_at IS NULL ORDER BY name";
    let read = |row: &Row| Ok((EndpointId::from_i64(get(row, 0)?), Timestamp::from_millis(get(row, 1)?)));
    rows(tx, sql, &[]).await?.iter().map(read).collect()
}

async fn all_deleted(tx: &Transaction<'_>) -> Result<Vec<(Slug, EndpointId)>, Error> {
    let sql = "SELECT id, name FROM endpoint WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT $1";
    let read = |row: &Row| {
        let id: i64 = get(row, 0)?;
        let name = Slug::parse(get(row, 1)?).map_err(|_| Place { table: "endpoint", id }.corrupt("name"))?;
        Ok((name, EndpointId::from_i64(id)))
    };
    rows(tx, sql, &[&DELETED_KNOWN_MAX]).await?.iter().map(read).collect()
}

async fn delete(tx: &Transaction<'_>, id: EndpointId) -> Result<(), Error> {
    let sql = "UPDATE endpoint SET deleted_at = $1, sealed = NULL WHERE id = $2 AND deleted_at IS NULL";
    found(execute(tx, sql, &[&clock::wall().millis(), &id.as_i64()]).await?, "endpoint")?;
    raise_config_version(tx).await
}

async fn all(tx: &Transaction<'_>, seals: &[Arc<Seal>]) -> Result<Vec<Endpoint>, Error> {
    // The statement sorts by the bytes of the name, because the database may sort in another way by default.
    let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE deleted_at IS NULL ORDER BY name COLLATE \"C\"");
    rows(tx, &sql, &[]).await?.iter().map(|row| values::endpoint(row, seals)).collect()
}

/// Closes up to [`CLOSE_MAX`] deliveries that wait for disabled or deleted endpoints. Returns their number, and how many of them
/// are dead.
async fn close_deliveries(tx: &Transaction<'_>, at: Timestamp) -> Result<(usize, usize), Error> {
    let (mut closed, mut dead) = (0, 0);
    // Each kind of delivery has a separate index. The statement starts from the endpoints, because deliveries are far more
    // numerous.
    for kind in ["l.lease IS NULL AND l.ordering IS NULL", "l.lease IS NULL AND l.ordering IS NOT NULL"] {
        let sql = format!(
            "WITH gone AS (
                 DELETE FROM live WHERE id IN (
                     SELECT l.id FROM endpoint e CROSS JOIN LATERAL (
                         SELECT l.id FROM live l WHERE l.endpoint = e.id AND {kind} LIMIT $2 FOR UPDATE SKIP LOCKED) l
                     WHERE e.deleted_at IS NOT NULL OR e.state LIKE 'disabled%' LIMIT $2)
                 RETURNING id, endpoint, round, attempts)
             INSERT INTO delivery (id, endpoint, round, state, reason, cancel_reason, attempts, at)
             SELECT g.id, g.endpoint, g.round, CASE WHEN e.deleted_at IS NULL THEN 'dead' ELSE 'cancelled' END,
                 CASE WHEN e.deleted_at IS NULL THEN $3 END, CASE WHEN e.deleted_at IS NOT NULL THEN $4 END, g.attempts, $1
             FROM gone g JOIN endpoint e ON e.id = g.endpoint RETURNING state = 'dead'"
        );
        let reasons = (DeadReason::EndpointDisabled.as_str(), CancelReason::EndpointDeleted.as_str());
        for row in rows(tx, &sql, &[&at.millis(), &CLOSE_MAX, &reasons.0, &reasons.1]).await? {
            closed += 1;
            dead += usize::from(get::<bool>(&row, 0)?);
        }
    }
    Ok((closed, dead))
}
