//! A conversation that remembers.

use std::sync::{Arc, Mutex, MutexGuard};

use mlxengine_engine::{
    CancelToken, EngineError, ErrorKind, FinishReason, GenerateParams, LogitsProcessor, Message, Piece, RenderOptions,
    Result, Role, Sequence, Stats, Step, answer,
};

use crate::engine::{Generated, InferenceEngine, LlmEngine, Prompt, TokenStream};
use crate::transcript::{self, Format};

/// A conversation with a model: turns, roles, and what the model has read of them.
///
/// Clones are the same conversation, for several threads; one answer is given at a time. Nothing is read twice: a new turn,
/// an edit or another try reads only what differs from what was read before ([`Stats::cached_tokens`]).
///
/// ```
/// # use mlxengine::{ChatSession, Format, InferenceEngine};
/// let engine = InferenceEngine::load("demo")?;
/// let chat = ChatSession::new(&engine);
/// chat.send("What is the capital of Italy?")?;
/// let reply = chat.send("And of Spain?")?;
/// assert!(reply.stats.cached_tokens > 0);
/// let copy = ChatSession::import(&engine, &chat.export(Format::Json)?, Format::Json)?;
/// assert_eq!(copy.messages(), chat.messages());
/// # Ok::<(), mlxengine::EngineError>(())
/// ```
#[derive(Clone)]
pub struct ChatSession {
    engine: InferenceEngine,
    talk: Arc<Mutex<Talk>>,
    cancel: CancelToken,
}

struct Talk {
    messages: Vec<Message>,
    params: GenerateParams,
    options: RenderOptions,
    /// What the model has read, while no answer is under way.
    sequence: Option<Sequence>,
    answering: bool,
    stats: Option<Stats>,
}

impl std::fmt::Debug for ChatSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatSession")
            .field("engine", &self.engine)
            .field("messages", &self.lock().messages.len())
            .finish()
    }
}

impl ChatSession {
    /// An empty conversation, with the sampling that the model's makers advise.
    pub fn new(engine: &InferenceEngine) -> Self {
        Self::with_messages(engine, Vec::new())
    }

    /// A conversation that has come so far.
    pub fn with_messages(engine: &InferenceEngine, messages: Vec<Message>) -> Self {
        let talk = Talk {
            messages,
            params: engine.configuration().default_params.clone(),
            options: RenderOptions { add_generation_prompt: true, ..RenderOptions::default() },
            sequence: None,
            answering: false,
            stats: None,
        };
        Self { engine: engine.clone(), talk: Arc::new(Mutex::new(talk)), cancel: CancelToken::new() }
    }

    /// The same conversation, sampled otherwise.
    #[must_use]
    pub fn with_params(self, params: GenerateParams) -> Self {
        self.lock().params = params;
        self
    }

    /// The same conversation under instructions.
    #[must_use]
    pub fn with_system(self, text: &str) -> Self {
        self.set_system(Some(text));
        self
    }

