//! Shapes and dtypes of every operation: the one place that checks them and words what is wrong.

use std::fmt::{self, Display};

use smallvec::{SmallVec, smallvec};

use crate::{Dtype, Op, QuantFormat, QuantMode, Sdpa, Shape, Spec};

/// Inputs that do not fit an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError(String);

impl Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShapeError {}

/// What an operation returns.
pub type Specs = SmallVec<[Spec; 4]>;

/// The specs of an operation's results, or why its inputs do not fit, as in
/// `[matmul] F32[2,13,256] × F32[512,64]: inner dimensions differ`.
pub fn infer(op: &Op, inputs: &[Spec]) -> Result<Specs, ShapeError> {
    let check = Check { op, inputs };
    match *op {
        Op::Unary(_) | Op::Softmax | Op::Softcap(_) => check.arity(1)?.floats().map(|x| one(x[0])),
        Op::Binary(_) => check.arity(2)?.floats().and_then(|x| {
            let shape = broadcast(&x[0].shape, &x[1].shape).ok_or_else(|| check.wrong("shapes do not broadcast"))?;
            Ok(one(Spec::new(Dtype::F32, shape)))
        }),
        Op::Glu(_) => check.arity(2)?.floats().and_then(|x| check.all_equal().map(|_| one(x[0]))),
        Op::Select => check.arity(3)?.floats().and_then(|x| check.all_equal().map(|_| one(x[0]))),
        Op::Cast(dtype) => {
            let x = check.arity(1)?.inputs[0];
            check.that(x.dtype.is_float() && dtype.is_float(), "only floats are cast")?;
            Ok(one(Spec { dtype, ..x }))
        }
        Op::Reduce(_) => {
            let x = check.arity(1)?.floats()?[0];
            check.that(!x.shape.is_empty() && x.shape.last() > 0, "nothing to reduce")?;
            Ok(one(Spec { shape: x.shape.with_last(1), ..x }))
        }
        Op::Reshape(_) | Op::Permute(_) | Op::Slice { .. } | Op::Concat { .. } | Op::Update { .. } => check.layout(),
        Op::Take | Op::TakeAlong | Op::TopK { .. } | Op::TakeQuantized { .. } => check.indexing(),
        Op::Matmul { transpose, .. } => check.matmul(transpose),
        Op::QuantizedMatmul { format, transpose, .. } => check.quantized_matmul(format, transpose),
        Op::GatherMatmul => check.gather_matmul(),
        Op::GatherQuantizedMatmul { format, bias, .. } => check.gather_quantized_matmul(format, bias),
        Op::Quantize(format) => check.quantize(format),
        Op::Dequantize { format, rounding, .. } => {
            check.that(rounding.is_float(), "weights round to a float type")?;
            let (table, used) = check.quantized(0, format)?;
            check.arity(used)?;
            Ok(one(Spec::new(Dtype::F32, table)))
        }
        Op::RmsNorm { .. } => check.norm(2),
        Op::LayerNorm { .. } => check.norm(3),
        Op::Rope { .. } => check.rope(),
        Op::Sdpa(sdpa) => check.sdpa(sdpa),
        Op::CausalConv => check.causal_conv(),
        Op::DeltaScan => check.delta_scan(),
        Op::WkvScan => check.wkv_scan(),
        Op::SsmScan => check.ssm_scan(),
    }
}

fn one(spec: Spec) -> Specs {
    smallvec![spec]
}

/// The shape that two shapes stretch to, NumPy's way.
pub(crate) fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let size = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let mut sizes = [0; crate::shape::MAX_RANK];
    for (axis, out) in sizes[..rank].iter_mut().enumerate() {
        *out = match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return None,
        };
    }
    Some(Shape::new(&sizes[..rank]))
}

struct Check<'a> {
    op: &'a Op,
    inputs: &'a [Spec],
}

