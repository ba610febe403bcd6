//! The service runs as a role that can write nothing but through the functions. Anything more is refused.

use sqlx::{PgConnection, Row};

use crate::store::StoreError;

/// The oldest server whose features the schema needs.
const SERVER_VERSION: i32 = 150_000;

/// Refuses a role that could pass the functions, or may not call them.
pub(super) async fn check(conn: &mut PgConnection, privileged: bool) -> Result<(), StoreError> {
    let sql = "SELECT session_user::text AS name, r.rolsuper OR r.rolbypassrls AS passes,
                   (SELECT pg_has_role(session_user, o.oid, 'MEMBER') FROM pg_roles o
                    WHERE o.rolname = 'portreeve_owner') AS owns,
                   (SELECT pg_has_role(current_user, a.oid, 'USAGE') FROM pg_roles a
                    WHERE a.rolname = 'portreeve_app') AS serves
               FROM pg_roles r WHERE r.rolname = session_user";
    let row = sqlx::query(sql).fetch_one(conn).await?;
    let (name, passes): (String, bool) = (row.try_get("name")?, row.try_get("passes")?);
    let (owns, serves): (Option<bool>, Option<bool>) = (row.try_get("owns")?, row.try_get("serves")?);
    let (Some(owns), Some(serves)) = (owns, serves) else { return Err(StoreError::Unprepared) };
    if (passes || owns) && !privileged {
        let may = if passes { "passes row security" } else { "may act as the owner of the tables" };
        return Err(StoreError::Privileged { role: name, may });
    }
    if serves { Ok(()) } else { Err(StoreError::NotApp { role: name }) }
}

/// Refuses a server that is too old.
pub(super) async fn check_server(conn: &mut PgConnection) -> Result<(), StoreError> {
    let version: i32 =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::integer").fetch_one(conn).await?;
    if version < SERVER_VERSION {
        return Err(StoreError::OldServer { found: version / 10_000, needed: SERVER_VERSION / 10_000 });
    }
    Ok(())
}
