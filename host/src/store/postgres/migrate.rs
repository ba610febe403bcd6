//! Brings a database to the schema that this program knows. `portreeve migrate` does it, as a login that may act as the
//! owner; the service only looks, and refuses what it does not know.

use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, Row};

use super::call;
use super::options::Options;
use super::view::View;
use super::{objects, role};
use crate::clock::Time;
use crate::store::StoreError;
use crate::store::audit::hex;

/// A migration that the program carries: a file, or a folder of files in the order of their names.
struct Migration {
    version: i64,
    name: &'static str,
    parts: &'static [&'static str],
}

macro_rules! sql {
    ($path:literal) => {
        include_str!(concat!("../../../../migrations/postgres/", $path))
    };
}

/// Roles belong to the cluster, so this is no migration of one database: it is looked at each time.
const ROLES: &str = sql!("roles.sql");

/// All of them, in order. Each has a twin of the same number and name in `migrations/sqlite`.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "coordination", parts: &[sql!("0001_coordination.sql")] },
    Migration { version: 2, name: "sessions_and_memories", parts: &[sql!("0002_sessions_and_memories.sql")] },
    Migration {
        version: 3,
        name: "gate",
        parts: &[
            sql!("0003_gate/10_decision.sql"),
            sql!("0003_gate/20_guards.sql"),
            sql!("0003_gate/30_locks.sql"),
            sql!("0003_gate/40_tasks.sql"),
            sql!("0003_gate/50_agents.sql"),
            sql!("0003_gate/52_components.sql"),
            sql!("0003_gate/55_sessions.sql"),
            sql!("0003_gate/60_cleanup.sql"),
            sql!("0003_gate/70_handoffs.sql"),
            sql!("0003_gate/75_memories.sql"),
            sql!("0003_gate/80_audit.sql"),
            sql!("0003_gate/85_moves.sql"),
            sql!("0003_gate/90_access.sql"),
        ],
    },
    Migration { version: 4, name: "components", parts: &[sql!("0004_components.sql")] },
];

/// The program's own table. The owner reads and writes it; the service reads it.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    bigint      NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    checksum   bytea       NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// What every step stands under: the owner, and a path that finds the schema's own tables only.
const AS_OWNER: &str = "SET ROLE portreeve_owner; SET search_path = portreeve, pg_temp";

/// A log that was restored into a cluster whose transactions have smaller numbers goes on behind its last row.
const GO_ON: &str = "DO $$ DECLARE
    last bigint := greatest((SELECT max(l.xact) FROM portreeve.audit_log l), (SELECT max(s.xact) FROM portreeve.audit_seq s));
    next bigint := portreeve.xact_next();
BEGIN
    IF last >= next THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION portreeve.xact_base() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
                        RETURN %s::bigint', portreeve.xact_base() + last - next + 1);
    END IF;
END $$";

/// One migration or move at a time, whoever runs it: held by the connection, across all of them.
const LOCK: i64 = 0x706f_7274_7265_6576;
/// How long a move waits for that lock: the server may find out a moment later that whoever held it was killed.
const PATIENCE: &str = "SET lock_timeout = '2s'";
const ANY_TIME: &str = "RESET lock_timeout";

/// Since when a store is on its way to this workspace, if one is.
const HALF: &str = "SELECT (SELECT m.started_at FROM portreeve.store_moves m
                            WHERE m.workspace = portreeve.current_workspace() AND m.finished_at IS NULL) AS since";

/// What became of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
    /// It was there already; else it is applied now, or would be.
    pub was_there: bool,
}

/// What [`migrate`] tells meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// Another is at work on the database, and this one waits for it.
    Waits,
    /// What became of a migration.
    Migrated(&'a Migrated),
}

impl Migration {
    fn sql(&self) -> String {
        self.parts.join("\n")
    }

    fn checksum(&self) -> Vec<u8> {
        Sha256::digest(self.sql().as_bytes()).to_vec()
    }
}

fn known() -> i64 {
    MIGRATIONS.last().map_or(0, |last| last.version)
}

