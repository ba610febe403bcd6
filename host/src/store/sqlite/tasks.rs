//! The work queue in SQLite.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::columns::{json_of, texts, time};
use super::tx::{Apply, Rejected, Tx};
use super::view::{View, page};
use crate::clock::Time;
use crate::command::tasks::{
    Candidate, NO_TASKS, NOT_CLAIMED, NOT_TASK_SUBMITTER, TASK_ALREADY_FINAL, TASK_NOT_FOUND, TaskBeat, TaskCancel,
    TaskClaim, TaskClaimed, TaskComplete, TaskEnded, TaskEntry, TaskExpire, TaskHeartbeat, TaskList, TaskSubmit,
    TaskSubmitted, TasksExpired, too_many_dependants, unknown_dependency,
};
use crate::domain::task::{FAMILY_MAX, INDEPENDENT_TYPES, Next, Progress, Status, failure};
use crate::gate::Permit;
use crate::store::{Claims, Page, StoreError};

/// Most tasks that one expiry changes; the next one takes the rest.
const EXPIRE_MAX: i64 = 500;

/// The least trust that may withdraw another's task (class `admin`).
const ADMIN_TRUST: i64 = 3;

fn status_of(row: &SqliteRow) -> Result<Status, sqlx::Error> {
    let text: String = row.try_get("status")?;
    Status::parse(&text).ok_or_else(|| sqlx::Error::Decode(format!("unknown status `{text}`").into()))
}

fn read_progress(row: &SqliteRow) -> Result<Progress, sqlx::Error> {
    Ok(Progress {
        status: status_of(row)?,
        attempt_count: row.try_get("attempt_count")?,
        max_attempts: row.try_get("max_attempts")?,
        claimed_by: row.try_get("claimed_by")?,
        claim_token: row.try_get("claim_token")?,
        lease_expires_at: time(row, "lease_expires_at")?,
        deadline: time(row, "deadline")?,
    })
}

fn read_task(row: &SqliteRow) -> Result<TaskEntry, sqlx::Error> {
    Ok(TaskEntry {
        id: row.try_get("task_id")?,
        task_type: row.try_get("task_type")?,
        description: row.try_get("description")?,
        status: status_of(row)?,
        priority: row.try_get("priority")?,
        input_data: json_of(row, "input_data")?,
        submitted_by: row.try_get("submitted_by")?,
        claimed_by: row.try_get("claimed_by")?,
        claimed_at: time(row, "claimed_at")?,
        lease_expires_at: time(row, "lease_expires_at")?,
        attempt_count: row.try_get("attempt_count")?,
        max_attempts: row.try_get("max_attempts")?,
        result: json_of(row, "result")?,
        error_message: row.try_get("error_message")?,
        depends_on: texts(row, "depends_on")?,
        deadline: time(row, "deadline")?,
        created_at: Time::from_micros(row.try_get("created_at")?),
        completed_at: time(row, "completed_at")?,
    })
}

/// Where a task goes, with what is written beside the status.
struct Move<'a> {
    task_id: &'a str,
    status: Status,
    attempt_count: i64,
    result: Option<String>,
    error_message: Option<&'a str>,
}

