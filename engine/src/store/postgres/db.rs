//! Connections and statements, and the translation of their errors.

use std::{borrow::Cow, error::Error as _, io, path::Path, str::FromStr as _, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Transaction};
use rustls::CertificateError;
use tokio_postgres::{
    Config, Row,
    config::{Host, SslMode},
    error::SqlState,
    types::{FromSql, ToSql},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    store::{
        Error,
        row::{self, WrongType},
    },
    trust::{self, Names},
};

/// Time limit for making a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Time limit of the wait for a free connection. It is longer than any statement may take.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Settings of every session. Statements are short, so a slow statement is stuck and must end. A node that stops inside a
/// transaction must not block the other nodes. Plans ignore the statistics of the queues, which are always outdated.
const SESSION: &str = "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=5s -c jit=off \
     -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";

/// A parameter of a statement.
pub type Value<'a> = &'a (dyn ToSql + Sync);

/// Address of the database and its TLS settings.
#[derive(Clone)]
pub struct Server {
    pub config: Config,
    pub tls: MakeRustlsConnect,
}

impl Server {
    /// Reads `postgres://user:password@host/database?sslmode=verify-full&sslrootcert=/etc/innesco/db-ca.pem`.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::Unavailable(format!(
                "the store's address cannot be read ({error}); write postgres://user:password@host/database"
            ))
        };
        let (rest, asked) = AskedTls::take(url);
        let mut config = Config::from_str(&rest).map_err(|error| wrong(&error))?;
        let options = match config.get_options() {
            Some(theirs) => format!("{SESSION} {theirs}"),
            None => SESSION.to_owned(),
        };
        config.options(options).application_name("innesco").connect_timeout(CONNECT_MAX);
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(15));
        let (mode, names) = asked.mode(is_local(&config)).map_err(|error| wrong(&error))?;
        config.ssl_mode(mode);
        Ok(Self { config, tls: MakeRustlsConnect::new(asked.client_config(names)?) })
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

/// TLS settings of the address, named as in Postgres' own clients.
#[derive(Default)]
struct AskedTls {
    mode: Option<String>,
    root_certificates: Option<String>,
}

impl AskedTls {
    const MODES: &str = "disable, prefer, require, verify-ca or verify-full";

    /// Takes `sslmode` and `sslrootcert` out of an address, because the client library supports `sslmode` only in part, and
    /// `sslrootcert` not at all.
    fn take(url: &str) -> (String, Self) {
        let mut asked = Self::default();
        let Some((front, query)) = url.split_once('?') else { return (url.to_owned(), asked) };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            // The value is decoded as in a URL. In a form, a plus would be a blank.
            let decoded = url::form_urlencoded::parse(pair.replace('+', "%2B").as_bytes()).into_owned().next();
            match decoded {
                Some((key, value)) if key == "sslmode" => asked.mode = Some(value),
                Some((key, value)) if key == "sslrootcert" => asked.root_certificates = Some(value),
                Some(_) => rest.push(pair),
                None => {}
            }
        }
        let rest = if rest.is_empty() { front.to_owned() } else { format!("{front}?{}", rest.join("&")) };
        (rest, asked)
    }

    /// Returns the mode. By default, connections are encrypted and verified. Only a connection inside this machine is not encrypted
    /// by default: the certificate of a local server is usually self-signed (Debian creates such servers), so verification would
    /// fail.
    fn mode(&self, local: bool) -> Result<(SslMode, Names), String> {
        Ok(match self.mode.as_deref() {
            None if local && self.root_certificates.is_none() => (SslMode::Disable, Names::Checked),
            // Stricter than Postgres' own clients, which verify nothing with `require`.
            None | Some("require" | "verify-full") => (SslMode::Require, Names::Checked),
            Some("verify-ca") => (SslMode::Require, Names::Ignored),
            Some("prefer" | "allow") => (SslMode::Prefer, Names::Checked),
            Some("disable") => (SslMode::Disable, Names::Checked),
            Some(other) => return Err(format!("sslmode is {other:?}; it can be {}", Self::MODES)),
        })
    }

    fn client_config(&self, names: Names) -> Result<rustls::ClientConfig, Error> {
        let roots = match self.root_certificates.as_deref() {
            None | Some("system") => trust::roots(),
            Some(file) => trust::roots_of(Path::new(file))
                .map_err(|trouble| Error::Unavailable(format!("sslrootcert in the store's address {trouble}")))?,
        };
        let config = trust::client_config(roots, names).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(config.with_no_client_auth())
    }
}

