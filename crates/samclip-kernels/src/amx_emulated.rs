//! AMX on processors without it: its instructions fault, and the fault's handler does what they would have done.
//!
//! For tests and accuracy runs on machines that have AVX-512 BF16 but no AMX (feature `amx-emulation`): the same machine
//! code runs, with its addresses, strides and order. A fault costs microseconds, so the handler goes on through the counting
//! and jumping of our loops until it meets anything else. Much slower than AMX; never part of a release.
//!
//! Source: Intel's Software Developer's Manual, volume 2, `LDTILECFG` to `TDPBF16PS` and the VEX prefix. Difference: what
//! the manual says to fault (a configuration that is not palette 1, tiles that do not fit) is not looked for.
use std::arch::asm;
use std::cell::UnsafeCell;

/// The tile state of a thread.
struct State {
    /// Rows and bytes a row of each tile.
    shapes: [(usize, usize); 8],
    tiles: [[[u32; 16]; 16]; 8],
}

thread_local! {
    // no destructor and a constant start: nothing is allocated when a handler asks for it
    static STATE: UnsafeCell<State> = const { UnsafeCell::new(State { shapes: [(0, 0); 8], tiles: [[[0; 16]; 16]; 8] }) };
}

/// Answers illegal instructions from now on; false where the system refuses.
pub(crate) fn install() -> bool {
    // SAFETY: `on_fault` has the signature that SA_SIGINFO asks for and touches only the faulting thread's own state.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) == 0
    }
}

extern "C" fn on_fault(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid context; the faulting thread stands still, so its tile state is ours alone.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize] as *const u8;
        let mut at = rip;
        STATE.with(|state| {
            let state = &mut *state.get();
            let Some(length) = state.step(rip, registers) else { return };
            at = at.add(length);
            while let Some(next) = state.step(at, registers).map(|length| at.add(length)).or_else(|| go_on(at, registers)) {
                at = next;
            }
        });
        match at == rip {
            true => drop(libc::signal(libc::SIGILL, libc::SIG_DFL)), // not ours: it faults again, and the process ends
            false => registers[libc::REG_RIP as usize] = at as i64,
        }
    }
}

const VEX3: u8 = 0xc4;
/// The zero flag, and those that an addition sets: carry, parity, adjust, zero, sign, overflow.
const ZF: i64 = 1 << 6;
const ARITHMETIC: i64 = 0x8d5;
const CF: i64 = 1;

/// Does one of the instructions between AMX's in our loops and says where it leads; none where `at` holds another one.
///
/// # Safety
/// `at` is where the thread whose registers these are goes on.
unsafe fn go_on(at: *const u8, registers: &mut [i64; 23]) -> Option<*const u8> {
    // SAFETY: contract above; no instruction is read beyond its own bytes.
    unsafe {
        let zero = registers[libc::REG_EFL as usize] & ZF != 0;
        match (*at, *at.add(1)) {
            (0x90, _) => return Some(at.add(1)),
            (opcode @ (0x74 | 0x75), distance) => {
                let after = at.add(2);
                return Some(if zero == (opcode == 0x74) { after.offset(isize::from(distance as i8)) } else { after });
            }
            (0x0f, opcode @ (0x84 | 0x85)) => {
                let (after, distance) = (at.add(6), at.add(2).cast::<i32>().read_unaligned());
                return Some(if zero == (opcode == 0x84) { after.offset(distance as isize) } else { after });
            }
            // fetches into the cache, without and with an extended base
            (0x0f, 0x18) => return Some(at.add(2 + operand(at.add(2), (0, 0), registers).length)),
            (0x41, 0x0f) if *at.add(2) == 0x18 => return Some(at.add(3 + operand(at.add(3), (8, 0), registers).length)),
            (0x48 | 0x49, 0xff | 0x81 | 0x83) => {}
            _ => return None,
        }
        let (opcode, modrm) = (*at.add(1), *at.add(2));
        let (change, length) = match (opcode, modrm & 0xf8) {
            (0xff, 0xc8) => (-1, 3),
            (0x83, 0xc0) => (i64::from(*at.add(3).cast::<i8>()), 4),
            (0x81, 0xc0) => (i64::from(at.add(3).cast::<i32>().read_unaligned()), 7),
            _ => return None,
        };
        let register = NUMBERED[usize::from(modrm & 7 | (*at & 1) << 3)] as usize;
        let flags: i64;
        asm!("add {}, {}", "pushfq", "pop {}", inout(reg) registers[register], in(reg) change, lateout(reg) flags);
        let changed = if opcode == 0xff { ARITHMETIC & !CF } else { ARITHMETIC }; // dec leaves the carry
        let kept = registers[libc::REG_EFL as usize] & !changed;
        registers[libc::REG_EFL as usize] = kept | flags & changed;
        Some(at.add(length))
    }
}

/// A row of the context's general registers for each number in an instruction.
const NUMBERED: [libc::c_int; 16] = [
    libc::REG_RAX, libc::REG_RCX, libc::REG_RDX, libc::REG_RBX, libc::REG_RSP, libc::REG_RBP, libc::REG_RSI, libc::REG_RDI,
    libc::REG_R8, libc::REG_R9, libc::REG_R10, libc::REG_R11, libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15,
];

/// What an instruction names in memory: address, the index register's value, and bytes of the instruction so far.
struct Operand {
    address: *mut u8,
    index: usize,
    length: usize,
}

