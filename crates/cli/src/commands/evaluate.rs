//! `mlxengine perplexity` and `mlxengine evaluate`: how well a model predicts texts.

use std::path::Path;

use mlxengine::{
    CancelToken, Choice, Example, Feature, InferenceEngine, LlmEngine, Perplexity, PerplexityOptions, Question,
};
use serde_json::{Value, json};

use crate::App;
use crate::arguments::{EvaluateArguments, PerplexityArguments};
use crate::failure::{Result, Stop, invalid, io};
use crate::load::load;
use crate::rows::lines;

/// Measures how surprised a model is by a text.
pub fn perplexity(arguments: &PerplexityArguments, app: &App) -> Result<()> {
    let engine = load(&arguments.model, &app.settings.load_options(&arguments.load), app)?;
    let tokens = match (&arguments.text, &arguments.data) {
        (Some(path), _) => engine.model()?.tokenizer.encode(&read(path)?, true)?,
        (None, Some(path)) => engine.corpus(&parsed(path, Example::parse)?)?,
        (None, None) => return Err(invalid("there is no text to read").with_remedy("give --text or --data").into()),
    };
    let options = PerplexityOptions {
        sequence_length: arguments.sequence_length,
        samples: usize::try_from(arguments.num_samples).ok(),
        batch_size: arguments.batch_size,
    };
    let cancel = CancelToken::new();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("reading", "samples");
    let found = engine.perplexity(&tokens, &options, &cancel, &mut |done, all| bar.update(done, all))?;
    drop(bar);
    let Some(Perplexity { tokens, perplexity, standard_error }) = found else { return Err(Stop::Interrupted) };
    let samples = tokens / (options.sequence_length - 1);
    if arguments.json {
        let object = json!({
            "model": arguments.model,
            "perplexity": perplexity,
            "standard_error": standard_error,
            "tokens": tokens,
            "samples": samples,
            "sequence_length": options.sequence_length,
        });
        return app.printer.line(&format!("{object:#}"));
    }
    let length = options.sequence_length;
    let samples = if samples == 1 { "1 sample".to_owned() } else { format!("{samples} samples") };
    app.printer
        .line(&format!("perplexity {perplexity:.4} ± {standard_error:.4}, of {tokens} tokens in {samples} of {length}"))
}

/// Lets a model choose among endings.
pub fn evaluate(arguments: &EvaluateArguments, app: &App) -> Result<()> {
    let questions = parsed(&arguments.data, |line| {
        serde_json::from_str::<Question>(line).map_err(|e| invalid(format!("not a question: {e}")))
    })?;
    let questions = &questions[..questions.len().min(arguments.limit.unwrap_or(usize::MAX))];
    if questions.is_empty() {
        return Err(invalid(format!("there are no questions in {}", arguments.data.display())).into());
    }
    let engine = load(&arguments.model, &app.settings.load_options(&arguments.load), app)?;
    let chat = arguments.apply_chat_template.unwrap_or(engine.features().has(Feature::Chat));
    let cancel = CancelToken::new();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("reading", "questions");
    let mut choices = Vec::with_capacity(questions.len());
    for (number, question) in questions.iter().enumerate() {
        bar.update(number, questions.len());
        if cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        let choice = engine.choose(question, chat);
        choices.push(choice.map_err(|e| e.in_context(format!("question {}", number + 1)))?);
    }
    drop(bar);
    report(arguments, &engine, questions, &choices, app)
}

fn report(
    arguments: &EvaluateArguments,
    engine: &InferenceEngine,
    questions: &[Question],
    choices: &[Choice],
    app: &App,
) -> Result<()> {
    let pairs = || choices.iter().zip(questions);
    let [acc, acc_norm] = [
        share(pairs().map(|(choice, question)| choice.likeliest == question.answer)),
        share(pairs().map(|(choice, question)| choice.likeliest_by_length == question.answer)),
    ];
    if !arguments.json {
        let text = |(mean, error): (f64, f64)| format!("{mean:.4} ± {error:.4}");
        let (acc, acc_norm, count) = (text(acc), text(acc_norm), questions.len());
        return app.printer.line(&format!("acc {acc} · acc_norm {acc_norm} · {count} questions"));
    }
    let one = |(choice, question): (&Choice, &Question)| {
        let mut object = json!({
            "answer": question.answer,
            "likeliest": choice.likeliest,
            "likeliest_by_length": choice.likeliest_by_length,
            "likelihoods": choice.likelihoods,
        });
        if let Some(id) = &question.id {
            object["id"] = id.clone();
        }
        object
    };
    let object = json!({
        "model": engine.configuration().name,
        "acc": acc.0,
        "acc_stderr": acc.1,
        "acc_norm": acc_norm.0,
        "acc_norm_stderr": acc_norm.1,
        "questions": pairs().map(one).collect::<Vec<Value>>(),
    });
    app.printer.line(&format!("{object:#}"))
}

/// The mean of yes and no, and its standard error.
fn share(right: impl Iterator<Item = bool>) -> (f64, f64) {
    let right: Vec<bool> = right.collect();
    let count = right.len() as f64;
    let mean = right.iter().filter(|right| **right).count() as f64 / count;
    let error = if right.len() > 1 { (mean * (1.0 - mean) / (count - 1.0)).sqrt() } else { 0.0 };
    (mean, error)
}

fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(|e| io(format!("cannot read {}", path.display()), e))?)
}

/// What the lines of a file say; an error names the line.
fn parsed<T>(path: &Path, parse: impl Fn(&str) -> mlxengine::Result<T>) -> Result<Vec<T>> {
    let one = |(line, text): &(usize, String)| {
        parse(text).map_err(|e| e.in_context(format!("line {line} of {}", path.display())))
    };
    Ok(lines(path)?.iter().map(one).collect::<mlxengine::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_has_its_error() {
        // As of a mean: sqrt(Σ (x - mean)² / (n - 1) / n).
        assert_eq!(share([true, false, true, true].into_iter()), (0.75, 0.25));
        assert_eq!(share([true].into_iter()), (1.0, 0.0));
    }
}
