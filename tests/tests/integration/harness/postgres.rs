//! PostgreSQL under the tests: `PORTREEVE_TEST_STORE=postgres` runs the suite on it.
//!
//! A private cluster (`tests/postgres/cluster`) lives as long as this process; `DATABASE_URL` names another one instead,
//! by a superuser of it. Three template databases are made once: one that is migrated and no more, one with a service's
//! first start in it, and the same whose time the tests hold. Each data folder of a test has a database of its own, cloned
//! from one of them and dropped when the folder is gone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock};

use portreeve::clock::Time;
use portreeve::store::postgres::{Options, migrate};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::sync::OnceCell;

use super::{MADE, START, Setup, open_app};

/// Whether the tests run on PostgreSQL. Anything but the two names fails: a typo must not pass for the other backend.
pub(crate) fn is_chosen() -> bool {
    match std::env::var("PORTREEVE_TEST_STORE").as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("PORTREEVE_TEST_STORE is `{other}`, which is neither sqlite nor postgres"),
    }
}

/// Which database a test starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Migrated, and never served.
    Bare,
    /// After a service's first start.
    Served,
    /// The same, with a clock that the test holds.
    Held,
}

/// The cluster of this process.
struct Cluster {
    /// A superuser's URL, with a database that is always there.
    url: String,
    /// Holds the pipe whose end stops it.
    _child: Option<Child>,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| match std::env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Cluster { url, _child: None },
        _ => start(),
    })
}

fn start() -> Cluster {
    let (child, told) = run(&[]);
    Cluster { url: told[0].clone(), _child: Some(child) }
}

/// Runs the script, which lives until its stdin is closed, and reads what it prints: the URL comes last of all it makes.
fn run(words: &[&str]) -> (Child, Vec<String>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("postgres/cluster");
    let mut child = Command::new("bash")
        .arg(script)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bash starts the private cluster");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<String> = lines.by_ref().take(if words.is_empty() { 1 } else { 2 }).collect();
    assert!(
        told.first().is_some_and(|url| url.starts_with("postgres://")),
        "no private PostgreSQL was started; see above"
    );
    (child, told)
}

/// A cluster of its own that takes connections over TLS only. It goes with this value.
pub(crate) struct Tls {
    /// A superuser's URL, which says nothing of TLS.
    pub(crate) url: String,
    /// The CA of its certificate, which is for 127.0.0.1 and localhost. It answers at 127.0.0.2 as well.
    pub(crate) ca: PathBuf,
    /// A CA that signed nothing.
    pub(crate) other_ca: PathBuf,
    child: Child,
}