/// # Safety
/// `at` is the ModRM byte of an instruction whose VEX prefix extends base and index by `extend`.
unsafe fn operand(at: *const u8, extend: (u8, u8), registers: &[i64; 23]) -> Operand {
    // SAFETY: contract above.
    unsafe {
        let (mode, rm) = (*at >> 6, *at & 7);
        let value = |number: u8| registers[NUMBERED[usize::from(number)] as usize] as usize;
        let (base, index, mut length) = match rm {
            4 => {
                let sib = *at.add(1);
                let index = match sib >> 3 & 7 | extend.1 {
                    4 => 0,
                    number => value(number) << (sib >> 6),
                };
                (value(sib & 7 | extend.0), index, 2)
            }
            rm => (value(rm | extend.0), 0, 1),
        };
        let displacement = match mode {
            1 => i64::from(*at.add(length).cast::<i8>()),
            2 => i64::from(at.add(length).cast::<i32>().read_unaligned()),
            _ => 0,
        };
        length += [0, 1, 4, 0][usize::from(mode)];
        Operand { address: base.wrapping_add_signed(displacement as isize) as *mut u8, index, length }
    }
}

impl State {
    /// Does one AMX instruction and gives its length; none where `at` holds another one.
    ///
    /// # Safety
    /// `at` is where the thread whose registers these are goes on.
    unsafe fn step(&mut self, at: *const u8, registers: &[i64; 23]) -> Option<usize> {
        // SAFETY: contract above; memory operands are the ones that the instruction would access.
        unsafe {
            if *at != VEX3 || *at.add(1) & 0x1f != 2 {
                return None; // not in the map 0F38
            }
            let (first, second, opcode, modrm) = (*at.add(1), *at.add(2), *at.add(3), *at.add(4));
            let extend = ((!first >> 5 & 1) << 3, (!first >> 6 & 1) << 3);
            let tile = usize::from(modrm >> 3 & 7);
            let memory = || operand(at.add(4), extend, registers);
            let length = match (opcode, second & 3, modrm >> 6) {
                (0x49, 0, 3) => {
                    self.configure([(0, 0); 8]);
                    1
                }
                (0x49, 0, _) => {
                    let from = memory();
                    let row = |i: usize| usize::from(*from.address.add(48 + i));
                    let bytes = |i: usize| usize::from(from.address.add(16 + 2 * i).cast::<u16>().read_unaligned());
                    self.configure(std::array::from_fn(|i| (row(i), bytes(i))));
                    from.length
                }
                (0x49, 3, 3) => {
                    self.tiles[tile] = [[0; 16]; 16];
                    1
                }
                (0x4b, 1 | 3, _) => {
                    let from = memory();
                    self.load(tile, from.address, from.index);
                    from.length
                }
                (0x4b, 2, _) => {
                    let to = memory();
                    self.store(tile, to.address, to.index);
                    to.length
                }
                (0x5c, 2, 3) => {
                    self.multiply(tile, usize::from(modrm & 7), usize::from(!second >> 3 & 7));
                    1
                }
                _ => return None,
            };
            Some(4 + length)
        }
    }

    fn configure(&mut self, shapes: [(usize, usize); 8]) {
        self.shapes = shapes;
        self.tiles = [[[0; 16]; 16]; 8];
    }

    /// # Safety
    /// The tile's rows can be read.
    unsafe fn load(&mut self, tile: usize, from: *const u8, stride: usize) {
        let (rows, bytes) = self.shapes[tile];
        self.tiles[tile] = [[0; 16]; 16];
        for (i, row) in self.tiles[tile].iter_mut().enumerate().take(rows) {
            // SAFETY: contract above; a row of a tile holds at most 64 bytes.
            unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(i * stride), row.as_mut_ptr().cast(), bytes.min(64)) }
        }
    }

    /// # Safety
    /// The tile's rows can be written.
    unsafe fn store(&self, tile: usize, to: *mut u8, stride: usize) {
        let (rows, bytes) = self.shapes[tile];
        for (i, row) in self.tiles[tile].iter().enumerate().take(rows) {
            // SAFETY: contract above.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr().cast(), to.wrapping_add(i * stride), bytes.min(64)) }
        }
    }

    /// Sums of the even and of the odd products apart, then both, then onto C; subnormal numbers are zero.
    fn multiply(&mut self, c: usize, a: usize, b: usize) {
        let (depth, rows) = (self.shapes[a].1.min(64) / 4, self.shapes[c].0.min(16));
        let b = self.tiles[b];
        let a = self.tiles[a];
        // SAFETY: the processor has AVX-512 (checked where emulation is chosen); the handler's return restores MXCSR.
        unsafe { multiply_rows(&mut self.tiles[c][..rows], &a, &b[..depth]) }
    }
}

/// # Safety
/// The processor has AVX-512 F; the caller restores MXCSR.
#[target_feature(enable = "avx512f")]
unsafe fn multiply_rows(c: &mut [[u32; 16]], a: &[[u32; 16]; 16], b: &[[u32; 16]]) {
    /// Flush and read subnormal numbers as zero, no exceptions, to nearest.
    static MXCSR: u32 = 0x9fc0;
    // SAFETY: the operand is a valid MXCSR.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const MXCSR, options(nostack, readonly)) }
    let (low, high) = (|v: u32| f32::from_bits(v << 16), |v: u32| f32::from_bits(v & 0xffff_0000));
    for (c, a) in c.iter_mut().zip(a) {
        let (mut even, mut odd) = ([0.0f32; 16], [0.0f32; 16]);
        for (&a, b) in a.iter().zip(b) {
            let (a0, a1) = (low(a), high(a));
            for n in 0..16 {
                even[n] = a0.mul_add(low(b[n]), even[n]);
                odd[n] = a1.mul_add(high(b[n]), odd[n]);
            }
        }
        for (c, (even, odd)) in c.iter_mut().zip(even.into_iter().zip(odd)) {
            *c = (f32::from_bits(*c) + (even + odd)).to_bits();
        }
    }
}
