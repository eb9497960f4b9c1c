//! Many answers at once, and drafts.

use mlxengine_engine::{
    Batch, BatchOptions, Draft, DraftSource, EngineError, ErrorKind, GenerateParams, Request, Result,
};

use crate::engine::{InferenceEngine, LlmEngine, Prompt};
use crate::memory::memory;

impl InferenceEngine {
    /// Answers many prompts at once, each with its own parameters: an iterator of what happens, with the number of the
    /// prompt that it happens to. Prompts are taken one by one as there is room; a prompt that cannot be answered fails
    /// alone. In [`mlxengine_models::Precision::Exact`] each answer is, to the bit, the one that its prompt has alone.
    ///
    /// ```
    /// # use mlxengine::{BatchEvent, BatchOptions, GenerateParams, InferenceEngine, Prompt};
    /// let engine = InferenceEngine::load("demo")?;
    /// let questions = ["What is the capital of France?", "What is the capital of Japan?"];
    /// let prompts = questions.map(|question| (Prompt::chat(question), GenerateParams::default()));
    /// let mut answers = vec![String::new(); 2];
    /// for (index, event) in engine.generate_batch(prompts, BatchOptions::default())? {
    ///     match event {
    ///         BatchEvent::Step(step) => answers[index].push_str(&step.text),
    ///         BatchEvent::Finished(finished) => assert!(finished.stats.generated_tokens > 0),
    ///         BatchEvent::Failed(error) => return Err(error),
    ///     }
    /// }
    /// assert!(answers[0].contains("Paris") && answers[1].contains("Tokyo"));
    /// # Ok::<(), mlxengine::EngineError>(())
    /// ```
    ///
    /// Without [`BatchOptions::cache_bytes`] caches may have the memory that is available now.
    ///
    /// # Errors
    /// If the model was unloaded.
    pub fn generate_batch<P>(&self, prompts: P, options: BatchOptions) -> Result<Batch>
    where
        P: IntoIterator<Item = (Prompt, GenerateParams)>,
        P::IntoIter: Send + 'static,
    {
        let model = self.model()?;
        let limits =
            BatchOptions { cache_bytes: Some(options.cache_bytes.unwrap_or_else(|| self.cache_room())), ..options };
        let encoder = model.clone();
        let requests =
            prompts.into_iter().map(move |(prompt, params)| Ok(Request::new(prompt.encode(&encoder)?, params)));
        Batch::new(model, requests, &self.options, limits)
    }

    /// Memory that is left beside the weights and a pass.
    fn cache_room(&self) -> u64 {
        let plan = self.configuration().memory;
        memory().available.saturating_sub(plan.weights).saturating_sub(plan.activations)
    }

    /// The same model, whose answers are drafted by a smaller one of the same vocabulary, `tokens` at a time. They are the
    /// same answers, drawn ones too.
    ///
    /// ```
    /// # use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};
    /// let engine = InferenceEngine::load("demo")?;
    /// let drafted = engine.with_draft_model(&InferenceEngine::load("demo")?, 3)?;
    /// let answer = drafted.generate(Prompt::chat("Count from one to five."), &GenerateParams::default())?;
    /// assert!(answer.stats.speculation.is_some_and(|s| s.accepted == s.drafted));
    /// # Ok::<(), mlxengine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If the vocabularies differ, or a model was unloaded.
    pub fn with_draft_model(&self, draft: &InferenceEngine, tokens: usize) -> Result<Self> {
        self.with_draft(Draft { source: DraftSource::Model(draft.model()?), tokens })
    }

    /// The same model, whose answers are drafted by what followed the last few tokens, `longest` at most, where they
    /// occurred before: worth it where an answer repeats what was asked, as in summaries, corrections or code.
    ///
    /// # Errors
    /// If a number is 0, or the model was unloaded.
    pub fn with_prompt_lookup(&self, longest: usize, tokens: usize) -> Result<Self> {
        self.with_draft(Draft { source: DraftSource::PromptLookup(longest), tokens })
    }

    fn with_draft(&self, draft: Draft) -> Result<Self> {
        if draft.tokens == 0 || matches!(draft.source, DraftSource::PromptLookup(0)) {
            let message = "a draft has at least one token, and a lookup compares at least one";
            return Err(EngineError::new(ErrorKind::InvalidParameter, message));
        }
        draft.check(&*self.model()?)?;
        let mut engine = self.clone();
        engine.options.draft = Some(draft);
        Ok(engine)
    }
}
