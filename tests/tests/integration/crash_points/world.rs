//! A store whose service is killed and started again, the agents that ask it, and looks at it from beside.

use serde_json::json;
use tempfile::TempDir;

use super::control::Control;
use super::kinds::Case;
use crate::crash::assert_invariants;
use crate::harness::cli::cli;
use crate::harness::process::Process;
use crate::harness::state::{State, connect, execute, scalar, state};
use crate::harness::{Client, copy_template, postgres};

/// What is there of a case, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) state: State,
    pub(super) violations: i64,
    pub(super) effect: i64,
}

pub(super) struct World {
    pub(super) control: Control,
    server: Option<Process>,
    agents: Vec<Client>,
    dir: TempDir,
}

impl World {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_template(dir.path()).await;
        let control = Control::new(dir.path());
        let server = Process::start_crashing(dir.path(), control.path()).await;
        let mut agents = Vec::new();
        for (name, profile) in [("worker", "claude_code_local"), ("other", "codex_local"), ("remote", "codex_remote")] {
            agents.push(server.agent(name, profile).await);
        }
        Self { control, server: Some(server), agents, dir }
    }

    pub(super) fn data(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(super) fn server(&self) -> &Process {
        self.server.as_ref().expect("the service runs")
    }

    /// The process, to see it die.
    pub(super) fn take_server(&mut self) -> Process {
        self.server.take().expect("the service runs")
    }

    /// Starts the service again, which nobody tells to die. Clients of before have the old address.
    pub(super) async fn restart(&mut self) {
        self.control.disarm();
        self.server = Some(Process::start_crashing(self.dir.path(), self.control.path()).await);
    }

    pub(super) fn again(&self, client: &Client) -> Client {
        self.server().again(client)
    }

    pub(super) fn admin(&self) -> Client {
        self.server().admin.clone()
    }

    /// May do what agents do.
    pub(super) fn worker(&self) -> Client {
        self.again(&self.agents[0])
    }

    /// Another one.
    pub(super) fn other(&self) -> Client {
        self.again(&self.agents[1])
    }

    /// May do less.
    pub(super) fn remote(&self) -> Client {
        self.again(&self.agents[2])
    }

    /// A new agent, with its key's identifier.
    pub(super) async fn agent(&self, name: &str, profile: &str) -> Client {
        let body = json!({"agent_id": name, "agent_type": "codex", "profile": profile});
        let created = self.admin().post("/agents", body).await.done();
        let key = Client::new(self.server().address, created["key"].as_str().unwrap()).named(name, "codex");
        Client { key_id: created["key_id"].as_str().unwrap().to_owned(), ..key }
    }

    // ------------------------------------------------- past the service

    /// Sets a session's last sign of life back by an hour, as time would.
    pub(super) async fn age_session(&self, session_id: &str) {
        let mut db = connect(self.data()).await;
        let back = if postgres::is_chosen() { "interval '1 hour'" } else { "3600000000" };
        let age = format!(
            "UPDATE agent_sessions SET started_at = started_at - {back}, last_heartbeat = last_heartbeat - {back}
             WHERE session_id = '{session_id}'"
        );
        if postgres::is_chosen() {
            execute(&mut db, "ALTER TABLE agent_sessions DISABLE TRIGGER USER").await.unwrap();
        }
        assert_eq!(execute(&mut db, &age).await.unwrap(), 1);
        if postgres::is_chosen() {
            execute(&mut db, "ALTER TABLE agent_sessions ENABLE TRIGGER USER").await.unwrap();
        }
        db.close().await;
    }

    /// Has the table of handoffs refuse every row, on a server with the error after which a transaction is tried again.
    pub(super) async fn break_handoffs(&self) {
        let mut db = connect(self.data()).await;
        let sql: &[&str] = if postgres::is_chosen() {
            &[
                "CREATE OR REPLACE FUNCTION public.refuse_row() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'this table is broken' USING ERRCODE = '40001'; END $$",
                "CREATE TRIGGER aa_broken BEFORE INSERT ON handoffs FOR EACH ROW EXECUTE FUNCTION public.refuse_row()",
            ]
        } else {
            &[
                "CREATE TRIGGER aa_broken BEFORE INSERT ON handoffs BEGIN SELECT RAISE(ABORT, 'this table is broken'); END",
            ]
        };
        for sql in sql {
            execute(&mut db, sql).await.unwrap();
        }
        db.close().await;
    }

    /// Undoes [`Self::break_handoffs`]: no service starts on a database with a strange trigger.
    pub(super) async fn mend_handoffs(&self) {
        let mut db = connect(self.data()).await;
        let on = if postgres::is_chosen() { " ON handoffs" } else { "" };
        execute(&mut db, &format!("DROP TRIGGER aa_broken{on}")).await.unwrap();
        db.close().await;
    }

    pub(super) async fn look(&self, case: &Case) -> Look {
        let mut db = connect(self.data()).await;
        let look = Look {
            state: state(&mut db).await,
            violations: scalar(&mut db, "SELECT count(*) FROM guardrail_violations").await,
            effect: match &case.effect {
                Some((sql, _)) => scalar(&mut db, sql).await,
                None => 0,
            },
        };
        db.close().await;
        look
    }

    /// What became of a request, as the log says: one word for each of its rows.
    pub(super) async fn outcomes(&self, request_id: &str) -> Vec<String> {
        let mut db = connect(self.data()).await;
        let sql = format!("SELECT outcome FROM audit_log WHERE request_id = '{request_id}'");
        let outcomes = db.texts(&sql).await;
        db.close().await;
        outcomes
    }

    /// What holds of a store at any time. The released program reads the log, and finds each row as its hash says, and none
    /// missing.
    pub(super) async fn assert_whole(&self) {
        assert_invariants(self.data()).await;
        let verified = cli(["audit", "verify"]).on(self.data()).json(0);
        assert_eq!(verified["valid"], true, "{verified}");
        let mut db = connect(self.data()).await;
        let rows = scalar(&mut db, "SELECT count(*) FROM audit_log").await;
        assert_eq!(verified["rows"], rows, "rows that the log's reader does not see");
        db.close().await;
    }
}
