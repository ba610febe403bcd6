//! The work queue in PostgreSQL.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::tasks::{
    Candidate, NOT_CLAIMED, NOT_TASK_SUBMITTER, TASK_ALREADY_FINAL, TASK_NOT_FOUND, TaskBeat, TaskCancel, TaskClaim,
    TaskClaimed, TaskComplete, TaskEnded, TaskEntry, TaskExpire, TaskHeartbeat, TaskList, TaskSubmit, TaskSubmitted,
    TasksExpired,
};
use crate::domain::task::{INDEPENDENT_TYPES, Status, failure};
use crate::store::audit::{canonical, exact, redact};
use crate::store::{Claims, Page, StoreError};

fn json_of(row: &PgRow, column: &str) -> Result<Option<Value>, sqlx::Error> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| sqlx::Error::Decode(Box::new(e)))).transpose()
}

pub(super) fn status_of(row: &PgRow) -> Result<Status, sqlx::Error> {
    let text: String = row.try_get("status")?;
    Status::parse(&text).ok_or_else(|| sqlx::Error::Decode(format!("unknown status `{text}`").into()))
}

/// The columns of a task, with those that it depends on.
macro_rules! task {
    () => {
        "q.task_id::text AS id, q.task_type, q.description, q.status, q.priority, q.input_data::text AS input_data, \
         q.submitted_by, q.claimed_by, q.claimed_at, q.lease_expires_at, q.attempt_count, q.max_attempts, \
         q.result::text AS result, q.error_message, q.deadline, q.created_at, q.completed_at, \
         ARRAY(SELECT w.depends_on::text FROM portreeve.work_dependencies w \
               WHERE w.workspace = q.workspace AND w.task_id = q.task_id ORDER BY w.depends_on) AS depends_on"
    };
}

fn read_task(row: &PgRow) -> Result<TaskEntry, sqlx::Error> {
    Ok(TaskEntry {
        id: row.try_get("id")?,
        task_type: row.try_get("task_type")?,
        description: row.try_get("description")?,
        status: status_of(row)?,
        priority: row.try_get("priority")?,
        input_data: json_of(row, "input_data")?,
        submitted_by: row.try_get("submitted_by")?,
        claimed_by: row.try_get("claimed_by")?,
        claimed_at: row.try_get("claimed_at")?,
        lease_expires_at: row.try_get("lease_expires_at")?,
        attempt_count: row.try_get("attempt_count")?,
        max_attempts: row.try_get("max_attempts")?,
        result: json_of(row, "result")?,
        error_message: row.try_get("error_message")?,
        depends_on: row.try_get("depends_on")?,
        deadline: row.try_get("deadline")?,
        created_at: row.try_get("created_at")?,
        completed_at: row.try_get("completed_at")?,
    })
}

fn read_ended(body: &Body) -> Result<TaskEnded, Unreadable> {
    let status = body.opt_text("status")?;
    Ok(TaskEnded {
        success: body.flag("success")?,
        status: status.map(|text| Status::parse(&text).ok_or(Unreadable("status"))).transpose()?,
        task_id: body.text("task_id")?,
        reason: body.opt_word("reason", &[NOT_CLAIMED, TASK_NOT_FOUND, TASK_ALREADY_FINAL, NOT_TASK_SUBMITTER])?,
    })
}

impl Call for TaskSubmit {
    const SQL: &'static str =
        call!("task_submit", "$32::uuid, $33, $34, $35::json, $36, $37::text[]::uuid[], $38, $39, $40, $41");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.task_id)
            .bind(&self.task_type)
            .bind(&self.description)
            .bind(self.input_data.as_ref().map(Value::to_string))
            .bind(self.priority)
            .bind(&self.depends_on)
            .bind(self.deadline)
            .bind(self.max_attempts)
            .bind(&self.required_archetype)
            .bind(self.required_trust)
    }

    fn read(self, body: &Body) -> Result<TaskSubmitted, Unreadable> {
        Ok(TaskSubmitted {
            success: body.flag("success")?,
            task_id: body.opt_text("task_id")?,
            reason: body.opt_word("reason", &[failure::DEPENDENCY_FAILED])?,
        })
    }
}

impl Call for TaskClaim {
    const SQL: &'static str = call!("task_claim", "$32::uuid, $33, $34, $35::json");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        let task = self.candidate.as_ref();
        // The task's texts do not change, so what the log keeps of them can be told beforehand.
        let shown = task.map(|task| {
            let input_data = task.input_data.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            let texts = json!({"description": task.description, "input_data": input_data});
            // One that is too long in all is for the database to shorten, which has the whole answer.
            canonical(&exact(&redact(&texts)))
        });
        args.bind(task.map(|task| &task.task_id)).bind(&self.blocked).bind(self.lease_seconds).bind(shown)
    }

    fn read(self, body: &Body) -> Result<TaskClaimed, Unreadable> {
        let success = body.flag("success")?;
        Ok(TaskClaimed {
            success,
            task_id: body.opt_text("task_id")?,
            task_type: body.opt_text("task_type")?,
            description: body.opt_text("description")?,
            input_data: body.opt_json("input_data"),
            priority: body.opt_int("priority")?,
            deadline: body.opt_time("deadline")?,
            reason: body.opt_text("reason")?,
            claim_token: body.opt_text("claim_token")?,
            lease_expires_at: body.opt_time("lease_expires_at")?,
            attempt: body.opt_int("attempt")?,
            raced: !success && self.candidate.is_some(),
        })
    }
}