impl Check<'_> {
    fn wrong(&self, why: impl Display) -> ShapeError {
        let inputs: Vec<String> = self.inputs.iter().map(Spec::to_string).collect();
        let debug = format!("{:?}", self.op);
        let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let snake: String = name
            .char_indices()
            .flat_map(|(i, c)| (c.is_uppercase() && i > 0).then_some('_').into_iter().chain(c.to_lowercase()))
            .collect();
        ShapeError(format!("[{snake}] {}: {why}", inputs.join(" × ")))
    }

    fn that(&self, holds: bool, why: impl Display) -> Result<(), ShapeError> {
        if holds { Ok(()) } else { Err(self.wrong(why)) }
    }

    fn arity(&self, count: usize) -> Result<&Self, ShapeError> {
        self.that(self.inputs.len() == count, format_args!("takes {count} inputs"))?;
        Ok(self)
    }

    fn floats(&self) -> Result<&[Spec], ShapeError> {
        self.that(self.inputs.iter().all(|x| x.dtype == Dtype::F32), "computes on F32 alone")?;
        Ok(self.inputs)
    }

    fn all_equal(&self) -> Result<(), ShapeError> {
        self.that(self.inputs.iter().all(|x| x.shape == self.inputs[0].shape), "shapes differ")
    }

    fn layout(&self) -> Result<Specs, ShapeError> {
        self.that(!self.inputs.is_empty(), "needs an input")?;
        let x = self.inputs[0];
        Ok(one(match *self.op {
            Op::Reshape(shape) => {
                self.arity(1)?;
                self.that(shape.elements() == x.shape.elements(), format_args!("has not the elements of {shape}"))?;
                Spec { shape, ..x }
            }
            Op::Permute(axes) => {
                self.arity(1)?;
                let axes = &axes[..x.shape.len()];
                self.that(
                    (0..axes.len()).all(|axis| axes.contains(&axis)),
                    format_args!("{axes:?} is no order of its axes"),
                )?;
                let sizes: SmallVec<[usize; 6]> = axes.iter().map(|&axis| x.shape[axis]).collect();
                Spec { shape: Shape::new(&sizes), ..x }
            }
            Op::Slice { axis, start, count } => {
                self.arity(1)?;
                self.that(axis < x.shape.len(), format_args!("has no axis {axis}"))?;
                let inside = start.checked_add(count).is_some_and(|end| end <= x.shape[axis]);
                self.that(inside, format_args!("{start} + {count} entries of axis {axis} are not inside"))?;
                Spec { shape: x.shape.with_axis(axis, count), ..x }
            }
            Op::Concat { axis } => {
                self.that(axis < x.shape.len(), format_args!("has no axis {axis}"))?;
                let fits = |y: &Spec| {
                    y.dtype == x.dtype
                        && y.shape.len() == x.shape.len()
                        && y.shape.with_axis(axis, 0) == x.shape.with_axis(axis, 0)
                };
                self.that(self.inputs.iter().all(fits), format_args!("cannot be joined along axis {axis}"))?;
                Spec { shape: x.shape.with_axis(axis, self.inputs.iter().map(|y| y.shape[axis]).sum()), ..x }
            }
            Op::Update { start } => {
                self.arity(2)?;
                let y = self.inputs[1];
                let alike = !x.shape.is_empty()
                    && y.dtype == x.dtype
                    && y.shape.len() == x.shape.len()
                    && y.shape[1..] == x.shape[1..];
                self.that(alike, "rows differ")?;
                self.that(start + y.shape[0] <= x.shape[0], format_args!("rows {start} and on do not fit"))?;
                x
            }
            _ => unreachable!("only operations on layout come here"),
        }))
    }

    fn indexing(&self) -> Result<Specs, ShapeError> {
        let rows_by = |table: Shape, ids: Spec| {
            let mut sizes: SmallVec<[usize; 6]> = ids.shape.iter().copied().collect();
            sizes.push(table[1]);
            one(Spec::new(Dtype::F32, &sizes[..]))
        };
        match *self.op {
            Op::Take => {
                let [table, ids] = [self.arity(2)?.inputs[0], self.inputs[1]];
                self.that(table.shape.len() == 2 && table.dtype.is_float(), "takes rows of a float table of rank 2")?;
                self.that(ids.dtype == Dtype::U32 && ids.shape.len() < crate::shape::MAX_RANK, "ids are U32")?;
                Ok(rows_by(table.shape, ids))
            }
            Op::TakeQuantized { format, .. } => {
                let (table, used) = self.quantized(0, format)?;
                let ids = self.arity(used + 1)?.inputs[used];
                self.that(table.len() == 2 && ids.dtype == Dtype::U32, "takes rows of a table of rank 2 by U32 ids")?;
                Ok(rows_by(table, ids))
            }
            Op::TakeAlong => {
                let [x, ids] = [self.arity(2)?.inputs[0], self.inputs[1]];
                self.that(x.dtype == Dtype::F32 && ids.dtype == Dtype::U32, "takes F32 entries by U32 ids")?;
                self.that(!x.shape.is_empty() && x.shape.rows() == ids.shape.rows(), "rows differ")?;
                Ok(one(Spec { shape: ids.shape, ..x }))
            }
            Op::TopK { k } => {
                let x = self.arity(1)?.floats()?[0];
                self.that(k >= 1 && k <= x.shape.last(), format_args!("has no {k} largest"))?;
                Ok(one(Spec::new(Dtype::U32, x.shape.with_last(k))))
            }
            _ => unreachable!("only operations that index come here"),
        }
    }

    fn matmul(&self, transpose: bool) -> Result<Specs, ShapeError> {
        let [a, b] = [self.arity(2)?.inputs[0], self.inputs[1]];
        self.that(a.dtype == Dtype::F32 && b.dtype.is_float(), "multiplies F32 by floats")?;
        self.that(!a.shape.is_empty() && b.shape.len() >= 2, "needs rows and a matrix")?;
        let (rows, cols) = (b.shape[b.shape.len() - 2], b.shape.last());
        let (inner, outer) = if transpose { (cols, rows) } else { (rows, cols) };
        self.that(a.shape.last() == inner, "inner dimensions differ")?;
        if b.shape.len() > 2 {
            let batch = b.shape.len() - 2;
            let same = a.shape.len() == b.shape.len() && a.shape[..batch] == b.shape[..batch] && b.dtype == Dtype::F32;
            self.that(same, "batch dimensions differ")?;
        }
        Ok(one(Spec { shape: a.shape.with_last(outer), ..a }))
    }

    /// Checks the parts of a quantized array from input `at` on: its shape, and the index of the input after it.
    fn quantized(&self, at: usize, format: QuantFormat) -> Result<(Shape, usize), ShapeError> {
        let parts = format.parts();
        self.that(self.inputs.len() >= at + parts, format_args!("a {format} array has {parts} parts"))?;
        let [codes, scales] = [self.inputs[at], self.inputs[at + 1]];
        self.that(codes.dtype == Dtype::U32 && !codes.shape.is_empty(), "codes are U32")?;
        let columns = codes.shape.last() * 32 / format.bits as usize;
        let fits = codes.shape.last() * 32 == columns * format.bits as usize
            && columns.is_multiple_of(format.group)
            && scales.shape == codes.shape.with_last(columns / format.group);
        self.that(fits, format_args!("codes and scales do not fit {format}"))?;
        if format.mode == QuantMode::Affine {
            self.that(
                scales.dtype.is_float() && self.inputs[at + 2] == scales,
                "scales and biases are floats of one type",
            )?;
        } else {
            self.that(scales.dtype == Dtype::U8, "scales are bytes")?;
        }
        Ok((codes.shape.with_last(columns), at + parts))
    }

    fn quantized_matmul(&self, format: QuantFormat, transpose: bool) -> Result<Specs, ShapeError> {
        self.that(self.inputs.len() > 1, "needs rows and a matrix")?;
        let a = self.inputs[0];
        self.that(a.dtype == Dtype::F32 && !a.shape.is_empty(), "multiplies F32 rows")?;
        let (mut at, mut outputs) = (1, Specs::new());
        while at < self.inputs.len() {
            let (b, next) = self.quantized(at, format)?;
            self.that(b.len() == 2, "multiplies rows by a matrix")?;
            let (inner, outer) = if transpose { (b[1], b[0]) } else { (b[0], b[1]) };
            self.that(a.shape.last() == inner, "inner dimensions differ")?;
            outputs.push(Spec { shape: a.shape.with_last(outer), ..a });
            at = next;
        }
        Ok(outputs)
    }

    fn gather_matmul(&self) -> Result<Specs, ShapeError> {
        self.that(matches!(self.inputs.len(), 3 | 4), "takes x, ids, experts and perhaps a bias")?;
        let experts = self.inputs[2];
        self.that(experts.dtype.is_float() && experts.shape.len() == 3, "experts are floats [E, N, K]")?;
        self.gathered(experts.shape, self.inputs.get(3))
    }

    fn gather_quantized_matmul(&self, format: QuantFormat, bias: bool) -> Result<Specs, ShapeError> {
        let (experts, used) = self.quantized(2, format)?;
        self.arity(used + usize::from(bias))?;
        self.that(experts.len() == 3, "experts are [E, N, K]")?;
        self.gathered(experts, self.inputs.get(used))
    }

    fn gathered(&self, experts: Shape, bias: Option<&Spec>) -> Result<Specs, ShapeError> {
        let [x, ids] = [self.inputs[0], self.inputs[1]];
        self.that(
            x.dtype == Dtype::F32 && ids.dtype == Dtype::U32 && ids.shape.len() == 2,
            "gathers F32 rows by ids U32 [T, S]",
        )?;
        let rows = x.shape.len() >= 2
            && (x.shape[..x.shape.len() - 1] == ids.shape[..1] || x.shape[..x.shape.len() - 1] == *ids.shape);
        self.that(rows && x.shape.last() == experts[2], "x is [T, K] or [T, S, K]")?;
        if let Some(bias) = bias {
            self.that(bias.dtype == Dtype::F32 && *bias.shape == experts[..2], "the bias is F32 [E, N]")?;
        }
        Ok(one(Spec::new(Dtype::F32, [ids.shape[0], ids.shape[1], experts[1]])))
    }

    fn quantize(&self, format: QuantFormat) -> Result<Specs, ShapeError> {
        let x = self.arity(1)?.floats()?[0];
        let columns = x.shape.last();
        self.that(
            !x.shape.is_empty() && columns.is_multiple_of(format.group.max(32)),
            format_args!("rows are no multiple of a group of {format}"),
        )?;
        let codes = Spec::new(Dtype::U32, x.shape.with_last(columns * format.bits as usize / 32));
        let groups = x.shape.with_last(columns / format.group);
        Ok(match format.mode {
            QuantMode::Affine => smallvec![codes, Spec::new(Dtype::F32, groups), Spec::new(Dtype::F32, groups)],
            _ => smallvec![codes, Spec::new(Dtype::U8, groups)],
        })
    }

    fn norm(&self, most: usize) -> Result<Specs, ShapeError> {
        self.that(
            (1..=most).contains(&self.inputs.len()),
            format_args!("takes x and at most {} parameters", most - 1),
        )?;
        let x = self.floats()?[0];
        self.that(!x.shape.is_empty(), "needs rows")?;
        self.that(self.inputs[1..].iter().all(|p| *p.shape == [x.shape.last()]), "parameters are as long as a row")?;
        Ok(one(x))
    }

    fn rope(&self) -> Result<Specs, ShapeError> {
        let [x, cos, sin] = [self.arity(3)?.floats()?[0], self.inputs[1], self.inputs[2]];
        let fits = x.shape.len() == 3
            && cos.shape.len() == 2
            && cos == sin
            && cos.shape[0] == x.shape[0]
            && 2 * cos.shape[1] <= x.shape[2];
        self.that(fits, "rotates [T, H, D] by [T, R/2] twice, R at most D")?;
        Ok(one(x))
    }

    fn causal_conv(&self) -> Result<Specs, ShapeError> {
        self.that(matches!(self.inputs.len(), 3 | 4), "takes x, tail, weight and perhaps a bias")?;
        let [x, tail, weight] = [self.floats()?[0], self.inputs[1], self.inputs[2]];
        let channels = x.shape.last();
        let fits = [x, tail, weight].iter().all(|t| t.shape.len() == 2 && t.shape[1] == channels)
            && weight.shape[0] == tail.shape[0] + 1
            && self.inputs.get(3).is_none_or(|bias| *bias.shape == [channels]);
        self.that(fits, "convolves [T, C] after [K - 1, C] by [K, C], with a bias [C]")?;
        Ok(smallvec![x, tail])
    }

    fn delta_scan(&self) -> Result<Specs, ShapeError> {
        let [q, k, v] = [self.arity(6)?.floats()?[0], self.inputs[1], self.inputs[2]];
        let [decay, beta, state] = [self.inputs[3], self.inputs[4], self.inputs[5]];
        self.that(q.shape.len() == 3 && q == k && v.shape.len() == 3, "q and k are [T, G, Dk], v is [T, H, Dv]")?;
        let ([tokens, groups, key_dim], [heads, value_dim]) =
            ([q.shape[0], q.shape[1], q.shape[2]], [v.shape[1], v.shape[2]]);
        self.that(v.shape[0] == tokens && groups > 0 && heads.is_multiple_of(groups), "heads or lengths do not match")?;
        let gates = *beta.shape == [tokens, heads]
            && (*decay.shape == [tokens, heads] || *decay.shape == [tokens, heads, key_dim]);
        self.that(gates && *state.shape == [heads, value_dim, key_dim], "gates or state do not fit the heads")?;
        Ok(smallvec![v, state])
    }

    fn wkv_scan(&self) -> Result<Specs, ShapeError> {
        let (r, v, state) = (self.arity(7)?.floats()?[0], self.inputs[3], self.inputs[6]);
        let alike = [1, 2, 4, 5].iter().all(|part| self.inputs[*part] == r);
        self.that(alike && r.shape.len() == 3 && v.shape.len() == 3, "all but v and the state are [T, H, Dk]")?;
        let [tokens, heads, key_dim] = [r.shape[0], r.shape[1], r.shape[2]];
        self.that(v.shape[..2] == [tokens, heads] && heads > 0, "heads or lengths do not match")?;
        self.that(*state.shape == [heads, v.shape[2], key_dim], "the state does not fit the heads")?;
        Ok(smallvec![v, state])
    }

    fn ssm_scan(&self) -> Result<Specs, ShapeError> {
        let [x, dt, a, b] = [self.arity(7)?.floats()?[0], self.inputs[1], self.inputs[2], self.inputs[3]];
        let [c, d, state] = [self.inputs[4], self.inputs[5], self.inputs[6]];
        self.that(x.shape.len() == 3 && b.shape.len() == 3 && b == c, "x is [T, H, D], b and c are [T, G, N]")?;
        let ([tokens, heads, dim], [groups, state_dim]) =
            ([x.shape[0], x.shape[1], x.shape[2]], [b.shape[1], b.shape[2]]);
        self.that(b.shape[0] == tokens && groups > 0 && heads.is_multiple_of(groups), "heads or lengths do not match")?;
        let gates = *dt.shape == [tokens, heads]
            && *d.shape == [heads]
            && (*a.shape == [heads] || *a.shape == [heads, state_dim]);
        self.that(gates && *state.shape == [heads, dim, state_dim], "gates or state do not fit the heads")?;
        Ok(smallvec![x, state])
    }

    fn sdpa(&self, sdpa: Sdpa) -> Result<Specs, ShapeError> {
        self.that(self.inputs.len() >= 3, "takes q, k, v")?;
        let q = self.inputs[0];
        let (k, v, used) = match sdpa.format {
            Some(format) => {
                let (k, next) = self.quantized(1, format)?;
                let (v, next) = self.quantized(next, format)?;
                (k, v, next)
            }
            None => {
                let floats = self.inputs[1].dtype.is_float() && self.inputs[2].dtype == self.inputs[1].dtype;
                self.that(floats, "k and v are floats of one type")?;
                (self.inputs[1].shape, self.inputs[2].shape, 3)
            }
        };
        self.arity(used + usize::from(sdpa.sinks))?;
        self.that(
            q.dtype == Dtype::F32 && q.shape.len() == 3 && k.len() == 3 && v.len() == 3,
            "q, k, v are [tokens, heads, dim]",
        )?;
        self.that(k[..2] == v[..2] && q.shape[2] == k[2], "k and v have one length and q the keys' size")?;
        self.that(k[1] > 0 && q.shape[1].is_multiple_of(k[1]), "heads are no multiple of the key heads")?;
        self.that(q.shape[0] <= k[0], "there are more queries than positions")?;
        if sdpa.sinks {
            let sinks = self.inputs[used];
            self.that(sinks.dtype == Dtype::F32 && *sinks.shape == [q.shape[1]], "sinks are F32, one a head")?;
        }
        Ok(one(Spec { shape: q.shape.with_last(v[2]), ..q }))
    }
}