    fn lock(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The model that answers.
    pub fn engine(&self) -> &InferenceEngine {
        &self.engine
    }

    /// The turns so far, instructions first.
    pub fn messages(&self) -> Vec<Message> {
        self.lock().messages.clone()
    }

    /// How answers are sampled.
    pub fn params(&self) -> GenerateParams {
        self.lock().params.clone()
    }

    /// Changes how answers are sampled.
    ///
    /// # Errors
    /// With the parameter that is out of range; nothing changes then.
    pub fn set_params(&self, params: GenerateParams) -> Result<()> {
        self.engine.configuration().validate(&params)?;
        self.lock().params = params;
        Ok(())
    }

    /// What the template is told beside the messages: tools, documents, its own switches.
    pub fn set_render_options(&self, options: RenderOptions) {
        self.lock().options = RenderOptions { add_generation_prompt: true, ..options };
    }

    /// The instructions, if there are some.
    pub fn system(&self) -> Option<String> {
        let talk = self.lock();
        talk.messages.first().filter(|m| m.role == Role::System).map(|m| m.content.text())
    }

    /// Gives, changes or takes away the instructions; the turns stay.
    pub fn set_system(&self, text: Option<&str>) {
        let mut talk = self.lock();
        if talk.messages.first().is_some_and(|m| m.role == Role::System) {
            talk.messages.remove(0);
        }
        if let Some(text) = text {
            talk.messages.insert(0, Message::system(text));
        }
    }

    /// Forgets the turns; the instructions stay.
    pub fn clear(&self) {
        self.lock().messages.retain(|m| m.role == Role::System);
    }

    /// What was computed for the last answer.
    pub fn stats(&self) -> Option<Stats> {
        self.lock().stats
    }

    /// Stops the answer that is under way, if one is; what was said stays in the conversation.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Says something and waits for the whole answer.
    ///
    /// # Errors
    /// If an answer is under way, or the conversation no longer fits the context; the conversation stays as it was.
    pub fn send(&self, text: &str) -> Result<Generated> {
        self.stream(text)?.finish()
    }

    /// Says something; the answer comes step by step.
    ///
    /// # Errors
    /// Those of [`ChatSession::send`].
    pub fn stream(&self, text: &str) -> Result<ReplyStream> {
        self.stream_message(Message::user(text))
    }

    /// Adds a message of any role, such as a tool's result, and lets the model answer.
    ///
    /// # Errors
    /// Those of [`ChatSession::send`].
    pub fn stream_message(&self, message: Message) -> Result<ReplyStream> {
        self.answer(|messages| {
            messages.push(message);
            Ok(())
        })
    }

    /// Gives the last answer again, another one if sampling is random.
    ///
    /// # Errors
    /// If there is no answer yet, and those of [`ChatSession::send`].
    pub fn regenerate(&self) -> Result<ReplyStream> {
        self.answer(|messages| {
            let last = messages.iter().rposition(|m| m.role != Role::Assistant && m.role != Role::System);
            let last = last.ok_or_else(|| {
                EngineError::new(ErrorKind::InvalidInput, "there is no answer to give again")
                    .with_remedy("say something first")
            })?;
            messages.truncate(last + 1);
            Ok(())
        })
    }

    /// Changes what was said in message `index` (of [`ChatSession::messages`]), drops what came after, and answers anew.
    ///
    /// # Errors
    /// If there is no such message or it is not a person's, and those of [`ChatSession::send`].
    pub fn edit(&self, index: usize, text: &str) -> Result<ReplyStream> {
        self.answer(|messages| match messages.get(index).map(|m| m.role) {
            Some(Role::User) => {
                messages.truncate(index);
                messages.push(Message::user(text));
                Ok(())
            }
            role => {
                let what =
                    role.map_or_else(|| "does not exist".to_owned(), |r| format!("is of the role {}", r.as_str()));
                Err(EngineError::new(ErrorKind::InvalidInput, format!("message {index} cannot be edited: it {what}"))
                    .with_remedy("choose a message of the user"))
            }
        })
    }

    /// Changes the turns and starts the answer to them. If it cannot start, the turns are as before.
    fn answer(&self, change: impl FnOnce(&mut Vec<Message>) -> Result<()>) -> Result<ReplyStream> {
        let mut talk = self.lock();
        if talk.answering {
            return Err(EngineError::new(ErrorKind::InvalidInput, "the session is giving an answer")
                .with_remedy("wait for its end, or cancel it"));
        }
        let mut messages = talk.messages.clone();
        change(&mut messages)?;
        let prompt = Prompt::Chat { messages: messages.clone(), options: talk.options.clone() };
        // A copy shares the caches' memory until one of them grows, and leaves the original if the prompt does not fit.
        let stream = self.engine.continue_from(talk.sequence.clone(), prompt, &talk.params)?;
        self.cancel.reset();
        talk.sequence = None;
        talk.answering = true;
        let before = std::mem::replace(&mut talk.messages, messages);
        drop(talk);
        Ok(ReplyStream {
            session: self.clone(),
            stream: Some(stream.with_cancel(self.cancel.clone())),
            said: Vec::new(),
            shown: 0,
            before: Some(before),
        })
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// If the format cannot hold it.
    pub fn export(&self, format: Format) -> Result<String> {
        let talk = self.lock();
        transcript::write(format, &self.engine.configuration().name, &talk.messages, &talk.params)
    }

    /// A conversation from text that [`ChatSession::export`] (or, for OpenAI and ShareGPT, anybody) wrote.
    ///
    /// # Errors
    /// If the text is not of this format.
    pub fn import(engine: &InferenceEngine, text: &str, format: Format) -> Result<Self> {
        let (messages, params) = transcript::read(format, text)?;
        let session = Self::with_messages(engine, messages);
        if let Some(params) = params {
            session.set_params(params)?;
        }
        Ok(session)
    }
}

/// A reply as it comes. When it ends, or is dropped, what was said becomes part of the conversation.
pub struct ReplyStream {
    session: ChatSession,
    stream: Option<TokenStream>,
    /// The reply so far.
    said: Vec<Piece>,
    /// Its pieces that were handed out.
    shown: usize,
    /// The turns as they were, in case of a failure.
    before: Option<Vec<Message>>,
}

impl ReplyStream {
    /// What stops this reply from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.session.cancel.clone()
    }

    /// Reports how much of the conversation has been read, as `(done, all)`.
    #[must_use]
    pub fn with_progress(mut self, progress: impl FnMut(usize, usize) + Send + 'static) -> Self {
        self.stream = self.stream.take().map(|s| s.with_progress(progress));
        self
    }

    /// Adds a change to the logits of one's own, run after the penalties.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.stream = self.stream.take().map(|s| s.with_processor(processor));
        self
    }