/// Applies what is missing, each migration in a transaction of its own, with its record. One that fails leaves nothing.
///
/// # Errors
/// When the server cannot be reached, the login may not do it, the database is of a newer program or was migrated by an
/// edited migration, or a statement fails.
pub async fn migrate(options: &Options, tell: &mut (dyn FnMut(Told<'_>) + Send)) -> Result<Vec<Migrated>, StoreError> {
    let mut conn = options.connect().await?;
    role::check_server(&mut conn).await?;
    if !sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut conn).await? {
        tell(Told::Waits);
        sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut conn).await?;
    }
    sqlx::raw_sql(ROLES).execute(&mut conn).await?;
    sqlx::raw_sql(AS_OWNER).execute(&mut conn).await?;
    sqlx::raw_sql(TABLE).execute(&mut conn).await?;
    let there = compare(&stored(&mut conn).await?)?;
    let mut all = Vec::with_capacity(MIGRATIONS.len());
    for migration in MIGRATIONS {
        let was_there = migration.version <= there;
        if !was_there {
            apply(&mut conn, migration).await?;
        }
        let migrated = Migrated { version: migration.version, name: migration.name, was_there };
        tell(Told::Migrated(&migrated));
        all.push(migrated);
    }
    sqlx::raw_sql(GO_ON).execute(&mut conn).await?;
    // The lock goes with the connection.
    drop(conn.close().await);
    Ok(all)
}

/// What [`migrate`] would do, without doing it.
///
/// # Errors
/// As [`migrate`], but for what only an attempt shows; and when nothing is missing, but something is not as it was made.
pub async fn check(options: &Options) -> Result<Vec<Migrated>, StoreError> {
    let mut conn = options.connect().await?;
    role::check_server(&mut conn).await?;
    let there = if is_prepared(&mut conn).await? { compare(&stored(&mut conn).await?)? } else { 0 };
    if there == known() {
        objects::check(&mut conn, options.has_held_clock()).await?;
    }
    drop(conn.close().await);
    let told = |m: &Migration| Migrated { version: m.version, name: m.name, was_there: m.version <= there };
    Ok(MIGRATIONS.iter().map(told).collect())
}

/// The whole of it as a script for `psql`, for those who let no program change a schema. It applies what is missing.
#[must_use]
pub fn script() -> String {
    let mut script = format!(
        "-- The schema of Portreeve for an empty database, up to version {}: psql -v ON_ERROR_STOP=1 -f FILE\n\
         {ROLES}\n{AS_OWNER};\n{TABLE};\n",
        known()
    );
    for migration in MIGRATIONS {
        let Migration { version, name, .. } = migration;
        let (sql, checksum) = (migration.sql(), hex(&migration.checksum()));
        script += &format!(
            "\nBEGIN;\n{sql}\nINSERT INTO schema_migrations (version, name, checksum)\n\
             VALUES ({version}, '{name}', '\\x{checksum}');\nCOMMIT;\n"
        );
    }
    script += &format!("\n{GO_ON};\n");
    script
}

/// Refuses a server that is too old, or a database that holds nothing of this program's.
pub(super) async fn check_prepared(conn: &mut PgConnection) -> Result<(), StoreError> {
    role::check_server(conn).await?;
    if is_prepared(conn).await? { Ok(()) } else { Err(StoreError::Unprepared) }
}

/// Refuses to serve a database that is behind or ahead of this program, or was migrated otherwise.
pub(super) async fn check_version(conn: &mut PgConnection) -> Result<(), StoreError> {
    let found = compare(&stored(conn).await?)?;
    if found < known() { Err(StoreError::Older { found, known: known() }) } else { Ok(()) }
}

/// Refuses to serve a database that a store is still moving to.
pub(super) async fn check_whole(conn: &mut PgConnection) -> Result<(), StoreError> {
    whole(sqlx::query(HALF).fetch_one(conn).await?.try_get("since")?)
}

/// As [`check_whole`], for a service that runs.
pub(super) async fn check_stays_whole(view: &View) -> Result<(), StoreError> {
    whole(view.fetch_one(|| sqlx::query(HALF)).await?.try_get("since")?)
}

fn whole(half_since: Option<Time>) -> Result<(), StoreError> {
    half_since.map_or(Ok(()), |since| Err(StoreError::HalfMoved { since }))
}

