//! One request for a file, or for the rest of it.

use crate::error::{Error, Kind, Result};
use std::io::Read;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, Proxy, ProxyProtocol};

/// Addresses that a request is sent on to before it is given up.
const MOST_REDIRECTIONS: usize = 10;

/// How servers are reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Proxy for all addresses; otherwise the environment's (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).
    pub proxy: Option<String>,
    /// Longest time without a byte.
    pub patience: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self { proxy: None, patience: Duration::from_secs(60) }
    }
}

/// What a server said of the version of a file it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Bytes of the whole file.
    pub(super) size: Option<u64>,
}

impl Version {
    /// The words of an `If-Range`: a server sends the rest only if it still has this version.
    pub(super) fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }
}

/// A server's answer.
pub(super) struct Answer {
    /// Where the bytes belong that follow: 0, or what was asked for.
    pub(super) from: u64,
    pub(super) version: Version,
    pub(super) body: Box<dyn Read + Send>,
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// It may go better the next time.
    Passing(String),
    /// The server has no bytes from there on: what is here is as long as its file, or longer.
    NothingMore { size: Option<u64> },
    /// It will not.
    Lasting(Error),
}

impl Access {
    /// Asks for a file, from byte `from` on if the server still has the version `known`.
    pub(super) fn get(&self, url: &str, from: u64, known: &Version) -> Result<Answer, Trouble> {
        // Each address may have a proxy of its own, so redirections are followed here.
        let mut url = url.to_string();
        for _ in 0..MOST_REDIRECTIONS {
            let response = self.ask(&url, from, known)?;
            let target = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get("location").and_then(|to| to.to_str().ok()),
                _ => None,
            };
            match target {
                None => return answer(&url, response, from),
                Some(target) => url = redirected(&url, target).map_err(Trouble::Lasting)?,
            }
        }
        Err(Trouble::Lasting(Error::new(Kind::Io, format!("`{url}` leads on and on"))))
    }

    fn ask(&self, url: &str, from: u64, known: &Version) -> Result<Response<Body>, Trouble> {
        let agent = self.agent(url).map_err(Trouble::Lasting)?;
        let mut request = agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
            if let Some(validator) = known.validator() {
                request = request.header("If-Range", validator);
            }
        }
        request.call().map_err(|e| match e {
            ureq::Error::BadUri(words) => Trouble::Lasting(Error::input(format!("`{url}` is no address")).note(words)),
            e => Trouble::Passing(e.to_string()),
        })
    }

    fn agent(&self, url: &str) -> Result<Agent> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(self.patience))
            .timeout_recv_response(Some(self.patience))
            .timeout_per_read(Some(self.patience))
            .user_agent(concat!("hashpipe/", env!("CARGO_PKG_VERSION")))
            // Bytes as they are: a range of a compressed answer would be a range of something else.
            .accept_encoding("identity");
        let found = self.proxy_for(url)?;
        // A proxy that wants a name and a password, or speaks something else, is left to ureq.
        let is_plain = |proxy: &Proxy| proxy.protocol() == ProxyProtocol::Http && proxy.username().is_none();
        if let Some(proxy) = found.as_ref().filter(|proxy| url.starts_with("http://") && is_plain(proxy)) {
            let uri = format!("http://{}:{}/", proxy.host(), proxy.port());
            let uri = uri.parse().map_err(|_| Error::input(format!("`{uri}` is no address of a proxy")))?;
            return Ok(super::proxy::agent(config.proxy(None).build(), uri));
        }
        Ok(config.proxy(found).build().new_agent())
    }

    fn proxy_for(&self, url: &str) -> Result<Option<Proxy>> {
        let from = |name: &str| std::env::var(name).ok();
        let chosen = match &self.proxy {
            Some(proxy) => Some((proxy.clone(), "--proxy")),
            None => environment_proxy(url, &from),
        };
        let Some((proxy, source)) = chosen else { return Ok(None) };
        Proxy::new(&proxy).map(Some).map_err(|e| {
            // The address may hold a password.
            Error::input(format!("what {source} gives is no address of a proxy"))
                .note(e.to_string())
                .hint("give one as http://host:3128")
        })
    }
}

