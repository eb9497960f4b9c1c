//! `mlxengine search`: finds models on the Hub.

use mlxengine::hub::{Access, HuggingFaceApi, ModelInfo, Search};
use serde_json::{Value, json};

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::SearchArguments;

/// Prints what is found.
pub fn run(arguments: &SearchArguments, app: &App) -> Result<()> {
    let search = Search {
        text: Some(arguments.text.join(" ")).filter(|text| !text.is_empty()),
        author: arguments.author.clone(),
        tags: arguments.tag.clone(),
        library: Some(arguments.library.clone()).filter(|library| library != "all"),
        pipeline: arguments.pipeline.clone(),
        sort: arguments.sort.into(),
        limit: arguments.limit,
    };
    let found = HuggingFaceApi::new(&app.settings.hub()?)?.search(&search)?;
    if arguments.json {
        let list: Vec<Value> = found.iter().map(object).collect();
        return app.printer.line(&format!("{:#}", Value::from(list)));
    }
    if found.is_empty() {
        app.printer.note("nothing is found");
        return Ok(());
    }
    let mut rows = vec![["model", "downloads", "likes", "licence", "for"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|model| {
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let access = match model.access {
            Access::Open => "",
            Access::Gated => " (gated)",
            Access::Private => " (private)",
        };
        vec![
            format!("{}{access}", model.id),
            number(model.downloads),
            number(model.likes),
            model.licence.clone().unwrap_or_default(),
            model.pipeline.clone().unwrap_or_default(),
        ]
    }));
    super::table(&rows, app)
}

fn object(model: &ModelInfo) -> Value {
    json!({
        "id": model.id, "downloads": model.downloads, "likes": model.likes, "modified": model.modified,
        "pipeline": model.pipeline, "library": model.library, "licence": model.licence,
        "gated": model.access == Access::Gated, "private": model.access == Access::Private,
        "base_models": model.base_models, "tags": model.tags,
    })
}