impl Tx<'_> {
    pub(super) async fn task_progress(&mut self, task_id: &str) -> Result<Option<Progress>, sqlx::Error> {
        let sql = "SELECT status, attempt_count, max_attempts, claimed_by, claim_token, lease_expires_at, deadline
                   FROM work_queue WHERE task_id = ?1";
        let row = sqlx::query(sql).bind(task_id).fetch_optional(&mut *self.conn).await?;
        row.as_ref().map(read_progress).transpose()
    }

    fn task_changed(&mut self, task_id: &str, status: Status, attempt_count: i64) {
        self.changed("work_queue", task_id, json!({"status": status, "attempt_count": attempt_count}));
    }

    /// Ends a claim or a task. `claimed_by` of a final task stays, to tell who did it.
    async fn task_move(&mut self, to: Move<'_>) -> Result<(), sqlx::Error> {
        let sql = "UPDATE work_queue SET status = ?2, attempt_count = ?3, result = ?4, error_message = ?5,
                       claim_token = NULL, lease_expires_at = NULL, heartbeat_at = NULL, completed_at = ?6,
                       claimed_by = CASE WHEN ?2 = 'pending' THEN NULL ELSE claimed_by END,
                       claimed_at = CASE WHEN ?2 = 'pending' THEN NULL ELSE claimed_at END
                   WHERE task_id = ?1";
        let completed_at = to.status.is_final().then(|| self.now().as_micros());
        sqlx::query(sql)
            .bind(to.task_id)
            .bind(to.status.as_str())
            .bind(to.attempt_count)
            .bind(to.result)
            .bind(to.error_message)
            .bind(completed_at)
            .execute(&mut *self.conn)
            .await?;
        self.task_changed(to.task_id, to.status, to.attempt_count);
        Ok(())
    }

    /// Tells dependants of a completed task that one of theirs is done.
    async fn dependants_release(&mut self, task_id: &str) -> Result<(), sqlx::Error> {
        let sql = "UPDATE work_queue SET open_dependencies = open_dependencies - 1
                   WHERE status = 'pending' AND open_dependencies > 0
                     AND task_id IN (SELECT task_id FROM work_dependencies WHERE depends_on = ?1)";
        sqlx::query(sql).bind(task_id).execute(&mut *self.conn).await.map(drop)
    }

    /// Refuses to fail more at once with this task than is good for those who wait for their turn to write.
    async fn family_fits(&mut self, task_id: &str, field: &str) -> Result<(), Rejected> {
        let limit = i64::from(FAMILY_MAX).saturating_add(1);
        let count = self.family_size(&BTreeSet::from([task_id.to_owned()]), limit).await?;
        if count < limit { Ok(()) } else { Err(Rejected::Invalid(too_many_dependants(field))) }
    }

    /// How many tasks wait for these, directly or through others; counted up to a limit.
    pub(super) async fn family_size(&mut self, ids: &BTreeSet<String>, limit: i64) -> Result<i64, sqlx::Error> {
        let sql = "WITH RECURSIVE waiting (task_id) AS (
                       SELECT q.task_id FROM json_each(?1) i CROSS JOIN work_dependencies d ON d.depends_on = i.value
                       CROSS JOIN work_queue q ON q.task_id = d.task_id WHERE q.status = 'pending'
                       UNION
                       SELECT q.task_id FROM waiting CROSS JOIN work_dependencies d ON d.depends_on = waiting.task_id
                       CROSS JOIN work_queue q ON q.task_id = d.task_id WHERE q.status = 'pending')
                   SELECT count(*) FROM (SELECT 1 FROM waiting LIMIT ?2)";
        sqlx::query_scalar(sql).bind(json!(ids).to_string()).bind(limit).fetch_one(&mut *self.conn).await
    }

    /// Fails all that waits for a task that failed or was cancelled, and what waits for those. Returns how many.
    async fn dependants_fail(&mut self, task_id: &str) -> Result<i64, sqlx::Error> {
        // CROSS JOIN keeps the order: the planner would begin with all pending tasks, for each one that fails.
        let sql = "SELECT q.task_id, q.attempt_count
                   FROM work_dependencies d CROSS JOIN work_queue q ON q.task_id = d.task_id
                   WHERE d.depends_on = ?1 AND q.status = 'pending' ORDER BY q.submit_order";
        let mut failed = 0_i64;
        let mut ended = vec![task_id.to_owned()];
        while let Some(task_id) = ended.pop() {
            let rows = sqlx::query(sql).bind(&task_id).fetch_all(&mut *self.conn).await?;
            for row in rows {
                let dependant: String = row.try_get("task_id")?;
                let attempt_count = row.try_get("attempt_count")?;
                let error_message = Some(failure::DEPENDENCY_FAILED);
                let status = Status::Failed;
                self.task_move(Move { task_id: &dependant, status, attempt_count, result: None, error_message })
                    .await?;
                failed = failed.saturating_add(1);
                ended.push(dependant);
            }
        }
        Ok(failed)
    }

    /// Carries out what became of a task without its holder.
    pub(super) async fn task_end(&mut self, task_id: &str, next: Next) -> Result<TasksExpired, sqlx::Error> {
        let (status, attempt_count, error_message) = match next {
            Next::Retry { attempt_count } => (Status::Pending, attempt_count, None),
            Next::Fail { attempt_count, reason } => (Status::Failed, attempt_count, reason),
            Next::Stay | Next::Complete => return Ok(TasksExpired { requeued: 0, failed: 0 }),
        };
        self.task_move(Move { task_id, status, attempt_count, result: None, error_message }).await?;
        if status == Status::Failed {
            let failed = self.dependants_fail(task_id).await?.saturating_add(1);
            return Ok(TasksExpired { requeued: 0, failed });
        }
        Ok(TasksExpired { requeued: 1, failed: 0 })
    }

    async fn task_insert(&mut self, task: &TaskSubmit, by: &str, open: i64) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO work_queue (task_id, submit_order, task_type, description, input_data, priority, status,
                       submitted_by, required_archetype, required_trust, max_attempts, open_dependencies, deadline,
                       created_at)
                   VALUES (?1, (SELECT coalesce(max(submit_order), 0) + 1 FROM work_queue), ?2, ?3, ?4, ?5, 'pending',
                       ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        sqlx::query(sql)
            .bind(&task.task_id)
            .bind(&task.task_type)
            .bind(&task.description)
            .bind(task.input_data.as_ref().map(Value::to_string))
            .bind(task.priority)
            .bind(by)
            .bind(&task.required_archetype)
            .bind(task.required_trust)
            .bind(task.max_attempts)
            .bind(open)
            .bind(task.deadline.map(Time::as_micros))
            .bind(self.now().as_micros())
            .execute(&mut *self.conn)
            .await?;
        for depends_on in &task.depends_on {
            sqlx::query("INSERT INTO work_dependencies (task_id, depends_on) VALUES (?1, ?2)")
                .bind(&task.task_id)
                .bind(depends_on)
                .execute(&mut *self.conn)
                .await?;
        }
        self.task_changed(&task.task_id, Status::Pending, 0);
        Ok(())
    }

    async fn check_open_tasks(&mut self, agent_id: &str, most: Option<u32>) -> Result<(), Rejected> {
        let Some(most) = most else { return Ok(()) };
        let sql = "SELECT count(*) FROM work_queue WHERE submitted_by = ?1 AND status IN ('pending', 'claimed')";
        let open: i64 = sqlx::query_scalar(sql).bind(agent_id).fetch_one(&mut *self.conn).await?;
        if open < i64::from(most) {
            return Ok(());
        }
        Err(Rejected::Limit {
            reason: "open_task_limit_reached",
            detail: format!("the profile allows {most} open tasks, and {agent_id} submitted that many"),
            remedy: "wait for a task to end or cancel one, or ask an admin for a profile with a higher limit"
                .to_owned(),
        })
    }
}

