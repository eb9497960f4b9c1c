//! Rows as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use mlxengine_testkit::{Outcome, Row};

/// Longest reason in a line of the table; the rest of it is in the JSON.
const REASON: usize = 160;

/// One aligned line a row.
pub fn table(rows: &[Row]) -> String {
    let head = ["family", "case", "check", "max error", "tolerance", "outcome"].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for [family, case, check, error, tolerance, outcome] in &lines {
        let [f, c, k, e, t, _] = widths;
        let line = format!("{family:f$}  {case:c$}  {check:k$}  {error:>e$}  {tolerance:>t$}  {outcome}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 6] {
    let number = |x: Option<f64>| match x {
        None => "-".to_owned(),
        Some(x) if x.fract() == 0.0 && x < 1e6 => format!("{x}"),
        Some(x) => format!("{x:.2e}"),
    };
    let outcome = match &row.outcome {
        Outcome::Pass => "pass".to_owned(),
        Outcome::Fail(why) => format!("FAIL: {}", short(why)),
        Outcome::NotRun(why) => format!("not run: {}", short(why)),
    };
    let family = if row.family.is_empty() { "-" } else { &row.family };
    let case = format!("{}/{}", row.kind, row.case);
    [family.to_owned(), case, row.check.clone(), number(row.max_error), number(row.tolerance), outcome]
}

fn short(why: &str) -> String {
    let line = why.replace('\n', "\\n");
    match line.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// How many passed, failed and were skipped, and why those were skipped.
pub fn summary(rows: &[Row]) -> String {
    let (mut passed, mut failed) = (0, 0);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        match &row.outcome {
            Outcome::Pass => passed += 1,
            Outcome::Fail(_) => failed += 1,
            Outcome::NotRun(why) => *reasons.entry(why).or_default() += 1,
        }
    }
    let skipped: usize = reasons.values().sum();
    let mut text = format!("\n{passed} passed, {failed} failed, {skipped} skipped\n");
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (why, count) in reasons {
        let _ = writeln!(text, "  {count} skipped: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlxengine_testkit::Kind;

    fn row(check: &str, max_error: Option<f64>, outcome: Outcome) -> Row {
        Row {
            kind: Kind::Llm,
            case: "llama".to_owned(),
            family: "llama".to_owned(),
            check: check.to_owned(),
            max_error,
            tolerance: max_error.map(|_| 4e-4),
            outcome,
        }
    }

    #[test]
    fn columns_are_aligned_and_reasons_grouped() {
        let rows = [
            row("p0.full", Some(1.25e-5), Outcome::Pass),
            row("batch", None, Outcome::NotRun("no reason".to_owned())),
            row("text", Some(1.0), Outcome::Fail("x\ny".to_owned())),
        ];
        let want = "\
family  case       check    max error  tolerance  outcome
llama   llm/llama  p0.full    1.25e-5    4.00e-4  pass
llama   llm/llama  batch            -          -  not run: no reason
llama   llm/llama  text             1    4.00e-4  FAIL: x\\ny
";
        assert_eq!(table(&rows), want);
        assert_eq!(summary(&rows), "\n1 passed, 1 failed, 1 skipped\n  1 skipped: no reason\n");
    }
}
