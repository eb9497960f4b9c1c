//! The rows that a case gives.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Case, Kind, Measure, Stop};

/// How a check ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Within the tolerance.
    Pass,
    /// Not within it, or it could not be computed: why.
    Fail(String),
    /// What it needs does not exist yet: what that is.
    NotRun(String),
}

/// One check of one case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the case records.
    pub kind: Kind,
    /// The case's name.
    pub case: String,
    /// The family of its model; empty where there is none.
    pub family: String,
    /// What was compared.
    pub check: String,
    /// The difference where it is largest in relation to its tolerance; for exact checks how many entries differ.
    pub max_error: Option<f64>,
    /// The tolerance there; 0 for exact checks.
    pub tolerance: Option<f64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The rows of a case, being written.
pub(crate) struct Sheet<'a> {
    case: &'a Case,
    rows: Vec<Row>,
}

impl<'a> Sheet<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Sheet { case, rows: Vec::new() }
    }

    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Makes one check; a panic in it is a failure.
    pub(crate) fn check(&mut self, name: impl Into<String>, check: impl FnOnce() -> Result<Measure, Stop>) {
        let result = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        self.push(name.into(), result);
    }

    /// Runs what makes the checks of the case; where it stops by itself, there is a row that says so.
    pub(crate) fn whole(&mut self, checks: impl FnOnce(&mut Self) -> Result<(), Stop>) {
        let result =
            catch_unwind(AssertUnwindSafe(|| checks(self))).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        if let Err(stop) = result {
            self.push("case".to_owned(), Err(stop));
        }
    }

    fn push(&mut self, check: String, result: Result<Measure, Stop>) {
        let (max_error, tolerance, outcome) = match result {
            Ok(Measure { error, tolerance, fault: None }) => (Some(error), Some(tolerance), Outcome::Pass),
            Ok(Measure { error, tolerance, fault: Some(why) }) => (Some(error), Some(tolerance), Outcome::Fail(why)),
            Err(Stop::Failed(why)) => (None, None, Outcome::Fail(why)),
            Err(Stop::NotRun(why)) => (None, None, Outcome::NotRun(why)),
        };
        let case = self.case;
        self.rows.push(Row {
            kind: case.kind,
            case: case.id.clone(),
            family: case.family.clone(),
            check,
            max_error,
            tolerance,
            outcome,
        });
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Stop {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Stop::failed(format!("panicked: {}", message.unwrap_or("no message")))
}

/// Keeps panics from writing to the terminal: their messages are in the rows.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// A text that lists the rows that failed; none if there are none.
pub fn failures<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<String> {
    let line = |row: &Row| match &row.outcome {
        Outcome::Fail(why) => {
            let error = row
                .max_error
                .map_or(String::new(), |e| format!(" error {e:.3e} tolerance {:.3e}", row.tolerance.unwrap_or(0.0)));
            Some(format!("{}/{} {}:{error} {why}", row.kind, row.case, row.check))
        }
        _ => None,
    };
    let lines: Vec<String> = rows.into_iter().filter_map(line).collect();
    (!lines.is_empty()).then(|| format!("{} checks failed:\n{}", lines.len(), lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_and_the_next_check_runs() {
        let case = Case {
            kind: Kind::Llm,
            id: "x".to_owned(),
            family: String::new(),
            dir: Default::default(),
            root: Default::default(),
            manifest: Default::default(),
        };
        let mut sheet = Sheet::new(&case);
        sheet.whole(|sheet| {
            sheet.check("one", || panic!("a {} fault", "bad"));
            sheet.check("two", || Ok(Measure::default()));
            Err(Stop::not_run("no reason"))
        });
        let outcomes: Vec<Outcome> = sheet.rows.iter().map(|r| r.outcome.clone()).collect();
        let want =
            [Outcome::Fail("panicked: a bad fault".to_owned()), Outcome::Pass, Outcome::NotRun("no reason".to_owned())];
        assert_eq!(outcomes, want);
        assert_eq!(failures(&sheet.rows).unwrap(), "1 checks failed:\nllm/x one: panicked: a bad fault");
    }
}
