//! Plain HTTP through a proxy: the request names the whole address, as RFC 9112 (3.2.2) has it.
//!
//! ureq asks every proxy for a tunnel (CONNECT). For `https` that is the way; for `http` most proxies refuse it, because
//! nobody needs it. So the connection leads to the proxy, and the beginning of a request is rewritten on its way there.

use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};
use ureq::{Agent, Error, config::Config};

/// An agent whose requests for `http` addresses go through a proxy, without a tunnel. It must not be asked for others.
pub(super) fn agent(config: Config, proxy: Uri) -> Agent {
    Agent::with_parts(config, ToProxy(DefaultConnector::default()), ProxyAddress(proxy, DefaultResolver::default()))
}

/// Finds the proxy, whatever host is asked for.
#[derive(Debug)]
struct ProxyAddress(Uri, DefaultResolver);

impl Resolver for ProxyAddress {
    fn resolve(&self, _uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.1.resolve(&self.0, config, timeout)
    }
}

#[derive(Debug)]
struct ToProxy(DefaultConnector);

impl Connector<()> for ToProxy {
    type Out = Rewriting;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<Rewriting>, Error> {
        let origin = format!("http://{}", details.uri.authority().map_or("", |authority| authority.as_str()));
        Ok(self.0.connect(details, chained)?.map(|inner| Rewriting { inner, origin: origin.into_bytes() }))
    }
}

/// A connection on which `GET /path` becomes `GET http://host/path`.
#[derive(Debug)]
struct Rewriting {
    inner: Box<dyn Transport>,
    origin: Vec<u8>,
}

const METHOD: &[u8] = b"GET ";

impl Transport for Rewriting {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let (start, more) = (METHOD.len(), self.origin.len());
        let output = self.inner.buffers().output();
        // Requests without a body are sent in one go, and only those are made here.
        if !output.starts_with(METHOD) || output.get(start) != Some(&b'/') {
            return self.inner.transmit_output(amount, timeout);
        }
        if amount + more > output.len() {
            return Err(Error::LargeResponseHeader(amount + more, output.len()));
        }
        output.copy_within(start..amount, start + more);
        output[start..start + more].copy_from_slice(&self.origin);
        self.inner.transmit_output(amount + more, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
