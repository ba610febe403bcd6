//! Every operation that Portreeve asks about: the service starts with no policy that lacks one.

use crate::exports::portreeve::policy::decider::OperationClass::{self, Admin, Owner, Read, Write};
use crate::exports::portreeve::policy::decider::TargetKind;

/// Name, class, what it acts on, and what it does.
pub(crate) const OPERATIONS: &[(&str, OperationClass, TargetKind, &str)] = &[
    ("check_locks", Read, TargetKind::LockKey, "Shows who holds a lock."),
    ("get_task", Read, TargetKind::Task, "Shows a task."),
    ("recall", Read, TargetKind::Memory, "Searches memories."),
    ("discover_agents", Read, TargetKind::Agent, "Lists agents and what they can do."),
    ("read_handoff", Read, TargetKind::Handoff, "Shows handoffs."),
    ("query_audit", Read, TargetKind::AuditLog, "Searches the audit log."),
    ("get_my_profile", Read, TargetKind::Agent, "Shows the caller's own profile."),
    ("check_policy", Read, TargetKind::Component, "Asks what the policy would decide, and which component decides."),
    ("network_access", Read, TargetKind::Domain, "Asks whether a name may be connected to."),
    ("acquire_lock", Write, TargetKind::LockKey, "Takes or renews a lock."),
    ("release_lock", Write, TargetKind::LockKey, "Gives back a lock of one's own."),
    ("get_work", Write, TargetKind::Task, "Claims a task."),
    ("complete_work", Write, TargetKind::Task, "Ends or renews a claim."),
    ("submit_work", Write, TargetKind::Task, "Adds a task, or takes one's own back."),
    ("remember", Write, TargetKind::Memory, "Stores a memory."),
    ("write_handoff", Write, TargetKind::Handoff, "Leaves a handoff."),
    (
        "check_guardrails",
        Write,
        TargetKind::Command,
        "Asks what the guardrails find in a text; grantable, because it changes nothing.",
    ),
    ("register_session", Write, TargetKind::Session, "Opens a session."),
    ("heartbeat", Write, TargetKind::Session, "Says that a session is alive, and how it goes."),
    ("run_command", Write, TargetKind::Command, "Runs a command line."),
    ("edit_file", Write, TargetKind::File, "Edits a file."),
    ("fetch_url", Write, TargetKind::Domain, "Connects to a name."),
    ("call_tool", Write, TargetKind::Tool, "Calls a tool."),
    ("force_push", Admin, TargetKind::Branch, "Rewrites a branch."),
    ("delete_branch", Admin, TargetKind::Branch, "Deletes a branch."),
    ("cleanup_agents", Admin, TargetKind::Agent, "Ends stale sessions and frees what they held."),
    ("force_release_lock", Admin, TargetKind::LockKey, "Takes a lock from its holder."),
    ("upload_component", Admin, TargetKind::Component, "Stores a policy component, without activating it."),
    ("activate_component", Owner, TargetKind::Component, "Makes a policy component the one that decides."),
    ("manage_agents", Owner, TargetKind::Agent, "Registers agents, gives profiles, issues and revokes keys."),
    ("expire_leases", Owner, TargetKind::Task, "Ends claims whose lease ran out; the background work of `system`."),
];
