//! Everything that goes wrong on the way, one after another. Whatever it is, the bytes are right at the end, or none are there.

use std::fs;
use std::time::Duration;

use mlxengine_hub::{Cancel, Event, HubConfig, HubError, ModelDownloader, Transfer, Wanted};

use crate::hub::{Folder, assert_whole, config, fetch, id, model};
use crate::server::{Fault, Hub, Repository, Request, blob, noise};

/// One file, small enough for a single stream.
fn single() -> Repository {
    Repository { files: [("config.json".to_owned(), noise(1200, 7))].into(), ..Repository::default() }
}

fn is_weights(request: &Request) -> bool {
    request.elsewhere && request.method == "GET"
}

/// Fetches `repository` from a Hub with these faults, and checks every byte.
fn survives(
    repository: &Repository,
    plan: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
) -> Vec<Request> {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", repository.clone());
    hub.fail(plan);
    fetch(&config(&hub, &cache)).unwrap_or_else(|error| panic!("{error}"));
    assert_whole(&cache, repository);
    hub.requests()
}

#[test]
fn drops_at_every_offset() {
    let tiny = Repository { files: [("config.json".to_owned(), noise(420, 7))].into(), ..Repository::default() };
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", tiny.clone());
    let config = config(&hub, &cache);
    for offset in 0..420 {
        hub.fail(move |request, nth| (is_weights(request) && nth == 0).then_some(Fault::Cut(offset)));
        fetch(&config).unwrap_or_else(|error| panic!("{offset}: {error}"));
        let ranges: Vec<Option<String>> =
            hub.requests().iter().filter(|r| is_weights(r)).map(|r| r.headers.get("range").cloned()).collect();
        let second = (offset > 0).then(|| format!("bytes={offset}-"));
        assert_eq!(ranges, [None, second], "goes on where it was cut");
        assert_whole(&cache, &tiny);
        fs::remove_dir_all(cache.0.join("models--org--name")).unwrap();
    }
}

#[test]
fn drops_in_every_range() {
    for offset in [0, 1, 4095] {
        survives(&model(), move |request, nth| (is_weights(request) && nth % 2 == 0).then_some(Fault::Cut(offset)));
    }
}

#[test]
fn another_process_goes_on_with_the_same_file() {
    for (repository, cut, cuts) in [(single(), 700, 1), (model(), 1000, 4)] {
        let (hub, cache) = (Hub::start(), Folder::new());
        hub.put("org/name", repository.clone());
        // It comes so far, and then nothing more.
        hub.fail(move |request, nth| {
            is_weights(request).then_some(if nth < cuts { Fault::Cut(cut) } else { Fault::Status(404, Vec::new()) })
        });
        let config = config(&hub, &cache);
        assert!(fetch(&config).is_err());
        hub.requests();
        hub.fail(|_, _| None);
        fetch(&config).unwrap();
        assert_whole(&cache, &repository);
        let asked: Vec<Request> = hub.requests().into_iter().filter(is_weights).collect();
        let from =
            |r: &Request| r.headers["range"].trim_start_matches("bytes=").split('-').next().unwrap().parse::<usize>();
        assert!(asked.iter().any(|r| r.headers.contains_key("range") && from(r).unwrap() % 4096 != 0));
        assert!(asked.iter().all(|r| r.headers.contains_key("if-range")), "{asked:?}");
    }
}

#[test]
fn a_stall_is_no_end() {
    survives(&single(), |request, nth| (is_weights(request) && nth == 0).then_some(Fault::Stall(500)));
    survives(&model(), |request, nth| (is_weights(request) && nth == 1).then_some(Fault::Stall(10)));
    // Also where nothing comes at all, for good.
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|request, _| is_weights(request).then_some(Fault::Stall(0)));
    let mut config = config(&hub, &cache);
    config.transfer.attempts = 2;
    assert!(matches!(fetch(&config), Err(HubError::TimedOut { .. })));
}

#[test]
fn servers_that_are_busy() {
    for (status, headers) in [
        (429, vec![("Retry-After", "0".to_owned())]),
        (429, vec![("RateLimit", "\"api\";r=0;t=0".to_owned())]),
        (503, Vec::new()),
        (500, Vec::new()),
    ] {
        survives(&single(), move |_, nth| (nth == 0).then(|| Fault::Status(status, headers.clone())));
    }
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|_, _| Some(Fault::Status(429, vec![("Retry-After", "9999".to_owned())])));
    let error = fetch(&config(&hub, &cache)).unwrap_err();
    assert!(matches!(error, HubError::RateLimited { wait: Some(wait), .. } if wait.as_secs() == 9999), "{error}");
    assert_eq!(hub.requests().len(), 1, "nobody waits that long");
}

#[test]
fn servers_that_know_no_ranges() {
    survives(&model(), |request, _| is_weights(request).then_some(Fault::IgnoreRange));
    // A cut stream is read again from its beginning, and what is here is kept.
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|request, nth| is_weights(request).then_some(if nth == 0 { Fault::Cut(900) } else { Fault::IgnoreRange }));
    fetch(&config(&hub, &cache)).unwrap();
    assert_whole(&cache, &single());
}

#[test]
fn a_range_that_cannot_be_satisfied() {
    survives(&single(), |request, nth| match (is_weights(request), nth) {
        (true, 0) => Some(Fault::Cut(700)),
        (true, 1) => Some(Fault::Status(416, vec![("Content-Range", "bytes */700".to_owned())])),
        _ => None,
    });
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|request, _| is_weights(request).then(|| Fault::Status(416, Vec::new())));
    assert!(matches!(fetch(&config(&hub, &cache)), Err(HubError::Changed { .. })));
}

