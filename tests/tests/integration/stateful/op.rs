//! What agents do in a run, as data: to be generated, sent, modelled, shrunk and read.

use std::fmt;

use serde_json::{Value, json};

use crate::harness::Request;

/// The agents of every run, each with the profile that it begins with.
pub(crate) const AGENTS: [(&str, &str); 5] = [
    ("admin", "admin"),
    ("ada", "claude_code_local"),
    ("bob", "codex_remote"),
    ("eve", "evaluator"),
    ("rex", "claude_code_reviewer"),
];
/// Who may do everything, and who is not suspended here.
pub(crate) const ADMIN: usize = 0;
/// Whose profile changes.
pub(crate) const BOB: usize = 2;

/// What is locked.
pub(crate) const KEYS: [&str; 3] = ["src/a.rs", "src/b.rs", "db:migration-slot"];
/// Kinds of tasks: one that everybody may claim, one that nobody may claim from themselves.
pub(crate) const TYPES: [&str; 2] = ["build", "review"];
/// Profiles that fit the agent whose profile changes.
pub(crate) const PROFILES: [&str; 3] = ["codex_remote", "codex_local", "suspended"];
/// The components of a run: the default bundle, and one that is stricter.
pub(crate) const COMPONENTS: [&str; 2] = ["default", "strict"];
/// What the texts of a task say: nothing in particular, and what guardrails keep from those with less trust than 3.
pub(crate) const TEXTS: [&str; 2] = ["look at the parser", "git push --force origin main"];

/// One step of a run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Op {
    /// Who does it; [`ADMIN`] where nobody does.
    pub(crate) who: usize,
    pub(crate) act: Act,
    /// One of a few `Idempotency-Key`s.
    pub(crate) once: Option<u8>,
}

/// What is done. Tasks and claims are named by their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Acquire {
        key: usize,
        ttl: i64,
        session: Option<u8>,
    },
    Renew {
        key: usize,
        token: i64,
        ttl: i64,
    },
    Release {
        key: usize,
        token: Option<i64>,
    },
    Verify {
        key: usize,
        token: i64,
    },
    Status {
        key: usize,
    },
    Locks {
        of: Option<usize>,
    },
    Force {
        key: usize,
    },
    Submit(Submission),
    Claim {
        kind: Option<usize>,
        lease: i64,
    },
    Beat {
        task: usize,
        claim: usize,
        lease: i64,
    },
    Complete {
        task: usize,
        claim: Option<usize>,
        success: bool,
    },
    Cancel {
        task: usize,
    },
    Task {
        task: usize,
    },
    Tasks {
        status: Option<&'static str>,
    },
    Register {
        session: u8,
    },
    Heartbeat {
        session: Option<u8>,
    },
    Sessions {
        status: Option<&'static str>,
    },
    Cleanup {
        minutes: i64,
        dry_run: bool,
    },
    Remember {
        summary: u8,
        tag: u8,
    },
    Recall {
        all: bool,
        tag: Option<u8>,
    },
    HandOff,
    Handoffs {
        of: Option<usize>,
    },
    Activate {
        component: usize,
        expected: i64,
    },
    Components,
    Suspend {
        whom: usize,
        suspended: bool,
    },
    Profile {
        profile: usize,
    },
    /// Time passes, and somebody looks at the queue.
    Advance {
        seconds: i64,
    },
    /// The service stops and starts.
    Restart,
}

/// A task to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) kind: usize,
    pub(crate) text: usize,
    pub(crate) priority: i64,
    pub(crate) attempts: i64,
    pub(crate) least_trust: Option<i64>,
    pub(crate) deadline: Option<i64>,
    pub(crate) depends_on: Vec<usize>,
}

/// What the service calls the things of a run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    pub(crate) tasks: Vec<String>,
    pub(crate) claims: Vec<String>,
    pub(crate) memories: Vec<String>,
    pub(crate) handoffs: Vec<String>,
    pub(crate) components: Vec<String>,
}

/// Names nothing. A script of which steps were left out speaks of what was not made.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

impl Names {
    fn task(&self, n: usize) -> &str {
        self.tasks.get(n).map_or(NOBODY, String::as_str)
    }

