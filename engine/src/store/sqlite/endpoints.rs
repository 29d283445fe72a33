//! Endpoints: creating, changing and deleting them. Each step makes all its checks before it changes anything.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Sqlite, accept,
    attempts::finish,
    jobs,
    leases::LeasedDeliveries,
    rows::{self, ENDPOINT_COLUMNS, EndpointColumns, Place, found},
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        command::{EndpointUse, may_delete},
        delivery::{CancelReason, DeadReason, Ending},
        endpoint::{Endpoint, EndpointState, NewEndpoint},
        event::NewEvent,
        id::{DeliveryId, EndpointId},
        name::Slug,
        time::Timestamp,
    },
    metrics::meters,
    store::{
        Deletion, Endpoints, Error, Seal,
        endpoints::{BACKLOG_COUNTED_MAX, Backlog, DELETED_KNOWN_MAX, SENT_CHECKED_MAX, WAITING_COUNTED_MAX},
    },
};

/// Maximum number of deliveries that one step of [`Endpoints::close_deliveries`] closes.
const CLOSE_MAX: u32 = 500;

#[async_trait]
impl Endpoints for Sqlite {
    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error> {
        self.write(move |db, local| create(db, &local.seals.current(), endpoint)).await
    }

    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error> {
        self.write(move |db, local| update(db, &local.seals.current(), endpoint)).await
    }

    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        notice: Option<NewEvent>,
    ) -> Result<bool, Error> {
        let from = from.to_vec();
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            let changed = set_state(db, id, &from, to)?;
            if changed {
                accept::insert_all(db, local, notice, after)?;
            }
            if changed && to == EndpointState::Active {
                jobs::hurry(db, local, id, clock::wall(), after)?;
            }
            after.due_now();
            Ok(changed)
        })
        .await
    }

    async fn delete_endpoint(&self, id: EndpointId, deletion: Deletion, notice: Option<NewEvent>) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            if let Deletion::Unused { serving } = deletion {
                let leased = local.own.leases.deliveries().get(&id).map_or(0, |leased| leased.count);
                refuse_used(db, id, leased, &serving)?;
            }
            delete(db, id)?;
            accept::insert_all(db, local, notice, after)
        })
        .await
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let local = Arc::clone(&self.local);
        // The keys are read after the transaction has begun. If they were read earlier, the master key could change in between, and
        // then none of these keys would open the rows.
        self.read(move |db| all(db, &local.seals.all())).await
    }

    async fn backlogs(&self, endpoints: &[EndpointId]) -> Result<Vec<Backlog>, Error> {
        let (endpoints, leased) = (endpoints.to_vec(), self.local.own.leases.deliveries());
        self.read(move |db| backlogs(db, &endpoints, &leased)).await
    }

    async fn deleted_endpoints(&self) -> Result<Vec<(Slug, EndpointId)>, Error> {
        self.read(all_deleted).await
    }

    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
        self.write_as(Keeps::Progress, move |db, _| {
            db.prepare_cached("UPDATE endpoint SET failing_since = ?1 WHERE id = ?2")?
                .execute(params![since.map(Timestamp::millis), id.as_i64()])?;
            Ok(())
        })
        .await
    }

    async fn failing_endpoints(&self) -> Result<Vec<(EndpointId, Timestamp)>, Error> {
        self.read(all_failing).await
    }

    async fn close_deliveries(&self, at: Timestamp) -> Result<usize, Error> {
        let (closed, dead) = self.write(move |db, _| close_deliveries(db, at, CLOSE_MAX)).await?;
        meters().dead(DeadReason::EndpointDisabled.as_str(), dead);
        Ok(closed)
    }
}

fn create(db: &Connection, seal: &Seal, new: NewEndpoint) -> Result<Endpoint, Error> {
    let taken: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM endpoint WHERE name = ?1 AND deleted_at IS NULL)")?
        .query_row([&*new.name], |row| row.get(0))?;
    if taken {
        return Err(Error::Taken { what: "endpoint", name: new.name.to_string() });
    }
    let created_at = clock::wall();
    let columns = EndpointColumns::of(&new, seal)?;
    db.prepare_cached(
        "INSERT INTO endpoint (name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        columns.name,
        columns.title,
        columns.url,
        columns.events,
        columns.conditions,
        columns.plugin,
        columns.scheme,
        columns.state,
        created_at.millis(),
        columns.policy,
        columns.sealed,
    ])?;
    Ok(Endpoint { id: EndpointId::from_i64(db.last_insert_rowid()), created_at, failing_since: None, new })
}

