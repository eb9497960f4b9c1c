//! `mlxengine models`: the models that are known by a short name.

use mlxengine::hub::human;
use mlxengine::{ModelRegistry, Query, RegistryEntry, Storage};
use serde_json::{Value, json};

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::ModelsArguments;

/// Prints those that are asked for.
pub fn run(arguments: &ModelsArguments, app: &App) -> Result<()> {
    let query = Query {
        text: (!arguments.text.is_empty()).then(|| arguments.text.join(" ")),
        kind: arguments.kind.map(Into::into),
        family: arguments.family.clone(),
        max_memory: arguments.max_memory,
        context: arguments.context,
        ..Query::default()
    };
    let registry = ModelRegistry::current();
    let found: Vec<&RegistryEntry> = registry.search(&query).collect();
    if arguments.json {
        let list = found.iter().map(|entry| object(entry, &query)).collect::<Vec<_>>();
        return app.printer.line(&format!("{:#}", Value::from(list)));
    }
    if found.is_empty() {
        app.printer.note("no model of the registry is like this; `mlxengine search` asks the Hub");
        return Ok(());
    }
    let head = ["model", "kind", "family", "weights", "size", "context", "memory", "licence"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(found.iter().map(|entry| row(entry, &query)));
    super::table(&rows, app)?;
    app.printer.note("~ is estimated; memory is with a context of 4096 tokens unless --context says how many");
    Ok(())
}

fn row(entry: &RegistryEntry, query: &Query) -> Vec<String> {
    let about = |estimated: bool, bytes: u64| format!("{}{}", if estimated { "~" } else { "" }, human(bytes));
    let weights = entry.weights();
    let memory = entry.memory(query.context_of(entry));
    vec![
        entry.aliases.first().unwrap_or(&entry.name).clone(),
        entry.kind.name().to_owned(),
        entry.family.clone().unwrap_or_default(),
        entry.quantization.as_ref().map_or_else(String::new, Storage::name),
        weights.map_or_else(String::new, |weights| about(weights.estimated, weights.bytes)),
        entry.context.map_or_else(String::new, |tokens| tokens.to_string()),
        memory.map_or_else(String::new, |memory| about(memory.weights.estimated, memory.total())),
        entry.license.clone().unwrap_or_default(),
    ]
}

/// What is known of it, with its memory at the context that was asked for.
fn object(entry: &RegistryEntry, query: &Query) -> Value {
    let mut object = json!(entry);
    let context = query.context_of(entry);
    object["weights"] = json!(entry.weights());
    object["memory"] = json!(entry.memory(context).map(|memory| {
        json!({"context": context, "weights": memory.weights, "cache": memory.cache, "total": memory.total()})
    }));
    object
}
