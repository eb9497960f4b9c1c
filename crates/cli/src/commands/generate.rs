//! `mlxengine generate --prompts`: answers to every line of a file.

use std::path::Path;
use std::time::{Duration, Instant};

use mlxengine::{BatchEvent, BatchOptions, Finished, GenerateParams, InferenceEngine, Step};
use serde_json::{Map, Value, json};

use super::run::{draft, rounded, token};
use crate::App;
use crate::arguments::{Defaults, RunArguments};
use crate::failure::{Result, Stop, invalid};
use crate::load::{load_to_answer, require_template};
use crate::printer::{Bar, rate};
use crate::rows::{Output, Row, Shared, lines};
use crate::settings::render_options;

/// Answers the rows of `prompts` that `output` has no answers for.
pub fn run(prompts: &Path, output: &Path, arguments: &RunArguments, app: &App) -> Result<()> {
    if prompts.canonicalize().ok().is_some_and(|path| output.canonicalize().is_ok_and(|other| other == path)) {
        return Err(invalid("the answers would be written into the file of the prompts")
            .with_remedy("give another file for the answers")
            .into());
    }
    let texts = lines(prompts)?;
    let mut output = Output::open(output)?;
    let (engine, params) = load_to_answer(&arguments.model, &arguments.generation, Defaults::Greedy, app)?;
    if !arguments.raw {
        require_template(&engine)?;
    }
    let shared = Shared {
        params,
        system: arguments.generation.system.clone(),
        template: (!arguments.raw).then(|| render_options(&arguments.generation)),
    };
    let (mut rows, mut requests, mut count) = (Vec::new(), Vec::new(), Count::default());
    for (line, text) in &texts {
        let mut row = shared.row(*line, text);
        if output.has(&row)? {
            count.before += 1;
            continue;
        }
        match std::mem::replace(&mut row.request, Err(invalid("taken"))) {
            Ok(request) => {
                requests.push(request);
                rows.push(row);
            }
            Err(error) => {
                count.failed += 1;
                output.add(failed(&row, &error))?;
            }
        }
    }
    let mut answers = Answers { engine: &engine, progress: Progress::new(rows.len(), app), rows, output, count };
    let whole = answers.give(requests, arguments, app)?;
    let Answers { count, progress, .. } = answers;
    drop(progress);
    app.printer.note(&count.describe(texts.len()));
    if whole { Ok(()) } else { Err(Stop::Interrupted) }
}

/// Rows by how they went.
#[derive(Default)]
struct Count {
    before: usize,
    answered: usize,
    failed: usize,
    tokens: usize,
    time: Duration,
}

impl Count {
    fn describe(&self, all: usize) -> String {
        let mut parts = vec![format!("{} of {all} rows answered", self.answered + self.before)];
        if self.before > 0 {
            parts[0] += &format!(", {} of them before", self.before);
        }
        if self.failed > 0 {
            parts.push(format!("{} failed, as their rows say", self.failed));
        }
        let left = all - self.answered - self.before - self.failed;
        if left > 0 {
            parts.push(format!("{left} left: the same command goes on"));
        }
        if self.tokens > 0 {
            let speed = self.tokens as f64 / self.time.as_secs_f64();
            parts.push(format!("{} tokens at {speed:.1} tokens/s", self.tokens));
        }
        parts.join(" · ")
    }
}

/// Answers as they are given.
struct Answers<'a> {
    engine: &'a InferenceEngine,
    rows: Vec<Row>,
    output: Output,
    count: Count,
    progress: Progress<'a>,
}

impl Answers<'_> {
    /// Writes each answer once it is whole. `false` if somebody cancelled.
    fn give(
        &mut self,
        requests: Vec<(mlxengine::Prompt, GenerateParams)>,
        arguments: &RunArguments,
        app: &App,
    ) -> Result<bool> {
        let begun = Instant::now();
        let params: Vec<GenerateParams> = requests.iter().map(|(_, params)| params.clone()).collect();
        let mut steps: Vec<Vec<Step>> = vec![Vec::new(); requests.len()];
        let options = BatchOptions::default();
        let options = BatchOptions { sequences: arguments.batch_size.unwrap_or(options.sequences), ..options };
        let batch = self.engine.generate_batch(requests, options)?;
        let cancel = batch.cancel_token();
        let _guard = app.interrupts.guard(cancel.clone());
        for (index, event) in batch {
            match event {
                BatchEvent::Step(step) => {
                    self.count.tokens += 1;
                    steps[index].push(step);
                    continue;
                }
                BatchEvent::Finished(finished) => {
                    self.count.answered += 1;
                    let steps = std::mem::take(&mut steps[index]);
                    let object = self.answered(&self.rows[index], &steps, &finished, &params[index])?;
                    self.output.add(object)?;
                }
                BatchEvent::Failed(error) => {
                    self.count.failed += 1;
                    self.output.add(failed(&self.rows[index], &error))?;
                }
            }
            self.progress.one_more();
        }
        self.count.time = begun.elapsed();
        Ok(!cancel.is_cancelled())
    }

    fn answered(
        &self,
        row: &Row,
        steps: &[Step],
        finished: &Finished,
        params: &GenerateParams,
    ) -> Result<Map<String, Value>> {
        let text: String = steps.iter().map(|step| step.text.as_str()).collect();
        let mut object = row.head();
        object.insert("text".into(), json!(text));
        object.insert("finish_reason".into(), json!(finished.reason));
        object.insert("prompt_tokens".into(), json!(finished.stats.prompt_tokens));
        object.insert("completion_tokens".into(), json!(finished.stats.generated_tokens));
        if let Some(speculation) = &finished.stats.speculation {
            object.insert("draft".into(), draft(speculation));
        }
        object.insert("seconds".into(), json!(rounded(finished.stats.time().as_secs_f64())));
        if params.temperature > 0.0 {
            object.insert("seed".into(), json!(finished.seed));
        }
        if params.logprobs.is_some() {
            let tokens = steps.iter().map(|step| token(step, self.engine)).collect::<Result<Vec<_>>>()?;
            object.insert("tokens".into(), Value::from(tokens));
        }
        Ok(object)
    }
}

fn failed(row: &Row, error: &mlxengine::EngineError) -> Map<String, Value> {
    let mut object = row.head();
    object.insert("error".into(), json!({"kind": error.kind().to_string(), "message": error.to_string()}));
    object
}

/// How far it is: a bar where a person sees it, a line now and then elsewhere.
struct Progress<'a> {
    app: &'a App,
    bar: Bar,
    done: usize,
    all: usize,
    begun: Instant,
    said: Instant,
}

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(10);

impl<'a> Progress<'a> {
    fn new(all: usize, app: &'a App) -> Self {
        let mut bar = app.printer.bar("answering", "prompts");
        bar.update(0, all);
        Self { app, bar, done: 0, all, begun: Instant::now(), said: Instant::now() }
    }

    fn one_more(&mut self) {
        self.done += 1;
        self.bar.update(self.done, self.all);
        if !self.bar.is_visible() && self.said.elapsed() >= PAUSE && self.done < self.all {
            self.said = Instant::now();
            let speed = self.done as f64 / self.begun.elapsed().as_secs_f64();
            self.app.printer.note(&rate(self.done, self.all, "prompts", speed));
        }
    }
}
