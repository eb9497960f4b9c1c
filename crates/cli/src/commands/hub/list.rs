//! `mlxengine list`: the models on this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use mlxengine::hub::{Cache, LocalModel, LocalRevision, human};
use serde_json::{Value, json};

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::ListArguments;

/// Prints them.
pub fn run(arguments: &ListArguments, app: &App) -> Result<()> {
    let config = app.settings.hub()?;
    let mut models = Cache::new(&config.cache).list()?;
    models.extend(app.settings.paths().directories.iter().flat_map(|directory| LocalModel::in_directory(directory)));
    if arguments.json {
        let list: Vec<Value> = models.iter().map(object).collect();
        return app.printer.line(&format!("{:#}", Value::from(list)));
    }
    if models.is_empty() {
        app.printer
            .note(&format!("no models are in {}; `mlxengine pull org/name` fetches one", config.cache.display()));
        return Ok(());
    }
    let mut rows =
        vec![["model", "size", "used", "revision", "kind", "type", "weights", ""].map(str::to_owned).to_vec()];
    for model in &models {
        rows.extend(model.revisions.iter().map(|revision| row(model, revision)));
        if model.revisions.is_empty() {
            let cells = [&model.name, &human(model.bytes), "", "", "", "", "", "in part"];
            rows.push(cells.map(str::to_owned).to_vec());
        }
    }
    super::table(&rows, app)
}

fn row(model: &LocalModel, revision: &LocalRevision) -> Vec<String> {
    let commit = revision.commit.as_deref().map_or("", |commit| commit.get(..8).unwrap_or(commit));
    let name = match (&revision.refs[..], commit) {
        ([], "") => "local".to_owned(),
        ([], commit) => commit.to_owned(),
        (refs, commit) => format!("{} ({commit})", refs.join(", ")),
    };
    let state = match &revision.missing[..] {
        [] => String::new(),
        [one] => format!("lacks {one}"),
        several => format!("lacks {} files", several.len()),
    };
    let about = &revision.description;
    vec![
        model.name.clone(),
        human(revision.bytes),
        revision.last_used.map_or_else(String::new, ago),
        name,
        about.kind.unwrap_or_default().to_owned(),
        about.model_type.clone().unwrap_or_default(),
        about.quantization.clone().unwrap_or_default(),
        state,
    ]
}

fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn object(model: &LocalModel) -> Value {
    let seconds = |time: Option<SystemTime>| Some(time?.duration_since(UNIX_EPOCH).ok()?.as_secs());
    let revisions = model.revisions.iter().map(|revision| {
        let files = revision.files.iter().map(|(name, size)| json!({"name": name, "size": size}));
        json!({
            "commit": revision.commit, "refs": revision.refs, "path": revision.path, "bytes": revision.bytes,
            "last_used": seconds(revision.last_used), "missing": revision.missing,
            "kind": revision.description.kind, "model_type": revision.description.model_type,
            "quantization": revision.description.quantization, "files": files.collect::<Vec<_>>(),
        })
    });
    json!({
        "name": model.name, "path": model.path, "bytes": model.bytes, "partial_bytes": model.partial,
        "last_used": seconds(model.last_used), "revisions": revisions.collect::<Vec<_>>(),
    })
}
