//! What stands in the schema: every function with its body, every trigger, every table's row security, and who may use them.
//! The program carries what its migrations make of it (`migrations/postgres/objects.txt`) and holds the database against that:
//! whoever could edit a function could edit a digest beside it as well.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection, Row};

use super::migrate::check_prepared;
use super::options::Options;
use crate::store::StoreError;

/// A line for each object: kind, identity, and all that is compared, with tabs between. A test writes it.
const EXPECTED: &str = include_str!("../../../../migrations/postgres/objects.txt");

/// Bodies that the server keeps parsed, and defaults, it tells in words of its own version: such lines name it, and are compared
/// on that alone.
const PARSED: &str = "parsed by PostgreSQL ";
/// It is other where a restored log goes on (`portreeve migrate`), and no line tells its body.
const VARIES: &str = "xact_base()";
const CLOCK: &str = "clock_now()";
/// So many differences are named.
const NAMED: usize = 3;

/// What names mean, and how they are told, does not depend on the connection.
const PLAIN: &str =
    "SELECT set_config('search_path', 'pg_catalog', false), set_config('quote_all_identifiers', 'off', false)";

/// All that is compared. Bodies are digested as they were written.
const OBJECTS: &str = "WITH functions AS (
        SELECT p.*, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS id FROM pg_proc p
        WHERE p.pronamespace = 'portreeve'::regnamespace
    ), tables AS (
        SELECT c.* FROM pg_class c WHERE c.relnamespace = 'portreeve'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ), parsed AS (
        SELECT $1 || current_setting('server_version_num')::integer / 10000 AS kind
    )
    SELECT 'function' AS kind, f.id, concat_ws('; ', 'returns ' || pg_get_function_result(f.oid), l.lanname, f.prokind,
        f.provolatile, f.proparallel, CASE WHEN f.proisstrict THEN 'strict' END, CASE WHEN f.proleakproof THEN 'leakproof' END,
        CASE WHEN f.prosecdef THEN 'as its owner' END, pg_get_userbyid(f.proowner), array_to_string(f.proconfig, ', '),
        'for ' || (SELECT string_agg(DISTINCT CASE x.grantee WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(x.grantee)::text END, ', ')
            FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) x WHERE x.grantee <> f.proowner),
        CASE WHEN f.prosqlbody IS NULL THEN encode(sha256(convert_to(f.prosrc, 'UTF8')), 'hex') END) AS facts
    FROM functions f JOIN pg_language l ON l.oid = f.prolang
    UNION ALL
    SELECT p.kind, f.id, encode(sha256(convert_to(
        concat_ws(' ', pg_get_function_arguments(f.oid), pg_get_function_sqlbody(f.oid)), 'UTF8')), 'hex')
    FROM functions f, parsed p WHERE (f.prosqlbody IS NOT NULL OR f.pronargdefaults > 0) AND f.id <> $2
    UNION ALL
    SELECT 'table', c.relname, concat_ws('; ', c.relkind, pg_get_userbyid(c.relowner),
        CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END,
        CASE WHEN EXISTS (SELECT 1 FROM pg_rewrite r WHERE r.ev_class = c.oid) THEN 'rules' END,
        CASE WHEN EXISTS (SELECT 1 FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)) THEN 'inherits' END,
        CASE WHEN EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgisinternal AND t.tgenabled <> 'O')
            THEN 'foreign keys disabled' END,
        CASE WHEN EXISTS (SELECT 1 FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner AND x.privilege_type <> 'SELECT')
            OR EXISTS (SELECT 1 FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = c.oid
                AND x.grantee <> c.relowner AND x.privilege_type <> 'SELECT') THEN 'others write' END)
    FROM tables c
    UNION ALL
    SELECT 'trigger', c.relname || '.' || t.tgname, concat_ws('; ', t.tgfoid::regproc, 'type ' || t.tgtype,
        'enabled ' || t.tgenabled::text, 'of ' || (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)),
        CASE WHEN t.tgqual IS NOT NULL THEN 'when' END, CASE WHEN t.tgdeferrable THEN 'deferrable' END,
        t.tgoldtable, t.tgnewtable)
    FROM pg_trigger t JOIN tables c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'policy', c.relname || '.' || p.polname, concat_ws('; ', p.polcmd, CASE WHEN p.polpermissive THEN 'permissive' END,
        (SELECT string_agg(pg_get_userbyid(r)::text, ', ' ORDER BY pg_get_userbyid(r)) FROM unnest(p.polroles) r),
        pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p JOIN tables c ON c.oid = p.polrelid
    UNION ALL
    SELECT 'setting', 'session_replication_role', current_setting('session_replication_role')";

/// What each object is, by kind and identity.
type Objects = BTreeMap<(String, String), String>;

async fn read(conn: &mut PgConnection) -> Result<Objects, StoreError> {
    sqlx::query(PLAIN).execute(&mut *conn).await?;
    let rows = sqlx::query(OBJECTS).bind(PARSED).bind(VARIES).fetch_all(conn).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(((row.try_get("kind")?, row.try_get("id")?), row.try_get::<String, _>("facts")?))
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

fn expected() -> Objects {
    let mut all = Objects::new();
    for line in EXPECTED.lines() {
        let mut parts = line.splitn(3, '\t').map(str::to_owned);
        if let (Some(kind), Some(id), Some(facts)) = (parts.next(), parts.next(), parts.next()) {
            all.insert((kind, id), facts);
        }
    }
    all
}

/// What differs, in words. Lines that a version of the server told are compared if the program knows them of that version.
fn differences(expected: &Objects, found: &Objects) -> BTreeSet<String> {
    let told =
        |objects: &Objects, kind: &str| !kind.starts_with(PARSED) || objects.keys().any(|(other, _)| other == kind);
    // A function that two lines tell of is named once.
    let mut all = BTreeSet::new();
    for ((kind, id), facts) in expected.iter().filter(|((kind, _), _)| told(found, kind)) {
        let what = match found.get(&(kind.clone(), id.clone())) {
            Some(other) if other == facts => continue,
            Some(_) => "differs",
            None => "is missing",
        };
        all.insert(named(kind, id, what));
    }
    for (kind, id) in found.keys().filter(|(kind, _)| told(expected, kind)) {
        if !expected.contains_key(&(kind.clone(), id.clone())) {
            all.insert(named(kind, id, "is not this program's"));
        }
    }
    all
}

fn named(kind: &str, id: &str, what: &str) -> String {
    let kind = if kind.starts_with(PARSED) { "function" } else { kind };
    format!("{kind} {id} {what}")
}

/// Refuses a database in which something stands that this program's migrations do not make, or make otherwise. `held_clock`
/// lets another clock stand in the place of the database's.
pub(super) async fn check(conn: &mut PgConnection, held_clock: bool) -> Result<(), StoreError> {
    let (mut expected, mut found) = (expected(), read(conn).await?);
    if held_clock {
        for objects in [&mut expected, &mut found] {
            objects.retain(|(kind, id), _| !(kind.starts_with(PARSED) && id == CLOCK));
        }
    }
    if !found.keys().any(|(kind, _)| kind.starts_with(PARSED) && expected.keys().any(|(known, _)| known == kind)) {
        tracing::info!("this version of PostgreSQL tells parsed bodies in its own words: they are not compared");
    }
    let all = differences(&expected, &found);
    if all.is_empty() {
        return Ok(());
    }
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = all.len().saturating_sub(NAMED);
    Err(StoreError::Objects { what: if more == 0 { named } else { format!("{named}, and {more} more") } })
}

/// What stands in a database, as `migrations/postgres/objects.txt` keeps it.
///
/// # Errors
/// When the server cannot be reached, or the database holds nothing of this program's.
pub async fn objects(options: &Options) -> Result<String, StoreError> {
    let mut conn = options.connect().await?;
    check_prepared(&mut conn).await?;
    let found = read(&mut conn).await?;
    drop(conn.close().await);
    Ok(found.iter().map(|((kind, id), facts)| format!("{kind}\t{id}\t{facts}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&str, &str, &str)]) -> Objects {
        lines.iter().map(|(kind, id, facts)| (((*kind).to_owned(), (*id).to_owned()), (*facts).to_owned())).collect()
    }

    #[test]
    fn every_line_is_read() {
        let expected = expected();
        assert_eq!(expected.len(), EXPECTED.lines().count());
        for kind in ["function", "parsed by PostgreSQL 15", "policy", "setting", "table", "trigger"] {
            assert!(expected.keys().any(|(k, _)| k == kind), "{kind}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let expected = of(&[("table", "a", "x"), ("trigger", "a.t", "x"), ("parsed by PostgreSQL 15", "f()", "x")]);
        assert!(differences(&expected, &expected).is_empty());
        let found = of(&[("table", "a", "y"), ("trigger", "a.u", "x"), ("parsed by PostgreSQL 15", "f()", "y")]);
        let said: Vec<_> = differences(&expected, &found).into_iter().collect();
        assert_eq!(
            said,
            ["function f() differs", "table a differs", "trigger a.t is missing", "trigger a.u is not this program's"]
        );
        // Another version tells it in other words; the rest is compared all the same.
        let found = of(&[("table", "a", "x"), ("parsed by PostgreSQL 99", "f()", "y")]);
        assert_eq!(differences(&expected, &found), ["trigger a.t is missing".to_owned()].into());
    }
}
