//! One file: its bytes come in one stream or in several ranges, are verified, and get their name.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use reqwest::header;

use crate::api::HuggingFaceApi;
use crate::error::{During, HubError, Result};
use crate::failure;
use crate::http::{Answer, Asked, AskedKind, Question, sleep, text};
use crate::layout::Folder;
use crate::lock;
use crate::name::BlobId;
use crate::partial::{Partial, Side};
use crate::progress::{Cancel, Event, Listener};
use crate::retry::Retry;
use crate::throttle::Throttle;

/// How often a file is begun again because it changed or its bytes were wrong.
const STARTS: usize = 2;

/// What the files of one download share.
pub(crate) struct Session<'a> {
    pub(crate) api: &'a HuggingFaceApi,
    pub(crate) folder: &'a Folder,
    /// The commit, or where the Hub says none, the revision.
    pub(crate) at: &'a str,
    pub(crate) listener: Listener<'a>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) throttle: &'a Throttle,
}

/// A file to fetch.
pub(crate) struct Fetch<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) file: &'a str,
    pub(crate) blob: &'a BlobId,
    pub(crate) size: Option<u64>,
    /// Bytes that are here.
    here: AtomicU64,
}

/// Why bytes stop coming.
enum Halt {
    /// It failed.
    Failed(HubError),
    /// The server sends all or nothing.
    NoRanges,
    /// What is here does not go together with what the server has now.
    Stale,
}

impl From<HubError> for Halt {
    fn from(error: HubError) -> Self {
        Halt::Failed(error)
    }
}

/// A place in a file from which bytes come, up to another.
struct Body {
    answer: Answer,
    /// Bytes at its beginning that are here already.
    skip: u64,
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(session: &'a Session<'a>, file: &'a str, blob: &'a BlobId, size: Option<u64>) -> Self {
        Self { session, file, blob, size, here: AtomicU64::new(0) }
    }

    /// Sees to it that the blob is in the cache, and says its size.
    pub(crate) async fn run(&self) -> Result<u64> {
        let (session, path) = (self.session, self.session.folder.blob(self.blob));
        let waiting = || (session.listener)(&Event::Waiting { file: self.file });
        let _lock = lock::lock(&session.folder.lock(self.blob), session.cancel, waiting).await?;
        // The one who held the lock may have fetched it.
        if let Some(size) = whole(&path, self.size) {
            return self.finished(size);
        }
        let folder = session.folder.blobs();
        fs::create_dir_all(&folder).during("make the folder", &folder)?;
        let mut partial = Partial::open(&path, self.blob, self.size)?;
        self.here.store(crate::partial::here(&path), Ordering::Relaxed);
        (session.listener)(&Event::Started {
            file: self.file,
            size: self.size,
            here: self.here.load(Ordering::Relaxed),
        });
        for start in 1.. {
            self.fill(&mut partial).await?;
            let found = partial.hash(self.blob)?;
            if found.as_ref().is_none_or(|found| found == self.blob) {
                break;
            }
            if start == STARTS {
                partial.remove()?;
                let found = found.map_or_else(String::new, |found| found.to_string());
                return Err(HubError::Corrupt { file: self.file.to_owned(), expected: self.blob.to_string(), found });
            }
            self.discard(&mut partial)?;
        }
        let size = partial.len;
        partial.complete(&path)?;
        self.finished(size)
    }

    fn finished(&self, size: u64) -> Result<u64> {
        (self.session.listener)(&Event::Finished { file: self.file, size });
        Ok(size)
    }

    /// Fetches what is missing of the first bytes up to the end.
    async fn fill(&self, partial: &mut Partial) -> Result<()> {
        let limits = &self.session.api.http().transfer;
        let large = self.size.filter(|size| *size > limits.range && limits.ranges > 1);
        let mut ranges = large.is_some();
        let mut stale = 0;
        loop {
            let halted = match large.filter(|_| ranges) {
                Some(size) => self.by_ranges(partial, size).await,
                None => self.in_one(partial).await,
            };
            match halted {
                Ok(()) => return Ok(()),
                Err(Halt::Failed(error)) => return Err(error),
                // What came before its turn is kept where it goes on from the first bytes, and is not used otherwise.
                Err(Halt::NoRanges) => {
                    ranges = false;
                    self.here.store(partial.len, Ordering::Relaxed);
                }
                Err(Halt::Stale) if stale < STARTS => {
                    stale += 1;
                    self.discard(partial)?;
                }
                Err(Halt::Stale) => return Err(HubError::Changed { file: self.file.to_owned() }),
            }
        }
    }

