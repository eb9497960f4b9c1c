//! Standard input.

use std::io::{IsTerminal, Read, stdin};

use crate::failure::{Result, invalid, io};

/// Whether a person types there.
pub fn is_terminal() -> bool {
    stdin().is_terminal()
}

/// What is piped in, without the line end that closes it; `None` if a person types there, or if it is empty.
pub fn piped() -> Result<Option<String>> {
    if is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    stdin().read_to_end(&mut bytes).map_err(|e| io("cannot read standard input", e))?;
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        invalid(format!("standard input is not UTF-8 text: byte {at} is wrong"))
            .with_remedy("convert it to UTF-8 first")
    })?;
    let end = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}