#[test]
fn lying_lengths() {
    survives(&single(), |request, nth| (is_weights(request) && nth == 0).then_some(Fault::Short(300)));
    survives(&single(), |request, nth| (is_weights(request) && nth == 0).then_some(Fault::LongerLength(50)));
    survives(&model(), |request, nth| (is_weights(request) && nth == 2).then_some(Fault::Short(17)));
    // A file that is shorter than the Hub says will never be whole.
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|request, _| is_weights(request).then_some(Fault::Short(0)));
    assert!(matches!(fetch(&config(&hub, &cache)), Err(HubError::Cut { .. })));
}

#[test]
fn corrupt_bytes_are_fetched_once_more_and_then_refused() {
    survives(&single(), |request, nth| (is_weights(request) && nth == 0).then_some(Fault::Corrupt));
    let small = Repository { files: [("config.json".to_owned(), noise(50, 4))].into(), ..Repository::default() };
    survives(&small, |request, nth| (request.path.contains("/resolve/") && nth == 0).then_some(Fault::Corrupt));
    for repository in [single(), small, model()] {
        let (hub, cache) = (Hub::start(), Folder::new());
        hub.put("org/name", repository);
        hub.fail(|request, _| (request.elsewhere || request.path.contains("/resolve/")).then_some(Fault::Corrupt));
        let error = fetch(&config(&hub, &cache)).unwrap_err();
        assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
        let blobs: Vec<_> = fs::read_dir(cache.0.join("models--org--name/blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.contains(".incomplete"))
            .collect();
        assert_eq!(blobs, [""; 0], "bad bytes are kept out");
        assert!(!cache.0.join("models--org--name/snapshots").exists());
    }
}

#[test]
fn a_file_that_changes_on_the_way() {
    let (hub, cache) = (Hub::start(), Folder::new());
    let new = Repository { files: [("config.json".to_owned(), noise(1300, 8))].into(), ..Repository::default() };
    hub.put("org/name", single());
    // After a part of the old file, the repository has a new one.
    let (changing, next) = (hub.clone(), new.clone());
    hub.fail(move |request, nth| {
        let first = is_weights(request) && nth == 0;
        if first && request.path.ends_with(&blob(&single().files["config.json"])) {
            let (hub, next) = (changing.clone(), next.clone());
            // Not here: the Hub is asking this question.
            std::thread::spawn(move || hub.put("org/name", next));
            return Some(Fault::Cut(600));
        }
        None
    });
    let mut config = config(&hub, &cache);
    config.transfer.pause = Duration::from_millis(300);
    // The old commit is gone from this Hub: what was asked for is not there any more, or the new one comes.
    if fetch(&config).is_err() {
        fetch(&config).unwrap();
    }
    let got = fs::read(cache.0.join("models--org--name/blobs").join(blob(&new.files["config.json"]))).unwrap();
    assert!(got == new.files["config.json"]);
}

#[test]
fn redirects() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    let own = hub.address.clone();
    hub.fail(move |request, _| {
        request.path.contains("/resolve/").then(|| Fault::Redirect(format!("{own}{}", request.path)))
    });
    assert!(matches!(fetch(&config(&hub, &cache)), Err(HubError::BadAnswer { .. })), "a circle");
    hub.fail(|request, _| request.path.contains("/resolve/").then(|| Fault::Redirect("file:///etc/passwd".into())));
    assert!(matches!(fetch(&config(&hub, &cache)), Err(HubError::BadAnswer { .. })));
}

#[test]
fn answers_that_are_none() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    for body in ["", "<html>sign in to the hotel's network</html>", "[]", "{}", "null"] {
        hub.fail(move |request, _| request.path.starts_with("/api/").then(|| Fault::Body(body.into())));
        match fetch(&config(&hub, &cache)) {
            Err(HubError::BadAnswer { .. }) => {}
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn cancelling_keeps_what_is_there() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", single());
    hub.fail(|request, _| is_weights(request).then_some(Fault::Stall(800)));
    let cancel = Cancel::default();
    let listener = |event: &Event<'_>| {
        if matches!(event, Event::Came { here: 800, .. }) {
            cancel.cancel();
        }
    };
    let downloader = ModelDownloader::new(&config(&hub, &cache)).unwrap();
    let error = downloader.ensure(&id(), "main", &Wanted::Needed, &listener, &cancel).unwrap_err();
    assert!(matches!(error, HubError::Cancelled));
    let partial = cache.0.join(format!("models--org--name/blobs/{}.incomplete", blob(&single().files["config.json"])));
    assert_eq!(fs::metadata(partial).unwrap().len(), 800);
    hub.fail(|_, _| None);
    fetch(&config(&hub, &cache)).unwrap();
    assert_whole(&cache, &single());
}

#[test]
fn a_rate_is_kept_and_the_bytes_are_right() {
    let (hub, cache) = (Hub::start(), Folder::new());
    hub.put("org/name", model());
    let config = config(&hub, &cache);
    let config = HubConfig { transfer: Transfer { rate: Some(1 << 20), ..config.transfer.clone() }, ..config };
    fetch(&config).unwrap();
    assert_whole(&cache, &model());
}

#[test]
fn two_and_five_at_once_fetch_each_byte_once() {
    for count in [2, 5] {
        let (hub, cache) = (Hub::start(), Folder::new());
        hub.put("org/name", model());
        let config = config(&hub, &cache);
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| fetch(&config).unwrap());
            }
        });
        assert_whole(&cache, &model());
        let bodies = hub.requests().into_iter().filter(|r| r.elsewhere || r.path.contains("/resolve/")).count();
        assert_eq!(bodies, 2 + 2 * 8, "{count} at once");
    }
}
