//! Switching between stacks.
//!
//! The switch is inline and ends in a jump: with a call and a return each, the processor's return predictor would be
//! wrong at every switch, which costs five times as much. Only the registers that the compiler cannot be told about
//! are saved by hand; all others are declared lost.

use super::abi::{REGION_BYTES, World};

/// Leaves the current stack, storing where it stands to `*save`, and goes on where `to` stands.
///
/// # Safety
/// `to` must come from [`prepare`] or from an earlier switch, must not have been resumed since, and its stack must be
/// alive; `save` must be writable. The caller's frame must stay valid until somebody switches back.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn switch(save: *mut *mut u8, to: *mut u8) {
    // SAFETY: pushes three words on a stack the compiler knows to be used by this block (no `nostack`), restores them
    // when resumed; every other register is declared clobbered.
    unsafe {
        std::arch::asm!(
            "lea rax, [rip + 2f]",
            "push rbp",
            "push rbx",
            "push rax",
            "mov [rdi], rsp",
            "mov rsp, rsi",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inout("rdi") save => _,
            inout("rsi") to => _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("sysv64"),
        );
    }
}

/// As on x86-64.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) unsafe fn switch(save: *mut *mut u8, to: *mut u8) {
    // SAFETY: as on x86-64; x19 and x29 cannot be named as clobbers and are saved with the address to go on at.
    unsafe {
        std::arch::asm!(
            "adr x9, 2f",
            "stp x19, x29, [sp, #-32]!",
            "str x9, [sp, #16]",
            "mov x10, sp",
            "str x10, [x0]",
            "mov sp, x1",
            "ldr x9, [sp, #16]",
            "br x9",
            "2:",
            "ldp x19, x29, [sp], #32",
            inout("x0") save => _,
            inout("x1") to => _,
            out("x20") _, out("x21") _, out("x22") _, out("x23") _, out("x24") _,
            out("x25") _, out("x26") _, out("x27") _, out("x28") _,
            out("d8") _, out("d9") _, out("d10") _, out("d11") _,
            out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            lateout("x30") _,
            clobber_abi("C"),
        );
    }
}

/// Prepares an empty stack so that the first switch to it calls `entry`, which must not return.
///
/// # Safety
/// The 64 bytes below `top` must be writable and unused; `top` must be aligned to 16.
pub(super) unsafe fn prepare(top: *mut u8, entry: extern "C" fn() -> !) -> *mut u8 {
    debug_assert!((top as usize).is_multiple_of(16));
    // SAFETY: the caller gives these bytes. On x86-64 the popped entry leaves the stack as a call would: a return
    // address (nobody's) on top, 8 bytes off alignment. On aarch64 the entry is in the third word of the frame.
    unsafe {
        let frame = top.sub(32).cast::<usize>();
        frame.write_bytes(0, 4);
        if cfg!(target_arch = "x86_64") {
            frame.write(entry as usize);
        } else {
            frame.add(2).write(entry as usize);
        }
        frame.cast()
    }
}

/// The world of the fiber that calls.
///
/// # Safety
/// Must be called on a fiber's stack.
#[inline(always)]
pub(super) unsafe fn world() -> *mut World {
    let sp: usize;
    // SAFETY: reads the stack pointer.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags));
    }
    (sp & !(REGION_BYTES - 1)) as *mut World
}
