//! Requests of the right shape for an operation: to check a schema with, and to
//! warm what is built lazily.

use crate::decide::Policy;
use crate::decision::{EngineMode, OperationInfo};
use crate::request::{Principal, Request, Target, TargetKind, TaskTarget, Text, TextFormat};

/// Texts that reach into patterns and into their absence.
const TEXTS: [&str; 4] = [
    "Fix the parser so that it reads empty files, then run the tests and write a summary.",
    "git push origin HEAD:refs/heads/topic && rm -r build; kubectl get pods | grep -v Running",
    "don't \"quote\" this; see src/config.rs, .env.example and docs/credentials.md\nSELECT * FROM t WHERE id = 1;",
    "git push -f; rm -rf /; DROP TABLE t; DELETE FROM t; terraform destroy; cargo publish; ~/.ssh/id_rsa",
];

/// A request about an operation, from an agent of no particular kind.
pub(crate) fn request(operation: &OperationInfo) -> Request {
    Request {
        principal: Principal {
            agent_id: "sample".into(),
            agent_type: "sample".into(),
            profile: "sample".into(),
            suspended: false,
        },
        operation: operation.name.clone(),
        target: target(operation.target),
        texts: Vec::new(),
    }
}

fn target(kind: TargetKind) -> Target {
    let name = || "sample".to_owned();
    match kind {
        TargetKind::LockKey => Target::LockKey("src/lib.rs".into()),
        TargetKind::File => Target::File("src/lib.rs".into()),
        TargetKind::Domain => Target::Domain("github.com".into()),
        TargetKind::Task => Target::Task(TaskTarget { id: name(), task_type: "review".into(), priority: 5 }),
        TargetKind::Session => Target::Session(name()),
        TargetKind::Memory => Target::Memory(name()),
        TargetKind::Handoff => Target::Handoff(name()),
        TargetKind::Agent => Target::Agent(name()),
        TargetKind::Component => Target::Component(name()),
        TargetKind::AuditLog => Target::AuditLog,
        TargetKind::Branch => Target::Branch("main".into()),
        TargetKind::Command => Target::Command("cargo test --workspace".into()),
        TargetKind::Tool => Target::Tool(name()),
    }
}

impl Policy {
    /// Makes varied decisions, so that what is built lazily is built: a snapshot
    /// of a warm policy decides faster. It changes no answer.
    pub fn warm(&self) {
        for operation in &self.manifest.operations {
            for (at, profile) in self.manifest.profiles.iter().enumerate() {
                let mut request = request(operation);
                request.principal.profile.clone_from(&profile.name);
                if let Some(agent_type) = profile.agent_types.first() {
                    request.principal.agent_type.clone_from(agent_type);
                }
                let body = TEXTS.iter().cycle().nth(at).copied().unwrap_or_default();
                let json = format!("{{\"run\": [\"{}\"]}}", "cargo\", \"test");
                request.texts = vec![
                    Text { label: "a".into(), format: TextFormat::Plain, body: body.to_owned() },
                    Text { label: "b".into(), format: TextFormat::Json, body: json },
                ];
                let _ = self.decide_with(EngineMode::Both, &request);
            }
        }
    }
}
