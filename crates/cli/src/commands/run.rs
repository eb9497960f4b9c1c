//! `mlxengine run`: one answer.

use mlxengine::{
    FinishReason, GenerateParams, InferenceEngine, LlmEngine, Message, Prompt, RenderOptions, Speculation, Stats, Step,
    TokenStream,
};
use serde_json::{Map, Value, json};

use crate::App;
use crate::answer;
use crate::arguments::{ChatArguments, Defaults, RunArguments};
use crate::commands::{chat, generate};
use crate::failure::{Result, Stop, invalid};
use crate::input;
use crate::load::{load_to_answer, require_template};
use crate::settings::render_options;

/// Answers once; without a prompt on a terminal, chats.
pub fn run(arguments: &RunArguments, app: &App) -> Result<()> {
    if let (Some(prompts), Some(output)) = (&arguments.prompts, &arguments.output) {
        return generate::run(prompts, output, arguments, app);
    }
    let Some(text) = prompt_text(&arguments.prompt)? else {
        if arguments.json || arguments.raw || !input::is_terminal() || !app.printer.is_terminal() {
            let remedy = "write it after the model's name, or pipe it in";
            return Err(invalid("no prompt was given").with_remedy(remedy).into());
        }
        let chat = ChatArguments { model: Some(arguments.model.clone()), generation: arguments.generation.clone() };
        return chat::run(&chat, app);
    };
    let (engine, mut params) = load_to_answer(&arguments.model, &arguments.generation, Defaults::Greedy, app)?;
    if !arguments.raw {
        require_template(&engine)?;
    }
    params.logprobs = arguments.logprobs;
    engine.configuration().validate(&params)?;
    let mut bar = app.printer.bar("reading the prompt", "tokens");
    let stream = start(&engine, text, arguments, &params)?.with_progress(move |done, all| bar.update(done, all));
    let _guard = app.interrupts.guard(stream.cancel_token());
    let (finish, stats) = if arguments.json {
        print_json(stream, arguments, &engine, &params, app)?
    } else {
        let mut stream = stream;
        let finish = answer::print(&mut stream, &app.printer, arguments.generation.hide_thinking);
        let stats = stream.stats();
        drop(stream);
        (finish?, stats)
    };
    if let Some(why) = answer::cut(finish, &stats, &params, &engine) {
        app.printer.note(&why);
    }
    if arguments.generation.verbose {
        app.printer.note(&answer::describe(&stats));
    }
    if finish == FinishReason::Cancelled { Err(Stop::Interrupted) } else { Ok(()) }
}

/// Starts the answer, after what the prompt cache has read if there is one.
fn start(
    engine: &InferenceEngine,
    text: String,
    arguments: &RunArguments,
    params: &GenerateParams,
) -> Result<TokenStream> {
    let Some(file) = &arguments.prompt_cache_file else { return Ok(engine.stream(prompt(text, arguments), params)?) };
    let sequence = engine.load_sequence(file, params.adapter.as_deref())?;
    let rest = match prompt(text, arguments) {
        Prompt::Chat { messages, options } => rest_of_turn(engine, &messages, &options)?,
        Prompt::Text(text) => text,
        Prompt::Tokens(_) => unreachable!("a prompt is typed"),
    };
    let mut tokens = sequence.tokens().to_vec();
    tokens.extend(engine.model()?.tokenizer.encode(&rest, false)?);
    Ok(engine.continue_from(Some(sequence), Prompt::Tokens(tokens), params)?)
}

/// What a template writes from the beginning of the last message on: what comes before it, the cache has read.
fn rest_of_turn(engine: &InferenceEngine, messages: &[Message], options: &RenderOptions) -> Result<String> {
    const MARK: &str = "<mlxengine:query>";
    let model = engine.model()?;
    let mut marked = messages.to_vec();
    marked.pop();
    marked.push(Message::user(MARK));
    let (whole, marked) = (model.render(messages, options)?, model.render(&marked, options)?);
    let start = marked.find(MARK).and_then(|at| whole.get(at..));
    let start = start.ok_or_else(|| {
        invalid("the chat template writes messages so that none can go on from a cache").with_remedy("use --raw")
    })?;
    Ok(start.to_owned())
}

