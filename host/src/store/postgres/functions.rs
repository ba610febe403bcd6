//! The functions of the database that this program calls: one list, held against the catalogue and against the database.

use std::collections::BTreeSet;

use sqlx::{Executor, PgConnection, Row, SqlSafeStr};

use super::call::Call;
use super::decision::call;
use super::number;
use crate::command::action::Action;
use crate::command::agents::{AgentCreate, AgentKeyCreate, AgentKeyRevoke, AgentProfile, AgentSuspend};
use crate::command::catalogue::{CATALOGUE, Kind};
use crate::command::components::{ComponentActivate, ComponentShadow, ComponentUpload};
use crate::command::handoffs::HandoffWrite;
use crate::command::locks::{LockAcquire, LockForceRelease, LockRelease, LockRenew};
use crate::command::memories::MemoryStore;
use crate::command::sessions::{SessionCleanup, SessionHeartbeat, SessionRegister};
use crate::command::status::StatusReport;
use crate::command::tasks::{TaskCancel, TaskClaim, TaskComplete, TaskExpire, TaskHeartbeat, TaskSubmit};
use crate::store::StoreError;

/// A function and the statement that calls it.
struct Function {
    name: &'static str,
    sql: &'static str,
    /// It makes a change, and so belongs to a command.
    changes: bool,
}

const fn of<C: Call>() -> Function {
    Function { name: C::NAME, sql: C::SQL, changes: true }
}

const fn other(name: &'static str, sql: &'static str) -> Function {
    Function { name, sql, changes: false }
}

/// All that is called.
const FUNCTIONS: &[Function] = &[
    of::<LockAcquire>(),
    of::<LockRenew>(),
    of::<LockRelease>(),
    of::<LockForceRelease>(),
    of::<TaskSubmit>(),
    of::<TaskClaim>(),
    of::<TaskHeartbeat>(),
    of::<TaskComplete>(),
    of::<TaskCancel>(),
    of::<TaskExpire>(),
    of::<HandoffWrite>(),
    of::<MemoryStore>(),
    of::<SessionRegister>(),
    of::<SessionHeartbeat>(),
    of::<SessionCleanup>(),
    of::<StatusReport>(),
    of::<AgentCreate>(),
    of::<AgentKeyCreate>(),
    of::<AgentKeyRevoke>(),
    of::<AgentProfile>(),
    of::<AgentSuspend>(),
    of::<ComponentUpload>(),
    of::<ComponentActivate>(),
    of::<ComponentShadow>(),
    other("decision_refuse", call!("decision_refuse")),
    other("decision_answer", call!("decision_answer", "$32, $33")),
    other("decision_fail", call!("decision_fail")),
    other("audit_turn", number::TURN),
    other("audit_unnumbered", number::UNNUMBERED),
    other("audit_number", number::NUMBER),
];

/// Commands that are in no catalogue: the service gives them itself.
const OWN: [&str; 1] = [TaskExpire::NAME];

/// Each command has its function, and each function that makes a change is a command's.
fn check_catalogue() -> Result<(), StoreError> {
    let commands = CATALOGUE.iter().filter(|entry| entry.kind == Kind::Mutation).map(|entry| entry.name);
    let commands: BTreeSet<&str> = commands.chain(OWN).collect();
    let functions: BTreeSet<&str> = FUNCTIONS.iter().filter(|f| f.changes).map(|f| f.name).collect();
    match commands.symmetric_difference(&functions).next() {
        None => Ok(()),
        Some(name) => Err(StoreError::Function {
            name: (*name).to_owned(),
            why: "the catalogue and the list of functions differ".to_owned(),
        }),
    }
}

/// Refuses a database whose functions are not those that this program calls: by name, arguments, owner and rights.
pub(super) async fn check(conn: &mut PgConnection) -> Result<(), StoreError> {
    check_catalogue()?;
    for Function { name, sql, .. } in FUNCTIONS {
        let wrong = |why: String| StoreError::Function { name: (*name).to_owned(), why };
        // The server reads the statement: a function that is missing or takes other arguments is an error.
        conn.prepare(sql.into_sql_str()).await.map_err(|error| wrong(error.to_string()))?;
        let rights = "SELECT count(*) AS overloads, coalesce(bool_and(p.prosecdef), false) AS definer,
                          coalesce(bool_and(pg_get_userbyid(p.proowner) = 'portreeve_owner'), false) AS owned,
                          coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), false) AS executes,
                          coalesce(bool_and(p.proconfig @> ARRAY['search_path=pg_catalog, portreeve, pg_temp']), false)
                              AS pinned
                      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'portreeve' AND p.proname = $1";
        let row = sqlx::query(rights).bind(name).fetch_one(&mut *conn).await?;
        let overloads: i64 = row.try_get("overloads")?;
        let flaws = [
            (overloads != 1, "it is there more than once"),
            (!row.try_get::<bool, _>("definer")?, "it does not run as its owner"),
            (!row.try_get::<bool, _>("owned")?, "its owner is not portreeve_owner"),
            (!row.try_get::<bool, _>("executes")?, "this role may not execute it"),
            (!row.try_get::<bool, _>("pinned")?, "its search_path is not pinned"),
        ];
        if let Some((_, why)) = flaws.iter().find(|(is_flaw, _)| *is_flaw) {
            return Err(wrong((*why).to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_function_and_no_other_function_makes_a_change() {
        check_catalogue().unwrap();
        for function in FUNCTIONS {
            assert!(function.sql.contains(&format!("portreeve.{}(", function.name)), "{}", function.name);
        }
    }
}