    fn discard(&self, partial: &mut Partial) -> Result<()> {
        partial.discard(self.blob, self.size)?;
        self.here.store(0, Ordering::Relaxed);
        (self.session.listener)(&Event::Came { file: self.file, here: 0 });
        Ok(())
    }

    /// One stream from where the first bytes end.
    async fn in_one(&self, partial: &mut Partial) -> Result<(), Halt> {
        let mut retry = Retry::new(&self.session.api.http().transfer);
        loop {
            let before = partial.len;
            if self.size == Some(before) {
                return Ok(());
            }
            let failed = match self.stream(partial).await {
                Ok(()) => return Ok(()),
                Err(Halt::Failed(error)) if error.passes() => error,
                Err(halt) => return Err(halt),
            };
            if partial.len > before {
                retry.progressed();
            }
            self.pause(&mut retry, failed).await?;
        }
    }

    /// Waits before another attempt, or gives the failure back if there is none.
    async fn pause(&self, retry: &mut Retry, failed: HubError) -> Result<()> {
        let Some(pause) = retry.after(&failed) else { return Err(failed) };
        (self.session.listener)(&Event::Retrying { file: self.file, why: &failed.message(), pause });
        sleep(pause, self.session.cancel).await
    }

    async fn stream(&self, partial: &mut Partial) -> Result<(), Halt> {
        let Some(mut body) = self.open(&partial.side, partial.len, None).await? else { return Ok(()) };
        // Where the list did not say a size, the answer may.
        let said = body.answer.response.content_length().filter(|_| body.answer.response.status() == StatusCode::OK);
        let host = body.answer.host();
        while let Some(bytes) = self.next(&mut body).await? {
            let room = self.size.map_or(u64::MAX, |size| size - partial.len);
            let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            partial.append(bytes)?;
            self.came(bytes.len()).await;
            if self.size == Some(partial.len) {
                return Ok(());
            }
        }
        match self.size.or(said) {
            Some(size) if partial.len < size => {
                let why = format!("{} of {} bytes of {} came", partial.len, size, self.file);
                Err(HubError::Cut { host, why }.into())
            }
            _ => Ok(()),
        }
    }

    /// Several ranges at once. Each waits in a file of its own until those before it are appended.
    async fn by_ranges(&self, partial: &mut Partial, size: u64) -> Result<(), Halt> {
        let limits = &self.session.api.http().transfer;
        let range = limits.range_of(size);
        let (first, begin) = (partial.len / range, partial.len);
        let side = partial.side.clone();
        let jobs: Vec<(u64, u64, PathBuf)> = (first..size.div_ceil(range))
            .map(|n| (begin.max(n * range), size.min((n + 1) * range)))
            .map(|(start, end)| (start, end, side.part(start)))
            .collect();
        let fetches = stream::iter(&jobs).map(|(start, end, path)| {
            let side = &side;
            async move { self.range(side, *start..*end, path).await.map(|()| (*start, path)) }
        });
        let mut fetches = std::pin::pin!(fetches.buffered(limits.ranges));
        while let Some(done) = fetches.next().await {
            let (start, path) = done?;
            partial.append_part(start, path)?;
        }
        Ok(())
    }

    /// One range, into its file.
    async fn range(&self, side: &Side, range: Range<u64>, path: &Path) -> Result<(), Halt> {
        let mut file = OpenOptions::new().append(true).create(true).open(path).during("open", path)?;
        let mut at = range.start + file.metadata().during("read", path)?.len();
        if at > range.end {
            // Ranges were longer when this one was begun.
            file.set_len(range.end - range.start).during("write", path)?;
            at = range.end;
        }
        let mut retry = Retry::new(&self.session.api.http().transfer);
        while at < range.end {
            let before = at;
            match self
                .range_from(side, &mut at, range.end, &mut |bytes| file.write_all(bytes).during("write", path))
                .await
            {
                Ok(()) => {}
                Err(Halt::Failed(error)) if error.passes() => {
                    if at > before {
                        retry.progressed();
                    }
                    self.pause(&mut retry, error).await?;
                }
                Err(halt) => return Err(halt),
            }
        }
        Ok(())
    }

