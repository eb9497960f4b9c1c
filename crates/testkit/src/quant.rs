//! Quantized arrays: codes and scales, the weights they stand for, and products with them.

use half::{bf16, f16};
use mlxengine_tensor::{Dtype, Op, Precision, QuantFormat, QuantMode, QuantizedTensor, Tensor, Tensors, Weight};
use serde_json::Value;

use crate::golden::{Golden, words};
use crate::manifest::{QuantEntry, Quantized};
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop};

fn format(entry: &QuantEntry) -> Result<QuantFormat, Stop> {
    let mode = match entry.mode.as_str() {
        "affine" => QuantMode::Affine,
        "mxfp4" => QuantMode::Mxfp4,
        "mxfp8" => QuantMode::Mxfp8,
        "nvfp4" => QuantMode::Nvfp4,
        other => return Err(Stop::not_run(format!("quantization mode {other} is not known"))),
    };
    if mode == QuantMode::Affine && !matches!(entry.bits, 1..=6 | 8) {
        let message = format!("{}-bit affine is no supported format: 1 to 6 and 8 bits are", entry.bits);
        return Err(Stop::not_run(message));
    }
    Ok(QuantFormat { mode, bits: entry.bits, group: entry.group_size })
}

fn dtype(entry: &QuantEntry) -> Result<Dtype, Stop> {
    match entry.dtype.as_str() {
        "f32" => Ok(Dtype::F32),
        "f16" => Ok(Dtype::F16),
        "bf16" => Ok(Dtype::Bf16),
        other => Err(Stop::failed(format!("{}: no type is called {other:?}", entry.key))),
    }
}

/// The recorded array as a weight.
fn stored(golden: &Golden, key: &str, format: QuantFormat) -> Result<QuantizedTensor, Stop> {
    let biases = format!("{key}.biases");
    Ok(QuantizedTensor {
        format,
        codes: golden.raw(&format!("{key}.wq"))?,
        scales: golden.raw(&format!("{key}.scales"))?,
        biases: if golden.has(&biases) { Some(golden.raw(&biases)?) } else { None },
        multiplier: 1.0,
    })
}

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Quantized = case.read()?;
    let golden = Golden::open(case)?;
    let relative = number(&manifest.tolerance, "qmm_f32_rel_to_sum_abs")?;
    for entry in &manifest.entries {
        let key = &entry.key;
        let format = match format(entry) {
            Ok(format) => format,
            Err(stop) => {
                sheet.check(key, || Err(stop));
                continue;
            }
        };
        sheet.check(format!("{key}.quantize"), || quantize(&golden, entry, format));
        if golden.has(&format!("{key}.deq")) {
            sheet.check(format!("{key}.dequantize"), || {
                let got = stored(&golden, key, format)?.dequantize(dtype(entry)?);
                Measure::exact(got.f32s(), golden.f32(&format!("{key}.deq"))?.f32s())
            });
        }
        for (name, input, transpose) in [("qmm_t", "x", true), ("qmm_n", "xt", false)] {
            if golden.has(&format!("{key}.{name}")) {
                sheet.check(format!("{key}.{name}"), || {
                    let x = golden.f32(&format!("{input}.{}", entry.dtype))?;
                    let want = golden.f32(&format!("{key}.{name}"))?;
                    product(&x, &stored(&golden, key, format)?, &want, (transpose, relative))
                });
            }
        }
    }
    Ok(())
}

fn number(tolerance: &Value, key: &str) -> Result<f64, Stop> {
    tolerance
        .get(key)
        .and_then(Value::as_f64)
        .ok_or_else(|| Stop::failed(format!("the manifest has no tolerance {key}")))
}

