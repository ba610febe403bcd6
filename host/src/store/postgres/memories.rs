//! Memories in PostgreSQL.

use serde_json::{Map, Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use super::words;
use crate::command::memories::{MemoryEntry, MemoryQuery, MemoryStore, MemoryStored};
use crate::domain::memory::{Content, relevance};
use crate::store::{Page, StoreError};

fn read_memory(row: &PgRow) -> Result<MemoryEntry, sqlx::Error> {
    let details: Option<String> = row.try_get("details_text")?;
    let details = details.map(|text| serde_json::from_str::<Map<String, Value>>(&text)).transpose();
    let created_at = row.try_get("created_at")?;
    Ok(MemoryEntry {
        id: row.try_get("id")?,
        agent_id: row.try_get("agent_id")?,
        event_type: row.try_get("event_type")?,
        summary: row.try_get("summary")?,
        details: details.map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        outcome: row.try_get("outcome")?,
        lessons: row.try_get("lessons")?,
        tags: row.try_get("tags")?,
        relevance_score: relevance(row.try_get("score")?, created_at, row.try_get("now")?),
        created_at,
    })
}

/// The details as text, with the keys of every document in one order: the database compares texts, and a document that
/// names the same things in another order adds nothing.
pub(in crate::store) fn details_text(content: &Content) -> Option<String> {
    content.details.as_ref().map(|details| {
        let mut details = json!(details);
        details.sort_all_objects();
        details.to_string()
    })
}

/// The words that a memory is found by, as a document.
pub(in crate::store) fn word_lists(summary: &str, content: &Content) -> String {
    words::lists(summary, content).to_string()
}

impl Call for MemoryStore {
    const SQL: &'static str = call!(
        "memory_store",
        "$32::uuid, $33, $34, $35, sha256(convert_to($35, 'UTF8')), $36::json, $37, $38, $39, $40::jsonb"
    );

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.memory_id)
            .bind(&self.session_id)
            .bind(&self.event_type)
            .bind(&self.summary)
            .bind(details_text(&self.content))
            .bind(&self.content.outcome)
            .bind(&self.content.lessons)
            .bind(&self.content.tags)
            .bind(word_lists(&self.summary, &self.content))
    }

    fn read(self, body: &Body) -> Result<MemoryStored, Unreadable> {
        Ok(MemoryStored {
            success: body.flag("success")?,
            memory_id: body.text("memory_id")?,
            action: body.word("action", &["created", "deduplicated"])?,
        })
    }
}

/// A search, in the order of an index where it looks for no words. `domain::memory::ranks_since` is worked out here, by the
/// database's time: a memory is relevant enough while it ranks after now + 10 days × ln(least).
macro_rules! search {
    ($whose:literal, $words:literal, $order:literal) => {
        concat!(
            "SELECT m.memory_id::text AS id, m.agent_id, m.event_type, m.summary, m.details::text AS details_text,
                 m.outcome, m.lessons, m.tags, m.score, m.created_at, t.now,
                 (octet_length(m.summary) + octet_length(to_json(m.lessons)::text)
                  + octet_length(to_json(m.tags)::text) + coalesce(octet_length(m.details::text), 0))::bigint AS page_bytes
             FROM portreeve.clock_now() AS t (now) CROSS JOIN portreeve.memories m
             WHERE m.workspace = portreeve.current_workspace() AND ",
            $whose,
            " AND ",
            $words,
            " AND ($3::text IS NULL OR m.event_type = $3)
              AND ($4::float8 <= 0
                   OR m.ranks_at >= t.now + floor(ln(greatest($4, 1e-300)) * 864e9) * interval '1 microsecond')
              AND m.tags @> ARRAY(SELECT json_array_elements_text($5::json))
             ORDER BY ",
            $order,
            "m.ranks_at DESC, m.entry DESC LIMIT $6"
        )
    };
}

/// Where the words weigh most, as memories fade: to 1/e in ten days. Beyond 420 days all is equally faded, as in the
/// embedded store: `exp()` is an error where it comes too near to nothing.
macro_rules! found {
    ($whose:literal) => {
        search!(
            $whose,
            "m.words @@ $2::tsquery",
            "ts_rank(m.words, $2::tsquery)
                 * exp(-least(42, greatest(0, extract(epoch FROM t.now - m.ranks_at)::float8 / 864000))) DESC, "
        )
    };
}

macro_rules! newest {
    ($whose:literal) => {
        search!($whose, "$2::text IS NULL", "")
    };
}

impl View {
    pub(in crate::store) async fn memories(&self, query: &MemoryQuery) -> Result<Page<MemoryEntry>, StoreError> {
        let looked_for = query.words.as_ref().map(words::query);
        let words = match looked_for {
            None => None,
            Some(Some(words)) => Some(words),
            // Words of nothing but marks are in no memory.
            Some(None) => return Ok(Page { items: Vec::new(), truncated: false }),
        };
        let sql = match (&words, &query.agent_id) {
            (None, Some(_)) => newest!("m.agent_id = $1"),
            (None, None) => newest!("$1::text IS NULL"),
            (Some(_), Some(_)) => found!("m.agent_id = $1"),
            (Some(_), None) => found!("$1::text IS NULL"),
        };
        let rows = sqlx::query(sql)
            .bind(&query.agent_id)
            .bind(&words)
            .bind(&query.event_type)
            .bind(query.min_relevance)
            .bind(&query.tags)
            .bind(query.limit.saturating_add(1));
        self.page(query.limit, rows, read_memory).await
    }
}
