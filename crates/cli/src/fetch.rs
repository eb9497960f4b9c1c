//! Models by name: those on the Hub are fetched when they are not here.

use mlxengine::hub::{Cancel, HubConfig, HubError, ModelDownloader, RepoId, Snapshot, Wanted};
use mlxengine::{ModelRegistry, ModelSource};

use crate::App;
use crate::failure::Result;
use crate::transfer::Transfer;

/// `org/name`, `mlx://org/name` or a short name of the registry, each perhaps with `@revision`.
pub fn parse(model: &str) -> Result<(RepoId, Option<String>), HubError> {
    let name = model.strip_prefix("mlx://").unwrap_or(model);
    let name = name.strip_prefix("https://huggingface.co/").unwrap_or(name).trim_end_matches('/');
    let (id, revision) = name.split_once('@').map_or((name, None), |(id, revision)| (id, Some(revision)));
    let revision = revision.map(mlxengine::hub::check_revision).transpose()?;
    let known = ModelRegistry::current().get(id).map(|entry| entry.name.clone());
    Ok((RepoId::parse(known.as_deref().unwrap_or(id))?, revision.map(str::to_owned)))
}

/// Fetches what is wanted of a model, and shows how it comes.
pub fn fetch(repo: &RepoId, revision: &str, wanted: &Wanted, config: &HubConfig, app: &App) -> Result<Snapshot> {
    let cancel = Cancel::default();
    let _guard = app.interrupts.guard(cancel.clone());
    let transfer = Transfer::new(&app.printer);
    let done = ModelDownloader::new(config)?.ensure(repo, revision, wanted, &|event| transfer.hear(event), &cancel);
    drop(transfer);
    Ok(done?)
}

/// Sees to it that a model that is named as on the Hub is here. Without the network, what is missing is told at loading.
pub fn ensure(model: &str, app: &App) -> Result<()> {
    let source = ModelSource::parse(model)?;
    let Some((id, revision)) = source.on_hub() else { return Ok(()) };
    let config = app.settings.hub()?;
    if config.offline || source.resolve(app.settings.paths()).is_ok() {
        return Ok(());
    }
    app.printer.note(&format!("{id} is not here: fetching it, as `mlxengine pull {id}` does"));
    fetch(&RepoId::parse(&id)?, &revision, &Wanted::Needed, &config, app)?;
    Ok(())
}
