//! `mlxengine cp`: a second name for a model, or its files in a folder.

use std::fs;
use std::path::Path;

use mlxengine::hub::{Cache, Cancel};

use crate::App;
use crate::failure::{Result, Stop, invalid, io};
use crate::fetch::parse;
use crate::hub_arguments::CpArguments;

/// Copies a model. A folder gets plain files, verified before.
pub fn run(arguments: &CpArguments, app: &App) -> Result<()> {
    let (repo, revision) = parse(&arguments.model)?;
    let revision = revision.unwrap_or_else(|| "main".to_owned());
    let cache = Cache::new(app.settings.hub()?.cache);
    let snapshot = cache.find(&repo, &revision)?;
    let is_folder = arguments.to.starts_with(['.', '/']) || Path::new(&arguments.to).is_absolute();
    if !is_folder {
        let (to, _) = parse(&arguments.to)?;
        cache.copy(&repo, &revision, &to)?;
        app.printer.note(&format!("{to} is {repo} now, too"));
        return Ok(());
    }
    let to = Path::new(&arguments.to);
    if to.exists() {
        return Err(invalid(format!("{} is there already", to.display())).with_remedy("give a new folder").into());
    }
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let checked = cache.verify(&repo, Some(&snapshot.commit), &mut |_| {}, &cancel)?;
    if let Some(bad) = checked.iter().find(|file| file.is_bad()) {
        let remedy = format!("repair it with `mlxengine verify --repair {repo}`");
        return Err(invalid(format!("{} of {repo} is damaged", bad.file)).with_remedy(remedy).into());
    }
    for file in &checked {
        if cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        let target = to.join(&file.file);
        let folder = target.parent().unwrap_or(to);
        fs::create_dir_all(folder).map_err(|e| io(format!("cannot make {}", folder.display()), e))?;
        fs::copy(snapshot.path.join(&file.file), &target)
            .map_err(|e| io(format!("cannot write {}", target.display()), e))?;
    }
    app.printer.line(&to.display().to_string())
}
