//! A service that does what a script says, and what it answers in the model's words.

use std::sync::LazyLock;

use portreeve::clock::Time;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use super::model::Answer;
use super::op::{ADMIN, AGENTS, Act, COMPONENTS, Names, Op};
use crate::harness::{Client, Reply, START, Server, postgres};
use crate::swap::{built, edited, upload};

/// Steps are taken one after the other, by whichever thread proptest is on.
pub(crate) static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// A store with the agents of every run and both components in it.
pub(crate) struct Prepared {
    folder: TempDir,
    clients: Vec<Client>,
    components: Vec<String>,
}

static SQLITE: OnceCell<Prepared> = OnceCell::const_new();
static POSTGRES: OnceCell<Prepared> = OnceCell::const_new();

/// Remote agents hold one lock for an hour; local ones have two open tasks, and write no handoffs.
fn strict() -> Vec<u8> {
    let mut files =
        edited("profiles/codex_remote.toml", "locks_held = 50\nttl_minutes = 120", "locks_held = 1\nttl_minutes = 60");
    for file in &mut files {
        if file.path == "profiles/claude_code_local.toml" {
            file.text = file.text.replace("trust = 3\n", "trust = 3\nblocked_operations = [\"write_handoff\"]\n");
            file.text.push_str("open_tasks = 2\n");
        } else if file.path.starts_with("decisions/") {
            // They say what the default bundle does.
            file.text = "[[case]]\nname = \"an admin reads\"\nprincipal = { agent_type = \"operator\", profile = \"admin\" }\n\
                operation = \"check_locks\"\ntarget = { lock_key = \"a\" }\nexpect = { effect = \"allow\", reason = \"allowed\" }\n"
                .to_owned();
        }
    }
    built(&files)
}

async fn prepare(server: Server) -> Prepared {
    let default = server.app().gate().policy().active().component.digest().to_owned();
    let stored = server.admin.send(upload(strict())).await.done();
    let components = vec![default, stored["digest"].as_str().unwrap().to_owned()];
    let mut clients = vec![server.admin.clone()];
    for (name, profile) in AGENTS.iter().skip(1) {
        clients.push(server.agent(name, profile).await);
    }
    Prepared { folder: server.stop().await, clients, components }
}

/// A service of its own, and what it called things.
pub(crate) struct Run {
    server: Option<Server>,
    clients: Vec<Client>,
    names: Names,
}

impl Run {
    /// On the backend that the tests run on.
    pub(crate) async fn start() -> Self {
        if postgres::is_chosen() { Self::on_postgres().await } else { Self::on_sqlite().await }
    }

