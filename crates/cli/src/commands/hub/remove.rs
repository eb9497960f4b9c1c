//! `mlxengine rm`: removes models from the cache.

use mlxengine::hub::{Cache, human};

use crate::App;
use crate::failure::Result;
use crate::fetch::parse;
use crate::hub_arguments::RmArguments;

/// Removes them, and says what that freed.
pub fn run(arguments: &RmArguments, app: &App) -> Result<()> {
    let cache = Cache::new(app.settings.hub()?.cache);
    for model in &arguments.models {
        let (repo, revision) = parse(model)?;
        let freed = cache.remove(&repo, revision.as_deref())?;
        app.printer.note(&format!("removed {model}: {}", human(freed)));
    }
    Ok(())
}