impl Apply for TaskSubmit {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<TaskSubmitted, Rejected> {
        let agent_id = permit.who().agent_id();
        let mut open = 0_i64;
        for task_id in &self.depends_on {
            match tx.task_progress(task_id).await?.map(|task| task.status) {
                None => return Err(Rejected::Invalid(unknown_dependency(task_id))),
                Some(Status::Completed) => {}
                Some(Status::Failed | Status::Cancelled) => {
                    let reason = Some(failure::DEPENDENCY_FAILED);
                    return Ok(TaskSubmitted { success: false, task_id: None, reason });
                }
                Some(Status::Pending | Status::Claimed) => open = open.saturating_add(1),
            }
        }
        tx.check_open_tasks(agent_id, permit.obligations().max_open_tasks).await?;
        tx.task_insert(&self, agent_id, open).await?;
        Ok(TaskSubmitted { success: true, task_id: Some(self.task_id), reason: None })
    }
}

impl Apply for TaskClaim {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<TaskClaimed, Rejected> {
        let Some(task) = self.candidate else {
            return Ok(TaskClaimed::none(self.blocked.unwrap_or_else(|| NO_TASKS.to_owned())));
        };
        // The candidate was seen outside of this transaction; only a task that still waits is taken,
        // and only by a claimant that still meets what it asks for.
        let sql = "UPDATE work_queue
                   SET status = 'claimed', claimed_by = ?2, claimed_at = ?3, claim_token = ?4, lease_expires_at = ?5,
                       heartbeat_at = ?3
                   WHERE task_id = ?1 AND status = 'pending' AND open_dependencies = 0
                     AND (deadline IS NULL OR deadline > ?3)
                     AND (required_trust IS NULL OR required_trust <= ?6)
                     AND (required_archetype IS NULL OR required_archetype = ?7)
                     AND NOT (task_type IN (?8, ?9) AND submitted_by = ?2)
                   RETURNING attempt_count, deadline";
        let claim_token = crate::command::new_id();
        let lease_expires_at = tx.now().plus_seconds(self.lease_seconds);
        let [evaluate, review] = INDEPENDENT_TYPES;
        let claimed = sqlx::query(sql)
            .bind(&task.task_id)
            .bind(permit.who().agent_id())
            .bind(tx.now().as_micros())
            .bind(&claim_token)
            .bind(lease_expires_at.as_micros())
            .bind(permit.trust_level())
            .bind(permit.who().archetype())
            .bind(evaluate)
            .bind(review)
            .fetch_optional(&mut *tx.conn)
            .await?;
        let Some(row) = claimed else {
            return Ok(TaskClaimed { raced: true, ..TaskClaimed::none(NO_TASKS) });
        };
        let attempt_count: i64 = row.try_get("attempt_count")?;
        tx.task_changed(&task.task_id, Status::Claimed, attempt_count);
        let input_data = task.input_data.as_deref().map(serde_json::from_str).transpose();
        Ok(TaskClaimed {
            success: true,
            task_id: Some(task.task_id),
            task_type: Some(task.task_type),
            description: Some(task.description),
            input_data: input_data.map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
            priority: Some(task.priority),
            deadline: time(&row, "deadline")?,
            reason: None,
            claim_token: Some(claim_token),
            lease_expires_at: Some(lease_expires_at),
            attempt: Some(attempt_count.saturating_add(1)),
            raced: false,
        })
    }
}

