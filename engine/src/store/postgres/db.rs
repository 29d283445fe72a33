//! Connections, statements, and what their errors mean to callers.

use std::{borrow::Cow, error::Error as _, io, str::FromStr as _, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Transaction};
use tokio_postgres::{
    Config, Row,
    error::SqlState,
    types::{FromSql, ToSql},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::Error;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a step waits for a free connection: longer than any statement may take.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// What every session is told. No statement takes long, so one that does waits for something that will not come; a node that
/// stops in the middle of a transaction must not hold up the others. Plans are made without looking at statistics of the queues, which
/// are out of date at any moment.
const SESSION: &str = "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=5s -c jit=off \
     -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";

/// A value of a statement.
pub type Value<'a> = &'a (dyn ToSql + Sync);

/// Where the database is, and how it is spoken to.
#[derive(Clone)]
pub struct Server {
    pub config: Config,
    pub tls: MakeRustlsConnect,
}

impl Server {
    /// Reads `postgres://user:password@host/database?sslmode=require`.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::Unavailable(format!(
                "the store's address cannot be read ({error}); write postgres://user:password@host/database"
            ))
        };
        let mut config = Config::from_str(url).map_err(|error| wrong(&error))?;
        let options = match config.get_options() {
            Some(theirs) => format!("{SESSION} {theirs}"),
            None => SESSION.to_owned(),
        };
        config.options(options).application_name("innesco").connect_timeout(CONNECT_MAX);
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(15));
        Ok(Self { config, tls: MakeRustlsConnect::new(tls()?) })
    }

    pub fn pool(&self, size: usize) -> Result<Pool, Error> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let built = Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(CONNECT_MAX))
            .wait_timeout(Some(WAIT_MAX))
            .recycle_timeout(Some(CONNECT_MAX))
            .build();
        built.map_err(|error| Error::Internal(error.to_string()))
    }
}

/// Certificates are verified by what the system trusts (and `SSL_CERT_FILE`).
fn tls() -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Internal(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

pub async fn rows(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.query(&statement, values).await?)
}

/// The first row, if there is one.
pub async fn row(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<Option<Row>, Error> {
    Ok(rows(tx, sql, values).await?.into_iter().next())
}

/// The one row that a statement always has.
pub async fn the_row(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<Row, Error> {
    row(tx, sql, values).await?.ok_or_else(|| Error::Internal(format!("no row: {sql}")))
}

pub async fn execute(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.execute(&statement, values).await?)
}

pub fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column).map_err(|error| Error::Internal(error.to_string()))
}

/// A count or a number that is never negative.
pub fn get_u32(row: &Row, column: usize) -> Result<u32, Error> {
    let number: i64 = get(row, column)?;
    u32::try_from(number).map_err(|error| Error::Internal(format!("column {column}: {number}: {error}")))
}

/// Postgres has no text with a zero character in it; what people read shows its symbol instead.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{2400}")) } else { Cow::Borrowed(text) }
}

pub fn limit(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let broken = error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>());
            let text = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            let is_ours = text.contains("serializing parameter") || text.contains("deserializing column");
            return if is_ours && !broken { Self::Internal(text) } else { Self::Unavailable(text) };
        };
        if *db.code() == SqlState::DISK_FULL {
            return Self::Full;
        }
        let passes = match db.code().code().get(..2) {
            // Connection, authentication, roll-back by the database, resources, operator, system; a standby that takes no writes.
            Some("08" | "28" | "40" | "53" | "55" | "57" | "58") => true,
            _ => {
                let code = db.code();
                *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || *code == SqlState::UNDEFINED_DATABASE
            }
        };
        let text = format!("{}: {}", db.severity(), db.message());
        if passes { Self::Unavailable(text) } else { Self::Internal(text) }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_or_refused_with_what_would_work() {
        let server = Server::parse("postgres://me:secret@db.example:5433/events?sslmode=require").unwrap();
        assert_eq!(server.config.get_dbname(), Some("events"));
        assert!(server.config.get_options().unwrap().contains("statement_timeout"));
        let wrong = Server::parse("postgres://me@db.example/events?sslmod=x").map(drop).unwrap_err();
        assert!(wrong.to_string().contains("postgres://user:password@host/database"), "{wrong}");
    }

    #[test]
    fn a_zero_character_becomes_its_symbol() {
        assert_eq!(clean("a\0b"), "a\u{2400}b");
        assert!(matches!(clean("ab"), Cow::Borrowed("ab")));
    }
}
