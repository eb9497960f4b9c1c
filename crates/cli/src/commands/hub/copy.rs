//! `mlxengine cp`: a second name for a model, or its files in a folder.

use std::fs;
use std::path::Path;

use mlxengine::hub::{Cache, Cancel, Checked};

use crate::App;
use crate::failure::{Result, Stop, invalid, io};
use crate::fetch::parse;
use crate::hub_arguments::CpArguments;
use crate::local::Place;

/// Copies a model. A folder gets plain files, verified before.
pub fn run(arguments: &CpArguments, app: &App) -> Result<()> {
    let place = Place::of(&arguments.model, app)?;
    let cache = Cache::new(app.settings.hub()?.cache);
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    if !arguments.to.starts_with(['.', '/']) && !Path::new(&arguments.to).is_absolute() {
        let (to, _) = parse(&arguments.to)?;
        match place {
            Place::Cached { repo, revision } => {
                cache.copy(&repo, revision.as_deref().unwrap_or("main"), &to)?;
                app.printer.note(&format!("{to} is {repo} now, too"));
            }
            Place::Folder { folder, .. } => {
                check(&folder.verify(&mut |_| {}, &cancel)?, folder.path().display(), "fetch or make it again")?;
                cache.copy_folder(&folder, &to)?;
                app.printer.note(&format!("{to} is a copy of {}", folder.path().display()));
            }
        }
        return Ok(());
    }
    let to = Path::new(&arguments.to);
    if to.exists() {
        return Err(invalid(format!("{} is there already", to.display())).with_remedy("give a new folder").into());
    }
    let (checked, from) = match place {
        Place::Cached { repo, revision } => {
            let snapshot = cache.find(&repo, revision.as_deref().unwrap_or("main"))?;
            let checked = cache.verify(&repo, Some(&snapshot.commit), &mut |_| {}, &cancel)?;
            check(&checked, &repo, &format!("repair it with `mlxengine verify --repair {repo}`"))?;
            (checked, snapshot.path)
        }
        Place::Folder { folder, .. } => {
            let checked = folder.verify(&mut |_| {}, &cancel)?;
            check(&checked, folder.path().display(), "fetch or make it again")?;
            (checked, folder.path().to_owned())
        }
    };
    for file in &checked {
        if cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        let target = to.join(&file.file);
        let folder = target.parent().unwrap_or(to);
        fs::create_dir_all(folder).map_err(|e| io(format!("cannot make {}", folder.display()), e))?;
        fs::copy(from.join(&file.file), &target).map_err(|e| io(format!("cannot write {}", target.display()), e))?;
    }
    app.printer.line(&to.display().to_string())
}

/// Refuses a model of which a file is damaged.
fn check(checked: &[Checked], model: impl std::fmt::Display, remedy: &str) -> Result<()> {
    match checked.iter().find(|file| file.is_bad()) {
        Some(bad) => Err(invalid(format!("{} of {model} is damaged", bad.file)).with_remedy(remedy).into()),
        None => Ok(()),
    }
}
