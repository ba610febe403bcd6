//! How a command reaches the service: over HTTP, or in this process on its data folder.
//! Both run the same entry of the catalogue, so both pass the same gate.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Map, Value};

use super::error::CliError;
use super::output::Output;
use super::progress::Progress;
use super::{failure, folders};
use crate::app::{App, Options};
use crate::authn;
use crate::clock::SystemClock;
use crate::command::catalogue::{self, Call, Entry, Kind, Method};
use crate::command::input::Place;
use crate::engine::Cage;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Everything but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where the service is.
#[derive(Debug, Clone, Args)]
pub(super) struct Where {
    /// A running server; the key is taken from PORTREEVE_API_KEY [env: PORTREEVE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// A data folder, with or without a server on it; the key is its admin.key, else PORTREEVE_API_KEY
    /// [env: PORTREEVE_DATA] [default: the folder that `serve` uses]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
}

/// A way to the service.
pub(super) enum Transport {
    /// A server, by HTTP.
    Http { client: Client, base: Url, key: String },
    /// The service in this process.
    Embedded { app: Arc<App>, key: String },
}

impl Where {
    /// Connects. An option goes before a variable, and a URL before the default folder.
    pub(super) async fn connect(&self, output: &Output) -> Result<Transport, CliError> {
        match (&self.url, &self.data) {
            (Some(_), Some(_)) => Err(CliError::new(
                "--url and --data name two services",
                "give the one that you mean: --url for a running server, --data for a folder",
            )),
            (Some(url), None) => http(url, output),
            (None, Some(_)) => self.embedded(output).await,
            (None, None) => match folders::variable("PORTREEVE_URL") {
                Some(url) => http(&url.to_string_lossy(), output),
                None => self.embedded(output).await,
            },
        }
    }

    /// The data folder, which must hold a store already: a mistyped name must not become a new service.
    pub(super) fn store_folder(&self) -> Result<PathBuf, CliError> {
        let data = folders::data(self.data.clone())?;
        if data.join("portreeve.db").is_file() {
            return Ok(data);
        }
        Err(CliError::new(
            format!("there is no Portreeve store in `{}`", data.display()),
            "start `portreeve serve` on that folder once, name another (--data DIR), or a running server (--url URL)",
        ))
    }

    async fn embedded(&self, output: &Output) -> Result<Transport, CliError> {
        let data = self.store_folder()?;
        let key = key_of(&data)?;
        let options = Options {
            data,
            cache: folders::service_cache(None),
            bundle: Vec::new(),
            cage: Cage::default(),
            clock: Arc::new(SystemClock::default()),
        };
        let progress = Progress::new(output);
        let app = App::attach(options, &|stage| progress.show(stage)).await;
        let app = app.map_err(|error| failure::open(&error, None))?;
        Ok(Transport::Embedded { app, key })
    }
}

/// Whoever may read the folder's admin key acts as the admin; nobody else can.
fn key_of(data: &std::path::Path) -> Result<String, CliError> {
    let path = data.join("admin.key");
    match std::fs::read_to_string(&path) {
        Ok(key) => Ok(key.trim().to_owned()),
        Err(error) => api_key().ok_or_else(|| {
            CliError::new(
                format!("cannot read the admin key `{}`: {error}", path.display()),
                "run this as the folder's owner, or set PORTREEVE_API_KEY; `portreeve serve` makes a lost admin.key anew",
            )
        }),
    }
}

fn api_key() -> Option<String> {
    folders::variable("PORTREEVE_API_KEY")
        .map(|key| key.to_string_lossy().trim().to_owned())
        .filter(|key| !key.is_empty())
}

