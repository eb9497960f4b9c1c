//! What a line with a slash does.

use mlxengine::memory::human;
use mlxengine::{ChatSession, LlmEngine, Role};

use super::{Chat, files, parameters};
use crate::answer;
use crate::failure::{Result, invalid};
use crate::nearest::nearest;

/// A command of the conversation.
pub struct Command {
    /// Its name, without the slash.
    pub name: &'static str,
    others: &'static [&'static str],
    /// What may follow the name.
    pub takes: &'static str,
    does: &'static str,
    run: fn(&mut Chat<'_>, &str) -> Result<Next>,
}

/// What comes after a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The next line.
    Stay,
    /// The end of the program.
    Leave,
}

/// Every command, in the order of `/help`.
pub const COMMANDS: &[Command] = &[
    Command { name: "help", others: &["?"], takes: "", does: "list the commands", run: help },
    Command {
        name: "system",
        others: &[],
        takes: "[TEXT]",
        does: "show the instructions, or give new ones; `-` takes them away",
        run: system,
    },
    Command {
        name: "save",
        others: &[],
        takes: "[--force] FILE",
        does: "write the conversation, as .json, .md or .txt",
        run: files::save,
    },
    Command {
        name: "load",
        others: &[],
        takes: "FILE",
        does: "go on with a conversation that was saved",
        run: files::load,
    },
    Command {
        name: "adapter",
        others: &[],
        takes: "[NAME]",
        does: "list the loaded adapters, or answer under one; `-` answers without",
        run: adapter,
    },
    Command { name: "clear", others: &[], takes: "", does: "forget the turns; the instructions stay", run: clear },
    Command {
        name: "regenerate",
        others: &["retry"],
        takes: "",
        does: "answer the last message again",
        run: regenerate,
    },
    Command {
        name: "edit",
        others: &[],
        takes: "[#N] TEXT",
        does: "change your last message, or number N, and go on from there; alone: list them",
        run: edit,
    },
    Command {
        name: "set",
        others: &[],
        takes: "[NAME [VALUE]]",
        does: "show the parameters, or change one; `default` is what the model's makers advise",
        run: parameters::set,
    },
    Command {
        name: "stats",
        others: &[],
        takes: "",
        does: "counts and speeds of the last answer, context and memory",
        run: stats,
    },
    Command { name: "bye", others: &["exit", "quit"], takes: "", does: "leave, as Ctrl-D does", run: bye },
];

/// Runs a command.
pub fn run(line: &str, chat: &mut Chat<'_>) -> Result<Next> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match COMMANDS.iter().find(|c| c.name == name || c.others.contains(&name)) {
        Some(command) if command.takes.is_empty() && !rest.trim().is_empty() => {
            Err(invalid(format!("/{name} takes nothing after it")).into())
        }
        Some(command) => (command.run)(chat, rest.trim()),
        None => {
            let names = COMMANDS.iter().flat_map(|c| c.others.iter().copied().chain([c.name]));
            let meant =
                nearest(name, names).map_or("/help lists them".to_owned(), |name| format!("did you mean /{name}?"));
            let remedy = format!("{meant} (to say it to the model, put a space before it)");
            Err(invalid(format!("there is no command /{name}")).with_remedy(remedy).into())
        }
    }
}

fn help(chat: &mut Chat<'_>, _: &str) -> Result<Next> {
    let printer = &chat.app.printer;
    let usage = |c: &Command| format!("/{} {}", c.name, c.takes);
    let width = COMMANDS.iter().map(|c| usage(c).len()).max().unwrap_or(0);
    for command in COMMANDS {
        let others: String = command.others.iter().map(|name| format!(", also /{name}")).collect();
        let usage = printer.bold(&format!("{:width$}", usage(command)));
        printer.line(&format!("  {usage}  {}{others}", command.does))?;
    }
    printer.line("  \"\"\" begins and ends a message of several lines; what is pasted is one message too")?;
    printer.line("  Ctrl-C stops an answer; at an empty prompt it leaves, as Ctrl-D does")?;
    Ok(Next::Stay)
}

fn system(chat: &mut Chat<'_>, text: &str) -> Result<Next> {
    match text {
        "" => {
            let system = chat.session.system();
            chat.app.printer.answer_line(system.as_deref().unwrap_or("(no instructions)"))?;
        }
        "-" => chat.session.set_system(None),
        text => chat.session.set_system(Some(text)),
    }
    Ok(Next::Stay)
}