/// The arguments, then what is piped in, an empty line between.
fn prompt_text(arguments: &[String]) -> Result<Option<String>> {
    let typed = Some(arguments.join(" ")).filter(|text| !text.trim().is_empty());
    Ok(match (typed, input::piped()?) {
        (Some(typed), Some(piped)) => Some(format!("{typed}\n\n{piped}")),
        (typed, piped) => typed.or(piped),
    })
}

fn prompt(text: String, arguments: &RunArguments) -> Prompt {
    if arguments.raw {
        return Prompt::Text(text);
    }
    let system = arguments.generation.system.as_deref().map(Message::system);
    let messages = system.into_iter().chain([Message::user(text)]).collect();
    Prompt::Chat { messages, options: render_options(&arguments.generation) }
}

/// Prints the answer as one object, once it is whole.
fn print_json(
    mut stream: TokenStream,
    arguments: &RunArguments,
    engine: &InferenceEngine,
    params: &GenerateParams,
    app: &App,
) -> Result<(FinishReason, Stats)> {
    let steps = stream.by_ref().collect::<mlxengine::Result<Vec<Step>>>()?;
    let stats = stream.stats();
    let Some(finish) = stream.finish_reason().filter(|finish| *finish != FinishReason::Cancelled) else {
        return Ok((FinishReason::Cancelled, stats));
    };
    let said = mlxengine::message(stream.take_pieces());
    let mut object = Map::new();
    object.insert("model".into(), json!(arguments.model));
    object.insert("text".into(), json!(said.content.text()));
    if let Some(reasoning) = said.reasoning {
        object.insert("reasoning".into(), json!(reasoning));
    }
    if !said.tool_calls.is_empty() {
        object.insert("tool_calls".into(), json!(said.tool_calls));
    }
    object.insert("finish_reason".into(), json!(finish));
    object.insert("prompt_tokens".into(), json!(stats.prompt_tokens));
    object.insert("cached_tokens".into(), json!(stats.cached_tokens));
    object.insert("completion_tokens".into(), json!(stats.generated_tokens));
    object.insert("time_to_first_token_ms".into(), json!(rounded(stats.time_to_first_token.as_secs_f64() * 1000.0)));
    object.insert("tokens_per_second".into(), json!(rounded(stats.decode_speed())));
    if let Some(speculation) = &stats.speculation {
        object.insert("draft".into(), draft(speculation));
    }
    if params.temperature > 0.0 {
        object.insert("seed".into(), json!(stream.seed()));
    }
    if arguments.logprobs.is_some() {
        let tokens = steps.iter().map(|step| token(step, engine)).collect::<Result<Vec<_>>>()?;
        object.insert("tokens".into(), Value::from(tokens));
    }
    drop(stream);
    app.printer.line(&format!("{:#}", Value::from(object)))?;
    Ok((finish, stats))
}

/// What drafts were worth.
pub(super) fn draft(speculation: &Speculation) -> Value {
    json!({
        "drafted_tokens": speculation.drafted,
        "accepted_tokens": speculation.accepted,
        "tokens_per_pass": rounded(speculation.tokens_per_pass()),
        "estimated_speed_up": speculation.speed_up().map(rounded),
    })
}

/// A token with its likeliest alternatives.
pub(super) fn token(step: &Step, engine: &InferenceEngine) -> Result<Value> {
    let model = engine.model()?;
    let one = |id: u32, logprob: f32| -> Result<Map<String, Value>> {
        let text = model.tokenizer.decode(&[id], false)?;
        let fields = [("id", json!(id)), ("text", json!(text)), ("logprob", json!(shortest(logprob)))];
        Ok(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let mut object = one(step.token, step.logprob)?;
    let top = step.top_logprobs.iter().map(|(id, logprob)| Ok(Value::from(one(*id, *logprob)?)));
    object.insert("top_logprobs".into(), Value::from(top.collect::<Result<Vec<_>>>()?));
    Ok(Value::from(object))
}

pub(super) fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The number that prints with no more digits than the `f32` has.
fn shortest(number: f32) -> Option<f64> {
    number.to_string().parse().ok().filter(|n: &f64| n.is_finite())
}
