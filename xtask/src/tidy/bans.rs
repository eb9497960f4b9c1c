//! What code may not do, or only in one place: print, read the environment, reach the network, be unfinished.

use super::Violation;
use super::tokens::{Token, closing, matches};
use super::tree::{File, Tree};

/// A sequence of tokens that is banned outside its place.
struct Ban {
    rule: &'static str,
    sequences: &'static [&'static [&'static str]],
    /// Why, and where instead.
    message: &'static str,
    allowed: fn(&File) -> bool,
    /// Whether tests and developers' tools may.
    tests: bool,
}

const BANS: [Ban; 4] = [
    Ban {
        rule: "print",
        sequences: &[&["println", "!"], &["eprintln", "!"], &["print", "!"], &["eprint", "!"], &["dbg", "!"]],
        message: "only crates/cli/src/printer.rs prints",
        allowed: |file| file.path == "crates/cli/src/printer.rs",
        tests: true,
    },
    Ban {
        rule: "environment",
        sequences: &[
            &["env", ":", ":", "var"],
            &["env", ":", ":", "var_os"],
            &["env", ":", ":", "vars"],
            &["env", ":", ":", "vars_os"],
            &["env", ":", ":", "set_var"],
            &["env", ":", ":", "remove_var"],
            &["env", ":", ":", "{"],
            &["option_env", "!"],
        ],
        message: "only crates/cli/src/settings.rs reads the environment",
        allowed: |file| file.path == SETTINGS,
        tests: true,
    },
    Ban {
        rule: "network",
        sequences: &[&["std", ":", ":", "net"], &["TcpStream"], &["TcpListener"], &["UdpSocket"]],
        message: "engine and everything below it never touch the network",
        allowed: |file| !OFFLINE.iter().any(|folder| file.path.starts_with(folder)),
        tests: false,
    },
    Ban {
        rule: "unfinished",
        sequences: &[&["todo", "!"], &["unimplemented", "!"]],
        message: "finish it, or return an error that says what is not supported",
        allowed: |_| false,
        tests: false,
    },
];

const SETTINGS: &str = "crates/cli/src/settings.rs";

const OFFLINE: [&str; 4] = ["crates/kernels/", "crates/tensor/", "crates/models/", "crates/engine/"];

/// Banned code.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust() {
        let developers = file.is_for_developers();
        for ban in &BANS {
            if (ban.allowed)(file) || (ban.tests && developers) {
                continue;
            }
            let places = (0..file.tokens.len()).filter(|&at| !(ban.tests && file.tokens[at].test));
            let found = places.filter(|&at| ban.sequences.iter().any(|sequence| matches(&file.tokens, at, sequence)));
            violations.extend(found.map(|at| {
                let message = format!("`{}`: {}", file.tokens[at].text, ban.message);
                Violation::new(&file.path, file.tokens[at].line, ban.rule, message)
            }));
        }
        if file.path != SETTINGS && !developers {
            violations.extend(argument_variables(&file.tokens).map(|line| {
                let message = format!("an argument with a variable belongs into {SETTINGS}");
                Violation::new(&file.path, line, "environment", message)
            }));
        }
    }
    violations
}

/// Lines of `#[arg(…, env …)]`, by which clap reads the environment.
fn argument_variables(tokens: &[Token]) -> impl Iterator<Item = usize> {
    let arguments = (0..tokens.len()).filter(|&at| matches(tokens, at, &["#", "[", "arg", "("]));
    arguments.flat_map(|at| &tokens[at..closing(tokens, at + 1)]).filter(|t| t.text == "env").map(|t| t.line)
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        let said = said(check, &[(path, text)]);
        said.iter().map(|line| line.split(": ").nth(1).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn printing_is_for_the_printer_and_for_tests() {
        let text = "fn f() { println!(\"{}\", 1); }";
        assert_eq!(rules("crates/engine/src/a.rs", text), ["print"]);
        for path in ["crates/cli/src/printer.rs", "xtask/src/main.rs", "crates/cli/tests/run.rs", "crates/a/build.rs"] {
            assert_eq!(rules(path, text), [""; 0], "{path}");
        }
        assert_eq!(rules("crates/engine/src/a.rs", "#[cfg(test)] mod tests { fn f() { dbg!(1); } }"), [""; 0]);
        assert_eq!(rules("crates/engine/src/a.rs", "/// `println!(1)`\nfn f() { g(\"println!(1)\"); }"), [""; 0]);
    }

    #[test]
    fn the_environment_is_for_the_settings() {
        for text in
            ["fn f() { std::env::var(\"A\"); }", "use std::env::{args, var};", "const A: X = option_env!(\"A\");"]
        {
            assert_eq!(rules("crates/cli/src/main.rs", text), ["environment"], "{text}");
            assert_eq!(rules(SETTINGS, text), [""; 0], "{text}");
        }
        assert_eq!(
            rules("crates/cli/src/main.rs", "fn f() { std::env::args(); env!(\"CARGO_PKG_VERSION\"); }"),
            [""; 0]
        );
        let argument = "struct A { #[arg(long, env = \"A\")] a: bool }";
        assert_eq!(rules("crates/cli/src/main.rs", argument), ["environment"]);
        assert_eq!(rules(SETTINGS, argument), [""; 0]);
    }

    #[test]
    fn lower_crates_are_offline() {
        assert_eq!(rules("crates/engine/src/a.rs", "use std::net::IpAddr;"), ["network"]);
        assert_eq!(rules("crates/server/src/a.rs", "use std::net::IpAddr;"), [""; 0]);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        assert_eq!(
            rules("crates/cli/tests/a.rs", "fn f() { todo!() } fn g() { unimplemented!(\"g\") }"),
            ["unfinished"; 2]
        );
    }
}
