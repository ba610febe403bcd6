//! Which web pages may talk to this server through a browser, and under which names it may be talked to.
//!
//! A browser sends whatever page it shows to any address, this machine's own included: a page elsewhere can point its
//! own name at 127.0.0.1 ("DNS rebinding"). Keys keep such a page out already; these checks do so before any key is
//! looked at, as MCP wants it. A server that listens for other machines cannot know under which names it is reached, so
//! there only the page's origin is compared with the name that was called; the key is what keeps others out.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

/// Where a web page comes from: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "an origin is SCHEME://HOST or SCHEME://HOST:PORT, for instance https://portal.example.com";
        let uri = Uri::try_from(text.trim()).map_err(|_| wrong)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong) };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong);
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = authority.port_u16().or(match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            // Other schemes have no port; any number will do, as long as it is the same one.
            _ => Some(0),
        });
        Ok(Self { scheme, host: bare(authority.host()), port: port.ok_or(wrong)? })
    }
}

/// A host without the brackets of IPv6, in small letters.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The origins and names that are let through.
#[derive(Debug, Clone)]
pub struct Origins {
    pages: Vec<Origin>,
    is_local: bool,
}

/// Why a request is turned away before anyone asks who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// By its `Host`.
    Host,
    /// By its `Origin`.
    Origin,
}

impl Origins {
    /// For a server that listens on an address, and pages of these origins.
    #[must_use]
    pub const fn new(pages: Vec<Origin>, address: IpAddr) -> Self {
        Self { pages, is_local: address.is_loopback() }
    }

    /// Looks at `Host` and `Origin`. A server for this machine alone is not talked to by other names, but for those of
    /// the pages that are let in: a proxy that serves them may hand their name through. No `Origin` means no browser.
    pub(super) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
        let host =
            headers.get(header::HOST).map(|value| value.to_str().ok().and_then(|text| Authority::try_from(text).ok()));
        let host = host.unwrap_or_else(|| uri.authority().cloned()).ok_or(Refused::Host)?;
        let name = bare(host.host());
        if self.is_local && !is_loopback(&name) && !self.pages.iter().any(|page| page.host == name) {
            return Err(Refused::Host);
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin: Origin = origin.to_str().unwrap_or_default().parse().map_err(|_| Refused::Origin)?;
        let same_host = origin.host == name && host.port_u16().is_none_or(|port| port == origin.port);
        let is_web = matches!(origin.scheme.as_str(), "http" | "https");
        let fine = self.pages.contains(&origin) || (is_web && (is_loopback(&origin.host) || same_host));
        if fine { Ok(()) } else { Err(Refused::Origin) }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(origins: &Origins, host: &str, origin: Option<&str>) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        origins.check(&headers, &Uri::from_static("/mcp"))
    }

    #[test]
    fn a_local_server_is_talked_to_by_local_names_only() {
        let local = Origins::new(vec!["https://portal.example.com".parse().unwrap()], [127, 0, 0, 1].into());
        for host in ["127.0.0.1:8081", "localhost", "LOCALHOST:1", "[::1]:8081", "127.0.0.2", "portal.example.com"] {
            assert_eq!(check(&local, host, None), Ok(()), "{host}");
        }
        for host in ["evil.example:8081", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert_eq!(check(&local, host, None), Err(Refused::Host), "{host}");
        }
        assert_eq!(check(&Origins::new(Vec::new(), [10, 0, 0, 1].into()), "any.example", None), Ok(()));
    }

    #[test]
    fn pages_are_let_in_from_here_and_from_where_it_was_said() {
        let origins = Origins::new(vec!["https://portal.example.com".parse().unwrap()], [0, 0, 0, 0].into());
        for origin in [
            "https://portal.example.com",
            "https://portal.example.com:443",
            "http://localhost:6274",
            "http://[::1]:5173",
            "http://coordinator.example:8081",
        ] {
            assert_eq!(check(&origins, "coordinator.example:8081", Some(origin)), Ok(()), "{origin}");
        }
        for origin in [
            "https://evil.example",
            "http://portal.example.com",
            "https://portal.example.com:444",
            "http://coordinator.example",
            "https://localhost.evil.example",
            "null",
            "",
        ] {
            let seen = check(&origins, "coordinator.example:8081", Some(origin));
            assert_eq!(seen, Err(Refused::Origin), "{origin}");
        }
    }

    #[test]
    fn origins_are_read_strictly() {
        for wrong in ["example.com", "https://", "https://a/b", "https://a?b", "https://u@a", "*", ""] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
        assert!("vscode-webview://1a2b".parse::<Origin>().is_ok());
    }
}
