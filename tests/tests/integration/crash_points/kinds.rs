//! The requests whose every step is tried: what is made ready for each, and what may be there of it afterwards.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::world::World;
use crate::harness::{Client, Request, postgres};
use crate::swap::{built, renamed, upload};

const FORBIDDEN: &str = "then git push --force origin main";

/// What a request comes to when nobody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// It changes state.
    Done,
    /// The state stands against it: an answer, which is kept.
    Refused,
    /// Policy stands against it.
    Denied,
    /// The input is bad against the state.
    Invalid,
    /// The database fails.
    Failed,
    /// A question.
    Answered,
}

impl Ends {
    /// What its row says became of it.
    pub(super) const fn outcome(self) -> &'static str {
        match self {
            Self::Done | Self::Answered => "ok",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Invalid | Self::Failed => "failed",
        }
    }

    /// The HTTP status.
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Done | Self::Answered | Self::Refused => 200,
            Self::Denied => 403,
            Self::Invalid => 422,
            Self::Failed => 503,
        }
    }

    /// Whether the answer is kept for repeats.
    pub(super) const fn is_kept(self) -> bool {
        matches!(self, Self::Done | Self::Refused)
    }
}

/// One request that is ready to be sent.
pub(super) struct Case {
    pub(super) client: Client,
    pub(super) request: Request,
    pub(super) ends: Ends,
    /// Counts what it makes: none before, this many after.
    pub(super) effect: Option<(String, i64)>,
    /// Whether policy records a violation.
    pub(super) violates: bool,
}

impl Case {
    fn new(client: &Client, request: Request, ends: Ends) -> Self {
        Self { client: client.clone(), request, ends, effect: None, violates: false }
    }

    fn post(client: &Client, path: &str, body: &Value) -> Self {
        Self::new(client, Request::new("POST", path).json(body), Ends::Done)
    }

    fn ends(self, ends: Ends) -> Self {
        Self { ends, ..self }
    }

    fn makes(self, effect: String) -> Self {
        self.makes_many(effect, 1)
    }

