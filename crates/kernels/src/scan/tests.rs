//! Scans against plain scalar code in double precision.

use super::*;
use crate::check::{self, Random};

const TOKENS: usize = 5;

/// `[state, out]`.
fn delta64(scan: &DeltaScan<'_>, state: &[f32]) -> [Vec<f64>; 2] {
    let DeltaScan { key_heads, heads, key_dim, value_dim, .. } = *scan;
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let (q, k, v, beta, decay) = (wide(scan.q), wide(scan.k), wide(scan.v), wide(scan.beta), wide(scan.decay));
    let (mut state, mut out) = (wide(state), vec![0.0; TOKENS * heads * value_dim]);
    for t in 0..TOKENS {
        for (row, s) in state.chunks_exact_mut(key_dim).enumerate() {
            let head = row / value_dim;
            let gate = t * heads + head;
            let at = (t * key_heads + head / (heads / key_heads)) * key_dim;
            for (i, s) in s.iter_mut().enumerate() {
                *s *= if decay.len() > beta.len() { decay[gate * key_dim + i] } else { decay[gate] };
            }
            let memory: f64 = s.iter().zip(&k[at..]).map(|(s, k)| s * k).sum();
            let delta = (v[t * heads * value_dim + row] - memory) * beta[gate];
            s.iter_mut().zip(&k[at..]).for_each(|(s, k)| *s += k * delta);
            out[t * heads * value_dim + row] = s.iter().zip(&q[at..]).map(|(s, q)| s * q).sum();
        }
    }
    [state, out]
}

#[test]
fn the_delta_rule_agrees_with_f64_for_all_lengths_and_in_pieces() {
    let mut random = Random::new(51);
    for cpu in check::cpus() {
        for key_dim in check::lengths().skip(1) {
            for (key_heads, heads, value_dim, vector) in [(1, 2, 7, false), (3, 3, 4, true)] {
                let mut floats = |n: usize, lo| random.floats(n + 1, lo, 1.0);
                let keys = TOKENS * key_heads * key_dim;
                let scale = (key_dim as f32).sqrt().recip();
                let (q, k) = (floats(keys, -1.0), floats(keys, -1.0).iter().map(|x| x * scale).collect::<Vec<_>>());
                let (v, beta) = (floats(TOKENS * heads * value_dim, -1.0), floats(TOKENS * heads, 0.0));
                let decay = floats(TOKENS * heads * if vector { key_dim } else { 1 }, 0.0);
                let state = floats(heads * value_dim * key_dim, -1.0);
                let [q, k, v, beta, decay, state] = [&q, &k, &v, &beta, &decay, &state].map(|x| &x[1..]);
                let scan = DeltaScan { key_heads, heads, key_dim, value_dim, q, k, v, decay, beta };
                let [want_state, want] = delta64(&scan, state);
                let (mut moved, mut out) = (state.to_vec(), vec![0.0; want.len()]);
                delta_scan(&cpu, scan, &mut moved, &mut out);
                let what = format_args!("{key_dim} numbers in a key of {key_heads} heads").to_string();
                check::close(&moved, &want_state, 1e-5, &what);
                check::close(&out, &want, 1e-5, &what);
                let (mut alone, mut rows) = (state.to_vec(), Vec::new());
                for t in 0..TOKENS {
                    let [q, k, v, decay, beta] = [q, k, v, decay, beta].map(|all| {
                        let n = all.len() / TOKENS;
                        &all[t * n..(t + 1) * n]
                    });
                    let mut out = vec![0.0; heads * value_dim];
                    delta_scan(&cpu, DeltaScan { q, k, v, decay, beta, ..scan }, &mut alone, &mut out);
                    rows.extend(out);
                }
                assert_eq!(check::bits(&rows), check::bits(&out), "in pieces: the same bits");
                assert_eq!(check::bits(&alone), check::bits(&moved), "in pieces: the same state");
            }
        }
    }
}

/// `[state, out]`.
fn wkv64(scan: &WkvScan<'_>, state: &[f32]) -> [Vec<f64>; 2] {
    let WkvScan { heads, key_dim, value_dim, .. } = *scan;
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let [r, decay, k, a, b, v] = [scan.r, scan.decay, scan.k, scan.a, scan.b, scan.v].map(wide);
    let (mut state, mut out) = (wide(state), vec![0.0; TOKENS * heads * value_dim]);
    for t in 0..TOKENS {
        for (row, s) in state.chunks_exact_mut(key_dim).enumerate() {
            let at = (t * heads + row / value_dim) * key_dim;
            let recalled: f64 = s.iter().zip(&a[at..]).map(|(s, a)| s * a).sum();
            let value = v[t * heads * value_dim + row];
            for (i, s) in s.iter_mut().enumerate() {
                *s = *s * decay[at + i] + recalled * b[at + i] + value * k[at + i];
            }
            out[t * heads * value_dim + row] = s.iter().zip(&r[at..]).map(|(s, r)| s * r).sum();
        }
    }
    [state, out]
}

