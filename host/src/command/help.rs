//! What the service says of itself to agents: topics with the operations that belong to them, how to work with them,
//! and examples. What an operation is called, takes and does comes from the catalogue; only the workflow is written here.

use serde_json::{Value, json};

use super::catalogue::{CATALOGUE, Entry};

/// A topic of the help.
struct Topic {
    name: &'static str,
    summary: &'static str,
    /// Entries of the catalogue whose names begin so.
    nouns: &'static [&'static str],
    workflow: &'static [&'static str],
    examples: &'static [Example],
}

/// A request that works as it stands.
struct Example {
    title: &'static str,
    /// Entry of the catalogue.
    entry: &'static str,
    /// Input, as JSON text.
    input: &'static str,
}

const fn example(title: &'static str, entry: &'static str, input: &'static str) -> Example {
    Example { title, entry, input }
}

static TOPICS: &[Topic] = &[
    Topic {
        name: "locks",
        summary: "File leases: who edits what, until when",
        nouns: &["lock_"],
        workflow: &[
            "Look who holds what before you plan (check_locks).",
            "Take a lock before you edit a file (acquire_lock). Keep the fencing_token.",
            "If `action` is `blocked`, another agent holds it: do something else, or ask again with wait_seconds.",
            "Extend it before expires_at (renew_lock), or take it again: the holder's lock is refreshed.",
            "Release it when you are done (release_lock). A lock that runs out is free at once for everyone.",
            "If you slept past expires_at, ask verify_lock before you write: the token may be superseded.",
        ],
        examples: &[
            example(
                "Take a file",
                "lock_acquire",
                r#"{"file_path": "src/main.rs", "reason": "split the parser", "ttl_minutes": 30}"#,
            ),
            example("Wait for it", "lock_acquire", r#"{"file_path": "src/main.rs", "wait_seconds": 20}"#),
            example("Take something that is no file", "lock_acquire", r#"{"file_path": "db:migration-slot"}"#),
            example("Look at some files", "lock_list", r#"{"file_paths": ["src/main.rs", "src/lib.rs"]}"#),
            example("Give it back", "lock_release", r#"{"file_path": "src/main.rs"}"#),
        ],
    },
    Topic {
        name: "work",
        summary: "The queue: tasks, claims, attempts, dependencies",
        nouns: &["task_"],
        workflow: &[
            "Submit tasks with a type, a description and, if wanted, a priority (1 first, 10 last) and dependencies.",
            "Claim the next one that you may work on (get_work); wait_seconds waits for one.",
            "The claim is a lease: heartbeat_work with the claim_token before lease_expires_at.",
            "Report the end with complete_work. A failed task is tried again until its attempts are used up.",
            "`evaluate` and `review` are never given to whoever submitted them.",
        ],
        examples: &[
            example(
                "Submit",
                "task_submit",
                r#"{"task_type": "refactor", "task_description": "Split the parser", "priority": 3}"#,
            ),
            example("Claim, waiting up to 20 s", "task_claim", r#"{"task_types": ["refactor"], "wait_seconds": 20}"#),
            example("What is open", "task_list", r#"{"status": "pending"}"#),
        ],
    },
    Topic {
        name: "handoffs",
        summary: "Notes from one session to the next",
        nouns: &["handoff_"],
        workflow: &[
            "Read the latest handoff when you start (read_handoff).",
            "Write one before you end (write_handoff): what is done, what is under way, what was decided, what comes next.",
        ],
        examples: &[
            example(
                "Leave one",
                "handoff_write",
                r#"{"summary": "Parser split", "next_steps": ["move the tests"], "relevant_files": ["src/parser.rs"]}"#,
            ),
            example("Read the last five of everyone", "handoff_read", r#"{"limit": 5}"#),
        ],
    },
    Topic {
        name: "memory",
        summary: "What was learnt, for all agents",
        nouns: &["memory_"],
        workflow: &[
            "Ask before you start on something (recall): text, tags or both; scope `all` for everybody's.",
            "Store what others should know (remember): an error and its cause, a decision, a discovery.",
            "The same summary within the hour is merged, so storing twice does no harm. Relevance fades with age.",
        ],
        examples: &[
            example(
                "Store",
                "memory_store",
                r#"{"event_type": "discovery", "summary": "The build needs the wasm target", "tags": ["build"]}"#,
            ),
            example("Ask everybody's", "memory_query", r#"{"text": "wasm target", "scope": "all"}"#),
        ],
    },
    Topic {
        name: "discovery",
        summary: "Who is here, what they can do, how they are",
        nouns: &["session_", "status_"],
        workflow: &[
            "Register when you start (register_session) with what you can do; keep the session_id.",
            "Say that you are alive every few minutes (heartbeat), and report phases or trouble (report_status).",
            "Look for others by capability (discover_agents).",
            "An operator ends what went silent (cleanup_dead_agents): locks are freed, tasks go back into the queue.",
        ],
        examples: &[
            example(
                "Register",
                "session_register",
                r#"{"capabilities": ["rust", "sql"], "current_task": "split the parser"}"#,
            ),
            example(
                "Ask for a person",
                "status_report",
                r#"{"phase": "review", "message": "two tests contradict each other", "needs_human": true}"#,
            ),
        ],
    },
    Topic {
        name: "guardrails",
        summary: "Which commands and texts are refused, and from which trust on they pass",
        nouns: &["guardrails_"],
        workflow: &[
            "Ask before you run something that deletes, overwrites, publishes or deploys (check_guardrails).",
            "A violation that is `blocked` would be refused; its `remedy` says what is allowed instead.",
            "Every text that you hand in is read by the same patterns, whole, with your own trust. What you remember or report \
             is never refused for it, only noted.",
        ],
        examples: &[example("Ask", "guardrails_check", r#"{"operation_text": "git push --force origin main"}"#)],
    },
    Topic {
        name: "policy",
        summary: "What you may do, and why not",
        nouns: &["policy_", "profile_", "network_", "component_"],
        workflow: &[
            "See your own trust and limits (get_my_profile).",
            "Ask what would be said to you, without doing it (check_policy); names to connect to with check_network.",
            "A denial carries `reason`, `remedy` and `decision_id`. The remedy says what is allowed or who can change it.",
        ],
        examples: &[
            example("May I?", "policy_check", r#"{"operation": "force_release_lock", "resource": "src/main.rs"}"#),
            example("May I connect?", "network_check", r#"{"domain": "github.com"}"#),
        ],
    },
    Topic {
        name: "audit",
        summary: "What was decided and what then happened",
        nouns: &["audit_"],
        workflow: &[
            "Each decision has one line, also that of a question, and it is written in the transaction of the change.",
            "Agents below trust 3 see their own lines only.",
        ],
        examples: &[example("My denials", "audit_query", r#"{"decision": "deny", "limit": 20}"#)],
    },
    Topic {
        name: "agents",
        summary: "For operators: agents, their keys and profiles",
        nouns: &["agent_"],
        workflow: &[
            "Register an agent with a type and a profile; its key is shown once.",
            "A changed profile, a suspension or a revoked key holds from the next commit on.",
            "Not offered as MCP tools: a key that a tool answers would stand in a model's context.",
        ],
        examples: &[example("Who is registered", "agent_list", r#"{"limit": 100}"#)],
    },
];

/// All topics, with their names and a sentence each.
#[must_use]
pub fn index() -> Value {
    let topics: Vec<Value> = TOPICS.iter().map(|topic| json!({"name": topic.name, "summary": topic.summary})).collect();
    json!({"topics": topics, "count": topics.len(), "next": "ask for one topic by its name"})
}

/// One topic: its tools, how to work with them, examples. None for a name that is no topic.
#[must_use]
pub fn topic(name: &str) -> Option<Value> {
    let topic = TOPICS.iter().find(|topic| topic.name == name)?;
    let tools: Vec<Value> = CATALOGUE.iter().filter(|entry| topic.is_about(entry)).map(tool).collect();
    let examples: Vec<Value> = topic.examples.iter().filter_map(Example::to_json).collect();
    Some(json!({
        "topic": topic.name, "summary": topic.summary, "tools": tools, "workflow": topic.workflow, "examples": examples,
    }))
}

impl Topic {
    fn is_about(&self, entry: &Entry) -> bool {
        self.nouns.iter().any(|noun| entry.name.starts_with(noun))
    }
}

impl Example {
    fn to_json(&self) -> Option<Value> {
        let entry = super::catalogue::entry(self.entry)?;
        let input: Value = serde_json::from_str(self.input).ok()?;
        let tool = entry.tool.map(|tool| tool.name);
        Some(json!({
            "title": self.title, "tool": tool, "method": entry.method.as_str(), "path": entry.path, "input": input,
        }))
    }
}

fn tool(entry: &Entry) -> Value {
    json!({
        "tool": entry.tool.map(|tool| tool.name), "operation": entry.operation, "method": entry.method.as_str(),
        "path": entry.path, "description": entry.description(), "input": entry.input_schema(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::input::{Input, Place};

    #[test]
    fn every_entry_has_a_topic() {
        for entry in CATALOGUE {
            let topics = TOPICS.iter().filter(|topic| topic.is_about(entry)).count();
            assert_eq!(topics, 1, "{}", entry.name);
        }
    }

    #[test]
    fn every_example_is_a_request_that_is_understood() {
        for topic in TOPICS {
            assert!(!topic.examples.is_empty() && !topic.workflow.is_empty(), "{}", topic.name);
            for example in topic.examples {
                let entry = crate::command::catalogue::entry(example.entry).expect(example.entry);
                assert!(topic.is_about(entry), "{}", example.title);
                let input: Value = serde_json::from_str(example.input).expect(example.input);
                Input::read(entry.input, input.as_object().unwrap(), Place::Body).expect(example.input);
            }
        }
    }

    #[test]
    fn workflows_name_only_tools_that_are_there() {
        let tools: Vec<&str> = CATALOGUE.iter().filter_map(|entry| entry.tool).map(|tool| tool.name).collect();
        let looks_like_a_tool = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_lowercase()) && word.contains('_') && !FIELDS.contains(word)
        };
        for step in TOPICS.iter().flat_map(|topic| topic.workflow) {
            let words = step.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words.filter(looks_like_a_tool) {
                assert!(tools.contains(&word), "`{word}` in: {step}");
            }
        }
    }

    const FIELDS: [&str; 8] = [
        "fencing_token",
        "wait_seconds",
        "expires_at",
        "claim_token",
        "lease_expires_at",
        "session_id",
        "decision_id",
        "needs_human",
    ];
}
