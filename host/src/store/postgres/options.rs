//! How to reach a server, and what a connection insists on.

use std::path::Path;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, PgConnection};

use crate::store::StoreError;

/// Connections for mutations, if nobody says how many.
const CONNECTIONS: u32 = 16;

/// How to reach a server. Prints where it is, and never the password.
#[derive(Clone)]
pub struct Options {
    connect: Box<PgConnectOptions>,
    url: String,
    connections: u32,
    privileged: bool,
    held_clock: bool,
    /// The server's identity is checked, or it is this machine.
    verified: bool,
}

/// What a function looks up it finds by an index. The plan that it keeps is made while its tables are small, and must be good
/// when they are not.
const BY_INDEX: (&str, &str) = ("enable_seqscan", "off");
/// Whatever the server, the database or the role has for a default: each statement of a function sees what was committed before
/// it, which is what its locks are good for.
const COMMITTED: (&str, &str) = ("default_transaction_isolation", "read committed");
/// No statement of a function is long enough to be compiled for; with the setting above all would seem to be.
const UNCOMPILED: (&str, &str) = ("jit", "off");

impl Options {
    /// Reads `postgres://user@host:port/database?sslmode=…`. What it does not say comes from the `PG…` variables and the
    /// password file, as for any client of PostgreSQL. To a server on another machine the connection is TLS and its
    /// certificate is verified, unless `sslmode` says otherwise.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let (url, wrong) = (url.trim(), |why: String| StoreError::Url { why });
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it does not begin with postgres://".to_owned()));
        }
        let mut connect = PgConnectOptions::from_str(url).map_err(|error| wrong(error.to_string()))?;
        let says_mode =
            url.contains("sslmode=") || url.contains("ssl-mode=") || std::env::var_os("PGSSLMODE").is_some();
        let local = is_local(&connect);
        if !says_mode {
            connect = connect.ssl_mode(if local { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
        }
        let verified = local || matches!(connect.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        let connect = Box::new(connect.disable_statement_logging().application_name("portreeve"));
        Ok(Self {
            connect,
            url: url.to_owned(),
            connections: CONNECTIONS,
            privileged: false,
            held_clock: false,
            verified,
        })
    }

    /// Reads a file that holds a URL; none when there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no such URL.
    pub fn kept_in(file: &Path) -> Result<Option<Self>, StoreError> {
        match std::fs::read_to_string(file) {
            Ok(url) => Self::parse(&url).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Open { path: file.display().to_string(), cause: error.to_string() }),
        }
    }

    /// The URL as it was given. It may hold a password: for the owner's private file, and for nothing else.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// As many connections for mutations.
    #[must_use]
    pub const fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Serves even as a role that may do more than a service should.
    #[must_use]
    pub const fn with_privileged(mut self, privileged: bool) -> Self {
        self.privileged = privileged;
        self
    }

    /// Serves even a database whose clock is not the server's: tests hold the time.
    #[must_use]
    pub const fn with_held_clock(mut self) -> Self {
        self.held_clock = true;
        self
    }

    /// Whether another machine could listen, or pretend to be the server.
    #[must_use]
    pub const fn is_unverified(&self) -> bool {
        !self.verified
    }

    pub(super) const fn connections(&self) -> u32 {
        self.connections
    }

    pub(super) const fn allows_privileged(&self) -> bool {
        self.privileged
    }

    pub(super) const fn has_held_clock(&self) -> bool {
        self.held_clock
    }

    /// A connection that insists on nothing, for migrations and checks.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        PgConnectOptions::clone(&self.connect)
            .options([COMMITTED])
            .connect()
            .await
            .map_err(|error| self.unreachable(&error))
    }

    /// Nothing is found but what a statement names whole; nothing waits for ever.
    pub(super) fn for_mutations(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.connect).options([
            ("search_path", "pg_catalog"),
            COMMITTED,
            ("statement_timeout", "15s"),
            ("lock_timeout", "8s"),
            ("idle_in_transaction_session_timeout", "15s"),
            BY_INDEX,
            UNCOMPILED,
        ])
    }

    /// A list's filters and its limit decide how it is best read, so each is planned by itself: a plan for any of them
    /// sorts the whole log to tell its last twenty rows.
    pub(super) fn for_lists(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.connect).options([
            ("search_path", "pg_catalog"),
            COMMITTED,
            ("statement_timeout", "30s"),
            ("default_transaction_read_only", "on"),
            ("plan_cache_mode", "force_custom_plan"),
        ])
    }

    /// For what may be lost with a server that breaks down: what wakes others, and numbers that follow from what is there.
    pub(super) fn for_hints(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.connect).options([
            ("search_path", "pg_catalog"),
            COMMITTED,
            ("statement_timeout", "15s"),
            ("synchronous_commit", "off"),
            BY_INDEX,
            UNCOMPILED,
        ])
    }

    pub(super) fn unreachable(&self, error: &sqlx::Error) -> StoreError {
        let (place, cause) = (self.to_string(), error.to_string());
        match error {
            sqlx::Error::Tls(_) => StoreError::Untrusted { place, cause },
            sqlx::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                StoreError::Untrusted { place, cause }
            }
            // No line of pg_hba.conf is for connections in clear.
            sqlx::Error::Database(told)
                if told.code().as_deref() == Some("28000") && told.message().contains("no encryption") =>
            {
                StoreError::Unencrypted { place, cause }
            }
            _ => StoreError::Unreachable { place, cause },
        }
    }
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let database = self.connect.get_database().unwrap_or_else(|| self.connect.get_username());
        match self.connect.get_socket() {
            Some(socket) => write!(f, "{}/{database}", socket.display()),
            None => write!(f, "{}:{}/{database}", self.connect.get_host(), self.connect.get_port()),
        }
    }
}

/// A password is never printed, not even by accident.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({self})")
    }
}

fn is_local(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    connect.get_socket().is_some() || host.starts_with('/') || host == "localhost" || loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let options = Options::parse("postgres://svc:s3cret@db.example:6543/fleet").unwrap();
        assert_eq!(
            (options.to_string().as_str(), format!("{options:?}").as_str()),
            ("db.example:6543/fleet", "Options(db.example:6543/fleet)")
        );
        for wrong in ["", "fleet", "mysql://x", "postgres://[", "postgres://h:notaport/x"] {
            assert!(Options::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_machine_is_verified_unless_somebody_says_otherwise() {
        let unverified = |url| Options::parse(url).unwrap().is_unverified();
        assert!(!unverified("postgres://db.example/fleet"));
        assert!(!unverified("postgres://db.example/fleet?sslmode=verify-ca"));
        assert!(!unverified("postgres://127.0.0.1/fleet") && !unverified("postgres://[::1]/fleet"));
        assert!(unverified("postgres://db.example/fleet?sslmode=require"));
        assert!(unverified("postgres://127.0.0.1.example/fleet?sslmode=disable"));
    }
}
