//! The authorization matrix of two bundles, cell by cell: each profile, operation and sample of what it acts on.

use std::collections::BTreeSet;

use policy_core::{OperationInfo, Policy, Principal, ProfileInfo, Request, Target, TargetKind, TaskTarget};

use super::report::{Cell, Decided, Direction, Matrix};

/// Decides every cell by both bundles. A profile that only one of them has is a line of the lists, not a column here.
pub(super) fn compare(a: &Policy, b: &Policy) -> Matrix {
    let mut matrix = Matrix { cells: 0, changed: Vec::new() };
    let samples = Samples::of(&[a, b]);
    for operation in union(a, b) {
        for target in samples.targets(operation.target) {
            for (own, other) in shared_profiles(a, b) {
                for (agent_type, suspended) in
                    agent_types(own, other).into_iter().flat_map(|name| [(name, false), (name, true)])
                {
                    matrix.cells = matrix.cells.saturating_add(1);
                    let request = request(own, agent_type, suspended, &operation.name, target.clone());
                    let (in_a, in_b) = (Decided::of(a.decide(&request)), Decided::of(b.decide(&request)));
                    if in_a != in_b {
                        matrix.changed.push(cell(request, in_a, in_b));
                    }
                }
            }
        }
    }
    matrix
}

impl Cell {
    /// Where the change leads.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        match (self.a.allowed, self.b.allowed) {
            (false, true) => Direction::Wider,
            (true, false) => Direction::Narrower,
            _ => Direction::Neither,
        }
    }
}

fn cell(request: Request, a: Decided, b: Decided) -> Cell {
    let Request { principal, operation, target, .. } = request;
    let Principal { profile, agent_type, suspended, .. } = principal;
    Cell { operation, target, profile, agent_type, suspended, a, b }
}

fn request(profile: &ProfileInfo, agent_type: &str, suspended: bool, operation: &str, target: Target) -> Request {
    let principal = Principal {
        agent_id: "agent-1".to_owned(),
        agent_type: agent_type.to_owned(),
        profile: profile.name.clone(),
        suspended,
    };
    Request { principal, operation: operation.to_owned(), target, texts: Vec::new() }
}

/// Operations of either bundle, with the kind of target that the second one gives them.
fn union<'a>(a: &'a Policy, b: &'a Policy) -> Vec<&'a OperationInfo> {
    let (all, known) = (&b.manifest().operations, &a.manifest().operations);
    let gone = known.iter().filter(|operation| all.iter().all(|other| other.name != operation.name));
    all.iter().chain(gone).collect()
}

fn shared_profiles<'a>(a: &'a Policy, b: &'a Policy) -> impl Iterator<Item = (&'a ProfileInfo, &'a ProfileInfo)> {
    let others = &b.manifest().profiles;
    let twin = |own: &ProfileInfo| others.iter().find(|other| other.name == own.name);
    a.manifest().profiles.iter().filter_map(move |own| twin(own).map(|other| (own, other)))
}

/// An agent type of each list; any will do where the list says so.
fn agent_types<'a>(own: &'a ProfileInfo, other: &'a ProfileInfo) -> BTreeSet<&'a str> {
    let all = own.agent_types.iter().chain(&other.agent_types).map(String::as_str);
    all.map(|name| if name == "*" { "agent" } else { name }).collect()
}

/// What the rules of the bundles tell apart.
struct Samples {
    task_types: BTreeSet<String>,
    domains: BTreeSet<String>,
}

impl Samples {
    fn of(policies: &[&Policy]) -> Self {
        let mut samples = Self {
            task_types: ["", "build", "review"].map(str::to_owned).into(),
            domains: ["github.com", "example.org", "127.0.0.1"].map(str::to_owned).into(),
        };
        for manifest in policies.iter().map(|policy| policy.manifest()) {
            samples.task_types.extend(manifest.profiles.iter().flat_map(|profile| &profile.task_types).cloned());
            // A name that the rule's pattern matches.
            let names = manifest.network_rules.iter().map(|rule| rule.pattern.replace('*', "sample"));
            samples.domains.extend(names);
        }
        samples
    }

    fn targets(&self, kind: TargetKind) -> Vec<Target> {
        let id = || "sample".to_owned();
        let paths = ["src/a.rs", ".env", ".ssh/authorized_keys", "db:migration-slot"].map(str::to_owned);
        match kind {
            TargetKind::LockKey => paths.map(Target::LockKey).into(),
            TargetKind::File => paths.map(Target::File).into(),
            TargetKind::Domain => self.domains.iter().cloned().map(Target::Domain).collect(),
            TargetKind::Task => {
                let task = |task_type: &String| TaskTarget { id: id(), task_type: task_type.clone(), priority: 5 };
                self.task_types.iter().map(task).map(Target::Task).collect()
            }
            TargetKind::Session => vec![Target::Session(id())],
            TargetKind::Memory => vec![Target::Memory(id())],
            TargetKind::Handoff => vec![Target::Handoff(id())],
            // Oneself, and somebody else.
            TargetKind::Agent => vec![Target::Agent("agent-1".to_owned()), Target::Agent(id())],
            TargetKind::Component => vec![Target::Component(id())],
            TargetKind::AuditLog => vec![Target::AuditLog],
            TargetKind::Branch => vec![Target::Branch("main".to_owned())],
            TargetKind::Command => ["cargo test", "git push -f"].map(str::to_owned).map(Target::Command).into(),
            TargetKind::Tool => vec![Target::Tool(id())],
        }
    }
}
