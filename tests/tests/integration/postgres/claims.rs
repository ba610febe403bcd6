//! A host chooses a task, has policy decide about it, and claims it: by then another host may have claimed it.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::harness::Server;
use crate::harness::state::Db;

/// CLAIM: what counts is what the task is in the transaction, not what it was when it was chosen.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_chosen_and_is_claimed_by_then_is_left_alone() {
    let server = Server::on_postgres().await;
    let holder = server.agent("x", "codex_local").await;
    server.agent("y", "codex_local").await;
    let id = server.admin.submit("t", json!({})).await;
    holder.claim("t").await;
    let before = server.admin.task(&id).await;
    let Db::Postgres(mut conn) = server.db().await else { panic!("this is about PostgreSQL") };
    let sql = format!(
        "SELECT verdict, body FROM portreeve.task_claim(ROW(gen_random_uuid(), 'r', 'y', 'codex', 'codex_local', 3,
             'task_claim', 'get_work', 'x', '{{}}', '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}', 'sha256:x', 1, 1,
             0, 0, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL)::portreeve.decision, '{id}', NULL, 60, NULL)"
    );
    let (verdict, body): (String, String) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((verdict.as_str(), &body["success"]), ("done", &json!(false)), "{body}");
    assert_eq!(server.admin.task(&id).await, before);
}
