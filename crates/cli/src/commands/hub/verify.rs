//! `mlxengine verify`: whether files are still what they should be.

use mlxengine::hub::{Cache, Cancel, Checked, Condition, LocalModel, ModelDownloader, PlainFolder, RepoId};
use mlxengine::{EngineError, ErrorKind};
use serde_json::{Value, json};

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::VerifyArguments;
use crate::local::Place;
use crate::transfer::Transfer;

/// Reads every file and compares hashes; with `--repair`, fetches what is bad again.
pub fn run(arguments: &VerifyArguments, app: &App) -> Result<()> {
    let places = match &arguments.model {
        Some(model) => vec![Place::of(model, app)?],
        None => all(app)?,
    };
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let (mut bad, mut list) = (0, Vec::new());
    for place in &places {
        let name = place.name();
        let checked = check(place, arguments.repair, app, &cancel)?;
        let wrong = checked.iter().filter(|file| file.is_bad()).count();
        bad += wrong;
        if arguments.json {
            list.extend(checked.iter().map(|file| object(&name, file)));
        } else {
            let unknown = checked.iter().filter(|file| file.condition == Condition::Unknown).count();
            let unknown = if unknown > 0 { format!(", {unknown} without a hash to compare") } else { String::new() };
            let state = if wrong == 0 { "good".to_owned() } else { format!("{wrong} bad") };
            app.printer.line(&format!("{name}: {} files, {state}{unknown}", checked.len()))?;
        }
    }
    if arguments.json {
        app.printer.line(&format!("{:#}", Value::from(list)))?;
    }
    if bad == 0 {
        return Ok(());
    }
    let error = EngineError::new(ErrorKind::InvalidCheckpoint, format!("{bad} files are damaged or missing"));
    let folders = places.iter().all(|place| matches!(place, Place::Folder { .. }));
    Err(error
        .with_remedy(if folders {
            "fetch or make the model again: where its files came from is not known"
        } else {
            "fetch them again with `mlxengine verify --repair`"
        })
        .into())
}

/// Everything that `mlxengine list` lists.
fn all(app: &App) -> Result<Vec<Place>> {
    let cached = Cache::new(app.settings.hub()?.cache).list()?;
    let cached = cached.iter().map(|model| Ok(Place::Cached { repo: RepoId::parse(&model.name)?, revision: None }));
    let directories = app.settings.paths().directories.iter();
    let plain = directories.flat_map(|directory| LocalModel::in_directory(directory));
    let plain = plain
        .map(|model| Ok(Place::Folder { repo: RepoId::parse(&model.name)?, folder: PlainFolder::open(model.path)? }));
    cached.chain(plain).collect()
}

/// Looks at every file; what is bad of a model from the Hub is fetched again if that is wanted.
fn check(place: &Place, repair: bool, app: &App, cancel: &Cancel) -> Result<Vec<Checked>> {
    let name = place.name();
    let mut each = |file: &Checked| {
        if file.is_bad() {
            app.printer.note(&format!("{name}: {}", describe(file)));
        }
    };
    let (repo, revision) = match place {
        Place::Folder { folder, .. } => return Ok(folder.verify(&mut each, cancel)?),
        Place::Cached { repo, revision } => (repo, revision.as_deref()),
    };
    let config = app.settings.hub()?;
    let cache = Cache::new(&config.cache);
    let checked = cache.verify(repo, revision, &mut each, cancel)?;
    if !repair || !checked.iter().any(Checked::is_bad) {
        return Ok(checked);
    }
    let transfer = Transfer::new(&app.printer);
    ModelDownloader::new(&config)?.repair(repo, &checked, &|event| transfer.hear(event), cancel)?;
    drop(transfer);
    Ok(cache.verify(repo, revision, &mut each, cancel)?)
}

fn describe(file: &Checked) -> String {
    match &file.condition {
        Condition::Bad { expected, found } => {
            format!("{} is damaged: it should be {expected}, and is {found}", file.file)
        }
        Condition::Missing => format!("{} is missing", file.file),
        Condition::Good => format!("{} is good", file.file),
        Condition::Unknown => format!("{} has no hash to compare", file.file),
    }
}

fn object(name: &str, file: &Checked) -> Value {
    let condition = match &file.condition {
        Condition::Good => "good",
        Condition::Bad { .. } => "bad",
        Condition::Missing => "missing",
        Condition::Unknown => "unknown",
    };
    let commit = Some(&file.commit).filter(|commit| !commit.is_empty());
    json!({"model": name, "commit": commit, "file": file.file, "condition": condition})
}
