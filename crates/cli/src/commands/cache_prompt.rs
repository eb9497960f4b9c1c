//! `mlxengine cache-prompt`: reads a prompt once, for many answers.

use mlxengine::{ErrorKind, Message, Prompt, RenderOptions};

use crate::App;
use crate::arguments::CachePromptArguments;
use crate::failure::{Result, Stop, invalid};
use crate::input;
use crate::load::{load, require_template};

/// Reads the prompt and writes the file.
pub fn run(arguments: &CachePromptArguments, app: &App) -> Result<()> {
    let text = match arguments.prompt.as_str() {
        "-" => input::piped()?.ok_or_else(|| invalid("there is nothing to read").with_remedy("pipe the prompt in"))?,
        text => text.to_owned(),
    };
    let engine = load(&arguments.model, &app.settings.load_options(&arguments.load), app)?;
    let prompt = if arguments.raw {
        Prompt::Text(text)
    } else {
        require_template(&engine)?;
        let system = arguments.system.as_deref().map(Message::system);
        let messages = system.into_iter().chain([Message::user(text)]).collect();
        // The turn stays open: what is asked about the text goes on from its end.
        let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
        Prompt::Chat { messages, options }
    };
    let cancel = mlxengine::CancelToken::new();
    let _guard = app.interrupts.guard(cancel.clone());
    let mut bar = app.printer.bar("reading the prompt", "tokens");
    let adapter = arguments.load.adapters.first().map(|(name, _)| name.as_str());
    let read = engine.read(prompt, adapter, |done, all| {
        bar.update(done, all);
        !cancel.is_cancelled()
    });
    drop(bar);
    let sequence = match read {
        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(Stop::Interrupted),
        read => read?,
    };
    engine.save_sequence(&sequence, &arguments.prompt_cache_file)?;
    let (file, count) = (arguments.prompt_cache_file.display(), sequence.tokens().len());
    app.printer.note(&format!("{count} tokens are kept in {file}"));
    Ok(())
}