    /// Thoughts, text and calls that became certain with the steps since this was last asked.
    pub fn take_pieces(&mut self) -> Vec<Piece> {
        let from = std::mem::replace(&mut self.shown, self.said.len());
        self.said[from..].to_vec()
    }

    /// What was computed so far, and how fast.
    pub fn stats(&self) -> Stats {
        self.stream.as_ref().map_or_else(|| self.session.stats().unwrap_or_default(), TokenStream::stats)
    }

    /// Generates what is left of the reply.
    ///
    /// # Errors
    /// The first of its steps.
    pub fn finish(mut self) -> Result<Generated> {
        let (mut tokens, mut finish) = (Vec::new(), FinishReason::Cancelled);
        for step in &mut self {
            let step = step?;
            tokens.push((step.token, step.logprob));
            finish = step.finish.unwrap_or(finish);
        }
        Ok(Generated::new(std::mem::take(&mut self.said), finish, self.stats(), tokens))
    }

    /// Ends the reply: the conversation gets what was said, or becomes what it was.
    fn close(&mut self, failed: bool) {
        let Some(mut stream) = self.stream.take() else { return };
        stream.end();
        self.said.extend(stream.take_pieces());
        let mut talk = self.session.lock();
        talk.answering = false;
        talk.stats = Some(stream.stats());
        talk.sequence = Some(stream.into_sequence());
        match self.before.take() {
            Some(before) if failed => talk.messages = before,
            _ => talk.messages.push(answer::message(self.said.iter().cloned())),
        }
    }
}

impl Iterator for ReplyStream {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let stream = self.stream.as_mut()?;
        let step = stream.next();
        self.said.extend(stream.take_pieces());
        match &step {
            Some(Ok(step)) => {
                if step.finish.is_some() {
                    self.close(false);
                }
            }
            Some(Err(_)) => self.close(true),
            None => self.close(false),
        }
        step
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        self.close(false);
    }
}
