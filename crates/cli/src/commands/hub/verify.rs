//! `mlxengine verify`: whether files are still what they should be.

use mlxengine::hub::{Cache, Cancel, Checked, Condition, ModelDownloader, RepoId};
use mlxengine::{EngineError, ErrorKind};
use serde_json::{Value, json};

use crate::App;
use crate::failure::Result;
use crate::fetch::parse;
use crate::hub_arguments::VerifyArguments;
use crate::transfer::Transfer;

/// Reads every file and compares hashes; with `--repair`, fetches what is bad again.
pub fn run(arguments: &VerifyArguments, app: &App) -> Result<()> {
    let config = app.settings.hub()?;
    let cache = Cache::new(&config.cache);
    let models: Vec<(RepoId, Option<String>)> = match &arguments.model {
        Some(model) => vec![parse(model)?],
        None => cache.list()?.iter().map(|model| parse(&model.name)).collect::<std::result::Result<_, _>>()?,
    };
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let (mut bad, mut list) = (0, Vec::new());
    for (repo, revision) in models {
        let check = || {
            let mut each = |file: &Checked| {
                if file.is_bad() {
                    app.printer.note(&format!("{repo}: {}", describe(file)));
                }
            };
            cache.verify(&repo, revision.as_deref(), &mut each, &cancel)
        };
        let mut checked = check()?;
        if arguments.repair && checked.iter().any(Checked::is_bad) {
            let transfer = Transfer::new(&app.printer);
            let downloader = ModelDownloader::new(&config)?;
            downloader.repair(&repo, &checked, &|event| transfer.hear(event), &cancel)?;
            drop(transfer);
            checked = check()?;
        }
        let wrong = checked.iter().filter(|file| file.is_bad()).count();
        bad += wrong;
        if arguments.json {
            list.extend(checked.iter().map(|file| object(&repo, file)));
        } else {
            let unknown = checked.iter().filter(|file| file.condition == Condition::Unknown).count();
            let unknown = if unknown > 0 { format!(", {unknown} without a hash to compare") } else { String::new() };
            let state = if wrong == 0 { "good".to_owned() } else { format!("{wrong} bad") };
            app.printer.line(&format!("{repo}: {} files, {state}{unknown}", checked.len()))?;
        }
    }
    if arguments.json {
        app.printer.line(&format!("{:#}", Value::from(list)))?;
    }
    if bad == 0 {
        return Ok(());
    }
    let error = EngineError::new(ErrorKind::InvalidCheckpoint, format!("{bad} files are damaged or missing"));
    Err(error.with_remedy("fetch them again with `mlxengine verify --repair`").into())
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

fn object(repo: &RepoId, file: &Checked) -> Value {
    let condition = match &file.condition {
        Condition::Good => "good",
        Condition::Bad { .. } => "bad",
        Condition::Missing => "missing",
        Condition::Unknown => "unknown",
    };
    json!({"model": repo.as_str(), "commit": file.commit, "file": file.file, "condition": condition})
}
