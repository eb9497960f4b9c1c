//! A Hub on this machine that fails on demand. It follows the real one's addresses and headers; a second port plays the host
//! to which large files are redirected. Plain sockets, because a library for HTTP would not let it lie.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Unescaped, without the query.
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    /// Whether it came to the other host.
    pub elsewhere: bool,
}

/// How an answer goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing comes any more after so many bytes of the body.
    Stall(usize),
    /// Another status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The whole file, whatever was asked for.
    IgnoreRange,
    /// One byte is another.
    Corrupt,
    /// The body ends early, and the length says so.
    Short(usize),
    /// The length says so many bytes more than there are.
    LongerLength(usize),
    /// Another body, of JSON.
    Body(String),
    /// A redirect.
    Redirect(String),
}

/// Decides on the fault of a request; the number counts requests for the same path.
type Plan = Arc<dyn Fn(&Request, usize) -> Option<Fault> + Send + Sync>;

/// A repository: its files, and who may read it.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    pub gated: bool,
    pub private: bool,
    /// Leaves out sizes and hashes wherever the real Hub has them.
    pub bare: bool,
}

struct State {
    repositories: Mutex<BTreeMap<String, Repository>>,
    log: Mutex<Vec<Request>>,
    plan: Mutex<Plan>,
    served: Mutex<HashMap<String, usize>>,
    other: Mutex<String>,
}

/// A running Hub; its threads end with the process.
#[derive(Clone)]
pub struct Hub {
    pub address: String,
    state: Arc<State>,
}

/// The token that opens what is gated or private.
pub const TOKEN: &str = "hf_opensesame";
/// Files of at least this many bytes are large ones.
pub const LARGE: usize = 400;

impl Hub {
    pub fn start() -> Self {
        let [own, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State {
            repositories: Mutex::default(),
            log: Mutex::default(),
            plan: Mutex::new(Arc::new(|_, _| None)),
            served: Mutex::default(),
            other: Mutex::new(address(&other)),
        });
        let hub = Self { address: address(&own), state: Arc::clone(&state) };
        for (listener, elsewhere) in [(own, false), (other, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // Whoever hangs up has had enough.
                    std::thread::spawn(move || state.serve(stream, elsewhere).unwrap_or_default());
                }
            });
        }
        hub
    }

    /// Adds or replaces a repository.
    pub fn put(&self, name: &str, repository: Repository) {
        self.state.repositories.lock().unwrap().insert(name.to_owned(), repository);
    }

    /// Adds a repository of these files.
    pub fn put_files(&self, name: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        self.put(name, Repository { files, ..Repository::default() });
    }

    /// From now on, requests go wrong like this.
    pub fn fail(&self, plan: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static) {
        self.state.served.lock().unwrap().clear();
        *self.state.plan.lock().unwrap() = Arc::new(plan);
    }

    /// The requests so far; they are forgotten here.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }
}

/// The commit of a repository's state.
pub fn commit(repository: &Repository) -> String {
    let mut hasher = Sha1::new();
    for (name, bytes) in &repository.files {
        hasher.update(name);
        hasher.update(git(bytes));
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file's blob.
pub fn blob(bytes: &[u8]) -> String {
    if bytes.len() >= LARGE { hashes(bytes).0 } else { git(bytes) }
}

fn git(bytes: &[u8]) -> String {
    hashes(bytes).1
}

/// SHA-256, and SHA-1 as git makes it. Those of large files are remembered by their ends, which no two files here share.
fn hashes(bytes: &[u8]) -> (String, String) {
    type Key = (usize, Vec<u8>, Vec<u8>);
    static KNOWN: Mutex<BTreeMap<Key, (String, String)>> = Mutex::new(BTreeMap::new());
    let make = || {
        let git = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
        (hex(&Sha256::digest(bytes)), hex(&git))
    };
    if bytes.len() < 1 << 20 {
        return make();
    }
    let key = (bytes.len(), bytes[..64].to_vec(), bytes[bytes.len() - 64..].to_vec());
    KNOWN.lock().unwrap().entry(key).or_insert_with(make).clone()
}

/// Bytes that are the same each time and nowhere alike.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// An answer that is about to be sent.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What the length says, if not the truth.
    length: Option<usize>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None }
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, "{}").header("X-Error-Code", code).header("X-Error-Message", message)
    }
}

