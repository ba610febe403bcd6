//! Memories in SQLite.

use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::columns::{json_of, texts};
use super::tx::{Apply, Rejected, Tx};
use super::view::{View, page};
use crate::clock::Time;
use crate::command::memories::{MemoryEntry, MemoryQuery, MemoryStore, MemoryStored, Words, too_much};
use crate::domain::memory::{Content, DUPLICATE_MINUTES, ranks_at, ranks_since, relevance};
use crate::gate::Permit;
use crate::store::{Page, StoreError};

/// The score of every memory until something tells them apart.
const SCORE: f64 = 1.0;

/// The memory that a new one repeats.
struct First {
    memory_id: String,
    content: Content,
    merge_count: i64,
}

fn read_content(row: &SqliteRow) -> Result<Content, sqlx::Error> {
    Ok(Content {
        details: json_of(row, "details")?,
        outcome: row.try_get("outcome")?,
        lessons: texts(row, "lessons")?,
        tags: texts(row, "tags")?,
    })
}

fn read_memory(row: &SqliteRow, now: Time) -> Result<MemoryEntry, sqlx::Error> {
    let content = read_content(row)?;
    let created_at = Time::from_micros(row.try_get("created_at")?);
    Ok(MemoryEntry {
        id: row.try_get("memory_id")?,
        agent_id: row.try_get("agent_id")?,
        event_type: row.try_get("event_type")?,
        summary: row.try_get("summary")?,
        details: content.details,
        outcome: content.outcome,
        lessons: content.lessons,
        tags: content.tags,
        relevance_score: relevance(row.try_get("score")?, created_at, now),
        created_at,
    })
}

fn details_text(content: &Content) -> Option<String> {
    content.details.as_ref().map(|details| json!(details).to_string())
}

impl Tx<'_> {
    /// The memory of the same event within the hour that began with it.
    async fn memory_first(&mut self, memory: &MemoryStore, hash: &[u8]) -> Result<Option<First>, sqlx::Error> {
        let sql = "SELECT * FROM memories
                   WHERE agent_id = ?1 AND event_type = ?2 AND summary_hash = ?3 AND created_at > ?4
                   ORDER BY created_at DESC LIMIT 1";
        let row = sqlx::query(sql)
            .bind(&memory.agent_id)
            .bind(&memory.event_type)
            .bind(hash)
            .bind(self.now().plus_minutes(-DUPLICATE_MINUTES).as_micros())
            .fetch_optional(&mut *self.conn)
            .await?;
        let read = |row: SqliteRow| {
            Ok(First {
                memory_id: row.try_get("memory_id")?,
                content: read_content(&row)?,
                merge_count: row.try_get("merge_count")?,
            })
        };
        row.map(read).transpose()
    }

    async fn memory_merge(&mut self, first: First, more: Content) -> Result<MemoryStored, Rejected> {
        let First { memory_id, content, merge_count } = first;
        let merged = content.clone().merge(more);
        let merged = merged.map_err(|what| Rejected::Invalid(too_much(what, "memory_full")))?;
        if merged != content {
            let merge_count = merge_count.saturating_add(1);
            let sql = "UPDATE memories SET details = ?2, outcome = ?3, lessons = ?4, tags = ?5, merge_count = ?6
                       WHERE memory_id = ?1";
            sqlx::query(sql)
                .bind(&memory_id)
                .bind(details_text(&merged))
                .bind(&merged.outcome)
                .bind(json!(merged.lessons).to_string())
                .bind(json!(merged.tags).to_string())
                .bind(merge_count)
                .execute(&mut *self.conn)
                .await?;
            self.changed("memories", memory_id.as_str(), merge_count);
        }
        Ok(MemoryStored { success: true, memory_id, action: "deduplicated" })
    }
}

impl Apply for MemoryStore {
    async fn apply(self, tx: &mut Tx<'_>, _permit: &Permit<Self>) -> Result<MemoryStored, Rejected> {
        let hash = Sha256::digest(self.summary.as_bytes()).to_vec();
        if let Some(first) = tx.memory_first(&self, &hash).await? {
            return tx.memory_merge(first, self.content).await;
        }
        let sql = "INSERT INTO memories (memory_id, agent_id, session_id, event_type, summary, summary_hash, details,
                       outcome, lessons, tags, score, ranks_at, created_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        sqlx::query(sql)
            .bind(&self.memory_id)
            .bind(&self.agent_id)
            .bind(&self.session_id)
            .bind(&self.event_type)
            .bind(&self.summary)
            .bind(hash)
            .bind(details_text(&self.content))
            .bind(&self.content.outcome)
            .bind(json!(self.content.lessons).to_string())
            .bind(json!(self.content.tags).to_string())
            .bind(SCORE)
            .bind(ranks_at(SCORE, tx.now()).as_micros())
            .bind(tx.now().as_micros())
            .execute(&mut *tx.conn)
            .await?;
        tx.changed("memories", self.memory_id.as_str(), 0);
        Ok(MemoryStored { success: true, memory_id: self.memory_id, action: "created" })
    }
}