impl Apply for TaskHeartbeat {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<TaskBeat, Rejected> {
        let (agent_id, now) = (permit.who().agent_id(), tx.now());
        let held = tx.task_progress(&self.task_id).await?;
        let Some(task) = held.filter(|task| task.is_held_by(agent_id, Some(&self.claim_token), now)) else {
            return Ok(TaskBeat { success: false, lease_expires_at: None, reason: Some(NOT_CLAIMED) });
        };
        let until = now.plus_seconds(self.lease_seconds);
        sqlx::query("UPDATE work_queue SET lease_expires_at = ?2, heartbeat_at = ?3 WHERE task_id = ?1")
            .bind(&self.task_id)
            .bind(until.as_micros())
            .bind(now.as_micros())
            .execute(&mut *tx.conn)
            .await?;
        tx.task_changed(&self.task_id, Status::Claimed, task.attempt_count);
        Ok(TaskBeat { success: true, lease_expires_at: Some(until), reason: None })
    }
}

impl Apply for TaskComplete {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<TaskEnded, Rejected> {
        let (agent_id, now) = (permit.who().agent_id(), tx.now());
        if !self.success {
            tx.family_fits(&self.task_id, "success").await?;
        }
        let held = tx.task_progress(&self.task_id).await?;
        let Some(task) = held.filter(|task| task.is_held_by(agent_id, self.claim_token.as_deref(), now)) else {
            return Ok(TaskEnded::refused(&self.task_id, NOT_CLAIMED));
        };
        let (status, attempt_count) = match task.report(self.success) {
            Next::Complete => (Status::Completed, task.attempt_count.saturating_add(1)),
            Next::Retry { attempt_count } => (Status::Pending, attempt_count),
            Next::Fail { attempt_count, .. } => (Status::Failed, attempt_count),
            Next::Stay => return Ok(TaskEnded::refused(&self.task_id, NOT_CLAIMED)),
        };
        let result = self.result.as_ref().map(Value::to_string);
        let error_message = self.error_message.as_deref();
        tx.task_move(Move { task_id: &self.task_id, status, attempt_count, result, error_message }).await?;
        match status {
            Status::Completed => tx.dependants_release(&self.task_id).await?,
            Status::Failed => drop(tx.dependants_fail(&self.task_id).await?),
            Status::Pending | Status::Claimed | Status::Cancelled => {}
        }
        Ok(TaskEnded::now(&self.task_id, status))
    }
}

