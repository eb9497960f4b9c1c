//! `mlxengine prune`: makes room.

use mlxengine::hub::{Cache, Prune, PrunedPart, human};

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::PruneArguments;

/// Removes what nobody needs, or says what that would be.
pub fn run(arguments: &PruneArguments, app: &App) -> Result<()> {
    let cache = Cache::new(app.settings.hub()?.cache);
    let prune = Prune { older_than: arguments.older_than, max_size: arguments.max_size, unused: arguments.unused };
    let plan = cache.plan_prune(&prune)?;
    for part in &plan {
        let what = match &part.what {
            PrunedPart::Model => part.repo.to_string(),
            PrunedPart::Revision(commit) => format!("{}@{}", part.repo, commit.get(..8).unwrap_or(commit)),
            PrunedPart::Leftovers => format!("{}: leftovers", part.repo),
        };
        app.printer.line(&format!("{what}  {}  {}", human(part.bytes), part.why))?;
    }
    if arguments.dry_run {
        let bytes = plan.iter().map(|part| part.bytes).sum();
        app.printer.note(&format!("{} would be freed; nothing was removed", human(bytes)));
        return Ok(());
    }
    let freed = cache.prune(&plan)?;
    app.printer.note(&format!("{} freed", human(freed)));
    Ok(())
}
