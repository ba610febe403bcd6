//! Memories: what agents learned, kept for the next time.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::action::{Action, Command, Lookout, Query, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, Preset};
use super::sessions::SESSION_ID;
use super::{json_text, list_text, plain};
use crate::authn::Principal;
use crate::clock::Time;
use crate::domain::memory::{Content, EVENT_TYPES, LESSONS_MAX, OUTCOMES, TAGS_MAX, TooMuch};
use crate::engine::types::Target;
use crate::error::{Error, Result};
use crate::gate::Permit;

/// Most words that a search looks for.
const WORDS_MAX: usize = 64;

const TAGS: Kind = Kind::Texts(TAGS_MAX, 256);

/// The error of a memory that would hold too much.
#[must_use]
pub fn too_much(what: TooMuch, kind: &str) -> Error {
    let TooMuch { field, size, most } = what;
    let unit = if field == "details" { "bytes" } else { "entries" };
    Error::field(field, kind, format!("the memory would have {size} {unit} of {field}; the most is {most}"))
}

// ------------------------------------------------------------------- store

/// Stores a memory, or adds to the one that says the same within the hour.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    /// Chosen by the service, for a new one.
    pub memory_id: String,
    /// Whose it is.
    pub agent_id: String,
    /// Recorded as given.
    pub session_id: Option<String>,
    /// What kind of event.
    pub event_type: String,
    /// The event in words.
    pub summary: String,
    /// The rest of it.
    pub content: Content,
}

/// What a memory answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MemoryStored {
    /// Whether it is kept.
    pub success: bool,
    /// The memory: a new one, or the one that was added to.
    pub memory_id: String,
    /// `created` or `deduplicated`.
    pub action: &'static str,
}

impl Action for MemoryStore {
    const NAME: &'static str = "memory_store";
    const OPERATION: &'static str = "remember";
    const INPUT: &'static [Field] = &[
        Field::new("event_type", Kind::Choice(&EVENT_TYPES), "What kind of event").required(),
        Field::new("summary", Kind::Text(16_384), "The event in words").required(),
        Field::new("details", Kind::Object, "The event as data, at most 256 KiB"),
        Field::new("outcome", Kind::Choice(&OUTCOMES), "How it turned out"),
        Field::new("lessons", Kind::Texts(LESSONS_MAX, 4096), "What follows from it"),
        Field::new("tags", TAGS, "What it is about"),
        SESSION_ID,
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = MemoryStored;

    fn parse(input: &Input, who: &Principal) -> Result<Self> {
        let content = Content {
            details: input.object("details").cloned(),
            outcome: input.opt_text("outcome"),
            lessons: input.texts("lessons"),
            tags: input.texts("tags"),
        };
        Ok(Self {
            memory_id: super::new_id(),
            agent_id: who.agent_id().to_owned(),
            session_id: input.opt_text("session_id"),
            event_type: input.text("event_type"),
            summary: input.text("summary"),
            content: content.tidy().map_err(|what| too_much(what, "too_long"))?,
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut texts = plain(&[("summary", Some(&self.summary)), ("session_id", self.session_id.as_deref())]);
        texts.extend(list_text("lessons", &self.content.lessons));
        texts.extend(list_text("tags", &self.content.tags));
        texts.extend(self.content.details.as_ref().map(|details| json_text("details", &json!(details))));
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        Target::Memory(self.agent_id.clone())
    }
}

impl Command for MemoryStore {
    fn is_refused(output: &MemoryStored) -> bool {
        !output.success
    }
}

// ------------------------------------------------------------------- query

/// Searches memories, the most relevant first.
#[derive(Debug, Clone)]
pub struct MemoryQuery {
    /// Only this agent's; none for everybody's.
    pub agent_id: Option<String>,
    /// Only memories with all of these tags, as a JSON list.
    pub tags: String,
    /// Only this kind of event.
    pub event_type: Option<String>,
    /// Only memories with all of these words; none for any.
    pub words: Option<Words>,
    /// Only at least so relevant.
    pub min_relevance: f64,
    /// Most entries.
    pub limit: i64,
}

/// Words to look for, all of which a memory must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(Vec<String>);

impl Words {
    /// The words as they were given, each with a letter or a digit in it.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// A memory.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct MemoryEntry {
    /// Its identifier.
    pub id: String,
    /// Whose it is.
    pub agent_id: String,
    /// What kind of event.
    pub event_type: String,
    /// The event in words.
    pub summary: String,
    /// The event as data.
    pub details: Option<Map<String, Value>>,
    /// How it turned out.
    pub outcome: Option<String>,
    /// What follows from it.
    pub lessons: Vec<String>,
    /// What it is about.
    pub tags: Vec<String>,
    /// From 1 down: exp(−0.1 × age in days).
    pub relevance_score: f64,
    /// When it was first stored.
    pub created_at: Time,
}

/// Memories.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct MemoryListing {
    /// The memories, the most relevant first.
    pub memories: Vec<MemoryEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for MemoryQuery {
    const NAME: &'static str = "memory_query";
    const OPERATION: &'static str = "recall";
    const INPUT: &'static [Field] = &[
        Field::new("tags", TAGS, "Only memories that have all of these tags"),
        Field::new("event_type", Kind::Choice(&EVENT_TYPES), "Only this kind of event"),
        Field::new("text", Kind::Text(1024), "Only memories that hold all of these words, at most 64"),
        Field::new("limit", Kind::Int(1, 1000), "Most entries in the answer").default(10),
        Field::new("min_relevance", Kind::Ratio, "Only at least so relevant, from 0 to 1").default(0),
        AGENT_ID,
        AGENT_TYPE,
        Field::new("scope", Kind::Choice(&["own", "all"]), "Your own memories, or everybody's")
            .preset(Preset::Word("own")),
    ];
    type Output = MemoryListing;

    fn parse(input: &Input, who: &Principal) -> Result<Self> {
        Ok(Self {
            agent_id: (input.text("scope") != "all").then(|| who.agent_id().to_owned()),
            tags: json!(input.texts("tags")).to_string(),
            event_type: input.opt_text("event_type"),
            words: input.opt_text("text").map(|text| words_of(&text)).transpose()?,
            min_relevance: input.ratio("min_relevance"),
            limit: input.int("limit"),
        })
    }

    /// What is looked for is no text that anybody acts on, so the guardrails do not read it.
    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Memory(self.agent_id.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Query for MemoryQuery {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<MemoryListing> {
        let page = at.view.memories(self).await?;
        let hint = "narrow it with `tags`, `event_type`, `text` or `min_relevance`, or raise `limit` (most 1000)";
        Ok(MemoryListing { listing: super::Listing::of(&page, hint), memories: page.items })
    }
}

/// The words of a text. What holds no letter and no digit is no word.
pub(crate) fn words_of(text: &str) -> Result<Words> {
    let words = text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric));
    let words: Vec<String> = words.map(str::to_owned).collect();
    match words.len() {
        0 => Err(Error::field("text", "no_words", "text holds no word to look for")),
        1..=WORDS_MAX => Ok(Words(words)),
        many => Err(Error::field("text", "too_many_words", format!("{many} words; the most is {WORDS_MAX}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_letter_is_no_word() {
        assert_eq!(words_of("a  OR -b* \"c\" --").unwrap().as_slice(), ["a", "OR", "-b*", "\"c\""]);
        assert!(words_of("-- ** \"\"").is_err());
        assert!(words_of(&"a ".repeat(65)).is_err());
    }
}