impl State {
    fn serve(&self, stream: TcpStream, elsewhere: bool) -> std::io::Result<()> {
        let Some(request) = read_request(&stream, elsewhere)? else { return Ok(()) };
        self.log.lock().unwrap().push(request.clone());
        let nth = {
            let mut served = self.served.lock().unwrap();
            let count = served.entry(format!("{} {}", request.elsewhere, request.path)).or_default();
            *count += 1;
            *count - 1
        };
        let plan = Arc::clone(&self.plan.lock().unwrap());
        let fault = plan(&request, nth);
        let (mut cut, mut stall) = (None, None);
        let reply = match fault {
            Some(Fault::Status(status, headers)) => {
                headers.into_iter().fold(Reply::new(status, ""), |reply, (name, value)| reply.header(name, value))
            }
            Some(Fault::Body(body)) => Reply::new(200, body),
            Some(Fault::Redirect(to)) => Reply::new(302, "").header("Location", to),
            Some(Fault::IgnoreRange) => {
                let mut request = request.clone();
                request.headers.remove("range");
                self.answer(&request)
            }
            Some(Fault::Corrupt) => {
                let mut reply = self.answer(&request);
                if let Some(byte) = reply.body.last_mut() {
                    *byte ^= 1;
                }
                reply
            }
            Some(Fault::Short(bytes)) => {
                let mut reply = self.answer(&request);
                reply.body.truncate(bytes);
                reply
            }
            Some(Fault::LongerLength(more)) => {
                let mut reply = self.answer(&request);
                reply.length = Some(reply.body.len() + more);
                reply
            }
            other => {
                match other {
                    Some(Fault::Cut(bytes)) => cut = Some(bytes),
                    Some(Fault::Stall(bytes)) => stall = Some(bytes),
                    _ => {}
                }
                self.answer(&request)
            }
        };
        send(stream, &request, &reply, cut, stall)
    }

    fn answer(&self, request: &Request) -> Reply {
        let repositories = self.repositories.lock().unwrap();
        if request.elsewhere {
            let blob_name = request.path.trim_start_matches("/blobs/");
            let files = repositories.values().flat_map(|repository| repository.files.values());
            let found = files.into_iter().find(|bytes| blob(bytes) == blob_name);
            return found.map_or_else(
                || Reply::new(404, ""),
                |bytes| file_body(request, bytes, &format!("\"cdn-{blob_name}\"")),
            );
        }
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let authorized = request.headers.get("authorization").is_some_and(|value| *value == format!("Bearer {TOKEN}"));
        if request.headers.contains_key("authorization") && !authorized {
            return Reply::error(401, "", "Invalid credentials in Authorization header");
        }
        match &parts[..] {
            ["api", "whoami-v2"] if authorized => Reply::new(
                200,
                r#"{"name":"ada","fullname":"Ada L","orgs":[{"name":"engines"}],"auth":{"accessToken":{"role":"read"}}}"#,
            ),
            ["api", "whoami-v2"] => Reply::error(401, "", "Invalid username or password."),
            ["api", "models"] => self.search(request, &repositories),
            ["api", "models", org, name, rest @ ..] => {
                with(&repositories, &format!("{org}/{name}"), authorized, |id, repository| {
                    about(request, id, repository, rest)
                })
            }
            [org, name, "resolve", revision, file @ ..] => {
                with(&repositories, &format!("{org}/{name}"), authorized, |_, repository| {
                    if repository.gated && !authorized {
                        return Reply::error(401, "GatedRepo", "Access to this model is restricted.");
                    }
                    if *revision != "main" && *revision != commit(repository) {
                        return Reply::error(404, "RevisionNotFound", "Invalid rev id");
                    }
                    self.resolve(request, repository, &file.join("/"))
                })
            }
            _ => Reply::new(404, ""),
        }
    }