/// Codes and scales have to be the very bits.
fn quantize(golden: &Golden, entry: &QuantEntry, format: QuantFormat) -> Result<Measure, Stop> {
    let dtype = dtype(entry)?;
    let w = golden.f32(&format!("w.{}", entry.dtype))?;
    let whole: Vec<bool> =
        w.f32s().chunks_exact(format.group).map(|group| comparable(group, dtype, format.mode)).collect();
    let parts = w.quantize(format);
    let want = stored(golden, &entry.key, format)?;
    let codes = |codes: &Tensor| keep(&words(codes), &whole);
    let mut measures = vec![("codes".to_owned(), Measure::exact(&codes(&parts[0]), &codes(&want.codes)))];
    let arrays = [("scales", Some(&want.scales)), ("biases", want.biases.as_ref())];
    for ((name, want), got) in arrays.into_iter().zip(&parts[1..]) {
        let want = want.ok_or_else(|| Stop::failed(format!("no {name} were recorded")))?;
        let measure = match want.dtype() {
            Dtype::U8 => Measure::exact(&keep(got.bytes(), &whole), &keep(want.bytes(), &whole)),
            _ => {
                let rounded: Vec<u32> = got.f32s().iter().map(|x| round(*x, dtype).to_bits()).collect();
                let want = want.to_f32().ok_or_else(|| Stop::failed(format!("{name} are no numbers")))?;
                Measure::exact(&rounded, &want.f32s().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            }
        };
        measures.push((name.to_owned(), measure));
    }
    Measure::worst(measures)
}

/// Whether a group's scale was recorded as the format defines it. It divides the largest number by the largest code; MLX's
/// CPU backend, which made the recordings, divides `f16` in `f16`, where the quotient of small numbers loses its bits. Its
/// Metal backend divides in `f32`, as is done here.
fn comparable(group: &[f32], dtype: Dtype, mode: QuantMode) -> bool {
    let most = match mode {
        QuantMode::Affine => return true,
        QuantMode::Mxfp8 => 448.0,
        QuantMode::Mxfp4 | QuantMode::Nvfp4 => 6.0,
    };
    let quotient = group.iter().fold(0f32, |most, x| most.max(x.abs())) / most;
    dtype != Dtype::F16 || quotient == 0.0 || quotient >= f16::MIN_POSITIVE.to_f32()
}

/// The entries of the groups that are compared.
fn keep<T: Copy>(entries: &[T], groups: &[bool]) -> Vec<T> {
    let each = entries.len() / groups.len();
    entries
        .chunks_exact(each)
        .zip(groups)
        .filter(|(_, keep)| **keep)
        .flat_map(|(entries, _)| entries.iter().copied())
        .collect()
}

fn round(x: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// `x · w` or `x · wᵀ`.
fn multiply(x: &Tensor, w: &QuantizedTensor, transpose: bool) -> Tensor {
    if transpose {
        return x.linear(&Weight::Quantized(w.clone()), Precision::Exact);
    }
    let mut inputs = Tensors::new();
    inputs.extend([x.clone(), w.codes.clone(), w.scales.clone()]);
    inputs.extend(w.biases.clone());
    Tensor::apply(
        &Op::QuantizedMatmul { format: w.format, transpose, multiplier: w.multiplier, precision: Precision::Exact },
        inputs,
    )
}

/// A product, with an error in relation to the sum of the magnitudes that it adds up.
fn product(
    x: &Tensor,
    w: &QuantizedTensor,
    want: &Tensor,
    (transpose, relative): (bool, f64),
) -> Result<Measure, Stop> {
    let got = multiply(x, w, transpose);
    let dense = w.dequantize(Dtype::F32);
    let (rows, cols) = (dense.shape()[0], dense.shape()[1]);
    let (n, k) = if transpose { (rows, cols) } else { (cols, rows) };
    let magnitude = |m: usize, j: usize| -> f64 {
        let at = |i: usize| if transpose { j * cols + i } else { i * cols + j };
        (0..k).map(|i| f64::from(x.f32s()[m * k + i].abs()) * f64::from(dense.f32s()[at(i)].abs())).sum()
    };
    let sums: Vec<f64> =
        (0..x.shape()[0]).flat_map(|m| (0..n).map(move |j| (m, j))).map(|(m, j)| magnitude(m, j)).collect();
    let mut measure = Measure::within(got.f32s(), want.f32s(), sums.iter().map(|sum| relative * sum))?;
    // As a ratio, like the tolerance that the recording states.
    let scale = relative / measure.tolerance.max(f64::MIN_POSITIVE);
    if measure.tolerance > 0.0 {
        (measure.error, measure.tolerance) = (measure.error * scale, relative);
    }
    Ok(measure)
}

/// Products of which each row has a matrix of its own, as mixtures of experts use them.
pub(crate) fn gather(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Quantized = case.read()?;
    let golden = Golden::open(case)?;
    let atol = number(&manifest.tolerance, "abs")?;
    let ids = |name: &str, shape: [usize; 2]| Ok::<_, Stop>(Tensor::from_u32(&golden.u32(name)?, shape));
    let rows = |name: &str| {
        let x = golden.f32(name)?;
        let shape = [x.shape().rows(), x.shape().last()];
        Ok::<_, Stop>(x.reshape(shape))
    };
    for entry in &manifest.entries {
        let key = &entry.key;
        let weight = || stored(&golden, key, format(entry)?);
        sheet.check(format!("{key}.gather_qmm_t"), || {
            let x = rows("x")?;
            let picks = ids("rhs_indices", [x.shape()[0], 2])?;
            let got = x.gather_linear(&picks, &Weight::Quantized(weight()?), None, Precision::Exact);
            Measure::close(got.f32s(), golden.f32(&format!("{key}.gather_qmm_t"))?.f32s(), [atol, 0.0])
        });
        sheet.check(format!("{key}.gather_qmm_t_sorted"), || {
            let x = rows("x_sorted")?;
            let picks = ids("rhs_sorted", [x.shape()[0], 1])?;
            let got = x.gather_linear(&picks, &Weight::Quantized(weight()?), None, Precision::Exact);
            Measure::close(got.f32s(), golden.f32(&format!("{key}.gather_qmm_t_sorted"))?.f32s(), [atol, 0.0])
        });
        sheet.check(format!("{key}.gather_qmm_n_lhs"), || {
            let (x, stack) = (rows("xn")?, weight()?);
            let pairs = golden.u32("lhs_indices")?.into_iter().zip(golden.u32("rhs_for_lhs")?);
            let parts: Vec<Tensor> = pairs
                .map(|(row, expert)| {
                    multiply(&x.clone().slice(0, row as usize, 1), &one(&stack, expert as usize), false)
                })
                .collect();
            let want = golden.f32(&format!("{key}.gather_qmm_n_lhs"))?;
            Measure::close(Tensor::concat(parts, 0).f32s(), want.f32s(), [atol, 0.0])
        });
    }
    sheet.check("dense.gather_mm", || {
        let x = rows("x")?;
        let picks = ids("rhs_indices", [x.shape()[0], 2])?;
        let got = x.gather_linear(&picks, &Weight::Dense(golden.raw("w")?), None, Precision::Exact);
        Measure::close(got.f32s(), golden.f32("dense.gather_mm")?.f32s(), [atol, 0.0])
    });
    Ok(())
}

/// One matrix of a stack.
fn one(stack: &QuantizedTensor, index: usize) -> QuantizedTensor {
    let cut = |t: &Tensor| {
        let shape = [t.shape()[1], t.shape()[2]];
        t.clone().slice(0, index, 1).reshape(shape)
    };
    QuantizedTensor {
        codes: cut(&stack.codes),
        scales: cut(&stack.scales),
        biases: stack.biases.as_ref().map(cut),
        ..stack.clone()
    }
}
