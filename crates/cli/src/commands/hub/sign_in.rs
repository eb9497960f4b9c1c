//! `mlxengine login`, `logout` and `whoami`.

use mlxengine::hub::{HubConfig, HuggingFaceApi, Token, remove_token, write_token};

use crate::App;
use crate::failure::{Result, invalid};
use crate::hub_arguments::LoginArguments;
use crate::input;

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

/// Reads a token that is typed.
fn ask() -> Result<String> {
    let typed = rustyline::DefaultEditor::new().and_then(|mut editor| editor.readline("token: "));
    typed.map_err(|_| crate::failure::Stop::Interrupted)
}

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
