//! Parked runs: requeued once their plugin loads or their endpoint exists.

use async_trait::async_trait;

use super::{Postgres, db::execute};
use crate::{
    domain::{name::Slug, time::Timestamp},
    store::{Error, Parked},
};

/// Maximum number of runs that one step of [`Parked::requeue_wanting`] makes due.
const WANTING_MAX: i64 = 500;

#[async_trait]
impl Parked for Postgres {
    async fn requeue_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error> {
        let plugin = plugin.clone();
        let sql = "UPDATE run_queue SET state = 'waiting', next_at = $1
                   WHERE plugin = $2 AND state = 'parked' AND outcome = 'not-loadable'";
        let requeue = self.step(move |tx, local| {
            Box::pin(async move { Ok(execute(tx, sql, &[&local.db_at(now), &&*plugin]).await? as usize) })
        });
        let requeued = requeue.await?;
        if requeued > 0 {
            self.local.due(now);
        }
        Ok(requeued)
    }

    async fn requeue_wanting(&self, now: Timestamp) -> Result<usize, Error> {
        // The statement starts from the endpoints, not from the names that runs wait for, because plugins can invent any number of
        // names.
        let sql = "UPDATE run_queue SET state = 'waiting', next_at = $1, wants = NULL WHERE id IN (
                       SELECT r.id FROM endpoint e CROSS JOIN LATERAL (
                           SELECT r.id FROM run_queue r WHERE r.wants = e.name AND r.state = 'parked' AND r.wants IS NOT NULL
                           LIMIT $2 FOR UPDATE SKIP LOCKED) r
                       WHERE e.deleted_at IS NULL LIMIT $2)";
        let requeue = self.step(move |tx, local| {
            Box::pin(async move { Ok(execute(tx, sql, &[&local.db_at(now), &WANTING_MAX]).await? as usize) })
        });
        let requeued = requeue.await?;
        if requeued > 0 {
            self.local.due(now);
        }
        Ok(requeued)
    }
}
