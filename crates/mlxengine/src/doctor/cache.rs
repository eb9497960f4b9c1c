//! The cache of models.

use mlxengine_hub::{Ailment, Cache, human};

use super::{Check, State};

const NAME: &str = "cache";

/// One check for all: what is broken before what is only unfinished.
pub(super) fn check(cache: &Cache) -> Check {
    let place = cache.root().display();
    if !cache.root().exists() {
        return Check::ok(NAME, format!("{place} is not there yet"));
    }
    let health = match cache.health() {
        Ok(health) => health,
        Err(error) => return Check::hub_error(NAME, &error),
    };
    let said = format!("{} models, {} in {place}", health.models, human(health.bytes));
    let mut found: Vec<(State, String, Option<String>)> = health.ailments.iter().map(describe).collect();
    found.sort_by_key(|(state, ..)| std::cmp::Reverse(severity(*state)));
    let state = found.first().map_or(State::Ok, |(state, ..)| *state);
    let mut remedies: Vec<String> = Vec::new();
    for remedy in found.iter().filter_map(|(_, _, remedy)| remedy.clone()) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    let all: Vec<String> = std::iter::once(said).chain(found.into_iter().map(|(_, said, _)| said)).collect();
    let remedy = (!remedies.is_empty()).then(|| remedies.join("; "));
    Check { remedy, ..Check::new(NAME, state, all.join("; ")) }
}

fn severity(state: State) -> u8 {
    match state {
        State::Failed => 2,
        State::Warning => 1,
        State::Ok | State::Skipped => 0,
    }
}

fn describe(ailment: &Ailment) -> (State, String, Option<String>) {
    let prune = || Some("remove what is left over with `mlxengine prune --unused`".to_owned());
    let pull =
        |model: &str| Some(format!("go on with `mlxengine pull {model}`, or remove it with `mlxengine rm {model}`"));
    match ailment {
        Ailment::ReadOnly { why } => (
            State::Failed,
            why.clone(),
            Some("make the folder writable, or set HF_HUB_CACHE to one that is".to_owned()),
        ),
        Ailment::Broken { model, files } => (
            State::Failed,
            format!("{model} has links to bytes that are gone: {}", files.join(", ")),
            Some(format!("fetch them again with `mlxengine verify --repair {model}`")),
        ),
        Ailment::Incomplete { model, files } => {
            (State::Warning, format!("{model} is not whole: {} missing", files.join(", ")), pull(model))
        }
        Ailment::Partial { model, bytes } => {
            (State::Warning, format!("{model} has {} of files that came in part", human(*bytes)), pull(model))
        }
        Ailment::Unused { model, bytes } => {
            (State::Warning, format!("{model} has {} of no revision", human(*bytes)), prune())
        }
        Ailment::Dangling { model, name } => {
            (State::Warning, format!("`{name}` of {model} names a commit that is not here"), pull(model))
        }
        Ailment::Busy { model } => (State::Ok, format!("another process is fetching {model}"), None),
        Ailment::StaleLocks { model } => (
            State::Warning,
            format!("locks are left of {model}, which is gone"),
            Some("remove the folder of that name in `.locks` while nothing is fetched".to_owned()),
        ),
        _ => (State::Warning, format!("{ailment:?}"), None),
    }
}