    fn makes_many(self, effect: String, many: i64) -> Self {
        Self { effect: Some((effect, many)), ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Acquire,
    AcquireHeld,
    Renew,
    Release,
    ForceRelease,
    Submit,
    SubmitForbidden,
    SubmitUnknownDependency,
    Claim,
    Heartbeat,
    Complete,
    FailWithDependants,
    Cancel,
    Register,
    Cleanup,
    StatusReport,
    Remember,
    RememberAgain,
    Handoff,
    HandoffOnBrokenTable,
    AgentCreate,
    Suspend,
    KeyRevoke,
    Profile,
    Upload,
    UploadUnfit,
    Activate,
    Denied,
    OtherIdentity,
    Look,
}

impl Kind {
    pub(super) const ALL: [Self; 30] = [
        // What takes longest begins first.
        Self::Activate,
        Self::Upload,
        Self::FailWithDependants,
        Self::Cleanup,
        Self::Acquire,
        Self::AcquireHeld,
        Self::Renew,
        Self::Release,
        Self::ForceRelease,
        Self::Submit,
        Self::SubmitForbidden,
        Self::SubmitUnknownDependency,
        Self::Claim,
        Self::Heartbeat,
        Self::Complete,
        Self::Cancel,
        Self::Register,
        Self::StatusReport,
        Self::Remember,
        Self::RememberAgain,
        Self::Handoff,
        Self::HandoffOnBrokenTable,
        Self::AgentCreate,
        Self::Suspend,
        Self::KeyRevoke,
        Self::Profile,
        Self::UploadUnfit,
        Self::Denied,
        Self::OtherIdentity,
        Self::Look,
    ];

    /// Each case on a store of its own: what it does to a store cannot be done to it twice.
    pub(super) fn is_once(self) -> bool {
        self == Self::Upload
    }

    /// Whether the table of handoffs refuses every row while the request is on its way.
    pub(super) fn is_on_broken_table(self) -> bool {
        self == Self::HandoffOnBrokenTable
    }

    /// Makes ready what the request needs. `n` makes it differ from others of its kind.
    pub(super) async fn prepare(self, world: &mut World, n: usize) -> Case {
        match self {
            Self::Acquire | Self::AcquireHeld | Self::Renew | Self::Release | Self::ForceRelease => {
                self.prepare_lock(world, n).await
            }
            Self::Submit
            | Self::SubmitForbidden
            | Self::SubmitUnknownDependency
            | Self::Claim
            | Self::Heartbeat
            | Self::Complete
            | Self::FailWithDependants
            | Self::Cancel => self.prepare_task(world, n).await,
            Self::Register
            | Self::Cleanup
            | Self::StatusReport
            | Self::Remember
            | Self::RememberAgain
            | Self::Handoff
            | Self::HandoffOnBrokenTable => self.prepare_note(world, n).await,
            Self::AgentCreate | Self::Suspend | Self::KeyRevoke | Self::Profile => self.prepare_agent(world, n).await,
            Self::Upload | Self::UploadUnfit | Self::Activate => self.prepare_component(world, n).await,
            Self::Denied => {
                let request = Request::new("DELETE", &format!("/locks/src/{n}.rs"));
                Case::new(&world.remote(), request, Ends::Denied)
            }
            Self::OtherIdentity => {
                let body = json!({"file_path": format!("src/{n}.rs"), "agent_id": "other"});
                Case::post(&world.worker(), "/locks/acquire", &body).ends(Ends::Denied)
            }
            Self::Look => {
                let request = Request::new("GET", &format!("/locks/status/src/{n}.rs"));
                Case::new(&world.worker(), request, Ends::Answered)
            }
        }
    }

    async fn prepare_lock(self, world: &World, n: usize) -> Case {
        let (worker, other, path) = (world.worker(), world.other(), format!("src/{n}.rs"));
        let tokens =
            format!("SELECT coalesce(sum(last_token), 0){} FROM lock_fences WHERE lock_key = '{path}'", as_int());
        let freed = format!("SELECT 1 - count(*) FROM file_locks WHERE lock_key = '{path}'");
        let body = json!({"file_path": path});
        match self {
            Self::Acquire => Case::post(&worker, "/locks/acquire", &body).makes(tokens),
            Self::AcquireHeld => {
                other.acquire(&path).await.done();
                Case::post(&worker, "/locks/acquire", &body).ends(Ends::Refused)
            }
            Self::Renew => {
                let token = worker.acquire(&path).await.done()["fencing_token"].clone();
                let body = json!({"file_path": path, "fencing_token": token, "ttl_minutes": 90});
                let lasts = if postgres::is_chosen() {
                    "expires_at - locked_at > interval '1 hour'"
                } else {
                    "expires_at - locked_at > 3600000000"
                };
                let effect = format!("SELECT count(*) FROM file_locks WHERE lock_key = '{path}' AND {lasts}");
                Case::post(&worker, "/locks/renew", &body).makes(effect)
            }
            Self::Release => {
                worker.acquire(&path).await.done();
                Case::post(&worker, "/locks/release", &body).makes(freed)
            }
            _ => {
                worker.acquire(&path).await.done();
                Case::new(&world.admin(), Request::new("DELETE", &format!("/locks/{path}")), Ends::Done).makes(freed)
            }
        }
    }

    async fn prepare_task(self, world: &World, n: usize) -> Case {
        let (worker, other, kind) = (world.worker(), world.other(), format!("kind-{n}"));
        let in_status = |status: &str| {
            format!("SELECT count(*) FROM work_queue WHERE task_type = '{kind}' AND status = '{status}'")
        };
        match self {
            Self::Submit => {
                let body = json!({"task_type": kind, "task_description": "d"});
                Case::post(&worker, "/work/submit", &body).makes(in_status("pending"))
            }
            Self::SubmitForbidden => {
                let body = json!({"task_type": kind, "task_description": FORBIDDEN});
                Case { violates: true, ..Case::post(&world.remote(), "/work/submit", &body).ends(Ends::Denied) }
            }
            Self::SubmitUnknownDependency => {
                let body = json!({"task_type": kind, "task_description": "d", "depends_on": [uuid::Uuid::nil()]});
                Case::post(&worker, "/work/submit", &body).ends(Ends::Invalid)
            }
            Self::Cancel => {
                let id = worker.submit(&kind, json!({})).await;
                Case::post(&worker, "/work/cancel", &json!({"task_id": id})).makes(in_status("cancelled"))
            }
            Self::Claim => {
                other.submit(&kind, json!({})).await;
                Case::post(&worker, "/work/claim", &json!({"task_types": [kind]})).makes(in_status("claimed"))
            }
            _ => {
                let id = other.submit(&kind, json!({"max_attempts": 1})).await;
                let claimed = worker.claim(&kind).await;
                let token = &claimed["claim_token"];
                match self {
                    Self::Heartbeat => {
                        let body = json!({"task_id": id, "claim_token": token, "lease_seconds": 7200});
                        let later = if postgres::is_chosen() {
                            "lease_expires_at - claimed_at > interval '1 hour'"
                        } else {
                            "lease_expires_at - claimed_at > 3600000000"
                        };
                        let effect = in_status("claimed") + " AND " + later;
                        Case::post(&worker, "/work/heartbeat", &body).makes(effect)
                    }
                    Self::Complete => {
                        let body = json!({"task_id": id, "claim_token": token, "success": true, "result": {"n": n}});
                        Case::post(&worker, "/work/complete", &body).makes(in_status("completed"))
                    }
                    _ => {
                        let next = other.submit(&kind, json!({"depends_on": [id]})).await;
                        other.submit(&kind, json!({"depends_on": [next]})).await;
                        let body = json!({"task_id": id, "claim_token": token, "success": false, "error_message": "e"});
                        Case::post(&worker, "/work/complete", &body).makes_many(in_status("failed"), 3)
                    }
                }
            }
        }
    }

    async fn prepare_note(self, world: &mut World, n: usize) -> Case {
        let (worker, other, name) = (world.worker(), world.other(), format!("note-{n}"));
        match self {
            Self::Register => {
                let body = json!({"session_id": name, "capabilities": ["rust"]});
                let effect = format!("SELECT count(*) FROM agent_sessions WHERE session_id = '{name}'");
                Case::post(&worker, "/discovery/register", &body).makes(effect)
            }
            Self::Cleanup => {
                other.post("/discovery/register", json!({"session_id": name})).await.done();
                world.age_session(&name).await;
                // Who registered just now is there: of its things only the session that is not heard of ends.
                let ended =
                    format!("SELECT count(*) FROM agent_sessions WHERE session_id = '{name}' AND ended_at IS NOT NULL");
                Case::post(&world.admin(), "/discovery/cleanup", &json!({})).makes(ended)
            }
            Self::StatusReport => {
                let effect = format!("SELECT count(*) FROM agent_status WHERE message = '{name}'");
                Case::post(&worker, "/status/report", &json!({"message": name, "phase": "test"})).makes(effect)
            }
            Self::Remember | Self::RememberAgain => {
                let mut body = json!({"event_type": "discovery", "summary": name, "tags": ["one"]});
                let stored = format!("SELECT count(*) FROM memories WHERE summary = '{name}'");
                if self == Self::Remember {
                    return Case::post(&worker, "/memory/store", &body).makes(stored);
                }
                worker.post("/memory/store", body.clone()).await.done();
                body["tags"] = json!(["two"]);
                Case::post(&worker, "/memory/store", &body).makes(stored + " AND merge_count = 1")
            }
            _ => {
                let effect = format!("SELECT count(*) FROM handoffs WHERE summary = '{name}'");
                let case = Case::post(&worker, "/handoffs/write", &json!({"summary": name}));
                if self == Self::Handoff {
                    return case.makes(effect);
                }
                case.makes_many(effect, 0).ends(Ends::Failed)
            }
        }
    }

    async fn prepare_agent(self, world: &World, n: usize) -> Case {
        let (admin, name) = (world.admin(), format!("agent-{n}"));
        if self == Self::AgentCreate {
            let body = json!({"agent_id": name, "agent_type": "codex", "profile": "codex_local"});
            let effect = format!("SELECT count(*) FROM api_keys WHERE agent_id = '{name}'");
            return Case::post(&admin, "/agents", &body).makes(effect);
        }
        let agent = world.agent(&name, "codex_local").await;
        let counted = |what: &str| format!("SELECT count(*) FROM agents WHERE agent_id = '{name}' AND {what}");
        // Two facts versions, each once: the state has to have moved by one and no more.
        match self {
            Self::Suspend => {
                let body = json!({"suspended": true, "reason": "crash"});
                let effect = counted("suspended_at IS NOT NULL AND facts_version = 2");
                Case::post(&admin, &format!("/agents/{name}/suspend"), &body).makes(effect)
            }
            Self::KeyRevoke => {
                let path = format!("/agents/{name}/keys/{}", agent.key_id);
                Case::new(&admin, Request::new("DELETE", &path), Ends::Done).makes(format!(
                    "SELECT count(*) FROM api_keys WHERE agent_id = '{name}' AND revoked_at IS NOT NULL"
                ))
            }
            _ => {
                let body = json!({"profile": "codex_remote"});
                let effect = counted("profile = 'codex_remote' AND facts_version = 2");
                Case::post(&admin, &format!("/agents/{name}/profile"), &body).makes(effect)
            }
        }
    }

    async fn prepare_component(self, world: &mut World, n: usize) -> Case {
        let admin = world.admin();
        match self {
            Self::Upload => {
                let effect = "SELECT count(*) - 1 FROM components".to_owned();
                Case::new(&admin, upload(second_component()), Ends::Done).makes(effect)
            }
            Self::UploadUnfit => Case::new(&admin, upload(format!("no component {n}").into_bytes()), Ends::Invalid),
            _ => {
                let listed = admin.get("/components").await.ok();
                let mut components = listed["components"].as_array().unwrap().clone();
                if components.len() == 1 {
                    admin.send(upload(second_component())).await.done();
                    components = admin.get("/components").await.ok()["components"].as_array().unwrap().clone();
                }
                let next = components.iter().find(|one| one["active"] == false).unwrap();
                let (digest, epoch) = (next["digest"].as_str().unwrap(), listed["epoch"].as_i64().unwrap());
                let body = json!({"expected_epoch": epoch});
                let effect = format!("SELECT count(*) FROM activations WHERE epoch > {epoch} AND digest = '{digest}'");
                Case::post(&admin, &format!("/components/{digest}/activate"), &body).makes(effect)
            }
        }
    }
}

/// A policy that is not the one in force. Making it takes a second.
fn second_component() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| built(&renamed("8.0.0"))).clone()
}

/// PostgreSQL's sums are numeric.
fn as_int() -> &'static str {
    if postgres::is_chosen() { "::bigint" } else { "" }
}