impl Apply for TaskCancel {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<TaskEnded, Rejected> {
        tx.family_fits(&self.task_id, "task_id").await?;
        let submitter: Option<String> = sqlx::query_scalar("SELECT submitted_by FROM work_queue WHERE task_id = ?1")
            .bind(&self.task_id)
            .fetch_optional(&mut *tx.conn)
            .await?;
        let Some(submitter) = submitter else { return Ok(TaskEnded::refused(&self.task_id, TASK_NOT_FOUND)) };
        if submitter != permit.who().agent_id() && permit.trust_level() < ADMIN_TRUST {
            return Ok(TaskEnded::refused(&self.task_id, NOT_TASK_SUBMITTER));
        }
        let Some(task) = tx.task_progress(&self.task_id).await?.filter(|task| !task.status.is_final()) else {
            return Ok(TaskEnded::refused(&self.task_id, TASK_ALREADY_FINAL));
        };
        let spent = i64::from(task.status == Status::Claimed);
        let attempt_count = task.attempt_count.saturating_add(spent).min(task.max_attempts);
        let (status, error_message) = (Status::Cancelled, self.reason.as_deref());
        tx.task_move(Move { task_id: &self.task_id, status, attempt_count, result: None, error_message }).await?;
        tx.dependants_fail(&self.task_id).await?;
        Ok(TaskEnded::now(&self.task_id, status))
    }
}

impl Apply for TaskExpire {
    async fn apply(self, tx: &mut Tx<'_>, _permit: &Permit<Self>) -> Result<TasksExpired, Rejected> {
        let sql = "SELECT task_id, status, attempt_count, max_attempts, claimed_by, claim_token, lease_expires_at,
                       deadline
                   FROM work_queue
                   WHERE task_id IN (
                       SELECT task_id FROM work_queue WHERE status = 'claimed' AND lease_expires_at <= ?1
                       UNION
                       SELECT task_id FROM work_queue WHERE status IN ('pending', 'claimed') AND deadline <= ?1)
                   ORDER BY submit_order LIMIT ?2";
        let now = tx.now();
        let rows = sqlx::query(sql).bind(now.as_micros()).bind(EXPIRE_MAX).fetch_all(&mut *tx.conn).await?;
        let (mut requeued, mut failed) = (0_i64, 0_i64);
        for row in &rows {
            let task_id: String = row.try_get("task_id")?;
            // One that an earlier row's failure took with it is final by now.
            let Some(task) = tx.task_progress(&task_id).await? else { continue };
            let ended = tx.task_end(&task_id, task.expire(now)).await?;
            requeued = requeued.saturating_add(ended.requeued);
            failed = failed.saturating_add(ended.failed);
        }
        let day = now.plus_minutes(-24 * 60).as_micros();
        sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= ?1").bind(day).execute(&mut *tx.conn).await?;
        Ok(TasksExpired { requeued, failed })
    }
}

