//! `mlxengine recommend`: what to run on this machine.

use mlxengine::device::Calibration;
use mlxengine::memory::{human, memory};
use mlxengine::{ModelRegistry, Recommendation, Verdict, Wish};
use serde_json::json;

use crate::App;
use crate::failure::Result;
use crate::hub_arguments::RecommendArguments;

/// Prints what runs well, and how that is known.
pub fn run(arguments: &RecommendArguments, app: &App) -> Result<()> {
    let machine = Calibration::of_this_machine(app.settings.calibration());
    let wish = Wish {
        kind: arguments.kind.into(),
        min_speed: arguments.min_tps,
        context: arguments.context,
        prompt: arguments.prompt,
        memory: arguments.memory.unwrap_or_else(|| memory().available),
    };
    let all = ModelRegistry::current().recommend(&wish, app.settings.paths(), &machine);
    let runs = |r: &&Recommendation| arguments.all || r.verdict == Verdict::Runs;
    let mut shown: Vec<&Recommendation> = all.iter().filter(runs).collect();
    let more = shown.len().saturating_sub(arguments.limit);
    shown.truncate(arguments.limit);
    if arguments.json {
        let object = json!({
            "memory": wish.memory, "context": wish.context, "prompt": wish.prompt, "min_tokens_per_second": wish.min_speed,
            "calibration": machine, "models": shown,
        });
        return app.printer.line(&format!("{object:#}"));
    }
    if !shown.is_empty() {
        let head = ["model", "weights", "parameters", "memory", "tokens/s", "first token", ""].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(shown.iter().map(|r| row(r, &wish)));
        super::table(&rows, app)?;
    }
    if more > 0 {
        app.printer.note(&format!("{more} more come after these; --limit shows them"));
    }
    if !all.iter().any(|r| r.verdict == Verdict::Runs) {
        app.printer.note(&nothing(&all, &wish));
    }
    for line in explained(&wish, &machine) {
        app.printer.note(&line);
    }
    Ok(())
}

fn row(r: &Recommendation, wish: &Wish) -> Vec<String> {
    let billions = |n: u64| format!("{:.1}B", n as f64 / 1e9);
    let parameters = r.parameters.map_or_else(String::new, |[all, active]| {
        // The table of tokens is no work, so that a little less is active in every model.
        if active * 2 < all { format!("{}, {} active", billions(all), billions(active)) } else { billions(all) }
    });
    vec![
        r.name.clone(),
        r.quantization.clone().unwrap_or_default(),
        parameters,
        r.memory.map_or_else(String::new, |plan| human(plan.total())),
        r.speed.map_or_else(String::new, |speed| speed_text(speed.tokens_per_second)),
        r.speed.map_or_else(String::new, |speed| format!("{:.1} s", speed.first_token)),
        verdict(r, wish),
    ]
}

fn speed_text(speed: f64) -> String {
    if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") }
}

fn verdict(r: &Recommendation, wish: &Wish) -> String {
    match &r.verdict {
        Verdict::Runs if r.here => "here".to_owned(),
        Verdict::Runs => String::new(),
        Verdict::TooSlow => format!("slower than {} tokens/s", wish.min_speed),
        Verdict::TooLarge => format!("more than the {} that are available", human(wish.memory)),
        Verdict::TooShort => format!("made for fewer than {} tokens", wish.context),
        Verdict::NotRunnable { reason } => reason.clone(),
        Verdict::Unknown { missing } => missing.clone(),
    }
}

/// What to do where nothing is recommended.
fn nothing(all: &[Recommendation], wish: &Wish) -> String {
    match all.first().map(|r| (&r.name, &r.verdict)) {
        Some((name, Verdict::TooSlow)) => {
            format!("nothing that fits reaches {} tokens/s; {name} comes nearest: lower --min-tps", wish.min_speed)
        }
        Some((name, Verdict::TooLarge)) => {
            format!("nothing fits in {}; {name} needs least: lower --context", human(wish.memory))
        }
        Some((_, Verdict::NotRunnable { reason })) => format!("nothing is recommended: {reason}"),
        _ => "nothing is recommended; --all says why".to_owned(),
    }
}

/// The model behind the numbers.
fn explained(wish: &Wish, machine: &Calibration) -> [String; 3] {
    let giga = |speed: f64| format!("{:.1}", speed / 1e9);
    [
        format!(
            "the most capable first: most weights, of mixtures the geometric mean of all and active; memory is weights, cache and activations with {} tokens",
            wish.context
        ),
        format!(
            "a token with {} before it: bytes of its weights / {} GB/s (4-bit; bf16 {}) + keys and values / {} GB/s + serial work of each layer",
            wish.context,
            giga(machine.weights),
            giga(machine.dense_weights),
            giga(machine.attention)
        ),
        format!(
            "the first token of a prompt of {}: 2 operations a weight / {} GOP/s (4-bit; bf16 {}) + attention / {} GOP/s; measured here with {} threads",
            wish.prompt,
            giga(machine.products),
            giga(machine.dense_products),
            giga(machine.prompt_attention),
            machine.threads
        ),
    ]
}
