//! `mlxengine families`: the families of models that are known.

use mlxengine::FAMILIES;
use serde_json::json;

use crate::App;
use crate::arguments::FamiliesArguments;
use crate::failure::Result;

/// Prints the list.
pub fn run(arguments: &FamiliesArguments, app: &App) -> Result<()> {
    if arguments.json {
        let list: Vec<_> = FAMILIES
            .iter()
            .map(|f| json!({"name": f.name, "model_types": f.model_types, "cases": f.cases()}))
            .collect();
        return app.printer.line(&format!("{:#}", serde_json::Value::from(list)));
    }
    let width = FAMILIES.iter().map(|f| f.name.len()).max().unwrap_or(0);
    for family in FAMILIES {
        let name = app.printer.bold(&format!("{:width$}", family.name));
        let cases = if family.cases() == 1 { "case " } else { "cases" };
        app.printer.line(&format!(
            "{name}  {:>2} {cases}  model_type {}",
            family.cases(),
            family.model_types.join(", ")
        ))?;
    }
    app.printer
        .line("\nA case is a tiny checkpoint whose logits, texts and caches are compared with those of mlx-lm 0.32.")
}