impl Tls {
    pub(crate) fn start() -> Self {
        let (child, told) = run(&["--tls"]);
        let ca = PathBuf::from(&told[1]);
        Self { url: told[0].clone(), other_ca: ca.with_file_name("other.crt"), ca, child }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn base() -> PgConnectOptions {
    PgConnectOptions::from_str(&cluster().url).unwrap().disable_statement_logging()
}

/// A superuser's connection to a database.
pub(crate) async fn superuser(database: &str) -> PgConnection {
    base().database(database).options([("search_path", "portreeve, public")]).connect().await.unwrap()
}

/// The URL of a database for a role, which needs no password in a private cluster.
pub(crate) fn url(database: &str, role: &str) -> String {
    let base = base();
    format!("postgres://{role}@{}:{}/{database}", base.get_host(), base.get_port())
}

pub(crate) fn service_url(database: &str) -> String {
    url(database, "portreeve_app")
}

/// Statements on the cluster itself.
async fn on_cluster(sql: &str) {
    let mut conn = base().connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    conn.close().await.unwrap();
}

/// A name that no other run uses.
fn new_name(what: &str) -> String {
    format!("portreeve_test_{what}_{}", uuid::Uuid::now_v7().simple())
}

/// A new database with nothing in it. It goes with the cluster.
pub(crate) async fn empty() -> String {
    let name = new_name("empty");
    on_cluster(&format!("CREATE DATABASE {name}")).await;
    name
}

/// A new database that is migrated and no more. It goes with the cluster.
pub(crate) async fn bare() -> String {
    let name = new_name("bare");
    let template = &template(Kind::Bare).await.name;
    on_cluster(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    name
}

struct Template {
    name: String,
    admin_key: String,
}

async fn template(kind: Kind) -> &'static Template {
    static BARE: OnceCell<Template> = OnceCell::const_new();
    static SERVED: OnceCell<Template> = OnceCell::const_new();
    static HELD: OnceCell<Template> = OnceCell::const_new();
    let cell = match kind {
        Kind::Bare => &BARE,
        Kind::Served => &SERVED,
        Kind::Held => &HELD,
    };
    cell.get_or_init(|| Box::pin(make(kind))).await
}

async fn make(kind: Kind) -> Template {
    let name = new_name("template");
    if kind == Kind::Bare {
        on_cluster(&format!("CREATE DATABASE {name}")).await;
        let role = base().get_username().to_owned();
        let options = Options::parse(&url(&name, &role)).unwrap();
        migrate(&options, &mut |_| ()).await.unwrap();
        return Template { name, admin_key: String::new() };
    }
    let bare = &Box::pin(template(Kind::Bare)).await.name;
    on_cluster(&format!("CREATE DATABASE {name} TEMPLATE {bare}")).await;
    if kind == Kind::Held {
        hold_clock(&name).await;
    }
    let dir = tempfile::tempdir().unwrap();
    databases().insert(dir.path().to_owned(), name.clone());
    open_app(dir.path(), &Setup::default()).await.unwrap().close().await;
    databases().remove(dir.path());
    if kind == Kind::Held {
        set_clock(&name, Time::parse(START).unwrap()).await;
    }
    let admin_key = std::fs::read_to_string(dir.path().join("admin.key")).unwrap();
    Template { name, admin_key }
}

/// Puts a clock that is set by hand in the place of the database's. Only its owner can do that.
async fn hold_clock(database: &str) {
    let mut conn = superuser(database).await;
    let sql = format!(
        "CREATE TABLE public.test_clock (at timestamptz NOT NULL);
         INSERT INTO public.test_clock VALUES ('{MADE}');
         GRANT SELECT ON public.test_clock TO PUBLIC;
         CREATE OR REPLACE FUNCTION portreeve.clock_now() RETURNS timestamptz LANGUAGE sql VOLATILE
         RETURN (SELECT c.at FROM public.test_clock c)"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Sets the clock of a database whose time is held.
pub(crate) async fn set_clock(database: &str, at: Time) {
    let mut conn = superuser(database).await;
    let sql = format!("UPDATE public.test_clock SET at = '{at}'");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Which folder has which database.
fn databases() -> std::sync::MutexGuard<'static, BTreeMap<PathBuf, String>> {
    static DATABASES: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    DATABASES.lock().unwrap()
}

/// The database of a folder, if it has one.
pub(crate) fn known(data: &Path) -> Option<String> {
    databases().get(data).cloned()
}

/// Gives a folder the database of another one.
pub(crate) fn share(data: &Path, database: &str) {
    databases().insert(data.to_owned(), database.to_owned());
}

/// Whether a folder's service runs on a server: all do, or this one was given a database.
pub(crate) fn is_for(data: &Path) -> bool {
    is_chosen() || known(data).is_some()
}

/// The database of a folder; a bare one where there was none.
pub(crate) async fn of(data: &Path) -> String {
    match known(data) {
        Some(name) => name,
        None => clone(data, Kind::Bare).await,
    }
}

/// A new database for a folder, with the admin's key of its template in the folder.
pub(crate) async fn clone(data: &Path, kind: Kind) -> String {
    let template = template(kind).await;
    let name = copy(data, &template.name).await;
    if kind != Kind::Bare {
        std::fs::write(data.join("admin.key"), &template.admin_key).unwrap();
    }
    name
}

/// A new database for a folder: a copy of one that nobody is connected to.
pub(crate) async fn copy(data: &Path, from: &str) -> String {
    let gone: Vec<String> = {
        let mut all = databases();
        let gone: Vec<PathBuf> = all.keys().filter(|folder| !folder.exists()).cloned().collect();
        let gone: Vec<String> = gone.iter().filter_map(|folder| all.remove(folder)).collect();
        gone.into_iter().filter(|name| !all.values().any(|used| used == name)).collect()
    };
    let name = new_name("db");
    on_cluster(&format!("CREATE DATABASE {name} TEMPLATE {from}")).await;
    for old in gone {
        on_cluster(&format!("DROP DATABASE IF EXISTS {old} WITH (FORCE)")).await;
    }
    databases().insert(data.to_owned(), name.clone());
    name
}