fn update(db: &Connection, seal: &Seal, mut endpoint: Endpoint) -> Result<(), Error> {
    let name: Option<String> = db
        .prepare_cached("SELECT name FROM endpoint WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([endpoint.id.as_i64()], |row| row.get(0))
        .optional()?;
    let name = name.ok_or(Error::NotFound { what: "endpoint" })?;
    // The name of an endpoint never changes, and its secrets are bound to the name.
    endpoint.new.name = Slug::parse(&name).map_err(|_| Place { table: "endpoint", id: endpoint.id.as_i64() }.corrupt("name"))?;
    let columns = EndpointColumns::of(&endpoint.new, seal)?;
    let changed = db
        .prepare_cached(
            "UPDATE endpoint SET title = ?1, url = ?2, events = ?3, conditions = ?4, plugin = ?5, scheme = ?6, policy = ?7, sealed = ?8
             WHERE id = ?9 AND deleted_at IS NULL",
        )?
        .execute(params![
            columns.title,
            columns.url,
            columns.events,
            columns.conditions,
            columns.plugin,
            columns.scheme,
            columns.policy,
            columns.sealed,
            endpoint.id.as_i64(),
        ])?;
    found(changed, "endpoint")
}

fn set_state(db: &Connection, id: EndpointId, from: &[EndpointState], to: EndpointState) -> Result<bool, Error> {
    let mut changed = 0;
    for state in from {
        changed += db
            .prepare_cached("UPDATE endpoint SET state = ?1 WHERE id = ?2 AND state = ?3 AND deleted_at IS NULL")?
            .execute(params![to.as_str(), id.as_i64(), state.as_str()])?;
    }
    Ok(changed > 0)
}

/// Refuses to delete an endpoint if deliveries wait for it, or if one of these plugins recently sent webhooks to it by its name.
fn refuse_used(db: &Connection, id: EndpointId, leased: u64, serving: &[Slug]) -> Result<(), Error> {
    let name: Option<String> = db
        .prepare_cached("SELECT name FROM endpoint WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([id.as_i64()], |row| row.get(0))
        .optional()?;
    let name = name.ok_or(Error::NotFound { what: "endpoint" })?;
    // Each kind of delivery has a separate index.
    let waiting: i64 = db
        .prepare_cached(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM live WHERE endpoint = ?1 AND lease IS NULL AND ordering IS NULL LIMIT ?2))
                  + (SELECT count(*) FROM (SELECT 1 FROM live WHERE endpoint = ?1 AND lease IS NULL AND ordering IS NOT NULL LIMIT ?2))",
        )?
        .query_row(params![id.as_i64(), WAITING_COUNTED_MAX], |row| row.get(0))?;
    let used = EndpointUse { waiting: waiting.unsigned_abs() + leased, senders: senders(db, id)? };
    may_delete(&name, &used.by(serving)).map_err(Error::Conflict)
}

fn backlogs(
    db: &Connection,
    endpoints: &[EndpointId],
    leased: &HashMap<EndpointId, LeasedDeliveries>,
) -> Result<Vec<Backlog>, Error> {
    // Each kind of delivery has a separate index.
    let mut select = db.prepare_cached(
        "SELECT count(*), min(id) FROM (
             SELECT * FROM (SELECT id FROM live WHERE endpoint = ?1 AND lease IS NULL AND ordering IS NULL LIMIT ?2)
             UNION ALL SELECT * FROM (SELECT id FROM live WHERE endpoint = ?1 AND lease IS NULL AND ordering IS NOT NULL LIMIT ?2))",
    )?;
    let mut accepted = db.prepare_cached("SELECT accepted_at FROM event WHERE id = ?1")?;
    let mut found = Vec::with_capacity(endpoints.len());
    for id in endpoints {
        let (free, first): (i64, Option<i64>) =
            select.query_row(params![id.as_i64(), BACKLOG_COUNTED_MAX + 1], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let leased = leased.get(id).copied().unwrap_or_default();
        let waiting = free + i64::try_from(leased.count).unwrap_or(i64::MAX);
        let first = first.into_iter().chain(leased.first.map(DeliveryId::as_i64)).min();
        let first = first.filter(|_| waiting <= BACKLOG_COUNTED_MAX);
        let oldest: Option<i64> = match first {
            Some(first) => accepted.query_row([DeliveryId::from_i64(first).event().as_i64()], |row| row.get(0)).optional()?,
            None => None,
        };
        found.push(Backlog {
            waiting: (waiting <= BACKLOG_COUNTED_MAX).then(|| waiting.unsigned_abs()),
            oldest: oldest.map(Timestamp::from_millis),
        });
    }
    Ok(found)
}