/// The most relevant memories of one agent or of all, each in the order of an index.
macro_rules! newest {
    ($whose:literal) => {
        concat!(
            "SELECT *, octet_length(summary) + octet_length(lessons) + octet_length(tags)
                 + coalesce(octet_length(details), 0) AS page_bytes
             FROM memories
             WHERE ",
            $whose,
            " AND (?2 IS NULL OR event_type = ?2) AND (?3 IS NULL OR ranks_at >= ?3)
               AND (?4 = '[]'
                    OR NOT EXISTS (SELECT value FROM json_each(?4) EXCEPT SELECT value FROM json_each(tags)))
             ORDER BY ranks_at DESC, entry DESC LIMIT ?5"
        )
    };
}

/// Memories that hold words, the weightiest first, as they fade.
///
/// This SQLite has no `exp()`. With x the age in units of ten days, exp(−x) is 2^−n for its whole halvings and a Padé
/// approximant for the rest, right to the sixth digit. Beyond 420 days all is equally faded.
const FOUND: &str = "
    WITH found AS (
        SELECT rowid AS entry, rank AS weight FROM memories_fts WHERE memories_fts MATCH ?6
    ), aged AS (
        SELECT entry, ranks_at, weight, max(0.0, min(42.0, (?7 - ranks_at) / 864000000000.0)) AS x
        FROM found JOIN memories USING (entry)
        WHERE (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR event_type = ?2)
          AND (?3 IS NULL OR ranks_at >= ?3)
          AND (?4 = '[]'
               OR NOT EXISTS (SELECT value FROM json_each(?4) EXCEPT SELECT value FROM json_each(tags)))
    ), halved AS (
        SELECT *, CAST(x / 0.6931471805599453 AS INTEGER) AS n FROM aged
    ), rest AS (
        SELECT *, x - n * 0.6931471805599453 AS r FROM halved
    ), best AS (
        SELECT entry, weight / (1 << n) * (120 - 60 * r + 12 * r * r - r * r * r)
                          / (120 + 60 * r + 12 * r * r + r * r * r) AS place
        FROM rest ORDER BY place, ranks_at DESC, entry DESC LIMIT ?5
    )
    SELECT m.*, octet_length(summary) + octet_length(lessons) + octet_length(tags)
        + coalesce(octet_length(details), 0) AS page_bytes
    FROM best JOIN memories m USING (entry) ORDER BY place, ranks_at DESC, entry DESC";

/// Each word as a string of the index's query language, so that nothing in it is an operator.
fn quoted(words: &Words) -> String {
    let quoted = words.as_slice().iter().map(|word| format!("\"{}\"", word.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(" ")
}

impl View {
    pub(in crate::store) async fn memories(&self, query: &MemoryQuery) -> Result<Page<MemoryEntry>, StoreError> {
        let now = self.now();
        let sql = match (&query.words, &query.agent_id) {
            (None, Some(_)) => newest!("agent_id = ?1"),
            (None, None) => newest!("?1 IS NULL"),
            (Some(_), _) => FOUND,
        };
        let rows = sqlx::query(sql)
            .bind(&query.agent_id)
            .bind(&query.event_type)
            .bind(ranks_since(query.min_relevance, now).map(Time::as_micros))
            .bind(&query.tags)
            .bind(query.limit.saturating_add(1));
        let rows = match &query.words {
            Some(words) => rows.bind(quoted(words)).bind(now.as_micros()),
            None => rows,
        };
        page(rows.fetch(self.lists()), query.limit, |row| read_memory(row, now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::memories::words_of;

    #[test]
    fn what_looks_like_an_operator_is_a_word() {
        let words = words_of("a  OR -b* \"c\" --").unwrap();
        assert_eq!(quoted(&words), r#""a" "OR" "-b*" """c""""#);
    }
}