impl Call for TaskHeartbeat {
    const SQL: &'static str = call!("task_heartbeat", "$32::uuid, $33, $34");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.task_id).bind(&self.claim_token).bind(self.lease_seconds)
    }

    fn read(self, body: &Body) -> Result<TaskBeat, Unreadable> {
        Ok(TaskBeat {
            success: body.flag("success")?,
            lease_expires_at: body.opt_time("lease_expires_at")?,
            reason: body.opt_word("reason", &[NOT_CLAIMED])?,
        })
    }
}

impl Call for TaskComplete {
    const SQL: &'static str = call!("task_complete", "$32::uuid, $33, $34::json, $35, $36");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.task_id)
            .bind(self.success)
            .bind(self.result.as_ref().map(Value::to_string))
            .bind(&self.error_message)
            .bind(&self.claim_token)
    }

    fn read(self, body: &Body) -> Result<TaskEnded, Unreadable> {
        read_ended(body)
    }
}

impl Call for TaskCancel {
    const SQL: &'static str = call!("task_cancel", "$32::uuid, $33");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.task_id).bind(&self.reason)
    }

    fn read(self, body: &Body) -> Result<TaskEnded, Unreadable> {
        read_ended(body)
    }
}

impl Call for TaskExpire {
    const SQL: &'static str = call!("task_expire");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args
    }

    fn read(self, body: &Body) -> Result<TasksExpired, Unreadable> {
        Ok(TasksExpired { requeued: body.int("requeued")?, failed: body.int("failed")? })
    }
}

impl View {
    pub(in crate::store) async fn task_candidate(&self, claims: &Claims<'_>) -> Result<Option<Candidate>, StoreError> {
        let sql = "SELECT q.task_id::text AS task_id, q.task_type, q.description, q.input_data::text AS input_data,
                       q.priority
                   FROM portreeve.work_queue q
                   WHERE q.workspace = portreeve.current_workspace() AND q.status = 'pending' AND q.open_dependencies = 0
                     AND (q.deadline IS NULL OR q.deadline > portreeve.clock_now())
                     AND (q.required_trust IS NULL OR q.required_trust <= $1)
                     AND (q.required_archetype IS NULL OR q.required_archetype = $2)
                     AND NOT (q.task_type = ANY ($3) AND q.submitted_by = $4)
                     AND (cardinality($5::text[]) = 0 OR q.task_type = ANY ($5))
                     AND q.task_id <> ALL ($6::text[]::uuid[])
                   ORDER BY q.priority, q.submit_order LIMIT 1";
        let rows = self
            .fetch(|| {
                sqlx::query(sql)
                    .bind(claims.trust_level)
                    .bind(claims.archetype)
                    .bind(INDEPENDENT_TYPES.as_slice())
                    .bind(claims.agent_id)
                    .bind(claims.task_types)
                    .bind(claims.passed_over)
            })
            .await?;
        let read = |row: &PgRow| {
            Ok(Candidate {
                task_id: row.try_get("task_id")?,
                task_type: row.try_get("task_type")?,
                description: row.try_get("description")?,
                input_data: row.try_get("input_data")?,
                priority: row.try_get("priority")?,
            })
        };
        rows.first().map(read).transpose().map_err(|e: sqlx::Error| e.into())
    }

    pub(in crate::store) async fn tasks_lapsed(&self) -> Result<bool, StoreError> {
        // The first of each, by its index: what is looked for is mostly not there, and `EXISTS` would read all to find that out.
        let sql = "SELECT coalesce(least(
                       (SELECT min(q.lease_expires_at) FROM portreeve.work_queue q
                        WHERE q.workspace = portreeve.current_workspace() AND q.status = 'claimed'),
                       (SELECT min(q.deadline) FROM portreeve.work_queue q
                        WHERE q.workspace = portreeve.current_workspace() AND q.status IN ('pending', 'claimed')
                          AND q.deadline IS NOT NULL),
                       (SELECT min(k.created_at) FROM portreeve.idempotency_keys k
                        WHERE k.workspace = portreeve.current_workspace()) + interval '24 hours'
                   ) <= portreeve.clock_now(), false) AS lapsed";
        Ok(self.fetch_one(|| sqlx::query(sql)).await?.try_get("lapsed")?)
    }

    pub(in crate::store) async fn task(&self, task_id: &str) -> Result<Option<TaskEntry>, StoreError> {
        let sql = concat!(
            "SELECT ",
            task!(),
            " FROM portreeve.work_queue q WHERE q.workspace = portreeve.current_workspace() AND q.task_id = $1::uuid"
        );
        let rows = self.fetch(|| sqlx::query(sql).bind(task_id)).await?;
        Ok(rows.first().map(read_task).transpose()?)
    }

    pub(in crate::store) async fn tasks(&self, query: &TaskList) -> Result<Page<TaskEntry>, StoreError> {
        let sql = concat!(
            "SELECT ",
            task!(),
            ", (octet_length(q.description) + coalesce(octet_length(q.input_data::text), 0)
                + coalesce(octet_length(q.result::text), 0))::bigint AS page_bytes
             FROM portreeve.work_queue q
             WHERE q.workspace = portreeve.current_workspace() AND ($1::text IS NULL OR q.status = $1)
               AND ($2::text IS NULL OR q.task_type = $2)
             ORDER BY q.submit_order DESC LIMIT $3"
        );
        let rows = sqlx::query(sql).bind(&query.status).bind(&query.task_type).bind(query.limit.saturating_add(1));
        self.page(query.limit, rows, read_task).await
    }
}
