//! What a scenario runs on: one host with its own store, or hosts on a database; each on a machine with faults of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::Connection;
use tempfile::TempDir;

use super::database::Database;
use super::link::Link;
use super::machine::Machine;
use crate::harness::cli::{Cli, cli};
use crate::harness::process::Process;
use crate::harness::state::{AuditLine, Db, audit_after, connect};
use crate::harness::{Client, Request, postgres};

/// A host finds its store again within this time.
const USABLE_WITHIN: Duration = Duration::from_secs(20);

struct Host {
    data: TempDir,
    machine: Machine,
    /// None while it is down.
    process: Option<Process>,
}

pub(crate) struct Fleet {
    hosts: Vec<Host>,
    database: Option<Database>,
    /// Between the hosts and the database; where there is none, between the clients and the host.
    link: Option<Link>,
}

impl Fleet {
    /// So many hosts on the backend that the tests run on, which has a link that can be cut if asked for.
    pub(crate) async fn start(hosts: usize, has_link: bool) -> Self {
        let database = if postgres::is_chosen() { Some(Database::start().await) } else { None };
        assert!(hosts == 1 || database.is_some(), "several hosts need a database: PORTREEVE_TEST_STORE=postgres");
        let mut fleet = Self { hosts: Vec::new(), database, link: None };
        if let Some(database) = &fleet.database
            && has_link
        {
            fleet.link = Some(Link::to(([127, 0, 0, 1], database.port()).into()).await);
        }
        for host in 0..hosts {
            let data = tempfile::tempdir().unwrap();
            // The admin's key is with the host that made it.
            if host > 0 {
                std::fs::copy(fleet.data(0).join("admin.key"), data.path().join("admin.key")).unwrap();
            }
            fleet.hosts.push(Host { data, machine: Machine::new(), process: None });
            tokio::task::block_in_place(|| fleet.start_process(host));
        }
        if fleet.is_embedded() && has_link {
            fleet.link = Some(Link::to(fleet.process(0).address).await);
        }
        fleet
    }

    fn start_process(&mut self, host: usize) {
        let url = self.database.as_ref().map(|database| {
            let port = self.link.as_ref().map_or_else(|| database.port(), |link| link.address.port());
            database.url_at("portreeve_app", port)
        });
        let host = &mut self.hosts[host];
        host.process = Some(Process::start_in(host.data.path(), url, &host.machine.variables()));
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.database.is_none()
    }

    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().expect("a scenario of the database's")
    }

    pub(crate) fn link(&self) -> &Link {
        self.link.as_ref().expect("a scenario with a link")
    }

    pub(crate) fn machine(&self, host: usize) -> &Machine {
        &self.hosts[host].machine
    }

    /// The machine with the disk that commits wait for.
    pub(crate) fn disk(&self) -> &Machine {
        self.database.as_ref().map_or(&self.hosts[0].machine, |database| &database.machine)
    }

    pub(crate) fn data(&self, host: usize) -> &Path {
        self.hosts[host].data.path()
    }

    pub(crate) fn process(&self, host: usize) -> &Process {
        self.hosts[host].process.as_ref().expect("a host that is up")
    }

    /// Where clients find each host.
    pub(crate) fn doors(&self) -> Vec<SocketAddr> {
        (0..self.hosts.len()).map(|host| self.door(host)).collect()
    }

    fn door(&self, host: usize) -> SocketAddr {
        match &self.link {
            Some(link) if self.is_embedded() => link.address,
            _ => self.process(host).address,
        }
    }

    pub(crate) async fn agent(&self, name: &str, profile: &str) -> Client {
        self.process(0).agent(name, profile).await
    }

    pub(crate) fn signal(&self, host: usize, name: &str) {
        self.process(host).signal(name);
    }

    /// Waits until a host says that its store can be used.
    pub(crate) async fn wait_until_usable(&self, host: usize) {
        let (client, start) = (Client::keyless(self.process(host).address), Instant::now());
        while client.try_send(Request::new("GET", "/ready")).await.is_none_or(|reply| reply.status != 200) {
            assert!(
                start.elapsed() < USABLE_WITHIN,
                "host {host} cannot use its store, with all faults over:\n{}",
                self.told()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills a host at once, and returns when it is gone.
    pub(crate) fn kill(&mut self, host: usize) {
        self.hosts[host].process.take().expect("a host that is up").kill();
    }

    /// Starts a host that was killed; where clients find it.
    pub(crate) fn start_again(&mut self, host: usize) -> SocketAddr {
        self.start_process(host);
        self.door(host)
    }

    /// Stops all hosts, each of which ends well.
    pub(crate) async fn stop(&mut self) {
        for host in &mut self.hosts {
            let process = host.process.take().expect("a host that is up");
            process.terminate();
            let (is_well, took) = process.ended().await;
            assert!(is_well, "a host that was asked to stop ended badly after {took:?}");
        }
        if let Some(database) = &self.database {
            // What was asked on a connection that broke may still be at work, and the log has to have all of it.
            database.settle().await;
        }
    }

    /// A command on the store itself.
    pub(crate) fn command(&self, words: &[&str]) -> Cli {
        let command = cli(words).on(self.data(0));
        match &self.database {
            Some(database) => command.env("PORTREEVE_DATABASE_URL", database.url_of("portreeve_app")),
            None => command,
        }
    }

    /// All rows of the log.
    pub(crate) async fn log(&self) -> Vec<AuditLine> {
        let mut db = match &self.database {
            Some(database) => Db::Postgres(database.superuser().await),
            None => connect(self.data(0)).await,
        };
        let rows = audit_after(&mut db, 0).await;
        match db {
            Db::Postgres(conn) => conn.close().await.unwrap(),
            Db::Sqlite(conn) => conn.close().await.unwrap(),
        }
        rows
    }

    /// What the hosts wrote to their logs.
    pub(crate) fn told(&self) -> String {
        let read = |host: &Host| std::fs::read_to_string(host.data.path().join("stderr.log")).unwrap_or_default();
        self.hosts.iter().map(read).collect()
    }
}
