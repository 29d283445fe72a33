//! Parked runs: requeued once their plugin loads or their endpoint exists.

use async_trait::async_trait;

use super::{
    Sqlite,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{name::Slug, time::Timestamp},
    store::{Error, Parked},
};

#[async_trait]
impl Parked for Sqlite {
    async fn requeue_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| {
            let requeued = db
                .prepare_cached(
                    "UPDATE run_queue SET state = 'waiting', next_at = ?1
                     WHERE plugin = ?2 AND state = 'parked' AND outcome = 'not-loadable'",
                )?
                .execute(rusqlite::params![now.millis(), &*plugin])?;
            if requeued > 0 {
                after.due_at(now);
            }
            Ok(requeued)
        })
        .await
    }

    async fn requeue_wanting(&self, now: Timestamp) -> Result<usize, Error> {
        // Runs to requeue are rare, so a reading connection first checks whether there are any.
        if !self.read(|db| Ok(db.prepare_cached(WANTING)?.exists([])?)).await? {
            return Ok(0);
        }
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| {
            let sql = format!("UPDATE run_queue SET state = 'waiting', next_at = ?1, wants = NULL WHERE id IN ({WANTING})");
            let requeued = db.prepare_cached(&sql)?.execute([now.millis()])?;
            if requeued > 0 {
                after.due_at(now);
            }
            Ok(requeued)
        })
        .await
    }
}

/// Selects one batch of the runs that are parked for a missing endpoint that now exists.
const WANTING: &str =
    "SELECT r.id FROM endpoint e CROSS JOIN run_queue r ON r.wants = e.name AND r.state = 'parked' AND r.wants IS NOT NULL
     WHERE e.deleted_at IS NULL LIMIT 500";