fn http(url: &str, output: &Output) -> Result<Transport, CliError> {
    let base = parse_url(url)?;
    let Some(key) = api_key() else {
        return Err(CliError::new(
            "there is no key for the server: PORTREEVE_API_KEY is not set",
            "PORTREEVE_API_KEY=$(cat DATA/admin.key) portreeve …, with the data folder that the server printed",
        ));
    };
    let is_loopback = is_loopback(&base);
    if base.scheme() == "http" && !is_loopback {
        output.warn("the key goes to the server in clear; use https, or a tunnel");
    }
    // Fails when one is installed already, which is as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = Client::builder()
        .user_agent(concat!("portreeve/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        // A key is for the server that was named.
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback {
        builder = builder.no_proxy();
    }
    if base.scheme() == "http" {
        // No certificate is looked at, so a machine without any will do.
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| {
        CliError::new(
            format!("cannot set up HTTP: {}", chain(&error)),
            "install the system's CA certificates, or use http to a local server",
        )
    })?;
    Ok(Transport::Http { client, base, key })
}

fn parse_url(url: &str) -> Result<Url, CliError> {
    let wrong = |why: &str| {
        CliError::new(
            format!("`{url}` is not the URL of a server: {why}"),
            "give it as `serve` printed it, for instance http://127.0.0.1:8081",
        )
    };
    let parsed = Url::parse(url.trim()).map_err(|error| wrong(&error.to_string()))?;
    match parsed.scheme() {
        "http" | "https" if parsed.host().is_some() => Ok(parsed),
        scheme => Err(wrong(&format!("its scheme is `{scheme}`, not http or https"))),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Transport {
    /// Runs an entry of the catalogue and hands back the body of its answer.
    pub(super) async fn call(&self, name: &str, input: Map<String, Value>) -> Result<Value, CliError> {
        self.call_as(name, input, &crate::command::new_id()).await
    }

    /// As [`Self::call`], under a request identifier of the caller's choice.
    pub(super) async fn call_as(
        &self,
        name: &str,
        input: Map<String, Value>,
        request_id: &str,
    ) -> Result<Value, CliError> {
        let Some(entry) = catalogue::entry(name) else {
            return Err(CliError::new(
                format!("`{name}` is not in the catalogue"),
                "report this: it is a fault of the program",
            ));
        };
        match self {
            Self::Http { client, base, key } => over_http(client, base, key, entry, input, request_id).await,
            Self::Embedded { app, key } => in_process(app, key, entry, input, request_id).await,
        }
    }

    /// Ends the connection; an embedded service commits what it has.
    pub(super) async fn close(self) {
        if let Self::Embedded { app, .. } = self {
            app.close().await;
        }
    }
}

async fn in_process(
    app: &App,
    key: &str,
    entry: &'static Entry,
    input: Map<String, Value>,
    request_id: &str,
) -> Result<Value, CliError> {
    let answer = async {
        let who = authn::authenticate(app.gate().store(), Some(key)).await?;
        let circumstances = app.circumstances(request_id.to_owned());
        entry.call(app, &who, Call { input, place: Place::Body, circumstances }).await
    };
    answer.await.map(|answer| answer.body).map_err(|error| failure::refused(&error.body()))
}

async fn over_http(
    client: &Client,
    base: &Url,
    key: &str,
    entry: &'static Entry,
    input: Map<String, Value>,
    request_id: &str,
) -> Result<Value, CliError> {
    let request = request_of(client, base, entry, input).bearer_auth(key).header("x-request-id", request_id);
    let response = request.send().await.map_err(|error| unreachable_server(base, &error, entry.kind))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| unreachable_server(base, &error, entry.kind))?;
    match serde_json::from_str::<Value>(&text) {
        Ok(body) if status.is_success() => Ok(body),
        Ok(body) if body.get("error").is_some() => Err(failure::refused(&body)),
        _ => Err(CliError::new(
            format!("`{base}` answered {status}, and not as Portreeve does"),
            "look whether the URL is that of a Portreeve server",
        )),
    }
}

/// Path fields go into the path, the rest into the body or the query string.
fn request_of(client: &Client, base: &Url, entry: &Entry, mut input: Map<String, Value>) -> RequestBuilder {
    let path = fill_path(entry.path, &mut input);
    let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
    match entry.method {
        Method::Post => client.post(url).json(&input),
        Method::Get => client.get(with_query(url, &input)),
        Method::Delete => client.delete(with_query(url, &input)),
    }
}

fn with_query(url: String, input: &Map<String, Value>) -> String {
    if input.is_empty() {
        return url;
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in input {
        query.append_pair(name, &plain(value));
    }
    format!("{url}?{}", query.finish())
}

/// Fills `{field}` and `{*field}` of a path, and takes them out of the input.
fn fill_path(template: &str, input: &mut Map<String, Value>) -> String {
    let segments = template.split('/').map(|segment| {
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return segment.to_owned();
        };
        let value = input.remove(name.trim_start_matches('*')).map(|value| plain(&value)).unwrap_or_default();
        utf8_percent_encode(&value, SEGMENT).to_string()
    });
    segments.collect::<Vec<_>>().join("/")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn unreachable_server(base: &Url, error: &reqwest::Error, kind: Kind) -> CliError {
    let cause = format!("cannot reach `{base}`: {}", chain(error));
    match kind {
        Kind::Mutation if !error.is_connect() => CliError::new(
            cause,
            "it is not known whether the change was made: look (agent list, audit tail) before trying again",
        ),
        _ => CliError::new(cause, "look whether the server runs there (portreeve serve), and at the URL"),
    }
}

/// An error with what caused it; the outermost alone says little. The URL is told elsewhere.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn path_fields_are_encoded_and_taken_out() {
        let mut input = json!({"id": "team/α 1", "key_id": "k?#%", "label": "x"}).as_object().unwrap().clone();
        assert_eq!(fill_path("/agents/{id}/keys/{key_id}", &mut input), "/agents/team%2F%CE%B1%201/keys/k%3F%23%25");
        assert_eq!(Value::Object(input), json!({"label": "x"}));
    }

    #[test]
    fn queries_carry_numbers_and_text_alike() {
        let input = json!({"agent_id": "a&b=c", "limit": 5}).as_object().unwrap().clone();
        assert_eq!(with_query("http://h/audit".to_owned(), &input), "http://h/audit?agent_id=a%26b%3Dc&limit=5");
    }

    #[test]
    fn loopback_is_told_from_its_likes() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://127.0.0.1.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
