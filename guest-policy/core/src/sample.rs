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
                request.texts = vec![text(TextFormat::Plain, body.to_owned()), text(TextFormat::Json, json)];
                let _ = self.decide_with(EngineMode::Both, &request);
            }
        }
        self.warm_automata();
    }

    /// The patterns' automata are built state by state, by the text that they meet;
    /// the bundle's own prose leads them through most states that agents' texts
    /// will. Not more than that: every page that a snapshot's automata fill is a
    /// page that a fresh instance may have to fault in.
    fn warm_automata(&self) {
        let Some(operation) = self.manifest.operations.first() else { return };
        let operations = self.manifest.operations.iter().map(|operation| operation.description.as_str());
        let patterns = self.manifest.patterns.iter().map(|pattern| pattern.remedy.as_str());
        let lines: Vec<&str> = operations.chain(patterns).chain(TEXTS).collect();
        let mut request = request(operation);
        request.texts = vec![text(TextFormat::Plain, lines.join("\n"))];
        let _ = self.guardrails.scan(&request, 0);
    }
}

fn text(format: TextFormat, body: String) -> Text {
    Text { label: "sample".into(), format, body }
}
