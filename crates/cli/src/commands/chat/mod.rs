//! `mlxengine chat`: a conversation on a terminal, or one answer to what is piped in.

mod commands;
mod editor;
mod files;
mod parameters;

use std::collections::BTreeSet;
use std::path::PathBuf;

use mlxengine::{
    ChatSession, EngineError, ErrorKind, FinishReason, InferenceEngine, LlmEngine, RenderOptions, ReplyStream,
};

use crate::App;
use crate::answer;
use crate::arguments::{ChatArguments, Defaults};
use crate::failure::{Result, Stop, invalid};
use crate::input;
use crate::load::{load_to_answer, require_template};
use crate::settings::render_options;

use editor::{Editor, Typed};

/// A conversation and what belongs to it.
struct Chat<'a> {
    app: &'a App,
    session: ChatSession,
    options: RenderOptions,
    verbose: bool,
    hide_thinking: bool,
    /// Files that this conversation wrote or read, and may write again.
    own_files: BTreeSet<PathBuf>,
}

/// Chats until the user leaves.
pub fn run(arguments: &ChatArguments, app: &App) -> Result<()> {
    let model = app.settings.chat_model(arguments.model.as_deref())?;
    let piped = input::piped()?;
    if piped.is_none() {
        check_terminal(app)?;
    }
    let (engine, params) = load_to_answer(&model, &arguments.generation, Defaults::Model, app)?;
    require_template(&engine)?;
    let session = ChatSession::new(&engine);
    session.set_params(params)?;
    session.set_system(arguments.generation.system.as_deref());
    let options = render_options(&arguments.generation);
    session.set_render_options(options.clone());
    let mut chat = Chat {
        app,
        session,
        options,
        verbose: arguments.generation.verbose,
        hide_thinking: arguments.generation.hide_thinking,
        own_files: BTreeSet::new(),
    };
    match piped {
        Some(text) => chat.answer_once(&text),
        None => chat.converse(&engine),
    }
}

fn check_terminal(app: &App) -> Result<()> {
    if !input::is_terminal() {
        return Err(invalid("no prompt was given: standard input is empty")
            .with_remedy("pipe a prompt in, or chat on a terminal")
            .into());
    }
    if !app.printer.is_terminal() {
        let remedy = "to write one answer into a file, use `mlxengine run MODEL PROMPT`";
        return Err(invalid("a chat needs a terminal to print on").with_remedy(remedy).into());
    }
    Ok(())
}

impl Chat<'_> {
    fn answer_once(&mut self, text: &str) -> Result<()> {
        match self.print(self.session.stream(text)?)? {
            FinishReason::Cancelled => Err(Stop::Interrupted),
            _ => Ok(()),
        }
    }

    fn converse(&mut self, engine: &InferenceEngine) -> Result<()> {
        let c = engine.configuration();
        let printer = &self.app.printer;
        printer.answer_line(&format!("{} · {} · {}", c.name, c.family, c.quantization()))?;
        printer.line(&printer.dim("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves."))?;
        let mut editor = Editor::new(printer)?;
        loop {
            let result = match editor.read()? {
                Typed::Nothing => continue,
                Typed::End => return Ok(()),
                Typed::Message(text) => self.say(&text),
                Typed::Command(line) => match commands::run(&line, self) {
                    Ok(commands::Next::Stay) => Ok(()),
                    Ok(commands::Next::Leave) => return Ok(()),
                    Err(stop) => Err(stop),
                },
            };
            match result {
                Err(Stop::Failed(error)) => self.complain(&error),
                result => result?,
            }
        }
    }

    /// What goes wrong in a turn does not end the conversation.
    fn complain(&self, error: &EngineError) {
        self.app.printer.error(error);
        if error.kind() == ErrorKind::ContextExceeded {
            self.app.printer.hint("/clear forgets the turns so far, /edit changes one of them");
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.reply(self.session.stream(text)?)
    }

    /// Prints an answer in a conversation, and that it was stopped if it was.
    fn reply(&mut self, reply: ReplyStream) -> Result<()> {
        if self.print(reply)? == FinishReason::Cancelled {
            self.app.printer.note("(stopped; Ctrl-C once more leaves)");
        }
        Ok(())
    }

    fn print(&self, reply: ReplyStream) -> Result<FinishReason> {
        let printer = &self.app.printer;
        let mut bar = printer.bar("reading", "tokens");
        let mut reply = reply.with_progress(move |done, all| bar.update(done, all));
        let finish = {
            let _guard = self.app.interrupts.guard(reply.cancel_token());
            answer::print(&mut reply, printer, self.hide_thinking)
        };
        drop(reply);
        let finish = finish?;
        let stats = self.session.stats().unwrap_or_default();
        if let Some(why) = answer::cut(finish, &stats, &self.session.params(), self.session.engine()) {
            printer.note(&why);
        }
        if self.verbose {
            printer.note(&answer::describe(&stats));
        }
        Ok(finish)
    }
}