impl View {
    pub(in crate::store) async fn task_candidate(&self, claims: &Claims<'_>) -> Result<Option<Candidate>, StoreError> {
        let sql = "SELECT task_id, task_type, description, input_data, priority FROM work_queue
                   WHERE status = 'pending' AND open_dependencies = 0
                     AND (deadline IS NULL OR deadline > ?1)
                     AND (required_trust IS NULL OR required_trust <= ?2)
                     AND (required_archetype IS NULL OR required_archetype = ?3)
                     AND NOT (task_type IN (?4, ?5) AND submitted_by = ?6)
                     AND (?7 = '[]' OR task_type IN (SELECT value FROM json_each(?7)))
                     AND task_id NOT IN (SELECT value FROM json_each(?8))
                   ORDER BY priority, submit_order LIMIT 1";
        let [evaluate, review] = INDEPENDENT_TYPES;
        let row = sqlx::query(sql)
            .bind(self.now().as_micros())
            .bind(claims.trust_level)
            .bind(claims.archetype)
            .bind(evaluate)
            .bind(review)
            .bind(claims.agent_id)
            .bind(json!(claims.task_types).to_string())
            .bind(json!(claims.passed_over).to_string())
            .fetch_optional(self.pool())
            .await?;
        let read = |row: SqliteRow| {
            Ok(Candidate {
                task_id: row.try_get("task_id")?,
                task_type: row.try_get("task_type")?,
                description: row.try_get("description")?,
                input_data: row.try_get("input_data")?,
                priority: row.try_get("priority")?,
            })
        };
        row.map(read).transpose().map_err(|e: sqlx::Error| e.into())
    }

    pub(in crate::store) async fn tasks_lapsed(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM work_queue WHERE status = 'claimed' AND lease_expires_at <= ?1)
                       OR EXISTS (SELECT 1 FROM work_queue WHERE status IN ('pending', 'claimed') AND deadline <= ?1)
                       OR EXISTS (SELECT 1 FROM idempotency_keys WHERE created_at <= ?2)";
        let day = self.now().plus_minutes(-24 * 60).as_micros();
        Ok(sqlx::query_scalar(sql).bind(self.now().as_micros()).bind(day).fetch_one(self.pool()).await?)
    }

    pub(in crate::store) async fn task(&self, task_id: &str) -> Result<Option<TaskEntry>, StoreError> {
        let sql = "SELECT q.*, (SELECT json_group_array(depends_on) FROM work_dependencies d
                                WHERE d.task_id = q.task_id) AS depends_on
                   FROM work_queue q WHERE task_id = ?1";
        let row = sqlx::query(sql).bind(task_id).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(read_task).transpose()?)
    }

    pub(in crate::store) async fn tasks(&self, query: &TaskList) -> Result<Page<TaskEntry>, StoreError> {
        let sql = "SELECT q.*, (SELECT json_group_array(depends_on) FROM work_dependencies d
                                WHERE d.task_id = q.task_id) AS depends_on,
                       octet_length(description) + coalesce(octet_length(input_data), 0)
                           + coalesce(octet_length(result), 0) AS page_bytes
                   FROM work_queue q
                   WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR task_type = ?2)
                   ORDER BY submit_order DESC LIMIT ?3";
        let rows = sqlx::query(sql)
            .bind(&query.status)
            .bind(&query.task_type)
            .bind(query.limit.saturating_add(1))
            .fetch(self.lists());
        page(rows, query.limit, read_task).await
    }
}
