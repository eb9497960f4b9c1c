//! `mlxengine pull`: fetches a model.

use mlxengine::hub::{HuggingFaceApi, Need, Wanted, human, need};

use crate::App;
use crate::failure::{Result, invalid};
use crate::fetch::{fetch, parse};
use crate::hub_arguments::PullArguments;

/// Fetches a model and prints where it is.
pub fn run(arguments: &PullArguments, app: &App) -> Result<()> {
    let (repo, revision) = parse(&arguments.model)?;
    if revision.is_some() && arguments.revision.is_some() {
        return Err(invalid("two revisions are given").with_remedy("give one, after @ or --revision").into());
    }
    let revision = arguments.revision.clone().or(revision).unwrap_or_else(|| "main".to_owned());
    let mut config = app.settings.hub()?;
    config.transfer.rate = arguments.limit_rate;
    config.transfer.files = arguments.jobs.unwrap_or(config.transfer.files);
    if arguments.list {
        let info = HuggingFaceApi::new(&config)?.model_info(&repo, &revision)?;
        let names: Vec<&str> = info.files.iter().map(|file| file.name.as_str()).collect();
        let mut rows = vec![["file", "size", "needed"].map(str::to_owned).to_vec()];
        rows.extend(info.files.iter().map(|file| {
            let needed = match need(&file.name, &names) {
                Need::Needed(what) => format!("yes: {what}"),
                Need::Skipped(why) => format!("no: {why}"),
            };
            vec![file.name.clone(), file.size.map_or_else(String::new, human), needed]
        }));
        return super::table(&rows, app);
    }
    let wanted = match &arguments.files[..] {
        _ if arguments.all => Wanted::All,
        [] => Wanted::Needed,
        files => Wanted::Named(files.to_vec()),
    };
    let snapshot = fetch(&repo, &revision, &wanted, &config, app)?;
    app.printer.line(&snapshot.path.display().to_string())
}
