//! Requests: redirects, the token's way, time-outs, and what a status means.
//!
//! Redirects are followed here and not by the client, because the token has to be left behind at the first step to another
//! host. The runtime is hidden: callers block.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use crate::config::{HubConfig, Token, Transfer};
use crate::error::{HubError, Result};
use crate::failure;
use crate::progress::{Cancel, Event, Listener};
use crate::retry::Retry;

/// Redirects before it counts as a circle.
const HOPS: usize = 10;
/// Bytes of an answer that is not a file.
const LONGEST_ANSWER: usize = 256 << 20;

/// Runs what `make` makes to its end on the runtime of this crate.
///
/// On a thread of its own, because a caller may be inside another runtime, where blocking is not allowed.
pub(crate) fn block_on<T: Send, F: Future<Output = T>>(make: impl FnOnce() -> F + Send) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("hub").enable_all().build().expect("a thread can be started")
    });
    std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(make())).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// One question to a host.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
}

impl Question {
    pub(crate) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new() }
    }

    pub(crate) fn head(url: Url) -> Self {
        Self { method: Method::HEAD, ..Self::get(url) }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// An answer, and what the hosts on the way to it said.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The headers of the Hub itself, which stood before a redirect if there was one.
    pub(crate) hub: HeaderMap,
}

impl Answer {
    /// A header of the Hub, as text.
    pub(crate) fn said(&self, name: &str) -> Option<&str> {
        text(&self.hub, name)
    }

    /// The host that answered in the end.
    pub(crate) fn host(&self) -> String {
        host(self.response.url())
    }
}

/// A header as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The host of an address, with the port if it is an unusual one.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Who sends requests.
#[derive(Clone)]
pub(crate) struct Http {
    /// For hosts of the network; made when one is asked, for reading the system's certificates takes a while.
    remote: Arc<OnceLock<Client>>,
    /// For plain http to this machine: a proxy would carry away what is meant for it.
    local: Client,
    endpoint: Url,
    token: Option<Token>,
    offline: bool,
    pub(crate) transfer: Arc<Transfer>,
}