/// Returns whether every server in the address is on this machine.
fn is_local(config: &Config) -> bool {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    if !addresses.is_empty() {
        return addresses.iter().all(std::net::IpAddr::is_loopback);
    }
    hosts.iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

/// Explains how an operator can repair a connection that failed because of TLS. Returns `None` if the connection failed for another
/// reason.
fn tls_in_words(error: &tokio_postgres::Error) -> Option<String> {
    let cause = error.source()?;
    if cause.to_string() == "server does not support TLS" {
        return Some(
            "the database does not offer TLS; set ssl = on in its configuration, or add sslmode=disable to the store's address if the \
             connection is private"
                .to_owned(),
        );
    }
    let tls = cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()?;
    let words = trust::in_words(tls, &"the database", "sslrootcert of the store's address");
    Some(match tls {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "{words}; write the host in the store's address as the certificate names it (beside hostaddr, if that name does not lead \
             to the database), or add sslmode=verify-ca"
        ),
        _ => words,
    })
}

pub async fn rows(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.query(&statement, values).await?)
}

/// Returns the first row, if one exists.
pub async fn row(tx: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<Option<Row>, Error> {
    Ok(rows(tx, sql, values).await?.into_iter().next())
}

/// Returns the row of a statement that always returns one row.
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

/// Reads a count or another number that is never negative.
pub fn get_u32(row: &Row, column: usize) -> Result<u32, Error> {
    let number: i64 = get(row, column)?;
    u32::try_from(number).map_err(|error| Error::Internal(format!("column {column}: {number}: {error}")))
}

/// Returns [`Error::NotFound`] if a statement changed no row.
pub fn found(changed: u64, what: &'static str) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what }) } else { Ok(()) }
}

/// Reads an entry of the table `meta`.
pub async fn meta(tx: &Transaction<'_>, key: &str) -> Result<Option<Vec<u8>>, Error> {
    row(tx, "SELECT value FROM meta WHERE key = $1", &[&key]).await?.map(|row| get(&row, 0)).transpose()
}

/// Replaces zero characters with a symbol, because Postgres text cannot hold them.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{2400}")) } else { Cow::Borrowed(text) }
}

