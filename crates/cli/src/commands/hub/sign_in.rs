//! `mlxengine login`, `logout` and `whoami`.

use std::borrow::Cow;

use mlxengine::hub::{HubConfig, HuggingFaceApi, Token, remove_token, write_token};
use rustyline::completion::Completer;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{ColorMode, Config, Editor, Helper};

use crate::App;
use crate::failure::{Result, Stop, invalid};
use crate::hub_arguments::LoginArguments;
use crate::{input, settings};

/// Keeps a token, once the Hub has said whose it is.
pub fn login(arguments: &LoginArguments, app: &App) -> Result<()> {
    let text = match &arguments.token {
        Some(token) => token.clone(),
        None if input::is_terminal() => ask()?,
        None => input::piped()?.unwrap_or_default(),
    };
    let token = Token::new(&text).ok_or_else(|| {
        invalid("no token was given").with_remedy("make one at https://huggingface.co/settings/tokens, and pipe it in")
    })?;
    let config = HubConfig { token: Some(token.clone()), ..app.settings.hub()? };
    if !config.offline {
        let user = HuggingFaceApi::new(&config)?.whoami()?;
        app.printer.note(&format!("the token belongs to {}", user.map(|user| user.name).unwrap_or_default()));
    }
    let file = app.settings.token_file()?;
    write_token(file, &token)?;
    app.printer.note(&format!("it is kept in {}", file.display()));
    if app.settings.has_token_of_environment() {
        app.printer.hint("HF_TOKEN is set, and wins over it");
    }
    Ok(())
}

/// Reads a token that is typed, which the terminal does not show.
fn ask() -> Result<String> {
    if !settings::edits_lines() {
        let error = invalid("this terminal would show the token");
        return Err(error.with_remedy("pipe it in, as in `mlxengine login < FILE`").into());
    }
    // Hiding it is a matter of colours to the editor.
    let config = Config::builder().color_mode(ColorMode::Forced).build();
    let history = MemHistory::with_config(&config);
    let typed = Editor::with_history(config, history).and_then(|mut editor| {
        editor.set_helper(Some(Hidden));
        editor.readline("token (it is not shown): ")
    });
    typed.map_err(|_| Stop::Interrupted)
}

/// Shows stars in place of what is typed.
struct Hidden;

impl Highlighter for Hidden {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        Cow::Owned("*".repeat(line.chars().count()))
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        true
    }
}

impl Completer for Hidden {
    type Candidate = String;
}

impl Hinter for Hidden {
    type Hint = String;
}

impl Validator for Hidden {}

impl Helper for Hidden {}

/// Forgets the token.
pub fn logout(app: &App) -> Result<()> {
    let was = remove_token(app.settings.token_file()?)?;
    app.printer.note(if was { "the token is forgotten" } else { "no token was kept" });
    if app.settings.has_token_of_environment() {
        app.printer.hint("HF_TOKEN is still set");
    }
    Ok(())
}

/// Says whose the token is.
pub fn whoami(app: &App) -> Result<()> {
    let Some(user) = HuggingFaceApi::new(&app.settings.hub()?)?.whoami()? else {
        return Err(invalid("you are not signed in").with_remedy("do so with `mlxengine login`").into());
    };
    app.printer.answer_line(&user.name)?;
    if !user.organizations.is_empty() {
        app.printer.note(&format!("of {}", user.organizations.join(", ")));
    }
    Ok(())
}