impl Http {
    pub(crate) fn new(config: &HubConfig) -> Result<Self> {
        let mut endpoint = config.endpoint.trim().trim_end_matches('/').to_owned();
        endpoint.push('/');
        let wrong = |why: String| {
            HubError::invalid(
                format!("`{}` is not the address of a Hub: {why}", config.endpoint.escape_debug()),
                "write it as https://huggingface.co",
            )
        };
        let mut endpoint = Url::parse(&endpoint).map_err(|e| wrong(e.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(wrong("it has no http".to_owned()));
        }
        // A password in the address would show in messages.
        let _ = endpoint.set_username("").and_then(|()| endpoint.set_password(None));
        // Fails where another part of the program has chosen one before, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let transfer = Arc::new(config.transfer.clone());
        Ok(Self {
            remote: Arc::default(),
            local: local_client(&transfer)?,
            endpoint,
            token: config.token.clone(),
            offline: config.offline,
            transfer,
        })
    }

    /// An address below the endpoint. Each part is escaped, slashes in it too.
    pub(crate) fn url(&self, parts: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether there is a token that does not go to the endpoint.
    pub(crate) fn withholds_token(&self) -> bool {
        self.token.is_some() && !is_private(&self.endpoint)
    }

    /// The token, if it may go there: to the Hub's own host, and nobody on the way can read it.
    fn token_for(&self, url: &Url) -> Option<&Token> {
        let own = url.origin() == self.endpoint.origin();
        self.token.as_ref().filter(|_| own && is_private(url))
    }

    fn remote(&self) -> Result<&Client> {
        if let Some(client) = self.remote.get() {
            return Ok(client);
        }
        let client = remote_client(&self.transfer)?;
        Ok(self.remote.get_or_init(|| client))
    }

    /// Asks once, and follows redirects. Any status but a redirect is an answer.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer> {
        if self.offline {
            return Err(HubError::Offline { what: host(&question.url) });
        }
        let mut url = question.url.clone();
        let mut hub = None;
        for _ in 0..HOPS {
            let plain = url.scheme() == "http" && is_loopback(&url);
            let client = if plain { &self.local } else { self.remote()? };
            let mut request = client.request(question.method.clone(), url.clone()).headers(question.headers.clone());
            if let Some(token) = self.token_for(&url) {
                request = request.bearer_auth(token.reveal());
            }
            // The client's own time-outs end a connection that cannot be made and a body that stalls; this one, a host
            // that takes the question and says nothing.
            let waited = tokio::time::timeout(self.transfer.stall + self.transfer.connect, request.send()).await;
            let timed_out = HubError::TimedOut { host: host(&url), after: self.transfer.stall };
            let response = waited.map_err(|_| timed_out)?.map_err(|error| failure::of_client(&url, &error, self))?;
            let next = next_hop(&response)?;
            let hub_headers = hub.get_or_insert_with(|| response.headers().clone());
            let Some(next) = next else {
                let hub = std::mem::take(hub_headers);
                return Ok(Answer { response, hub });
            };
            // A mirror may first send to another name of itself: the last host that is the Hub's own knows best.
            if url.origin() == self.endpoint.origin() && response.headers().contains_key("x-repo-commit") {
                *hub_headers = response.headers().clone();
            }
            url = next;
        }
        Err(HubError::bad(question.url.path(), format!("more than {HOPS} redirects")))
    }

    /// Asks until there is an answer or no hope; the answer's status is that of success.
    pub(crate) async fn insist(&self, question: &Question, what: &Asked<'_>) -> Result<Answer> {
        let mut retry = Retry::new(&self.transfer);
        loop {
            let answered = match self.ask(question).await {
                Ok(answer) => failure::check(answer, what, self).await,
                Err(error) => Err(error),
            };
            match answered {
                Err(error) if error.passes() => {
                    let Some(pause) = retry.after(&error) else { return Err(error) };
                    (what.listener)(&Event::Retrying { file: what.name, why: &error.message(), pause });
                    sleep(pause, what.cancel).await?;
                }
                other => return other,
            }
        }
    }

    /// The body of an answer that is not a file.
    pub(crate) async fn body(&self, mut answer: Answer) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut answer.response).await? {
            if bytes.len() + chunk.len() > LONGEST_ANSWER {
                return Err(HubError::bad(answer.response.url().path(), "it is too long"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The next piece of a body; an error if nothing comes for too long.
    pub(crate) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>> {
        let url = response.url().clone();
        match tokio::time::timeout(self.transfer.stall, response.chunk()).await {
            Err(_) => Err(HubError::TimedOut { host: host(&url), after: self.transfer.stall }),
            Ok(Err(error)) => Err(failure::of_client(&url, &error, self)),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }
}

/// What is asked for, for errors and events.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// In words.
    pub(crate) name: &'a str,
    pub(crate) kind: AskedKind<'a>,
    pub(crate) listener: Listener<'a>,
    pub(crate) cancel: &'a Cancel,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AskedKind<'a> {
    /// Something about the Hub or the user.
    Hub,
    /// A revision of a model.
    Revision { repo: &'a str, revision: &'a str },
    /// A file of a model.
    File { repo: &'a str, revision: &'a str, file: &'a str },
}

/// Waits, unless cancelled.
pub(crate) async fn sleep(pause: Duration, cancel: &Cancel) -> Result<()> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(HubError::Cancelled),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}

fn builder(transfer: &Transfer) -> ClientBuilder {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(transfer.connect)
        .referer(false)
        .user_agent(concat!("mlxengine/", env!("CARGO_PKG_VERSION")))
}

fn no_client(error: reqwest::Error) -> HubError {
    HubError::bad("the network", format!("no client for HTTP: {error}"))
}

/// It is used for plain http alone, so it needs nobody's certificates.
fn local_client(transfer: &Transfer) -> Result<Client> {
    builder(transfer).no_proxy().tls_certs_only([]).build().map_err(no_client)
}

/// A machine without any certificates trusts nobody, and says so when it is asked to.
fn remote_client(transfer: &Transfer) -> Result<Client> {
    builder(transfer).build().or_else(|_| builder(transfer).tls_certs_only([]).build()).map_err(no_client)
}

/// Where a redirect leads, if this is one.
fn next_hop(response: &Response) -> Result<Option<Url>> {
    let status = response.status();
    if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let from = response.url();
    let bad = |why: &str| HubError::bad(from.path(), why);
    let target = text(response.headers(), header::LOCATION.as_str()).ok_or_else(|| bad("it redirects to nowhere"))?;
    let next = from.join(target).map_err(|_| bad("it redirects to nowhere"))?;
    match (from.scheme(), next.scheme()) {
        ("https", "http") if !is_loopback(&next) => Err(bad("it redirects from https to plain http")),
        (_, "http" | "https") => Ok(Some(next)),
        _ => Err(bad("it redirects to something else than http")),
    }
}

/// Whether nobody on the way can read what is sent there.
fn is_private(url: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(endpoint: &str) -> Http {
        let config = HubConfig { endpoint: endpoint.into(), token: Token::new("secret"), ..HubConfig::new("c") };
        Http::new(&config).unwrap()
    }

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        for (endpoint, url, goes) in [
            ("https://hub.example", "https://hub.example/a", true),
            ("https://hub.example", "https://hub.example:444/a", false),
            ("https://hub.example", "http://hub.example/a", false),
            ("https://hub.example", "https://cdn.hub.example/a", false),
            ("https://hub.example", "https://hub.example.evil/a", false),
            ("http://hub.example", "http://hub.example/a", false),
            ("http://127.0.0.1:9", "http://127.0.0.1:9/a", true),
            ("http://127.0.0.1:9", "http://127.0.0.1:8/a", false),
            ("http://localhost:9", "http://localhost:9/a", true),
            ("http://[::1]:9", "http://[::1]:9/a", true),
            ("http://127.0.0.1.evil", "http://127.0.0.1.evil/a", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(http(endpoint).token_for(&url).is_some(), goes, "{endpoint} {url}");
        }
    }

    #[test]
    fn addresses_are_escaped() {
        let url = http("https://h/hf/").url(&["a", "b", "resolve", "refs/pr/1", "ü 1.json"], &[("q", "a&b")]);
        assert_eq!(url.as_str(), "https://h/hf/a/b/resolve/refs%2Fpr%2F1/%C3%BC%201.json?q=a%26b");
        for bad in ["", "huggingface.co", "ftp://h", "http://"] {
            assert!(Http::new(&HubConfig { endpoint: bad.into(), ..HubConfig::new("c") }).is_err(), "{bad}");
        }
    }
}
