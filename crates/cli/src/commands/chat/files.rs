//! Conversations in files: `/save` and `/load`.

use std::fs;
use std::path::{Path, PathBuf};

use mlxengine::{ChatSession, Format};

use super::Chat;
use super::commands::Next;
use crate::arguments::typed_path;
use crate::failure::{Result, invalid, io};

/// `/save [--force] FILE`.
pub fn save(chat: &mut Chat<'_>, rest: &str) -> Result<Next> {
    let (force, rest) = match rest.strip_prefix("--force") {
        Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => (true, rest.trim()),
        _ => (false, rest),
    };
    let (path, format) = file(chat, rest, "save")?;
    let exists = path.symlink_metadata().is_ok();
    if exists && !force && !chat.own_files.contains(&path) {
        let message = format!("{} exists already, and is not from this conversation", path.display());
        return Err(invalid(message).with_remedy(format!("choose another name, or /save --force {rest}")).into());
    }
    write(&path, &chat.session.export(format)?)?;
    let count = chat.session.messages().len();
    let how = if exists { "replaced" } else { "saved" };
    chat.app.printer.line(&format!("({how} {}: {count} messages)", path.display()))?;
    chat.own_files.insert(path);
    Ok(Next::Stay)
}

/// `/load FILE`.
pub fn load(chat: &mut Chat<'_>, rest: &str) -> Result<Next> {
    let (path, format) = file(chat, rest, "load")?;
    let text = fs::read_to_string(&path).map_err(|e| io(format!("cannot read {}", path.display()), e))?;
    let engine = chat.session.engine();
    let session = ChatSession::import(engine, &text, format).map_err(|e| e.in_context(path.display()))?;
    if format != Format::Json {
        // Files for people do not say how answers are sampled.
        session.set_params(chat.session.params())?;
    }
    session.set_render_options(chat.options.clone());
    chat.session = session;
    let count = chat.session.messages().len();
    chat.app.printer.line(&format!("(loaded {}: {count} messages)", path.display()))?;
    chat.own_files.insert(path);
    Ok(Next::Stay)
}

fn file(chat: &Chat<'_>, typed: &str, command: &str) -> Result<(PathBuf, Format)> {
    if typed.is_empty() {
        return Err(invalid(format!("/{command} needs the name of a file"))
            .with_remedy(format!("as in /{command} talk.md"))
            .into());
    }
    let path = typed_path(typed, chat.app.settings.home());
    let format = Format::of_file(typed).ok_or_else(|| {
        invalid(format!("the name {typed} does not say the format")).with_remedy("end it with .json, .md or .txt")
    })?;
    Ok((path, format))
}

/// Writes a file whole or not at all: beside its place first, then moved there.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut beside = path.file_name().map(|name| name.to_owned()).unwrap_or_default();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(beside);
    let failed = |e| io(format!("cannot write {}", path.display()), e);
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    written.map_err(|e| {
        // Nothing is left behind; if that fails too, the first error says why.
        let _ = fs::remove_file(&beside);
        failed(e).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole() {
        let folder = std::env::temp_dir().join(format!("mlxengine-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("talk.md");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(write(&folder.join("no/such/talk.md"), "x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