/// What an answer says of the bytes that follow.
fn answer(url: &str, response: Response<Body>, from: u64) -> Result<Answer, Trouble> {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
    let range = header("content-range").map(|text| Range::parse(&text));
    let length = header("content-length").and_then(|text| text.trim().parse::<u64>().ok());
    let (etag, last_modified) = (header("etag"), header("last-modified"));
    let version = |size| Version { etag, last_modified, size };
    match (status, range) {
        (206, Some(Some(Range { first, size }))) if first == from => {
            let size = size.or(length.map(|length| from.saturating_add(length)));
            let body = Box::new(response.into_body().into_reader());
            Ok(Answer { from, version: version(size), body })
        }
        (206, _) => Err(Trouble::Passing("the server sent another part than it was asked for".into())),
        (200, _) => {
            Ok(Answer { from: 0, version: version(length), body: Box::new(response.into_body().into_reader()) })
        }
        (416, range) => Err(Trouble::NothingMore { size: range.flatten().and_then(|range| range.size) }),
        (408 | 425 | 429 | 500..=599, _) => Err(Trouble::Passing(format!("the server answers {status}"))),
        (status, _) => Err(Trouble::Lasting(refused(url, status))),
    }
}

/// Where a redirection leads.
fn redirected(url: &str, target: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host = rest.split('/').next().unwrap_or_default();
    if target.starts_with("http://") || target.starts_with("https://") {
        Ok(target.to_string())
    } else if target.starts_with('/') && !target.starts_with("//") {
        Ok(format!("{scheme}://{host}{target}"))
    } else {
        Err(Error::new(Kind::Io, format!("`{url}` leads to `{target}`, which is no web address")))
    }
}

/// The proxy that the environment has for an address, and where it says so.
fn environment_proxy(url: &str, get: &dyn Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).to_ascii_lowercase();
    let excluded = get("no_proxy").or_else(|| get("NO_PROXY")).unwrap_or_default();
    let is_excluded = excluded.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).any(|pattern| {
        let pattern = pattern.to_ascii_lowercase();
        let suffix = pattern.trim_start_matches('*').trim_start_matches('.');
        pattern == "*" || host == suffix || host.ends_with(&format!(".{suffix}"))
    });
    if is_excluded {
        return None;
    }
    // As curl has it: `HTTP_PROXY` in capitals could be set by a request to a CGI program, and does not count.
    let names: &[&'static str] = match scheme {
        "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names.iter().find_map(|name| Some((get(name).filter(|value| !value.is_empty())?, *name)))
}

fn refused(url: &str, status: u16) -> Error {
    let words = match status {
        401 | 403 => "the server does not give it to everybody",
        404 | 410 => "there is nothing at this address any more",
        _ => "the server does not answer with the file",
    };
    Error::new(Kind::Io, format!("cannot fetch `{url}`: {status}"))
        .note(words)
        .hint("try a mirror, with `--mirror URL`, or fetch the file by hand")
}

/// A `Content-Range`: `bytes 100-199/1000`, `bytes */1000`.
struct Range {
    first: u64,
    size: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
        let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
        let first = if range.trim() == "*" { u64::MAX } else { first? };
        Some(Self { first, size: size.trim().parse().ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_which_proxy() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string())
        };
        let both = set(&[("http_proxy", "http://p:1"), ("HTTPS_PROXY", "http://q:2"), ("no_proxy", "a.org, .b.org")]);
        let proxy = |url: &str| environment_proxy(url, &both).map(|(proxy, _)| proxy);
        assert_eq!(proxy("http://c.org/x").as_deref(), Some("http://p:1"));
        assert_eq!(proxy("https://c.org:8443/x").as_deref(), Some("http://q:2"));
        for excluded in ["http://a.org/x", "https://A.org:80", "http://x.b.org", "http://b.org/"] {
            assert_eq!(proxy(excluded), None, "{excluded}");
        }
        assert!(proxy("http://ba.org/").is_some());
        assert_eq!(environment_proxy("http://c.org", &set(&[("HTTP_PROXY", "http://p:1")])), None);
        assert_eq!(environment_proxy("http://c.org", &set(&[("ALL_PROXY", "p:1"), ("no_proxy", "*")])), None);
    }

    #[test]
    fn ranges_are_read() {
        let read = |text| Range::parse(text).map(|range| (range.first, range.size));
        assert_eq!(read("bytes 100-199/1000"), Some((100, Some(1000))));
        assert_eq!(read("bytes 0-9/*"), Some((0, None)));
        assert_eq!(read("bytes */7"), Some((u64::MAX, Some(7))));
        assert_eq!((read("items 0-1/2"), read("bytes x-1/2")), (None, None));
    }
}