#[test]
fn rwkv_agrees_with_f64_for_all_lengths_and_in_pieces() {
    let mut random = Random::new(53);
    for cpu in check::cpus() {
        for key_dim in check::lengths().skip(1) {
            for (heads, value_dim) in [(2, 7), (3, 4)] {
                let scale = (key_dim as f32).sqrt().recip();
                let mut floats = |n: usize, lo, factor: f32| -> Vec<f32> {
                    random.floats(n + 1, lo, 1.0).iter().map(|x| x * factor).collect()
                };
                let keys = TOKENS * heads * key_dim;
                let (r, decay, k) = (floats(keys, -1.0, 1.0), floats(keys, 0.0, 1.0), floats(keys, -1.0, 1.0));
                let (a, b) = (floats(keys, -1.0, scale), floats(keys, -1.0, scale));
                let (v, state) =
                    (floats(TOKENS * heads * value_dim, -1.0, 1.0), floats(heads * value_dim * key_dim, -1.0, 1.0));
                let [r, decay, k, v, a, b, state] = [&r, &decay, &k, &v, &a, &b, &state].map(|x| &x[1..]);
                let scan = WkvScan { heads, key_dim, value_dim, r, decay, k, v, a, b };
                let [want_state, want] = wkv64(&scan, state);
                let (mut moved, mut out) = (state.to_vec(), vec![0.0; want.len()]);
                wkv_scan(&cpu, scan, &mut moved, &mut out);
                let what = format_args!("{key_dim} numbers in a key of {heads} heads").to_string();
                check::close(&moved, &want_state, 1e-5, &what);
                check::close(&out, &want, 1e-5, &what);
                let (mut alone, mut rows) = (state.to_vec(), Vec::new());
                for t in 0..TOKENS {
                    let [r, decay, k, v, a, b] = [r, decay, k, v, a, b].map(|all| {
                        let n = all.len() / TOKENS;
                        &all[t * n..(t + 1) * n]
                    });
                    let mut out = vec![0.0; heads * value_dim];
                    wkv_scan(&cpu, WkvScan { r, decay, k, v, a, b, ..scan }, &mut alone, &mut out);
                    rows.extend(out);
                }
                assert_eq!(check::bits(&rows), check::bits(&out), "in pieces: the same bits");
                assert_eq!(check::bits(&alone), check::bits(&moved), "in pieces: the same state");
            }
        }
    }
}

/// `[state, out]`.
fn ssm64(scan: &SsmScan<'_>, state: &[f32]) -> [Vec<f64>; 2] {
    let SsmScan { heads, groups, dim, state_dim, .. } = *scan;
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let (x, dt, a, b, c, d) = (wide(scan.x), wide(scan.dt), wide(scan.a), wide(scan.b), wide(scan.c), wide(scan.d));
    let (mut state, mut out) = (wide(state), vec![0.0; TOKENS * heads * dim]);
    for t in 0..TOKENS {
        for (row, s) in state.chunks_exact_mut(state_dim).enumerate() {
            let head = row / dim;
            let dt = dt[t * heads + head];
            let at = (t * groups + head / (heads / groups)) * state_dim;
            let input = x[t * heads * dim + row];
            let mut y = d[head] * input;
            for (i, s) in s.iter_mut().enumerate() {
                let a = if a.len() > heads { a[head * state_dim + i] } else { a[head] };
                *s = *s * (dt * a).exp() + dt * input * b[at + i];
                y += *s * c[at + i];
            }
            out[t * heads * dim + row] = y;
        }
    }
    [state, out]
}

#[test]
fn state_spaces_agree_with_f64_for_all_lengths_and_on_any_threads() {
    let mut random = Random::new(52);
    for state_dim in check::lengths().skip(1) {
        for (heads, groups, dim, vector) in [(4, 2, 6, false), (9, 1, 1, true)] {
            let mut floats = |n: usize, lo, hi| random.floats(n + 1, lo, hi);
            let x = floats(TOKENS * heads * dim, -1.0, 1.0);
            let dt = floats(TOKENS * heads, 0.0, 1.0);
            let a = floats(heads * if vector { state_dim } else { 1 }, -4.0, 0.0);
            let shared = TOKENS * groups * state_dim;
            let (b, c) = (floats(shared, -1.0, 1.0), floats(shared, -1.0, 1.0));
            let (d, state) = (floats(heads, -1.0, 1.0), floats(heads * dim * state_dim, -1.0, 1.0));
            let [x, dt, a, b, c, d, state] = [&x, &dt, &a, &b, &c, &d, &state].map(|x| &x[1..]);
            let scan = SsmScan { heads, groups, dim, state_dim, x, dt, a, b, c, d };
            let [want_state, want] = ssm64(&scan, state);
            let mut bits = None;
            for cpu in check::cpus() {
                let (mut moved, mut out) = (state.to_vec(), vec![0.0; want.len()]);
                ssm_scan(&cpu, scan, &mut moved, &mut out);
                check::close(&moved, &want_state, 1e-5, format_args!("{state_dim} numbers in a row"));
                check::close(&out, &want, 1e-5, format_args!("{state_dim} numbers in a row"));
                let got = (cpu.isa, check::bits(&out));
                if let Some((isa, before)) = bits.replace(got.clone())
                    && isa == cpu.isa
                {
                    assert_eq!(before, got.1, "on any number of threads the same bits");
                }
            }
        }
    }
}