    async fn range_from(
        &self,
        side: &Side,
        at: &mut u64,
        end: u64,
        write: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    ) -> Result<(), Halt> {
        let Some(mut body) = self.open(side, *at, Some(end)).await? else { return Err(Halt::Stale) };
        let host = body.answer.host();
        while let Some(bytes) = self.next(&mut body).await? {
            let room = usize::try_from(end - *at).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(room)];
            write(bytes)?;
            *at += bytes.len() as u64;
            self.came(bytes.len()).await;
            if *at == end {
                return Ok(());
            }
        }
        let why = format!("{} bytes of {} are missing in a range", end - *at, self.file);
        Err(HubError::Cut { host, why }.into())
    }

    async fn came(&self, bytes: usize) {
        let here = self.here.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        (self.session.listener)(&Event::Came { file: self.file, here });
        self.session.throttle.take(bytes).await;
    }

    /// The next bytes that are not here yet.
    async fn next(&self, body: &mut Body) -> Result<Option<Bytes>> {
        loop {
            let Some(mut bytes) = self.session.api.http().chunk(&mut body.answer.response).await? else {
                return Ok(None);
            };
            let skipped = bytes.len().min(usize::try_from(body.skip).unwrap_or(usize::MAX));
            bytes.advance(skipped);
            body.skip -= skipped as u64;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Asks for the bytes from a place on, to an end if it is a range. Nothing if the file ends there.
    async fn open(&self, side: &Side, from: u64, end: Option<u64>) -> Result<Option<Body>, Halt> {
        let (session, http) = (self.session, self.session.api.http());
        let url = session.api.file_url(&session.folder.id, session.at, self.file);
        let mut question = Question::get(url).header(header::ACCEPT_ENCODING, "identity");
        let tag = side.tag();
        if from > 0 || end.is_some() {
            let last = end.map_or_else(String::new, |end| (end - 1).to_string());
            question = question.header(header::RANGE, &format!("bytes={from}-{last}"));
            if let Some(tag) = &tag {
                question = question.header(header::IF_RANGE, tag);
            }
        }
        let repo = session.folder.id.as_str();
        let kind = AskedKind::File { repo, revision: session.at, file: self.file };
        let asked = Asked { name: self.file, kind, listener: session.listener, cancel: session.cancel };
        let answer = http.ask(&question).await?;
        let headers = answer.response.headers();
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let size = text(headers, "content-range").and_then(|range| range.strip_prefix("bytes */")?.parse().ok());
            return if self.size.is_none() && size == Some(from) { Ok(None) } else { Err(Halt::Stale) };
        }
        let answer = failure::check(answer, &asked, http).await?;
        self.same(&answer)?;
        let headers = answer.response.headers();
        let now = text(headers, header::ETAG.as_str());
        let whole = answer.response.status() != StatusCode::PARTIAL_CONTENT;
        let starts = text(headers, "content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        match (whole, end) {
            (true, _) if from > 0 && tag.is_some() && now.is_some() && tag.as_deref() != now => {
                return Err(Halt::Stale);
            }
            (true, Some(_)) => return Err(Halt::NoRanges),
            (false, _) if starts.is_some_and(|start: u64| start != from) => {
                return Err(if end.is_some() { Halt::NoRanges } else { Halt::Stale });
            }
            _ => {}
        }
        if from == 0 || tag.is_none() {
            side.set_tag(now)?;
        }
        Ok(Some(Body { answer, skip: if whole { from } else { 0 } }))
    }

    /// Whether the Hub still means the same bytes by the file's name.
    fn same(&self, answer: &Answer) -> Result<()> {
        let said = answer.said("x-linked-etag").or_else(|| answer.said("etag")).and_then(BlobId::parse);
        let changed = match (said, self.blob) {
            (Some(BlobId::Sha256(now)), BlobId::Sha256(then)) | (Some(BlobId::Git(now)), BlobId::Git(then)) => {
                now != *then
            }
            _ => false,
        };
        if changed { Err(HubError::Changed { file: self.file.to_owned() }) } else { Ok(()) }
    }
}

/// The size of a blob that is there and not known to be of another size.
pub(crate) fn whole(path: &Path, size: Option<u64>) -> Option<u64> {
    let known = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    (size.is_none_or(|size| size == known)).then_some(known)
}