    fn search(&self, request: &Request, repositories: &BTreeMap<String, Repository>) -> Reply {
        let field = |name: &str| request.query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let page: usize = field("page").and_then(|page| page.parse().ok()).unwrap_or(0);
        let fits = |name: &&String| {
            field("search").is_none_or(|text| name.contains(text))
                && field("author").is_none_or(|org| name.split('/').next() == Some(org))
        };
        let names: Vec<&String> = repositories.keys().filter(fits).collect();
        let entries: Vec<String> = names.iter().skip(page * 2).take(2).map(|name| {
            format!(r#"{{"id":"{name}","likes":3,"downloads":1200,"tags":["mlx","license:mit"],"pipeline_tag":"text-generation"}}"#)
        }).collect();
        let reply = Reply::new(200, format!("[{}]", entries.join(",")));
        if names.len() <= (page + 1) * 2 {
            return reply;
        }
        reply.header("Link", format!("</api/models?page={}>; rel=\"next\"", page + 1))
    }

    fn resolve(&self, request: &Request, repository: &Repository, name: &str) -> Reply {
        let Some(bytes) = repository.files.get(name) else {
            return Reply::error(404, "EntryNotFound", "Entry not found");
        };
        let id = blob(bytes);
        if bytes.len() < LARGE {
            let reply = file_body(request, bytes, &format!("\"{id}\""));
            return reply.header("X-Repo-Commit", commit(repository));
        }
        Reply::new(302, "")
            .header("Location", format!("{}/blobs/{id}", self.other.lock().unwrap()))
            .header("X-Repo-Commit", commit(repository))
            .header("X-Linked-Size", bytes.len().to_string())
            .header("X-Linked-Etag", format!("\"{id}\""))
    }
}

fn with(
    repositories: &BTreeMap<String, Repository>,
    id: &str,
    authorized: bool,
    answer: impl Fn(&str, &Repository) -> Reply,
) -> Reply {
    match repositories.get(id) {
        Some(repository) if !repository.private || authorized => answer(id, repository),
        _ if authorized => Reply::error(404, "RepoNotFound", "Repository not found"),
        _ => Reply::error(401, "RepoNotFound", "Repository not found"),
    }
}

/// What the Hub says about a repository.
fn about(request: &Request, id: &str, repository: &Repository, rest: &[&str]) -> Reply {
    let now = commit(repository);
    let known = |revision: &str| revision == "main" || revision == now;
    let entry = |name: &str, key: &str, oid: &str, bytes: &[u8]| {
        if repository.bare {
            return format!(r#"{{"{key}":"{name}","type":"file"}}"#);
        }
        let size = bytes.len();
        let lfs = if size >= LARGE {
            format!(r#","lfs":{{"sha256":"{0}","oid":"{0}","size":{size},"pointerSize":134}}"#, blob(bytes))
        } else {
            String::new()
        };
        format!(r#"{{"{key}":"{name}","type":"file","size":{size},"{oid}":"{}"{lfs}}}"#, git(bytes))
    };
    match rest {
        [] => {}
        ["revision", revision] | ["tree", revision] if known(revision) => {}
        ["revision" | "tree", _] => return Reply::error(404, "RevisionNotFound", "Invalid rev id"),
        _ => return Reply::new(404, ""),
    }
    let list = |key: &str, oid: &str| -> Vec<String> {
        repository.files.iter().map(|(name, bytes)| entry(name, key, oid, bytes)).collect()
    };
    if rest.first() == Some(&"tree") {
        let page: usize = request.query.split("page=").nth(1).and_then(|page| page.parse().ok()).unwrap_or(0);
        let entries = list("path", "oid");
        let reply = Reply::new(
            200,
            format!("[{}]", entries.iter().skip(page * 2).take(2).cloned().collect::<Vec<_>>().join(",")),
        );
        if entries.len() <= (page + 1) * 2 {
            return reply;
        }
        return reply.header(
            "Link",
            format!(
                "<http://{}{}?recursive=true&page={}>; rel=\"next\"",
                request.headers["host"],
                request.path,
                page + 1
            ),
        );
    }
    let files = list("rfilename", "blobId").join(",");
    let gated = if repository.gated { "\"manual\"" } else { "false" };
    let body = format!(
        r#"{{"id":"{id}","sha":"{now}","private":{},"gated":{gated},"siblings":[{files}]}}"#,
        repository.private
    );
    Reply::new(200, body)
}

/// A file or a range of it.
fn file_body(request: &Request, bytes: &[u8], tag: &str) -> Reply {
    let reply = |status, body: &[u8]| Reply::new(status, body).header("ETag", tag).header("Accept-Ranges", "bytes");
    let fits = request.headers.get("if-range").is_none_or(|condition| condition == tag);
    let range = request.headers.get("range").filter(|_| fits).and_then(|range| range.strip_prefix("bytes="));
    let Some((start, end)) = range.and_then(|range| range.split_once('-')) else { return reply(200, bytes) };
    let start: usize = start.parse().expect("a number");
    let end = end.parse().map_or(bytes.len(), |end: usize| bytes.len().min(end + 1));
    if start >= bytes.len() {
        return reply(416, b"").header("Content-Range", format!("bytes */{}", bytes.len()));
    }
    reply(206, &bytes[start..end]).header("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
}

fn read_request(stream: &TcpStream, elsewhere: bool) -> std::io::Result<Option<Request>> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request { method: method.to_owned(), path: unescape(path), query: query.to_owned(), headers, elsewhere }))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
            None => (bytes.push(*first), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn send(
    mut stream: TcpStream,
    request: &Request,
    reply: &Reply,
    cut: Option<usize>,
    stall: Option<usize>,
) -> std::io::Result<()> {
    let length = reply.length.unwrap_or(reply.body.len());
    let mut head = format!("HTTP/1.1 {} Said\r\nContent-Length: {length}\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let end = cut.or(stall).unwrap_or(usize::MAX).min(reply.body.len());
    stream.write_all(&reply.body[..end])?;
    stream.flush()?;
    if stall.is_some() {
        // Until the other side gives up.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}
