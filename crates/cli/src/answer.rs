//! Printing an answer as it comes, and saying how it went.

use mlxengine::{
    FinishReason, GenerateParams, InferenceEngine, Piece, ReplyStream, Speculation, Stats, Step, TokenStream,
};
use serde_json::json;

use crate::failure::Result;
use crate::printer::Printer;

/// An answer as it comes, in steps and in pieces.
pub trait Answer: Iterator<Item = mlxengine::Result<Step>> {
    /// What became certain since this was last asked.
    fn pieces(&mut self) -> Vec<Piece>;
}

impl Answer for TokenStream {
    fn pieces(&mut self) -> Vec<Piece> {
        self.take_pieces()
    }
}

impl Answer for ReplyStream {
    fn pieces(&mut self) -> Vec<Piece> {
        self.take_pieces()
    }
}

/// Prints an answer to its end, which is a line end. An answer that was stopped just ends. Thoughts are for people: they
/// are shown on a terminal, unless `hide` says not to.
pub fn print(answer: &mut impl Answer, printer: &Printer, hide: bool) -> Result<FinishReason> {
    let mut page = Page { printer, thoughts: printer.is_terminal() && !hide, thinking: false, open_line: true };
    let mut finish = FinishReason::Cancelled;
    let mut print_steps = || {
        while let Some(step) = answer.next() {
            finish = step?.finish.unwrap_or(finish);
            answer.pieces().iter().try_for_each(|piece| page.print(piece))?;
        }
        answer.pieces().iter().try_for_each(|piece| page.print(piece))
    };
    let result = print_steps();
    if page.open_line {
        printer.text("\n")?;
    }
    result.map(|()| finish)
}

/// Where an answer is printed.
struct Page<'a> {
    printer: &'a Printer,
    thoughts: bool,
    /// Thoughts were printed last.
    thinking: bool,
    open_line: bool,
}

impl Page<'_> {
    fn print(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Reasoning(text) if self.thoughts => {
                self.thinking = true;
                self.printer.thought(text)
            }
            Piece::Reasoning(_) => Ok(()),
            Piece::Text(text) => self.text(text),
            Piece::Call(call) => {
                let call = json!({"id": call.id, "name": call.function.name, "arguments": call.function.arguments});
                let line = if self.open_line && !self.thinking { "" } else { "\n" };
                self.text(&format!("{line}{call}\n"))
            }
            Piece::Broken { text, reason } => {
                self.text(text)?;
                self.printer.note(&format!("a call of a tool could not be read: {reason}"));
                Ok(())
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        if std::mem::take(&mut self.thinking) {
            self.printer.text("\n\n")?;
        }
        if !text.is_empty() {
            self.open_line = !text.ends_with('\n');
        }
        self.printer.answer(text)
    }
}

/// Why an answer is shorter than the model wanted, if it is and nobody asked for that.
pub fn cut(finish: FinishReason, stats: &Stats, params: &GenerateParams, engine: &InferenceEngine) -> Option<String> {
    let asked_for = params.max_tokens.is_some_and(|max| stats.generated_tokens >= max);
    match engine.context() {
        Some(context) if finish == FinishReason::Length && !asked_for => {
            Some(format!("the answer was cut: prompt and answer together reached the context of {context} tokens"))
        }
        _ => None,
    }
}

/// Counts and speeds in one line.
pub fn describe(stats: &Stats) -> String {
    if stats.generated_tokens == 0 {
        return format!("{} prompt tokens · stopped before the first token", stats.prompt_tokens);
    }
    let drafts = stats.speculation.as_ref().map(drafts).unwrap_or_default();
    format!(
        "{} prompt tokens ({} cached + {} read) · first token after {:.0} ms · {} tokens at {:.1} tokens/s{drafts}",
        stats.prompt_tokens,
        stats.cached_tokens,
        stats.prompt_tokens - stats.cached_tokens,
        stats.time_to_first_token.as_secs_f64() * 1000.0,
        stats.generated_tokens,
        stats.decode_speed(),
    )
}

/// What drafts were worth, to be added to a line.
fn drafts(speculation: &Speculation) -> String {
    let Speculation { drafted, accepted, .. } = speculation;
    let (share, each) = (100.0 * speculation.acceptance(), speculation.tokens_per_pass());
    let mut text =
        format!(" · {accepted} of {drafted} drafted tokens accepted ({share:.0} %), {each:.2} tokens a pass");
    if let Some(factor) = speculation.speed_up() {
        text += &format!(", by its plain steps {factor:.2} times as fast as without");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn statistics_read_well() {
        let stats = Stats {
            prompt_tokens: 30,
            cached_tokens: 20,
            generated_tokens: 11,
            time_to_first_token: Duration::from_millis(20),
            decode_time: Duration::from_millis(100),
            speculation: None,
        };
        let want = "30 prompt tokens (20 cached + 10 read) · first token after 20 ms · 11 tokens at 100.0 tokens/s";
        assert_eq!(describe(&stats), want);
        let speculation = Speculation {
            drafted: 9,
            accepted: 6,
            passes: 3,
            time: Duration::from_millis(60),
            plain_passes: 2,
            plain_time: Duration::from_millis(40),
        };
        let said = describe(&Stats { speculation: Some(speculation), ..stats });
        let end = " · 6 of 9 drafted tokens accepted (67 %), 2.20 tokens a pass, by its plain steps 2.20 times as fast as without";
        assert_eq!(said, format!("{want}{end}"));
        let early = Stats { generated_tokens: 0, ..stats };
        assert_eq!(describe(&early), "30 prompt tokens · stopped before the first token");
    }
}