/// Returns the plugins that recently sent webhooks to the endpoint by its name. For each plugin, returns the number of its webhooks
/// among the endpoint's last deliveries.
pub fn senders(db: &Connection, id: EndpointId) -> Result<Vec<(String, u64)>, Error> {
    let mut select = db.prepare_cached(
        "SELECT r.plugin, count(*) FROM (SELECT id FROM delivery WHERE endpoint = ?1 ORDER BY id DESC LIMIT ?2) d
         JOIN payload p ON p.id = d.id JOIN run r ON r.id = p.run WHERE r.endpoint IS NULL GROUP BY r.plugin ORDER BY r.plugin",
    )?;
    let rows = select
        .query_map(params![id.as_i64(), SENT_CHECKED_MAX], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn all_failing(db: &Connection) -> Result<Vec<(EndpointId, Timestamp)>, Error> {
    let sql = "SELECT id, failing_since FROM endpoint WHERE failing_since IS NOT NULL AND deleted_at IS NULL ORDER BY name";
    let mut select = db.prepare_cached(sql)?;
    let found = select.query_map([], |row| Ok((EndpointId::from_i64(row.get(0)?), Timestamp::from_millis(row.get(1)?))))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn all_deleted(db: &Connection) -> Result<Vec<(Slug, EndpointId)>, Error> {
    let mut select =
        db.prepare_cached("SELECT id, name FROM endpoint WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT ?1")?;
    let mut rows = select.query([DELETED_KNOWN_MAX])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let place = Place { table: "endpoint", id: row.get(0)? };
        let name = Slug::parse(&row.get::<_, String>(1)?).map_err(|_| place.corrupt("name"))?;
        found.push((name, EndpointId::from_i64(place.id)));
    }
    Ok(found)
}

fn delete(db: &Connection, id: EndpointId) -> Result<(), Error> {
    let changed = db
        .prepare_cached("UPDATE endpoint SET deleted_at = ?1, sealed = NULL WHERE id = ?2 AND deleted_at IS NULL")?
        .execute(params![clock::wall().millis(), id.as_i64()])?;
    found(changed, "endpoint")
}

fn all(db: &Connection, seals: &[Arc<Seal>]) -> Result<Vec<Endpoint>, Error> {
    let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE deleted_at IS NULL ORDER BY name");
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::endpoint(row, seals)?);
    }
    Ok(found)
}

/// Closes up to `limit` deliveries that wait for disabled or deleted endpoints. Returns their number, and how many of them are
/// dead.
fn close_deliveries(db: &Connection, at: Timestamp, limit: u32) -> Result<(usize, usize), Error> {
    let mut select = db.prepare_cached(
        "SELECT l.id, l.endpoint, l.round, l.attempts, e.deleted_at IS NOT NULL
         FROM endpoint e CROSS JOIN live l ON l.endpoint = e.id
         WHERE (e.deleted_at IS NOT NULL OR e.state LIKE 'disabled%') AND l.lease IS NULL LIMIT ?1",
    )?;
    let rows = select.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    let rows: Vec<(i64, i64, i64, i64, bool)> = rows.collect::<Result<_, _>>()?;
    for (id, endpoint, round, attempts, deleted) in &rows {
        db.prepare_cached("DELETE FROM live WHERE id = ?1")?.execute([id])?;
        let ending = match deleted {
            true => Ending::Cancelled(CancelReason::EndpointDeleted),
            false => Ending::Dead(DeadReason::EndpointDisabled),
        };
        finish(db, DeliveryId::from_i64(*id), (*endpoint, *round, *attempts), ending, at)?;
    }
    Ok((rows.len(), rows.iter().filter(|(.., deleted)| !deleted).count()))
}