    fn claim(&self, n: usize) -> &str {
        self.claims.get(n).map_or(NOBODY, String::as_str)
    }
}

impl Act {
    /// The operation's name in the catalogue.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Acquire { .. } => "lock_acquire",
            Self::Renew { .. } => "lock_renew",
            Self::Release { .. } => "lock_release",
            Self::Verify { .. } => "lock_verify",
            Self::Status { .. } => "lock_status",
            Self::Locks { .. } => "lock_list",
            Self::Force { .. } => "lock_force_release",
            Self::Submit(_) => "task_submit",
            Self::Claim { .. } => "task_claim",
            Self::Beat { .. } => "task_heartbeat",
            Self::Complete { .. } => "task_complete",
            Self::Cancel { .. } => "task_cancel",
            Self::Task { .. } => "task_get",
            Self::Tasks { .. } => "task_list",
            Self::Register { .. } => "session_register",
            Self::Heartbeat { .. } => "session_heartbeat",
            Self::Sessions { .. } => "session_list",
            Self::Cleanup { .. } => "session_cleanup",
            Self::Remember { .. } => "memory_store",
            Self::Recall { .. } => "memory_query",
            Self::HandOff => "handoff_write",
            Self::Handoffs { .. } => "handoff_read",
            Self::Activate { .. } => "component_activate",
            Self::Components => "component_list",
            Self::Suspend { .. } => "agent_suspend",
            Self::Profile { .. } => "agent_profile",
            Self::Advance { .. } => "advance",
            Self::Restart => "restart",
        }
    }

    /// The policy's name of the operation; none for what nobody asks for.
    pub(crate) fn operation(&self) -> Option<&'static str> {
        Some(match self {
            Self::Acquire { .. } | Self::Renew { .. } => "acquire_lock",
            Self::Release { .. } => "release_lock",
            Self::Verify { .. } | Self::Status { .. } | Self::Locks { .. } => "check_locks",
            Self::Force { .. } => "force_release_lock",
            Self::Submit(_) | Self::Cancel { .. } => "submit_work",
            Self::Claim { .. } => "get_work",
            Self::Beat { .. } | Self::Complete { .. } => "complete_work",
            Self::Task { .. } | Self::Tasks { .. } => "get_task",
            Self::Register { .. } => "register_session",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Sessions { .. } => "discover_agents",
            Self::Cleanup { .. } => "cleanup_agents",
            Self::Remember { .. } => "remember",
            Self::Recall { .. } => "recall",
            Self::HandOff => "write_handoff",
            Self::Handoffs { .. } => "read_handoff",
            Self::Activate { .. } => "activate_component",
            Self::Components => "check_policy",
            Self::Suspend { .. } | Self::Profile { .. } => "manage_agents",
            Self::Advance { .. } | Self::Restart => return None,
        })
    }
}

fn session(n: u8) -> String {
    format!("session-{n}")
}

/// A time of a run, in seconds from its start, as the wire has it.
pub(crate) fn at(seconds: i64) -> String {
    portreeve::clock::Time::parse(crate::harness::START).unwrap().plus_seconds(seconds).to_string()
}

