//! What the demo's agents ask for, by the names of the catalogue.

use crate::command::catalogue::{self, Kind};

/// An operation of the catalogue that the demo calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Op {
    LockAcquire,
    LockRenew,
    LockRelease,
    LockVerify,
    LockStatus,
    LockList,
    LockForceRelease,
    TaskSubmit,
    TaskClaim,
    TaskHeartbeat,
    TaskComplete,
    TaskCancel,
    TaskGet,
    TaskList,
    GuardrailsCheck,
    PolicyCheck,
    ProfileMe,
    AuditQuery,
    AgentCreate,
    AgentList,
    AgentKeyCreate,
    AgentKeyRevoke,
    AgentProfile,
    AgentSuspend,
}

impl Op {
    /// Its name in the catalogue and in the audit log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::LockAcquire => "lock_acquire",
            Self::LockRenew => "lock_renew",
            Self::LockRelease => "lock_release",
            Self::LockVerify => "lock_verify",
            Self::LockStatus => "lock_status",
            Self::LockList => "lock_list",
            Self::LockForceRelease => "lock_force_release",
            Self::TaskSubmit => "task_submit",
            Self::TaskClaim => "task_claim",
            Self::TaskHeartbeat => "task_heartbeat",
            Self::TaskComplete => "task_complete",
            Self::TaskCancel => "task_cancel",
            Self::TaskGet => "task_get",
            Self::TaskList => "task_list",
            Self::GuardrailsCheck => "guardrails_check",
            Self::PolicyCheck => "policy_check",
            Self::ProfileMe => "profile_me",
            Self::AuditQuery => "audit_query",
            Self::AgentCreate => "agent_create",
            Self::AgentList => "agent_list",
            Self::AgentKeyCreate => "agent_key_create",
            Self::AgentKeyRevoke => "agent_key_revoke",
            Self::AgentProfile => "agent_profile",
            Self::AgentSuspend => "agent_suspend",
        }
    }

    /// Whether it changes state.
    pub(super) fn mutates(self) -> bool {
        catalogue::entry(self.name()).is_some_and(|entry| entry.kind == Kind::Mutation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_knows_these_names() {
        assert!(Op::LockAcquire.mutates());
        assert!(!Op::LockVerify.mutates());
        for op in [Op::LockList, Op::TaskList, Op::GuardrailsCheck, Op::PolicyCheck, Op::ProfileMe, Op::AuditQuery] {
            assert!(catalogue::entry(op.name()).is_some(), "{op:?}");
        }
        for op in [Op::AgentCreate, Op::AgentKeyCreate, Op::AgentKeyRevoke, Op::AgentProfile, Op::AgentSuspend] {
            assert!(op.mutates(), "{op:?}");
        }
    }
}
