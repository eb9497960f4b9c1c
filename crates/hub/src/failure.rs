//! What a failure of the network or a status means.

use std::error::Error;

use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};

use crate::error::{HubError, Result};
use crate::http::{Answer, Asked, AskedKind, Http, host, text};
use crate::retry::asked_to_wait;

/// The situation behind an error of the client. Its own text may hold the address with its secrets, so that is not used.
pub(crate) fn of_client(url: &Url, error: &reqwest::Error, http: &Http) -> HubError {
    let host = host(url);
    if error.is_timeout() {
        let limits = &http.transfer;
        let after = if error.is_connect() { limits.connect } else { limits.stall };
        return HubError::TimedOut { host, after };
    }
    let causes: Vec<&(dyn Error + 'static)> =
        std::iter::successors(error.source(), |cause| (*cause).source()).collect();
    let why = causes.last().map_or_else(|| "it failed".to_owned(), ToString::to_string);
    if causes.iter().any(|cause| of_tls(*cause)) {
        return HubError::Tls { host, why };
    }
    if !error.is_connect() {
        return HubError::Cut { host, why };
    }
    if causes.iter().any(|cause| cause.to_string().contains("dns error")) {
        return HubError::NameLookup { host };
    }
    HubError::Unreachable { host, why }
}

/// Whether an error is about certificates and the like; it may be wrapped in one of the system.
fn of_tls(cause: &(dyn Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Lets an answer of success through; any other status becomes the situation that it means.
pub(crate) async fn check(answer: Answer, asked: &Asked<'_>, http: &Http) -> Result<Answer> {
    let status = answer.response.status();
    if status.is_success() {
        return Ok(answer);
    }
    let headers = answer.response.headers().clone();
    let host = answer.host();
    if status == StatusCode::NOT_FOUND && text(&headers, "x-error-code").is_none() {
        return Err(absent(asked, http).await);
    }
    Err(of_status(status, &headers, host, asked, http))
}

/// A bare 404 does not say what is missing: the repository, the revision or the file.
async fn absent(asked: &Asked<'_>, http: &Http) -> HubError {
    let (repo, revision, file) = match asked.kind {
        AskedKind::Hub => return HubError::bad(asked.name, "the Hub does not know this address"),
        AskedKind::Revision { repo, revision } => (repo, revision, None),
        AskedKind::File { repo, revision, file } => (repo, revision, Some(file)),
    };
    let known = |parts: Vec<&str>| {
        let question = crate::http::Question::get(http.url(&parts, &[]));
        async move { http.ask(&question).await.is_ok_and(|answer| answer.response.status().is_success()) }
    };
    let model: Vec<&str> = ["api", "models"].into_iter().chain(repo.split('/')).collect();
    if !known(model.clone()).await {
        return HubError::NotFound { repo: repo.to_owned(), signed_in: http.has_token() };
    }
    match file {
        Some(file) if known([&model[..], &["revision", revision]].concat()).await => {
            HubError::FileMissing { repo: repo.to_owned(), file: file.to_owned() }
        }
        _ => HubError::RevisionMissing { repo: repo.to_owned(), revision: revision.to_owned() },
    }
}

fn of_status(status: StatusCode, headers: &HeaderMap, host: String, asked: &Asked<'_>, http: &Http) -> HubError {
    let signed_in = http.has_token() && !http.withholds_token();
    let code = text(headers, "x-error-code").unwrap_or_default();
    let said = text(headers, "x-error-message").unwrap_or_default();
    let (repo, revision, file) = match asked.kind {
        AskedKind::Hub => (None, "", None),
        AskedKind::Revision { repo, revision } => (Some(repo), revision, None),
        AskedKind::File { repo, revision, file } => (Some(repo), revision, Some(file)),
    };
    let repo = repo.map(str::to_owned);
    let wait = asked_to_wait(headers);
    let code = if code.is_empty() && matches!(status.as_u16(), 401 | 403) && said.contains("gated") {
        "GatedRepo"
    } else {
        code
    };
    match (code, repo, status.as_u16()) {
        ("RevisionNotFound", Some(repo), _) => HubError::RevisionMissing { repo, revision: revision.to_owned() },
        ("EntryNotFound", Some(repo), _) => {
            HubError::FileMissing { repo, file: file.unwrap_or("that was asked for").to_owned() }
        }
        ("GatedRepo", Some(repo), _) => {
            let page = http.url(&repo.split('/').collect::<Vec<_>>(), &[]).to_string();
            HubError::Gated { repo, page, signed_in }
        }
        (_, _, 401) if http.withholds_token() => HubError::Unauthorised { host, withheld: true },
        // To a stranger the Hub says of a private repository that it is not there, with either status.
        ("RepoNotFound", Some(repo), _) if !said.contains("Invalid credentials") => {
            HubError::NotFound { repo, signed_in }
        }
        ("", Some(repo), 401) if !signed_in => HubError::NotFound { repo, signed_in },
        (_, _, 401) => HubError::Unauthorised { host, withheld: false },
        (_, _, 403) => {
            let why = if said.is_empty() { "status 403, without a reason".to_owned() } else { harmless(said) };
            HubError::Forbidden { why }
        }
        (_, _, 429) => HubError::RateLimited { host, wait },
        (_, _, 408 | 500..=599) => HubError::Server { host, status: status.as_u16(), wait },
        _ if said.is_empty() => HubError::bad(asked.name, format!("status {}", status.as_u16())),
        _ => HubError::bad(asked.name, format!("status {}, {}", status.as_u16(), harmless(said))),
    }
}

/// What a host says, short and without control characters.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