/// Refuses to serve a log that would not go on behind its last row.
pub(super) async fn check_goes_on(conn: &mut PgConnection) -> Result<(), StoreError> {
    match sqlx::query("SELECT count(*) FROM portreeve.audit_unnumbered(1)").fetch_one(conn).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(told)) if told.code().as_deref() == Some("55000") => Err(StoreError::Restored),
        Err(error) => Err(error.into()),
    }
}

/// A connection that acts as the owner of a prepared database, and as the only one that does: migrations wait for it.
///
/// # Errors
/// When the server cannot be reached, the schema is not this program's, the login may not do it, or another is at work there.
pub(in crate::store) async fn owner(options: &Options) -> Result<PgConnection, StoreError> {
    let mut conn = options.connect().await?;
    check_prepared(&mut conn).await?;
    let may = "SELECT session_user::text AS name, pg_has_role(session_user, 'portreeve_owner', 'MEMBER') AS owns";
    let row = sqlx::query(may).fetch_one(&mut conn).await?;
    if !row.try_get::<bool, _>("owns")? {
        return Err(StoreError::NotOwner { role: row.try_get("name")? });
    }
    sqlx::raw_sql(AS_OWNER).execute(&mut conn).await?;
    sqlx::raw_sql(PATIENCE).execute(&mut conn).await?;
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut conn)
        .await
        .map_err(|error| if call::code(&error) == Some("55P03") { StoreError::AtWork } else { error.into() })?;
    sqlx::raw_sql(ANY_TIME).execute(&mut conn).await?;
    // Nobody changes the schema any more.
    check_version(&mut conn).await?;
    Ok(conn)
}

async fn is_prepared(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                              WHERE n.nspname = 'portreeve' AND c.relname = 'schema_migrations')";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

async fn stored(conn: &mut PgConnection) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let sql = "SELECT version, checksum FROM portreeve.schema_migrations ORDER BY version";
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get("version")?, row.try_get("checksum")?))).collect()
}

/// The version that is there. What is there must be the beginning of what this program carries, to the last byte.
fn compare(stored: &[(i64, Vec<u8>)]) -> Result<i64, StoreError> {
    for (n, (version, checksum)) in stored.iter().enumerate() {
        let Some(migration) = MIGRATIONS.get(n) else {
            let found = stored.last().map_or(0, |(version, _)| *version);
            return Err(StoreError::Newer { found, known: known() });
        };
        if *version != migration.version || *checksum != migration.checksum() {
            return Err(StoreError::Edited { version: migration.version, name: migration.name.to_owned() });
        }
    }
    Ok(stored.last().map_or(0, |(version, _)| *version))
}

async fn apply(conn: &mut PgConnection, migration: &'static Migration) -> Result<(), StoreError> {
    let failed = |error: sqlx::Error| StoreError::Migration {
        version: migration.version,
        name: migration.name.to_owned(),
        cause: error.to_string(),
    };
    let mut tx = conn.begin().await.map_err(failed)?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(migration.sql())).execute(&mut *tx).await.map_err(failed)?;
    sqlx::query("INSERT INTO portreeve.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(migration.checksum())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried_in_order() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres");
        let mut files = Vec::new();
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { files.push(path) }
            }
        }
        files.retain(|path| !path.ends_with("roles.sql") && !path.ends_with("objects.txt"));
        files.sort();
        let on_disk: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let carried: Vec<String> = MIGRATIONS.iter().flat_map(|m| m.parts).map(|part| (*part).to_owned()).collect();
        assert_eq!(carried, on_disk);
    }

    #[test]
    fn what_is_there_is_the_beginning_of_what_is_known() {
        let all: Vec<_> = MIGRATIONS.iter().map(|m| (m.version, m.checksum())).collect();
        assert_eq!(compare(&[]).unwrap(), 0);
        assert_eq!(compare(&all[..2]).unwrap(), 2);
        assert_eq!(compare(&all).unwrap(), known());
        let newer: Vec<_> = all.iter().cloned().chain([(known() + 1, vec![0])]).collect();
        assert!(matches!(compare(&newer), Err(StoreError::Newer { .. })));
        let mut edited = all.clone();
        edited[1].1 = vec![0; 32];
        assert!(matches!(compare(&edited), Err(StoreError::Edited { version: 2, .. })));
        assert!(matches!(compare(&all[1..]), Err(StoreError::Edited { version: 1, .. })));
    }
}
