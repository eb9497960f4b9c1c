//! AMX: the tile registers and their bf16 product. Rust has no intrinsics for it yet, so the instructions are written out.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::ops::Range;
use std::sync::OnceLock;

use crate::arch::tiles::{
    Block, DEPTH, Inputs, Registers, SUMS, Scalar, Softmax, TILE, Target, TileOps, multiply_in_registers, to_bf16,
};
use crate::arch::x86_64::Avx512Bf16;
use crate::codec::View;

/// The token of AMX with bf16, and of everything that [`Avx512Bf16`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Amx(Avx512Bf16);

impl Amx {
    /// `None` if the processor lacks the instructions, the system does not save their state, or a product with them is not
    /// what the stand-in computes: a wrong answer is worse than a slow one.
    pub fn new() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512Bf16::new()?;
        ALLOWED.get_or_init(|| present() && allowed() && right(Self(vectors))).then_some(Self(vectors))
    }
}

/// Whether the processor has tiles and their bf16 product, and the system saves tile configuration and data.
fn present() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const SAVED: u32 = 3 << 17;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & (BF16 | TILE) != BF16 | TILE || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let saved: u32;
    // SAFETY: the system has set OSXSAVE, so `xgetbv` may be used, and register 0 always exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack, preserves_flags)) };
    saved & SAVED == SAVED
}

/// Asks Linux for the use of tile data, which it grants to a whole process, threads to come included.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: this call takes two numbers and touches no memory of ours; `syscall` overwrites `rcx` and `r11`.
    unsafe {
        asm!("syscall", inlateout("rax") SYS_ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// Other systems have other ways, or none.
#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// Whether the product of two tiles of arbitrary numbers, added to a third, comes out as the stand-in's.
fn right(unit: Amx) -> bool {
    fn product<T: TileOps>(unit: T) -> [f32; SUMS] {
        let number = |i: usize, step: usize| to_bf16(((i * step) % 97) as f32 / 16.0 - 3.0);
        let weights: [u16; 2 * TILE] = std::array::from_fn(|i| number(i, 31));
        let inputs: [u16; 2 * TILE] = std::array::from_fn(|i| number(i, 57));
        let mut sums: [f32; SUMS] = std::array::from_fn(|i| i as f32 / 8.0);
        let block = Block {
            weights: weights.as_ptr(),
            weights_stride: 2 * TILE,
            inputs: inputs.as_ptr(),
            inputs_stride: 2 * TILE,
            sums: sums.as_mut_ptr(),
            sums_stride: SUMS,
            rows: 1,
            cols: 1,
            steps: 2,
            first: false,
        };
        // SAFETY: the block has two tiles of weights and of inputs, and one of sums.
        unsafe { unit.multiply(&mut unit.begin(), &block) };
        sums
    }
    // 64 products of at most 9 each, in any order.
    product(unit).iter().zip(product(Scalar)).all(|(a, b)| (a - b).abs() <= 64.0 * 64.0 * 9.0 * f32::EPSILON)
}

/// `ldtilecfg`'s operand.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, of each register.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, 16);
        i += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// A thread's configured tile registers; given back on drop, because a thread with tiles in use is costlier to switch away from
/// and the next task on this thread may want another configuration.
pub struct Tiles {
    /// The configuration belongs to the thread that made it.
    thread: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    fn new(_: Amx) -> Self {
        // SAFETY: the token says that the instruction exists and is allowed; the operand is a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, preserves_flags, readonly));
        }
        Self { thread: std::marker::PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a value exists only where the instruction does.
        unsafe {
            asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                out("tmm6") _, out("tmm7") _, options(nostack, preserves_flags, nomem));
        }
    }
}

// The compiler never uses tile registers of its own accord, so they keep their contents from one `asm!` to the next. No block
// is `pure`: none may be dropped or change places with another.
impl Registers for Tiles {
    #[inline(always)]
    fn zero<const T: u8>(&mut self) {
        // SAFETY: the registers are configured while `self` lives.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) };
    }
    #[inline(always)]
    unsafe fn load<const T: u8>(&mut self, p: *const u8) {
        // SAFETY: as above; the caller vouches for 16 rows of 64 bytes.
        unsafe {
            asm!("tileloadd tmm{t}, [{p} + {stride}*1]", t = const T, p = in(reg) p, stride = in(reg) 64usize,
                options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn store<const T: u8>(&mut self, p: *mut u8) {
        // SAFETY: as above.
        unsafe {
            asm!("tilestored [{p} + {stride}*1], tmm{t}", t = const T, p = in(reg) p, stride = in(reg) 64usize,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn dot<const C: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: as above.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, preserves_flags, nomem));
        }
    }
}

impl TileOps for Amx {
    type Session = Tiles;
    const ROWS: usize = 2;
    const COLS: usize = 2;
    // Two strips of weights are 28 KiB then, of the first cache's 48, and the sums' way to memory and back is paid once in
    // 56 products.
    const STEPS: usize = 14;

    fn begin(self) -> Tiles {
        Tiles::new(self)
    }
    unsafe fn multiply(self, session: &mut Tiles, block: &Block) {
        // SAFETY: passed on.
        unsafe { multiply_in_registers(session, block) };
    }
    unsafe fn pack(self, from: Inputs, to: *mut u16) {
        // SAFETY: passed on.
        unsafe { self.0.pack(from, to) };
    }
    unsafe fn line(self, x: *const f32, cols: usize, scale: f32, to: *mut u16) {
        // SAFETY: passed on.
        unsafe { self.0.line(x, cols, scale, to) };
    }
    unsafe fn pair(self, from: Inputs, to: *mut u16) {
        // SAFETY: passed on.
        unsafe { self.0.pair(from, to) };
    }
    unsafe fn weigh(self, part: &Softmax<'_>) {
        // SAFETY: passed on.
        unsafe { self.0.weigh(part) };
    }
    unsafe fn decode(self, view: &View<'_>, rows: Range<usize>, cols: Range<usize>, steps: usize, to: *mut u16) {
        // SAFETY: passed on.
        unsafe { self.0.decode(view, rows, cols, steps, to) };
    }
    unsafe fn write(self, sums: *const f32, to: Target) {
        // SAFETY: passed on.
        unsafe { self.0.write(sums, to) };
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        self.0.prefetch(p);
    }
    fn spin(self, tiles: &mut Tiles, rounds: usize) -> f64 {
        // All registers are zero: a thread just configured has them so.
        for _ in 0..rounds {
            tiles.dot::<0, 4, 6>();
            tiles.dot::<1, 4, 7>();
            tiles.dot::<2, 5, 6>();
            tiles.dot::<3, 5, 7>();
        }
        (4 * rounds * 2 * SUMS * DEPTH) as f64
    }
}
