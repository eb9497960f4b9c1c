//! Values of arguments that are more than a number or a text.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A whole number of 1 or more.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= 1).ok_or_else(|| "must be a whole number of 1 or more".to_owned())
}

/// Tokens a second.
pub fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|n: &f64| n.is_finite() && *n >= 0.0)
        .ok_or_else(|| "must be a number of 0 or more".to_owned())
}

/// A whole number.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "must be whole numbers, as in 512 or 0,4096".to_owned())
}

/// A number of samples, or -1 for all.
pub fn samples(text: &str) -> Result<i64, String> {
    let number = text.parse().ok().filter(|n| *n == -1 || *n >= 1);
    number.ok_or_else(|| "must be a whole number of 1 or more, or -1 for all".to_owned())
}

/// Two whole numbers of which one is not 0.
pub fn pair(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed
        .filter(|pair| *pair != (0, 0))
        .ok_or_else(|| "must be two whole numbers, prompt and answer, as in 512,128".to_owned())
}

/// A number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    let most = mlxengine::device::MAX_THREADS;
    positive(text).ok().filter(|n| *n <= most).ok_or_else(|| format!("must be a whole number from 1 to {most}"))
}

/// A number of tokens that a bounded cache may have.
pub fn cache_size(text: &str) -> Result<usize, String> {
    let least = mlxengine::CacheOptions::KEEP + 1;
    positive(text).ok().filter(|n| *n >= least).ok_or_else(|| format!("must be a whole number of {least} or more"))
}

/// A number of bytes: `500MB`, `2GiB`, or plain.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units =
        [("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30), ("kb", 1_000), ("mb", 1_000_000), ("gb", 1_000_000_000)];
    let text = text.trim().to_lowercase();
    let with_unit = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)));
    let (digits, size) = with_unit.unwrap_or((text.strip_suffix('b').unwrap_or(&text), 1));
    let bytes = digits.trim().parse::<f64>().ok().map(|n| n * size as f64).filter(|n| (1.0..1e18).contains(n));
    bytes.map(|n| n as u64).ok_or_else(|| "must be a number of bytes, as in 500MB or 2GiB".to_owned())
}

/// `NAME=DIRECTORY`, or a directory, whose last part is then the name.
pub fn adapter(text: &str) -> Result<(String, PathBuf), String> {
    let (name, directory) = match text.split_once('=') {
        Some((name, directory)) if !name.contains(std::path::is_separator) => (Some(name), Path::new(directory)),
        _ => (None, Path::new(text)),
    };
    let name = name.or_else(|| directory.file_name()?.to_str()).unwrap_or("adapter");
    match directory.as_os_str().is_empty() || name.is_empty() {
        true => Err("must be a directory, or NAME=DIRECTORY".to_owned()),
        false => Ok((name.to_owned(), directory.to_owned())),
    }
}

/// A number of 0 or more.
pub fn non_negative(text: &str) -> Result<f32, String> {
    number(text).filter(|n| *n >= 0.0).ok_or_else(|| "must be a number of 0 or more".to_owned())
}

/// A number.
pub fn finite(text: &str) -> Result<f32, String> {
    number(text).ok_or_else(|| "must be a number".to_owned())
}

/// A number from 0 to 1.
pub fn probability(text: &str) -> Result<f32, String> {
    number(text).filter(|n| (0.0..=1.0).contains(n)).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A number from 0 to 0.5: more than one token cannot be likelier than that.
pub fn threshold(text: &str) -> Result<f32, String> {
    number(text).filter(|n| (0.0..=0.5).contains(n)).ok_or_else(|| "must be a number from 0 to 0.5".to_owned())
}

fn number(text: &str) -> Option<f32> {
    text.parse().ok().filter(|n: &f32| n.is_finite())
}

/// `ID=BIAS`.
pub fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.trim().parse().ok()?, number(bias.trim())?)));
    parsed.ok_or_else(|| "must be a token's id and a number, as in 42=-1.5".to_owned())
}

/// `KEY=JSON`.
pub fn template_variable(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=JSON, as in enable_thinking=false")?;
    let parsed = serde_json::from_str(value)
        .map_err(|_| format!("`{value}` is not JSON; true, 5 and \"text\" are, and text needs its quotes"))?;
    Ok((key.trim().to_owned(), parsed))
}

/// A JSON object.
pub fn template_variables(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("must be a JSON object, as in {{\"enable_thinking\": false}}: {e}"))
}

/// JSON, or the name of a file with it.
pub fn json(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with(['{', '[']) || ["true", "false"].contains(&text.trim()) {
        return serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"));
    }
    serde_json::from_str(&text_file(text)?).map_err(|e| format!("the file {text} is not JSON: {e}"))
}

/// The text of a file.
pub fn text_file(name: &str) -> Result<String, String> {
    std::fs::read_to_string(name).map_err(|e| format!("cannot read the file {name}: {e}"))
}

/// A text that is not empty.
pub fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_mean_something_pass() {
        assert_eq!(non_negative("0.7"), Ok(0.7));
        for bad in ["nan", "inf", "-0.1", "", "1,5", "1e99"] {
            assert!(non_negative(bad).is_err(), "{bad}");
        }
        assert!(positive("1").is_ok() && positive("0").is_err() && positive("-1").is_err());
        assert!(count("0").is_ok() && count("-1").is_err() && count("g").is_err());
        assert!(samples("-1").is_ok() && samples("0").is_err() && samples("-2").is_err());
        assert!(threads("9999").is_err() && cache_size("4").is_err() && cache_size("5").is_ok());
        assert!(finite("-2").is_ok() && finite("NaN").is_err());
        assert!(probability("1").is_ok() && probability("1.01").is_err());
        assert!(threshold("0.5").is_ok() && threshold("0.6").is_err());
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("512,0"), Ok((512, 0)));
        for bad in ["512", "0,0", "1,2,3", "a,1"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
        assert_eq!(logit_bias("42=-1.5"), Ok((42, -1.5)));
        for bad in ["42", "x=1", "1=nan", "-1=2"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
        assert_eq!(template_variable("enable_thinking=false"), Ok(("enable_thinking".into(), Value::Bool(false))));
        assert_eq!(template_variable("a=\"b=c\""), Ok(("a".into(), Value::String("b=c".into()))));
        assert!(template_variable("name=Ada").unwrap_err().contains("`Ada` is not JSON"));
        assert!(template_variables("[1]").is_err());
    }
}
