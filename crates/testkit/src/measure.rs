//! How far two arrays are apart.

use std::fmt::Debug;

use mlxengine_models::{Error, ErrorKind};

/// The worst difference that a check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure {
    /// The difference where it is largest in relation to its tolerance.
    pub error: f64,
    /// The tolerance there.
    pub tolerance: f64,
    /// What is wrong, if something is.
    pub fault: Option<String>,
}

/// Why a check has no measure.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// Something that has to work did not.
    Failed(String),
    /// What it needs does not exist yet.
    NotRun(String),
}

impl Stop {
    /// Something that has to work did not.
    pub fn failed(why: impl Into<String>) -> Self {
        Stop::Failed(why.into())
    }

    /// What the check needs does not exist yet.
    pub fn not_run(why: impl Into<String>) -> Self {
        Stop::NotRun(why.into())
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        match e.kind() {
            ErrorKind::UnsupportedModel | ErrorKind::UnsupportedQuantization => Stop::NotRun(e.to_string()),
            _ => Stop::Failed(e.to_string()),
        }
    }
}

impl From<mlxengine_engine::EngineError> for Stop {
    fn from(e: mlxengine_engine::EngineError) -> Self {
        Stop::Failed(e.to_string())
    }
}

impl Measure {
    /// `|got - want| <= atol + rtol * |want|`, entry by entry; infinities have to be the same.
    ///
    /// # Errors
    /// If the arrays differ in length.
    pub fn close(got: &[f32], want: &[f32], [atol, rtol]: [f64; 2]) -> Result<Measure, Stop> {
        let tolerances = want.iter().map(|w| if w.is_finite() { atol + rtol * f64::from(w.abs()) } else { atol });
        Self::within(got, want, tolerances)
    }

    /// `|got - want|` at most the tolerance of each entry.
    ///
    /// # Errors
    /// If the arrays differ in length.
    pub fn within(got: &[f32], want: &[f32], tolerances: impl IntoIterator<Item = f64>) -> Result<Measure, Stop> {
        if got.len() != want.len() {
            return Err(Stop::failed(format!("{} numbers were computed, {} recorded", got.len(), want.len())));
        }
        let mut worst = Measure::default();
        let (mut ratio, mut wrong) = (-1.0, 0);
        for (i, ((g, w), tolerance)) in got.iter().zip(want).zip(tolerances).enumerate() {
            let error = if g == w { 0.0 } else { (f64::from(*g) - f64::from(*w)).abs() };
            let error = if error.is_nan() { f64::INFINITY } else { error };
            let bad = error.is_infinite() || error > tolerance;
            wrong += usize::from(bad);
            let relation = if error == 0.0 { 0.0 } else { error / tolerance };
            if relation > ratio {
                ratio = relation;
                let fault = bad.then(|| format!("entry {i}: got {g}, want {w}"));
                worst = Measure { error, tolerance, fault };
            }
        }
        if let Some(fault) = &mut worst.fault {
            *fault = format!("{wrong} of {} differ; {fault}", got.len());
        }
        Ok(worst)
    }

    /// Equality entry by entry; the error is the number of entries that differ.
    ///
    /// # Errors
    /// If the arrays differ in length.
    pub fn exact<T: PartialEq + Debug>(got: &[T], want: &[T]) -> Result<Measure, Stop> {
        if got.len() != want.len() {
            return Err(Stop::failed(format!("{} entries were computed, {} recorded", got.len(), want.len())));
        }
        let mut differing = got.iter().zip(want).enumerate().filter(|(_, (g, w))| g != w);
        let first = differing.next();
        let count = differing.count() + usize::from(first.is_some());
        let fault =
            first.map(|(i, (g, w))| format!("{count} of {} differ; entry {i}: got {g:?}, want {w:?}", got.len()));
        Ok(Measure { error: count as f64, tolerance: 0.0, fault })
    }

    /// Equality of two things; a difference counts 1.
    pub fn equal<T: PartialEq + Debug + ?Sized>(what: &str, got: &T, want: &T) -> Measure {
        let fault = (got != want).then(|| format!("{what}: got {got:?}, want {want:?}"));
        Measure { error: f64::from(u8::from(fault.is_some())), tolerance: 0.0, fault }
    }

    /// The worse of two measures.
    #[must_use]
    pub fn or_worse(self, other: Measure) -> Measure {
        let relation = |m: &Measure| (m.fault.is_some(), m.error / m.tolerance.max(f64::MIN_POSITIVE));
        if relation(&other) > relation(&self) { other } else { self }
    }

    /// The worst of several measures, with the name of where it is; those that count differences are added up.
    ///
    /// # Errors
    /// The first stop among them.
    pub fn worst(measures: impl IntoIterator<Item = (String, Result<Measure, Stop>)>) -> Result<Measure, Stop> {
        let mut worst = Measure::default();
        for (name, measure) in measures {
            let mut measure = match measure {
                Ok(measure) => measure,
                Err(Stop::Failed(why)) => return Err(Stop::Failed(format!("{name}: {why}"))),
                Err(stop) => return Err(stop),
            };
            if let Some(fault) = &mut measure.fault {
                *fault = format!("{name}: {fault}");
            }
            let counted = measure.tolerance == 0.0 && worst.tolerance == 0.0;
            let sum = worst.error + measure.error;
            worst = worst.or_worse(measure);
            if counted {
                worst.error = sum;
            }
        }
        Ok(worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_relation_to_the_tolerance_is_reported() {
        let m = Measure::close(&[1.0, 2.5, 100.0], &[1.0, 2.0, 101.0], [0.5, 0.1]).unwrap();
        assert_eq!((m.error, m.tolerance, m.fault), (0.5, 0.7, None));
        let m = Measure::close(&[1.0, f32::NEG_INFINITY], &[1.5, f32::NEG_INFINITY], [0.1, 0.0]).unwrap();
        assert!(m.error == 0.5 && m.fault.unwrap().starts_with("1 of 2 differ; entry 0"));
        for (got, want) in [(f32::NAN, 1.0), (1.0, f32::INFINITY), (f32::INFINITY, f32::NEG_INFINITY)] {
            assert!(Measure::close(&[got], &[want], [1.0, 0.0]).unwrap().fault.is_some(), "{got} {want}");
        }
        assert!(Measure::close(&[1.0], &[], [1.0, 0.0]).is_err());
    }

    #[test]
    fn differences_are_counted() {
        let m = Measure::exact(&[1, 2, 3], &[1, 0, 0]).unwrap();
        assert!(m.error == 2.0 && m.fault.unwrap().contains("entry 1: got 2, want 0"));
        let equal = |got| ("x".to_owned(), Ok(Measure::equal("it", &got, &1)));
        let m = Measure::worst([equal(1), equal(2), equal(3)]).unwrap();
        assert!(m.error == 2.0 && m.fault.unwrap().starts_with("x: it: got 2"));
    }
}