pub fn limit(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl row::Row for Row {
    fn number(&self, column: usize) -> Result<Option<i64>, WrongType> {
        self.try_get(column).map_err(|_| WrongType)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, WrongType> {
        self.try_get(column).map_err(|_| WrongType)
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, WrongType> {
        self.try_get(column).map_err(|_| WrongType)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let broken = error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>());
            if let Some(text) = tls_in_words(&error) {
                return Self::Unavailable(text);
            }
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
            // The errors of these classes of SQL states are temporary: connection, authentication, rollback by the database,
            // resources, operator, system. The refusal of writes by a standby is temporary, too.
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
    fn an_address_is_read_or_refused_with_a_valid_form() {
        let server = Server::parse("postgres://me:secret@db.example:5433/events?sslmode=require").unwrap();
        assert_eq!(server.config.get_dbname(), Some("events"));
        assert!(server.config.get_options().unwrap().contains("statement_timeout"));
        let wrong = Server::parse("postgres://me@db.example/events?sslmod=x").map(drop).unwrap_err();
        assert!(wrong.to_string().contains("postgres://user:password@host/database"), "{wrong}");
    }

    #[test]
    fn tls_is_the_default_and_follows_sslmode() {
        use Names::{Checked, Ignored};
        use SslMode::{Disable, Prefer, Require};
        let asked = |url: &str| {
            let (rest, asked) = AskedTls::take(url);
            let config = Config::from_str(&rest).unwrap();
            asked.mode(is_local(&config)).map(|(mode, names)| (rest, mode, names))
        };
        for (url, rest, mode, names) in [
            ("postgres://me@db.example/events", "postgres://me@db.example/events", Require, Checked),
            ("postgres://me@10.0.0.7/events", "postgres://me@10.0.0.7/events", Require, Checked),
            ("postgres://me@localhost/events", "postgres://me@localhost/events", Disable, Checked),
            ("postgres://me@127.0.0.2/events", "postgres://me@127.0.0.2/events", Disable, Checked),
            ("postgres://me@[::1]/events", "postgres://me@[::1]/events", Disable, Checked),
            ("postgres://me@%2Fvar%2Frun/events", "postgres://me@%2Fvar%2Frun/events", Disable, Checked),
            ("postgres:///events?host=/run", "postgres:///events?host=/run", Disable, Checked),
            // One remote server among several is enough to require encryption.
            ("postgres://me@localhost,db.example/events", "postgres://me@localhost,db.example/events", Require, Checked),
            (
                "postgres://me@localhost/events?hostaddr=10.0.0.7",
                "postgres://me@localhost/events?hostaddr=10.0.0.7",
                Require,
                Checked,
            ),
            ("postgres://me@db.example/events?sslmode=disable", "postgres://me@db.example/events", Disable, Checked),
            ("postgres://me@db.example/events?sslmode=allow", "postgres://me@db.example/events", Prefer, Checked),
            ("postgres://me@db.example/events?sslmode=prefer", "postgres://me@db.example/events", Prefer, Checked),
            ("postgres://me@localhost/events?sslmode=require", "postgres://me@localhost/events", Require, Checked),
            ("postgres://me@localhost/events?sslmode=verify-full", "postgres://me@localhost/events", Require, Checked),
            ("postgres://me@db.example/events?sslmode=verify-ca", "postgres://me@db.example/events", Require, Ignored),
            ("postgres://me@localhost/events?sslrootcert=%2Fca+1.pem", "postgres://me@localhost/events", Require, Checked),
            (
                "postgres://me@db.example/events?channel_binding=require&sslmode=verify%2Dfull&&options=-c%20a%3Db",
                "postgres://me@db.example/events?channel_binding=require&options=-c%20a%3Db",
                Require,
                Checked,
            ),
        ] {
            assert_eq!(asked(url), Ok((rest.to_owned(), mode, names)), "{url}");
        }
        let wrong = Server::parse("postgres://me@db.example/events?sslmode=verify").map(drop).unwrap_err().to_string();
        assert!(wrong.contains("sslmode is \"verify\"; it can be disable, prefer, require, verify-ca or verify-full"), "{wrong}");
        assert_eq!(
            AskedTls::take("postgres://db/events?sslrootcert=%2Fca+1.pem").1.root_certificates.as_deref(),
            Some("/ca+1.pem")
        );
    }

    #[test]
    fn a_missing_file_of_root_certificates_is_named() {
        let wrong =
            Server::parse("postgres://me@db.example/events?sslrootcert=/no/such/ca.pem").map(drop).unwrap_err().to_string();
        assert!(wrong.contains("sslrootcert in the store's address names /no/such/ca.pem, which cannot be read"), "{wrong}");
        Server::parse("postgres://me@db.example/events?sslrootcert=system").unwrap();
    }

    #[test]
    fn a_zero_character_becomes_its_symbol() {
        assert_eq!(clean("a\0b"), "a\u{2400}b");
        assert!(matches!(clean("ab"), Cow::Borrowed("ab")));
    }
}
