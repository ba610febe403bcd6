//! Who may what, and which policy is in force.
//!
//! GATE, REVOKE, TRUST: each step is judged by the profile and the component of its moment, and by nothing else.

use serde_json::json;

use super::super::op::{Act, BOB, COMPONENTS, Op, PROFILES, TYPES};
use super::{Answer, Model};

/// Operations of those who only look on.
const READING: [&str; 5] = ["check_locks", "get_task", "recall", "discover_agents", "read_handoff"];
/// Operations that the evaluator has beside those.
const EVALUATING: [&str; 5] = ["get_work", "complete_work", "write_handoff", "remember", "check_policy"];

/// The stricter component's index.
const STRICT: usize = 1;

impl Model {
    pub(super) fn trust(&self, who: usize) -> i64 {
        match self.agents[who].profile {
            "admin" => 4,
            "claude_code_local" | "codex_local" => 3,
            "codex_remote" | "evaluator" => 2,
            "claude_code_reviewer" => 1,
            _ => 0,
        }
    }

    /// How long a lock may be held at once, in minutes.
    pub(super) fn ttl_most(&self, who: usize) -> i64 {
        match self.agents[who].profile {
            "codex_remote" if self.component == STRICT => 60,
            "codex_remote" => 120,
            _ => 480,
        }
    }

    pub(super) fn locks_most(&self, who: usize) -> usize {
        if self.component == STRICT && self.agents[who].profile == "codex_remote" { 1 } else { usize::MAX }
    }

    pub(super) fn tasks_most(&self, who: usize) -> usize {
        if self.component == STRICT && self.agents[who].profile == "claude_code_local" { 2 } else { usize::MAX }
    }

    /// The reason for which policy denies a step.
    pub(super) fn forbids(&self, op: &Op) -> Option<&'static str> {
        let operation = op.act.operation()?;
        let (profile, trust) = (self.agents[op.who].profile, self.trust(op.who));
        if self.agents[op.who].suspended || trust == 0 {
            return Some("suspended");
        }
        let evaluates = READING.contains(&operation) || EVALUATING.contains(&operation);
        let is_listed = match profile {
            "claude_code_reviewer" => READING.contains(&operation),
            "evaluator" => evaluates,
            _ => true,
        };
        if !is_listed {
            return Some("operation_not_allowed");
        }
        if self.component == STRICT && profile == "claude_code_local" && operation == "write_handoff" {
            return Some("operation_blocked");
        }
        match operation {
            "force_release_lock" | "cleanup_agents" if trust < 3 => return Some("trust_below_admin"),
            "activate_component" | "manage_agents" if trust < 4 => return Some("trust_below_owner"),
            _ => {}
        }
        match &op.act {
            Act::Beat { task, .. } | Act::Complete { task, .. }
                if profile == "evaluator" && TYPES[self.tasks[*task].kind] != "review" =>
            {
                Some("task_type_not_allowed")
            }
            Act::Submit(task) if task.text == 1 && trust < 3 => Some("destructive_operation_blocked"),
            _ => None,
        }
    }

    pub(super) fn activate(&mut self, component: usize, expected: i64) -> Answer {
        if expected != self.epoch {
            return Answer::ok(json!({"success": false, "reason": "epoch_moved", "epoch": self.epoch}));
        }
        self.epoch += 1;
        self.component = component;
        Answer::ok(json!({"success": true, "reason": null, "epoch": self.epoch}))
    }

    pub(super) fn components(&self) -> Answer {
        Answer::ok(json!({"items": [{"digest": COMPONENTS[self.component], "epoch": self.epoch}]}))
    }

    pub(super) fn suspend(&mut self, whom: usize, suspended: bool) -> Answer {
        self.agents[whom].suspended = suspended;
        Answer::ok(json!({"success": true}))
    }

    pub(super) fn give(&mut self, profile: usize) -> Answer {
        self.agents[BOB].profile = PROFILES[profile];
        Answer::ok(json!({"success": true}))
    }
}