    /// On the embedded store, when the tests run on it.
    pub(crate) async fn on_sqlite() -> Self {
        let prepared = SQLITE.get_or_init(|| async { prepare(Server::start().await).await }).await;
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(prepared.folder.path()).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
            }
        }
        Self::open(prepared, folder).await
    }

    /// On PostgreSQL, whichever backend the tests run on.
    pub(crate) async fn on_postgres() -> Self {
        let prepared = POSTGRES.get_or_init(|| async { prepare(Server::on_postgres().await).await }).await;
        let folder = tempfile::tempdir().unwrap();
        postgres::copy(folder.path(), &postgres::known(prepared.folder.path()).unwrap()).await;
        std::fs::copy(prepared.folder.path().join("admin.key"), folder.path().join("admin.key")).unwrap();
        Self::open(prepared, folder).await
    }

    async fn open(prepared: &Prepared, folder: TempDir) -> Self {
        let server = Server::start_held_on(folder).await;
        let clients = prepared.clients.iter().map(|client| server.again(client)).collect();
        let names = Names { components: prepared.components.clone(), ..Names::default() };
        Self { server: Some(server), clients, names }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.server.take().unwrap().stop().await
    }

    /// Does a step, and says what came of it in the model's words.
    pub(crate) async fn step(&mut self, op: &Op) -> Answer {
        match self.reply(op).await {
            Some(reply) => self.read(op, &reply),
            None => Answer::ok(json!({})),
        }
    }

    /// Does a step, and says what came of it to the last word.
    pub(crate) async fn whole(&mut self, op: &Op) -> Value {
        let Some(reply) = self.reply(op).await else { return Value::Null };
        self.learn(op, &reply);
        json!({"status": reply.status, "replayed": reply.header("idempotency-replayed"), "body": reply.body})
    }

    /// The answer of the service, where there is one.
    async fn reply(&mut self, op: &Op) -> Option<Reply> {
        match op.act {
            Act::Advance { seconds } => {
                self.server().advance(seconds).await;
                self.clients[ADMIN].get("/work?limit=1").await.ok();
                None
            }
            Act::Restart => {
                let server = self.server.take().unwrap().restart().await;
                self.clients = self.clients.iter().map(|client| server.again(client)).collect();
                self.server = Some(server);
                None
            }
            _ => {
                let request = op.request(&self.names).unwrap();
                Some(self.clients[op.who].send(request).await)
            }
        }
    }

    fn read(&mut self, op: &Op, reply: &Reply) -> Answer {
        self.learn(op, reply);
        match reply.status {
            200 => Answer::ok(told(&op.act, self.plain(&reply.body))),
            403 => Answer::denied(code(reply.body["reason"].as_str().unwrap_or_default())),
            422 => Answer::invalid(reply.body["detail"][0]["type"].as_str().unwrap_or_default()),
            status => Answer { status, body: reply.body.clone() },
        }
    }

    /// Remembers what the service calls what it made.
    fn learn(&mut self, op: &Op, reply: &Reply) {
        let (field, names) = match op.act {
            Act::Submit(_) => ("task_id", &mut self.names.tasks),
            Act::Claim { .. } => ("claim_token", &mut self.names.claims),
            Act::Remember { .. } => ("memory_id", &mut self.names.memories),
            Act::HandOff => ("handoff_id", &mut self.names.handoffs),
            _ => return,
        };
        if let Some(name) = reply.body[field].as_str().filter(|name| !names.iter().any(|known| known == name)) {
            names.push(name.to_owned());
        }
    }

    /// An answer without what differs from run to run: names by their order, times from the start.
    fn plain(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::from(self.word(text)),
            Value::Number(number) if number.is_f64() => json!(format!("{:.6}", number.as_f64().unwrap())),
            Value::Array(items) => items.iter().map(|item| self.plain(item)).collect(),
            Value::Object(map) => {
                map.iter().map(|(name, value)| (name.clone(), self.plain(value))).collect::<Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }

    fn word(&self, text: &str) -> String {
        let kinds = [
            ("task", &self.names.tasks),
            ("claim", &self.names.claims),
            ("memory", &self.names.memories),
            ("handoff", &self.names.handoffs),
        ];
        for (kind, names) in kinds {
            if let Some(n) = names.iter().position(|name| name == text) {
                return format!("{kind} {n}");
            }
        }
        if let Some(n) = self.names.components.iter().position(|name| name == text) {
            return COMPONENTS[n].to_owned();
        }
        match Time::parse(text) {
            Ok(at) => {
                let micros = at.since(Time::parse(START).unwrap());
                if micros % 1_000_000 == 0 { format!("T+{}", micros / 1_000_000) } else { format!("T+{micros} µs") }
            }
            Err(_) => text.to_owned(),
        }
    }
}

fn code(reason: &str) -> &str {
    reason.split(':').next().unwrap_or_default()
}

/// The lists of all answers have the same name here.
fn told(act: &Act, mut body: Value) -> Value {
    let list = match act {
        Act::Locks { .. } => "locks",
        Act::Tasks { .. } => "tasks",
        Act::Sessions { .. } => "agents",
        Act::Recall { .. } => "memories",
        Act::Handoffs { .. } => "handoffs",
        Act::Components => "components",
        Act::Claim { .. } => {
            if let Some(reason) = body["reason"].as_str() {
                body["reason"] = json!(code(reason));
            }
            return body;
        }
        _ => return body,
    };
    let mut items = body[list].take();
    if matches!(act, Act::Components) {
        items.as_array_mut().unwrap().retain(|item| item["active"] == true);
    }
    body["items"] = items;
    body
}

/// An answer as far as the model speaks of it: what it has no word for is left out, and a list stays as long as it is.
pub(crate) fn projected(actual: &Value, model: &Value) -> Value {
    match (actual, model) {
        (Value::Object(actual), Value::Object(model)) => {
            let shown = model.iter().map(|(name, model)| {
                (name.clone(), actual.get(name).map_or(Value::Null, |actual| projected(actual, model)))
            });
            Value::Object(shown.collect())
        }
        (Value::Array(actual), Value::Array(model)) => {
            let known = |n: usize| model.get(n).or(model.first()).unwrap_or(&Value::Null);
            actual.iter().enumerate().map(|(n, actual)| projected(actual, known(n))).collect()
        }
        (actual, _) => actual.clone(),
    }
}