fn adapter(chat: &mut Chat<'_>, name: &str) -> Result<Next> {
    let (names, mut params) = (chat.session.engine().adapters()?, chat.session.params());
    if name.is_empty() {
        let shown = |name: &String| {
            let mark = if params.adapter.as_ref() == Some(name) { "*" } else { " " };
            format!("{mark} {name}")
        };
        let lines: Vec<String> = names.iter().map(shown).collect();
        chat.app.printer.line(&if lines.is_empty() {
            "(no adapter is loaded: --adapter does)".to_owned()
        } else {
            lines.join("\n")
        })?;
        return Ok(Next::Stay);
    }
    params.adapter = if name == "-" { None } else { Some(name.to_owned()) };
    if let Some(name) = params.adapter.as_ref().filter(|name| !names.contains(name)) {
        return Err(invalid(format!("there is no adapter {name}"))
            .with_remedy("/adapter lists those that are loaded")
            .into());
    }
    chat.session.set_params(params)?;
    Ok(Next::Stay)
}

fn clear(chat: &mut Chat<'_>, _: &str) -> Result<Next> {
    chat.session.clear();
    chat.app.printer.line("(the turns are forgotten)")?;
    Ok(Next::Stay)
}

fn regenerate(chat: &mut Chat<'_>, _: &str) -> Result<Next> {
    chat.reply(chat.session.regenerate()?)?;
    Ok(Next::Stay)
}

fn edit(chat: &mut Chat<'_>, rest: &str) -> Result<Next> {
    let own = own_messages(&chat.session);
    if rest.is_empty() {
        for (number, (_, text)) in own.iter().enumerate() {
            chat.app.printer.answer_line(&format!("  #{} {}", number + 1, text.replace('\n', " ")))?;
        }
        if own.is_empty() {
            chat.app.printer.line("(no messages yet)")?;
        }
        return Ok(Next::Stay);
    }
    let (number, text) = edited(rest, own.len())?;
    let (index, _) = number.checked_sub(1).and_then(|n| own.get(n)).ok_or_else(|| {
        let count = own.len();
        invalid(format!("there is no message #{number} of yours; there are {count}"))
            .with_remedy("/edit alone lists them")
    })?;
    chat.reply(chat.session.edit(*index, text)?)?;
    Ok(Next::Stay)
}

/// The user's messages, with their places in the conversation.
fn own_messages(session: &ChatSession) -> Vec<(usize, String)> {
    let messages = session.messages();
    messages.iter().enumerate().filter(|(_, m)| m.role == Role::User).map(|(i, m)| (i, m.content.text())).collect()
}

/// The number of the message and its new text, from `[#N] TEXT`.
fn edited(rest: &str, last: usize) -> Result<(usize, &str)> {
    let Some((number, text)) =
        rest.strip_prefix('#').map(|rest| rest.split_once(char::is_whitespace).unwrap_or((rest, "")))
    else {
        return Ok((last, rest));
    };
    match number.parse() {
        Ok(number) if !text.trim().is_empty() => Ok((number, text.trim())),
        Ok(number) => Err(invalid(format!("/edit #{number} needs the new text")).into()),
        // A text may begin with a hash.
        Err(_) => Ok((last, rest)),
    }
}

fn stats(chat: &mut Chat<'_>, _: &str) -> Result<Next> {
    let (printer, engine) = (&chat.app.printer, chat.session.engine());
    let Some(stats) = chat.session.stats() else {
        printer.line("(no answer yet)")?;
        return Ok(Next::Stay);
    };
    let reading = match stats.prompt_speed() {
        0.0 => String::new(),
        speed => format!(" · prompt read at {speed:.1} tokens/s"),
    };
    printer.line(&format!("{}{reading}", answer::describe(&stats)))?;
    let used = stats.prompt_tokens + stats.generated_tokens;
    let context = engine.context().map_or(String::new(), |n| format!(" of {n}"));
    let plan = engine.memory_plan(used);
    printer.line(&format!(
        "context: {used}{context} tokens · memory: weights {}, cache {}, activations {} · model {}",
        human(plan.weights),
        human(plan.cache),
        human(plan.activations),
        engine.configuration().name,
    ))?;
    Ok(Next::Stay)
}

fn bye(_: &mut Chat<'_>, _: &str) -> Result<Next> {
    Ok(Next::Leave)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = COMMANDS.iter().flat_map(|c| c.others.iter().copied().chain([c.name])).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn edits_name_a_message_or_mean_the_last() {
        assert_eq!(edited("new text", 3).unwrap(), (3, "new text"));
        assert_eq!(edited("#2 new text", 3).unwrap(), (2, "new text"));
        assert_eq!(edited("#hash tag", 3).unwrap(), (3, "#hash tag"));
        assert!(edited("#2", 3).is_err());
    }
}
