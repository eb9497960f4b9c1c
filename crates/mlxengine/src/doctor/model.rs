//! Models: the one inside the library, whose answers are known, and one that the user names.

use std::time::Instant;

use mlxengine_engine::{LoadedModel, Message, RenderOptions, Result};
use mlxengine_models::Precision;

use super::Check;
use crate::engine::{InferenceEngine, LlmEngine, LoadOptions, Prompt};
use crate::memory::{human, memory};
use crate::source::ModelPaths;

const REPLAY: &str = "replay";
const MODEL: &str = "model";
const TEMPLATE: &str = "template";
const TOKENIZER: &str = "tokenizer";
const ENDS: &str = "end tokens";

/// What the demo model answers on every machine, in either precision.
const GOLDEN: [(&str, &str); 2] = [
    ("What is the capital of France?", "The capital of France is Paris."),
    (
        "Tell me a story about a fox.",
        "Once there was a quiet fox called Ali. His home was in a house on a little island. Ali had never seen the sea. One \
         spring morning, he packed his jar and some pears and started to walk. On the way, he met a small otter named Elena. \
         \"May I come with you?\" asked Elena. They walked over hills and through forests and counted the stars. When they \
         arrived, Ali could not believe his eyes. And so Ali learned that it is good to be honest.",
    ),
];

/// Lets the demo model answer what it is known to answer.
pub(super) fn replay() -> Option<Check> {
    if !cfg!(feature = "demo") {
        return Some(Check::skipped(REPLAY, "this build has no demo model"));
    }
    let answer = |precision: Precision, question: &str| -> Result<String> {
        let engine = InferenceEngine::load_with("demo", &LoadOptions { precision, ..LoadOptions::default() }, |_| {})?;
        Ok(engine.generate(Prompt::chat(question), &mlxengine_engine::GenerateParams::default())?.text)
    };
    for precision in [Precision::Exact, Precision::Fast] {
        for (question, golden) in GOLDEN {
            match answer(precision, question) {
                Err(error) => return Some(Check::engine_error(REPLAY, &error)),
                Ok(text) if text == golden => {}
                Ok(text) => {
                    let right = text.chars().zip(golden.chars()).take_while(|(a, b)| a == b).count();
                    let said = format!(
                        "in {precision:?}, the demo model's answer to `{question}` is right for {right} characters, and then wrong"
                    );
                    let remedy = "compare with --isa portable; if that is right, report this with the processor's name";
                    return Some(Check::failed(REPLAY, said, remedy));
                }
            }
        }
    }
    Some(Check::ok(REPLAY, format!("{} answers of the demo model are right, exact and fast", GOLDEN.len())))
}

/// Loads a model, and tries its template and tokenizer.
pub(super) fn check(model: &str, paths: &ModelPaths, add: &mut dyn FnMut(Check)) {
    let begun = Instant::now();
    let options = LoadOptions { paths: paths.clone(), memory: Some(u64::MAX), ..LoadOptions::default() };
    let loaded = InferenceEngine::load_with(model, &options, |_| {}).and_then(|engine| Ok((engine.model()?, engine)));
    let (loaded, engine) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return add(Check::engine_error(MODEL, &error)),
    };
    let known = engine.configuration();
    add(Check::ok(
        MODEL,
        format!(
            "{model} loads in {:.0} ms: {}, {:.2} billion weights, {}",
            begun.elapsed().as_secs_f64() * 1e3,
            known.family,
            known.parameters as f64 / 1e9,
            known.quantization()
        ),
    ));
    add(fits(&engine));
    add(template(&loaded));
    add(tokenizer(&loaded, known.vocabulary));
    add(match known.end_tokens.as_slice() {
        [] => Check::warning(ENDS, "the checkpoint names none: answers end at --max-tokens alone", "give --stop"),
        ends => {
            let names = ends.iter().map(|end| end.text.clone().unwrap_or_else(|| end.id.to_string()));
            Check::ok(ENDS, names.collect::<Vec<_>>().join(", "))
        }
    });
}

fn fits(engine: &InferenceEngine) -> Check {
    const NAME: &str = "model memory";
    let context = engine.context().map_or(4096, |most| most.min(4096));
    let plan = engine.memory_plan(context);
    let available = memory().available;
    let said = format!("{} with a context of {context} tokens", human(plan.total()));
    if plan.total() <= available {
        return Check::ok(NAME, said);
    }
    let remedy = "choose a smaller one, or one in fewer bits; `mlxengine models --max-memory` has some";
    Check::warning(NAME, format!("{said}, and {} are available", human(available)), remedy)
}

fn template(model: &LoadedModel) -> Check {
    if model.templates.is_empty() {
        let said = "the checkpoint has none: prompts are continued as plain text";
        return Check::warning(TEMPLATE, said, "use --raw, or a model that was trained to chat");
    }
    let turns = [Message::user("Hello."), Message::assistant("Hello!"), Message::user("What is 1 + 1?")];
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    match model.render(&turns, &options).and_then(|text| Ok((model.tokenizer.encode(&text, false)?.len(), text))) {
        Err(error) => Check::engine_error(TEMPLATE, &error),
        Ok((tokens, text)) if text.contains("What is 1 + 1?") => {
            let origin = model.templates.origin();
            Check::ok(TEMPLATE, format!("{origin} makes {tokens} tokens of a conversation of three messages"))
        }
        Ok(_) => Check::failed(
            TEMPLATE,
            "it leaves out what the user says",
            "fetch the model again, or look at its template with `mlxengine explain`",
        ),
    }
}

/// Texts that break tokenizers: spaces, lines, numbers, other scripts, characters of several code points.
const TEXTS: [&str; 4] = [
    "Hello, world!",
    "fn main() {\n\tprintln!(\"1234567890\");\n}\n",
    "Grüße, 世界! Привет",
    "👩\u{200d}👩\u{200d}👧 100\u{a0}€",
];

fn tokenizer(model: &LoadedModel, vocabulary: usize) -> Check {
    let mut changed = Vec::new();
    for text in TEXTS {
        let tokens = model.tokenizer.encode(text, false);
        let decoded = tokens.and_then(|ids| Ok((model.tokenizer.decode(&ids, false)?, ids)));
        match decoded {
            Err(error) => return Check::engine_error(TOKENIZER, &error),
            Ok((_, ids)) if ids.iter().any(|id| *id as usize >= vocabulary) => {
                let said = format!("it makes tokens that the model, which has {vocabulary}, does not know");
                return Check::failed(TOKENIZER, said, "tokenizer and weights are of different models: fetch it again");
            }
            Ok((decoded, _)) if decoded != text => changed.push(text),
            Ok(_) => {}
        }
    }
    let said = format!("{} entries", model.tokenizer.vocab_size());
    match changed.first() {
        None => Check::ok(TOKENIZER, format!("{said}; {} texts come back as they were", TEXTS.len())),
        Some(text) => Check::warning(
            TOKENIZER,
            format!("{said}; {} of {} texts come back changed, as {text:?}", changed.len(), TEXTS.len()),
            "some tokenizers do so by design; if answers look wrong, compare with `mlxengine explain`",
        ),
    }
}