impl Op {
    /// The request that it is on the wire; none for what is none.
    pub(crate) fn request(&self, names: &Names) -> Option<Request> {
        let post = |path: &str, body: Value| Request::new("POST", path).json(&body);
        let get = |target: String| Request::new("GET", &target);
        let request = match &self.act {
            Act::Acquire { key, ttl, session: of } => post(
                "/locks/acquire",
                json!({"file_path": KEYS[*key], "ttl_minutes": ttl, "session_id": of.map(session), "reason": of.map(session)}),
            ),
            Act::Renew { key, token, ttl } => {
                post("/locks/renew", json!({"file_path": KEYS[*key], "fencing_token": token, "ttl_minutes": ttl}))
            }
            Act::Release { key, token } => {
                post("/locks/release", json!({"file_path": KEYS[*key], "fencing_token": token}))
            }
            Act::Verify { key, token } => {
                post("/locks/verify", json!({"file_path": KEYS[*key], "fencing_token": token}))
            }
            Act::Status { key } => get(format!("/locks/status/{}", KEYS[*key])),
            Act::Locks { of } => get(of.map_or("/locks".to_owned(), |of| format!("/locks?agent_id={}", AGENTS[of].0))),
            Act::Force { key } => Request::new("DELETE", &format!("/locks/{}", KEYS[*key])),
            Act::Submit(task) => post(
                "/work/submit",
                json!({
                    "task_type": TYPES[task.kind],
                    "task_description": TEXTS[task.text],
                    "priority": task.priority,
                    "max_attempts": task.attempts,
                    "deadline": task.deadline.map(at),
                    "agent_requirements": task.least_trust.map(|trust| json!({"min_trust_level": trust})),
                    "depends_on": task.depends_on.iter().map(|n| names.task(*n)).collect::<Vec<_>>(),
                }),
            ),
            Act::Claim { kind, lease } => {
                post("/work/claim", json!({"task_types": kind.map(|kind| [TYPES[kind]]), "lease_seconds": lease}))
            }
            Act::Beat { task, claim, lease } => post(
                "/work/heartbeat",
                json!({"task_id": names.task(*task), "claim_token": names.claim(*claim), "lease_seconds": lease}),
            ),
            Act::Complete { task, claim, success } => post(
                "/work/complete",
                json!({
                    "task_id": names.task(*task),
                    "claim_token": claim.map(|claim| names.claim(claim)),
                    "success": success,
                    "error_message": (!success).then_some("broken"),
                }),
            ),
            Act::Cancel { task } => post("/work/cancel", json!({"task_id": names.task(*task), "reason": "no more"})),
            Act::Task { task } => post("/work/get", json!({"task_id": names.task(*task)})),
            Act::Tasks { status } => get(status.map_or("/work".to_owned(), |status| format!("/work?status={status}"))),
            Act::Register { session: n } => post("/discovery/register", json!({"session_id": session(*n)})),
            Act::Heartbeat { session: n } => post("/discovery/heartbeat", json!({"session_id": n.map(session)})),
            Act::Sessions { status } => {
                get(status
                    .map_or("/discovery/agents".to_owned(), |status| format!("/discovery/agents?status={status}")))
            }
            Act::Cleanup { minutes, dry_run } => {
                post("/discovery/cleanup", json!({"stale_threshold_minutes": minutes, "dry_run": dry_run}))
            }
            Act::Remember { summary, tag } => post(
                "/memory/store",
                json!({"event_type": "discovery", "summary": format!("summary {summary}"), "tags": [format!("tag-{tag}")]}),
            ),
            Act::Recall { all, tag } => post(
                "/memory/query",
                json!({
                    "scope": if *all { "all" } else { "own" },
                    "tags": tag.map(|tag| [format!("tag-{tag}")]),
                    "limit": 100,
                }),
            ),
            Act::HandOff => post("/handoffs/write", json!({"summary": "half done"})),
            Act::Handoffs { of } => {
                post("/handoffs/read", json!({"agent_name": of.map(|of| AGENTS[of].0), "limit": 100}))
            }
            Act::Activate { component, expected } => post(
                &format!("/components/{}/activate", names.components[*component]),
                json!({"expected_epoch": expected}),
            ),
            Act::Components => get("/components".to_owned()),
            Act::Suspend { whom, suspended } => {
                post(&format!("/agents/{}/suspend", AGENTS[*whom].0), json!({"suspended": suspended}))
            }
            Act::Profile { profile } => {
                post(&format!("/agents/{}/profile", AGENTS[BOB].0), json!({"profile": PROFILES[*profile]}))
            }
            Act::Advance { .. } | Act::Restart => return None,
        };
        Some(match self.once {
            Some(n) => request.header("idempotency-key", &format!("key-{n}")),
            None => request,
        })
    }
}

/// A line of a script: `bob     lock_acquire      { key: 0, ttl: 10, session: None } once 1`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = format!("{:?}", self.act);
        let fields = said.split_once([' ', '(']).map_or("", |(_, fields)| fields.trim_end_matches(')'));
        let who = if self.act.operation().is_some() { AGENTS[self.who].0 } else { "" };
        write!(f, "{who:<6} {:<19} {fields}", self.act.name())?;
        self.once.map_or(Ok(()), |n| write!(f, " once {n}"))
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
