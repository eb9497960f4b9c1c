//! `mlxengine export` and `import`: models for machines without a network.

use std::path::Path;

use mlxengine::hub::{Cache, Cancel, human};

use crate::App;
use crate::failure::{Result, invalid};
use crate::fetch::parse;
use crate::hub_arguments::ExportArguments;

/// Writes a model into one file.
pub fn export(arguments: &ExportArguments, app: &App) -> Result<()> {
    let (repo, revision) = parse(&arguments.model)?;
    let revision = revision.unwrap_or_else(|| "main".to_owned());
    let snapshot = Cache::new(app.settings.hub()?.cache).find(&repo, &revision)?;
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("writing", "bytes");
    let mut bytes = 0;
    let mut each = |done: u64, total: u64| {
        bytes = total;
        bar.update(done as usize, total as usize);
    };
    mlxengine::hub::export(&repo, &revision, &snapshot, &arguments.file, &mut each, &cancel)?;
    drop(bar);
    app.printer.note(&format!("{repo}: {} written to {}", human(bytes), arguments.file.display()));
    Ok(())
}

/// Takes in what a file holds, by what it is.
pub fn import(file: &Path, app: &App) -> Result<()> {
    if file.is_file() && !mlxengine::hub::is_bundle(file) {
        let error = invalid(format!("{} is no bundle of a model", file.display()));
        return Err(error.with_remedy("make one with `mlxengine export`").into());
    }
    let cache = Cache::new(app.settings.hub()?.cache);
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("reading", "bytes");
    let (repo, snapshot) = cache.import(file, &mut |done, total| bar.update(done as usize, total as usize), &cancel)?;
    drop(bar);
    app.printer.note(&format!("{repo} is here, verified"));
    app.printer.line(&snapshot.path.display().to_string())
}
