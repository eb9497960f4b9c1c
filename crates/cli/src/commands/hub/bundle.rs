//! `mlxengine export` and `import`: models for machines without a network.

use mlxengine::gguf::is_gguf;
use mlxengine::hub::{Cache, Cancel, human, is_bundle};
use serde_json::json;

use super::gguf;
use crate::App;
use crate::failure::{Result, invalid};
use crate::hub_arguments::{ExportArguments, ImportArguments};
use crate::local::Place;

/// Writes a model into one file.
pub fn export(arguments: &ExportArguments, app: &App) -> Result<()> {
    let place = Place::of(&arguments.model, app)?;
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("writing", "bytes");
    let mut bytes = 0;
    let mut each = |done: u64, total: u64| {
        bytes = total;
        bar.update(done as usize, total as usize);
    };
    let repo = match place {
        Place::Folder { repo, folder } => {
            folder.export(&repo, &arguments.file, &mut each, &cancel)?;
            repo
        }
        Place::Cached { repo, revision } => {
            let revision = revision.unwrap_or_else(|| "main".to_owned());
            let snapshot = Cache::new(app.settings.hub()?.cache).find(&repo, &revision)?;
            mlxengine::hub::export(&repo, &revision, &snapshot, &arguments.file, &mut each, &cancel)?;
            repo
        }
    };
    drop(bar);
    app.printer.note(&format!("{repo}: {} written to {}", human(bytes), arguments.file.display()));
    Ok(())
}

/// Takes in what a file holds, by what it is.
pub fn import(arguments: &ImportArguments, app: &App) -> Result<()> {
    let file = &arguments.file;
    if !file.is_file() {
        return Err(invalid(format!("there is no file {}", file.display())).into());
    }
    if is_gguf(file) {
        return gguf::run(arguments, app);
    }
    if !is_bundle(file) {
        let error = invalid(format!("{} is neither a bundle of a model nor a GGUF file", file.display()));
        return Err(error.with_remedy("make a bundle with `mlxengine export`").into());
    }
    if let Some(name) = &arguments.name {
        return Err(invalid(format!("a bundle has a name of its own: leave `{name}` out")).into());
    }
    let cache = Cache::new(app.settings.hub()?.cache);
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("reading", "bytes");
    let (repo, snapshot) = cache.import(file, &mut |done, total| bar.update(done as usize, total as usize), &cancel)?;
    drop(bar);
    if arguments.json {
        let object = json!({"model": repo.to_string(), "directory": snapshot.path});
        return app.printer.line(&format!("{object:#}"));
    }
    app.printer.note(&format!("{repo} is here, verified"));
    app.printer.line(&snapshot.path.display().to_string())
}
