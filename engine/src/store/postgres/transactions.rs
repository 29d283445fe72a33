//! Transactions outside the commit queue: steps, which write, and reads, which see one snapshot.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Pool, Transaction};
use tokio_postgres::IsolationLevel;

use super::{Local, Postgres, commit::count_bytes, nodes};
use crate::store::{Error, READ_TIME_MAX, commit::After};

/// A step or read in progress.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

impl Postgres {
    /// Writes in one transaction. The transaction continues even if the caller is dropped.
    pub async fn step<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (pool, local) = (self.pool.clone(), Arc::clone(&self.local));
        let stepping = tokio::spawn(async move {
            let mut client = pool.get().await?;
            let tx = client.transaction().await?;
            let value = work(&tx, &local).await?;
            tx.commit().await?;
            Ok(value)
        });
        stepping.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// Writes like [`Self::step`], but as a registered node: the other nodes consider this node alive until the transaction ends.
    /// Takes the actions of [`After`] after the commit.
    pub async fn step_as_node<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local, i64, &'a mut After) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (pool, local) = (self.pool.clone(), Arc::clone(&self.local));
        let stepping = tokio::spawn(async move {
            let mut client = pool.get().await?;
            let known = local.me();
            let mut tx = client.transaction().await?;
            let mut node = nodes::enter(&tx, &local).await?;
            if node.is_none() {
                tx.rollback().await?;
                nodes::come_back(&pool, &local, known).await?;
                tx = client.transaction().await?;
                node = nodes::enter(&tx, &local).await?;
            }
            let node = node.ok_or_else(|| Error::Unavailable("the other nodes removed this node twice in a row".into()))?;
            let mut after = After::default();
            let value = work(&tx, &local, node, &mut after).await?;
            count_bytes(&tx, node, after.bytes).await?;
            if let Err(error) = tx.commit().await {
                local.add_orphans(after.tokens());
                return Err(error.into());
            }
            local.act(after);
            Ok(value)
        });
        stepping.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// Reads like [`read`], on a connection of the pool.
    pub async fn read<T>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send,
    ) -> Result<T, Error> {
        read(&self.pool, &self.local, work).await
    }

    /// Reads like [`Self::read`], with the time limit of reads for the API. Reads for the API never occupy all connections.
    pub async fn read_for_people<T>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.people.acquire().await.expect("the semaphore is never closed");
        self.read_within(READ_TIME_MAX, work).await
    }

    pub async fn read_within<T>(
        &self,
        time_max: Duration,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let limited = self.read(move |tx, local| {
            Box::pin(async move {
                tx.batch_execute(&format!("SET LOCAL statement_timeout = {}", time_max.as_millis())).await?;
                work(tx, local).await
            })
        });
        match limited.await {
            Err(Error::Unavailable(_)) if began.elapsed() >= time_max => Err(Error::TooSlow(time_max)),
            other => other,
        }
    }
}

/// Reads one snapshot: a row that moves between tables at the same time is seen in exactly one of them.
pub async fn read<T>(
    pool: &Pool,
    local: &Local,
    work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send,
) -> Result<T, Error> {
    let mut client = pool.get().await?;
    let moment = client.build_transaction().read_only(true).isolation_level(IsolationLevel::RepeatableRead);
    let tx = moment.start().await?;
    let value = work(&tx, local).await;
    if let Err(error @ (Error::Unavailable(_) | Error::Internal(_))) = &value {
        tracing::error!(%error, "store could not be read");
    }
    let value = value?;
    tx.rollback().await?;
    Ok(value)
}
