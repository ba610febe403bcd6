//! What the process cannot stand still in: on PostgreSQL a mutation is one call, and its steps are the database's. So there the
//! connection dies instead, at each row that the function writes, and the service that asked lives on.

use super::chain::{Ran, assert_moved, assert_once, assert_reply, request};
use super::kinds::{Ends, Kind};
use super::world::{Look, World};
use crate::harness::postgres;
use crate::harness::state::{Db, RECORD_TABLES, connect, execute, state_tables};

/// Kinds whose function writes something of its own kind: what is stored once cannot be tried again and again.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.is_once() && !kind.is_on_broken_table())
}

/// Counts the rows that a transaction writes, and ends its connection at the one that the table names: once, which a sequence
/// remembers though the transaction is undone, so that the record of the failure is not lost with it.
const COUNTER: [&str; 4] = [
    "CREATE TABLE public.test_death (at integer NOT NULL)",
    "CREATE SEQUENCE public.test_deaths",
    "INSERT INTO public.test_death VALUES (0)",
    "CREATE FUNCTION public.test_die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
     DECLARE
         written integer := coalesce(nullif(current_setting('test.written', true), ''), '0')::integer + 1;
     BEGIN
         PERFORM set_config('test.written', written::text, true);
         IF written = (SELECT d.at FROM public.test_death d) AND nextval('public.test_deaths') = 1 THEN
             PERFORM pg_terminate_backend(pg_backend_pid());
             PERFORM pg_sleep(60);
         END IF;
         RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
     END $$",
];

fn tables() -> impl Iterator<Item = &'static str> {
    state_tables(true).into_iter().chain(RECORD_TABLES).filter(|table| *table != "schema_migrations")
}

async fn on_each_table(db: &mut Db, statement: fn(&str) -> String) {
    for table in tables() {
        execute(db, &statement(table)).await.unwrap();
    }
}

async fn die_at(db: &mut Db, write: i64) {
    execute(db, "ALTER SEQUENCE public.test_deaths RESTART").await.unwrap();
    execute(db, &format!("UPDATE public.test_death SET at = {write}")).await.unwrap();
}

/// Each kind, with the connection lost at each of its writes.
pub(super) async fn deaths() -> Ran {
    let mut ran = Ran::default();
    if !postgres::is_chosen() {
        return ran;
    }
    let mut world = World::start().await;
    let mut db = connect(world.data()).await;
    for sql in COUNTER {
        execute(&mut db, sql).await.unwrap();
    }
    on_each_table(&mut db, |table| {
        format!("CREATE TRIGGER aa_test_die BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION public.test_die()")
    })
    .await;
    let mut n = 10_000;
    for kind in kinds() {
        let mut writes = 0;
        while lose(&mut world, &mut db, kind, writes + 1, n).await {
            writes += 1;
            n += 1;
        }
        n += 1;
        // A mutation writes its row, what it changes, and its answer.
        let case_writes = if kind.prepare(&mut world, n).await.ends == Ends::Done { 3 } else { 1 };
        assert!(writes >= case_writes, "{kind:?} died at {writes} writes only");
        n += 1;
        ran.none += usize::try_from(writes).unwrap();
    }
    on_each_table(&mut db, |table| format!("DROP TRIGGER aa_test_die ON {table}")).await;
    db.close().await;
    world.assert_whole().await;
    ran
}

/// Loses the connection at a write, and repeats the request. False when there are not so many writes.
async fn lose(world: &mut World, db: &mut Db, kind: Kind, write: i64, n: usize) -> bool {
    let what = format!("{kind:?} at write {write}");
    let case = kind.prepare(world, n).await;
    let (key, first, second) = (format!("lost-{n}"), format!("lost-first-{n}"), format!("lost-second-{n}"));
    let before = world.look(&case).await;
    die_at(db, write).await;
    let reply = case.client.send(request(&case, &key, &first)).await;
    die_at(db, 0).await;
    let after = world.look(&case).await;
    if reply.status == case.ends.status() {
        assert_reply(kind, &case, &reply);
        return false;
    }
    assert_eq!(reply.status, 503, "{what}: {}", reply.body);
    assert_moved(kind, &case, &before, &after, false);
    let rows = world.outcomes(&first).await;
    // That an allowed mutation failed is recorded, in a transaction of its own. Of these nothing but their row was to be
    // written: what is wrong with a component is seen before the database is asked.
    let only_its_row = matches!(case.ends, Ends::Denied | Ends::Answered) || kind == Kind::UploadUnfit;
    let expected: &[&str] = if only_its_row { &[] } else { &["failed"] };
    assert_eq!(rows, expected, "{what}");
    let again = case.client.send(request(&case, &key, &second)).await;
    assert_reply(kind, &case, &again);
    assert_once(&what, world, &case, (&after as &Look, false), &again, [&first, &second]).await;
    true
}
