//! A memory: what an agent learned, how duplicates merge, how relevance fades.

use serde_json::{Map, Value};

use crate::clock::Time;

/// Kinds of events worth remembering.
pub const EVENT_TYPES: [&str; 5] = ["error", "success", "decision", "discovery", "optimization"];
/// How an event turned out.
pub const OUTCOMES: [&str; 3] = ["positive", "negative", "neutral"];

/// Most tags of a memory.
pub const TAGS_MAX: usize = 100;
/// Most lessons of a memory.
pub const LESSONS_MAX: usize = 100;
/// Most bytes of a memory's details, as JSON text.
pub const DETAILS_BYTES_MAX: usize = 256 << 10;

/// Minutes within which the same event with the same summary is a duplicate of the first.
pub const DUPLICATE_MINUTES: i64 = 60;

/// Relevance falls to 1/e in ten days: score × exp(−0.1 × age in days).
const FADING_MICROS: f64 = 10.0 * 24.0 * 3600.0 * 1e6;

/// What of a memory a duplicate adds to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// The event as data.
    pub details: Option<Map<String, Value>>,
    /// How it turned out.
    pub outcome: Option<String>,
    /// What follows from it.
    pub lessons: Vec<String>,
    /// What it is about.
    pub tags: Vec<String>,
}

/// A memory would hold more than one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// Of what.
    pub field: &'static str,
    /// How much it would be.
    pub size: usize,
    /// How much it may be.
    pub most: usize,
}

impl Content {
    /// Without blank and repeated texts.
    ///
    /// # Errors
    /// When it is more than a memory holds.
    pub fn tidy(self) -> Result<Self, TooMuch> {
        Self::default().merge(self)
    }

    /// Adds a duplicate: lists are united in order, of details the new ones count, a new outcome replaces.
    ///
    /// # Errors
    /// When it would be more than a memory holds.
    pub fn merge(self, more: Self) -> Result<Self, TooMuch> {
        let details = match (self.details, more.details) {
            (Some(mut details), Some(more)) => {
                details.extend(more);
                Some(details)
            }
            (details, more) => more.or(details),
        };
        let merged = Self {
            details,
            outcome: more.outcome.or(self.outcome),
            lessons: union(self.lessons, more.lessons),
            tags: union(self.tags, more.tags),
        };
        merged.check()
    }

    fn check(self) -> Result<Self, TooMuch> {
        let details = self.details.as_ref().map_or(0, |details| Value::Object(details.clone()).to_string().len());
        let sizes = [
            ("tags", self.tags.len(), TAGS_MAX),
            ("lessons", self.lessons.len(), LESSONS_MAX),
            ("details", details, DETAILS_BYTES_MAX),
        ];
        match sizes.into_iter().find(|(_, size, most)| size > most) {
            Some((field, size, most)) => Err(TooMuch { field, size, most }),
            None => Ok(self),
        }
    }
}

/// Texts of both lists in order, each once; blank ones say nothing.
#[must_use]
pub fn union(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let said = first.into_iter().chain(second).filter(|text| !text.trim().is_empty());
    said.filter(|text| seen.insert(text.clone())).collect()
}

/// The relevance at `now` of a memory that was made at `created_at` with `score`.
#[must_use]
pub fn relevance(score: f64, created_at: Time, now: Time) -> f64 {
    score * (-micros(now.since(created_at).max(0)) / FADING_MICROS).exp()
}

/// What memories of at least this relevance at `now` rank after: the time at which one of score 1 would have been
/// made. None when any will do.
#[must_use]
pub fn ranks_since(least: f64, now: Time) -> Option<Time> {
    (least > 0.0).then(|| now.plus_micros(whole(least.ln() * FADING_MICROS)))
}

/// When a memory of score 1 would have been made to be as relevant as this one.
#[must_use]
pub fn ranks_at(score: f64, created_at: Time) -> Time {
    created_at.plus_micros(whole(score.ln() * FADING_MICROS))
}

/// An age within 2^53 microseconds, 285 years, is exact.
const fn micros(age: i64) -> f64 {
    age as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and nothing here is near the ends")]
fn whole(micros: f64) -> i64 {
    micros.floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn content(tags: &[&str], details: &Value) -> Content {
        Content { tags: texts(tags), details: details.as_object().cloned(), ..Content::default() }
    }

    #[test]
    fn a_duplicate_adds_in_order_and_its_details_count() {
        let first = content(&["a", "b"], &json!({"x": 1, "y": {"z": 1}}));
        let more = Content { outcome: Some("positive".to_owned()), ..content(&["b", " ", "c"], &json!({"y": 2})) };
        let merged = first.merge(more).unwrap();
        assert_eq!(merged.tags, texts(&["a", "b", "c"]));
        assert_eq!(merged.details, json!({"x": 1, "y": 2}).as_object().cloned());
        assert_eq!(merged.outcome.as_deref(), Some("positive"));
        assert_eq!(merged.clone().merge(Content::default()), Ok(merged));
    }

    #[test]
    fn a_memory_holds_only_so_much() {
        let many =
            |from: usize| Content { tags: (from..from + 60).map(|n| n.to_string()).collect(), ..Content::default() };
        assert_eq!(many(0).merge(many(60)), Err(TooMuch { field: "tags", size: 120, most: 100 }));
        assert!(many(0).merge(many(30)).is_ok());
        assert!(many(0).merge(many(40)).is_ok(), "as many as a memory holds");
        let long = content(&[], &json!({"x": "y".repeat(DETAILS_BYTES_MAX)}));
        assert_eq!(long.tidy().unwrap_err().field, "details");
        let full = content(&[], &json!({"x": "y".repeat(DETAILS_BYTES_MAX - r#"{"x":""}"#.len())}));
        assert!(full.tidy().is_ok());
    }

    #[test]
    fn relevance_fades_by_a_tenth_a_day_and_its_threshold_is_a_time() {
        let (made, now) = (Time::from_micros(0), Time::from_micros(0).plus_minutes(7 * 24 * 60));
        let faded = relevance(1.0, made, now);
        assert!((faded - (-0.7_f64).exp()).abs() < 1e-12);
        assert!((relevance(0.5, made, now) - faded / 2.0).abs() < 1e-12);
        assert!((relevance(1.0, now, made) - 1.0).abs() < 1e-12, "a memory of the future is not more than relevant");
        for score in [1.0, 0.5] {
            let faded = relevance(score, made, now);
            let ranks = ranks_at(score, made);
            assert!(ranks_since(faded - 1e-9, now).unwrap() <= ranks);
            assert!(ranks_since(faded + 1e-9, now).unwrap() > ranks);
        }
        assert_eq!(ranks_since(0.0, now), None);
    }
}
