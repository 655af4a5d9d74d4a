//! Faults of the processor inside a kernel: a wild access, a stack too deep, a division by zero.
//!
//! Without this they would end the process. The handler recognises a fault on a fiber by its stack pointer, notes it in
//! the engine, and returns to the context that waits in `run_group` instead of to the fiber; all other faults go to
//! whoever handled them before. Linux only: elsewhere a fault ends the process, and the checker finds most of them
//! earlier.

use super::abi::REGION_BYTES;
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fault that happened on a fiber.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The signal.
    pub signal: i32,
    /// The address that could not be accessed, where the signal has one.
    pub address: usize,
    /// The instruction.
    pub code: usize,
}

/// What is called when a fiber faults: it is given the engine of the fiber's region, and gives the stack to go on with.
pub(super) type OnFault = unsafe fn(engine: *mut c_void, fault: Fault) -> *mut u8;

/// Set once, by the engine.
static ON_FAULT: OnceLock<OnFault> = OnceLock::new();

/// Says what to call. To be called before the first region is registered; the first call counts.
pub(super) fn call(on_fault: OnFault) {
    ON_FAULT.get_or_init(|| on_fault);
}

/// Bases of the regions alive; 0 for a free place.
static REGIONS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// Makes a region known to the handler. With no place left its faults end the process, as they would have anyway.
pub(super) fn register(base: usize) {
    install();
    for place in &REGIONS {
        if place
            .compare_exchange(0, base, Ordering::Release, Ordering::Relaxed)
            .is_ok()
        {
            return;
        }
    }
}

/// Forgets a region.
pub(super) fn unregister(base: usize) {
    for place in &REGIONS {
        let _ = place.compare_exchange(base, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// The region that a stack pointer lies in.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn region_of(sp: usize) -> Option<usize> {
    let base = sp & !(REGION_BYTES - 1);
    REGIONS
        .iter()
        .any(|r| r.load(Ordering::Acquire) == base)
        .then_some(base)
}

#[cfg(not(target_os = "linux"))]
fn install() {}

#[cfg(target_os = "linux")]
use linux::install;

#[cfg(target_os = "linux")]
mod linux {
    use super::super::abi::World;
    use super::{Fault, ON_FAULT, region_of};
    use std::ffi::{c_int, c_void};
    use std::sync::OnceLock;

    const SIGNALS: [c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];

    /// What handled the signals before.
    static BEFORE: OnceLock<[libc::sigaction; 3]> = OnceLock::new();

    pub(super) fn install() {
        BEFORE.get_or_init(|| {
            // SAFETY: sigaction reads and writes the structures given; the handler is safe to run at any time.
            unsafe {
                let mut before = [std::mem::zeroed::<libc::sigaction>(); 3];
                for (signal, old) in SIGNALS.iter().zip(&mut before) {
                    let mut action = std::mem::zeroed::<libc::sigaction>();
                    action.sa_sigaction = handle as *const () as usize;
                    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                    libc::sigaction(*signal, &action, old);
                }
                before
            }
        });
    }

    /// # Safety
    /// Called by the kernel as a signal handler.
    unsafe extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes valid structures; a stack pointer inside a registered region is that of a fiber,
        // whose engine waits in `run_group` on the saved main stack.
        unsafe {
            let registers = Registers::of(context.cast());
            let Some(base) = region_of(registers.sp()) else {
                return pass_on(signal, info, context);
            };
            let Some(on_fault) = ON_FAULT.get() else {
                return pass_on(signal, info, context);
            };
            let fault = Fault {
                signal,
                address: (*info).si_addr() as usize,
                code: registers.pc(),
            };
            let main = on_fault((*(base as *const World)).engine, fault);
            registers.resume(main);
        }
    }

    /// The fault is not ours.
    ///
    /// # Safety
    /// As [`handle`].
    unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let which = SIGNALS.iter().position(|s| *s == signal);
        let before = BEFORE.get().zip(which).map(|(all, i)| &all[i]);
        // SAFETY: an earlier handler is called as the kernel would have; without one the default action is restored,
        // and the instruction faults again.
        unsafe {
            match before {
                Some(old) if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN => {
                    if old.sa_flags & libc::SA_SIGINFO != 0 {
                        let call: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                            std::mem::transmute(old.sa_sigaction);
                        call(signal, info, context);
                    } else {
                        let call: unsafe extern "C" fn(c_int) = std::mem::transmute(old.sa_sigaction);
                        call(signal);
                    }
                }
                _ => {
                    let mut action = std::mem::zeroed::<libc::sigaction>();
                    action.sa_sigaction = libc::SIG_DFL;
                    libc::sigaction(signal, &action, std::ptr::null_mut());
                }
            }
        }
    }

    /// The registers that the interrupted code will be resumed with.
    struct Registers(*mut libc::ucontext_t);

    impl Registers {
        unsafe fn of(context: *mut libc::ucontext_t) -> Self {
            Self(context)
        }
    }

    #[cfg(target_arch = "x86_64")]
    impl Registers {
        unsafe fn sp(&self) -> usize {
            // SAFETY: the context is the one the kernel passed.
            unsafe { (*self.0).uc_mcontext.gregs[libc::REG_RSP as usize] as usize }
        }
        unsafe fn pc(&self) -> usize {
            // SAFETY: as above.
            unsafe { (*self.0).uc_mcontext.gregs[libc::REG_RIP as usize] as usize }
        }
        /// As the end of `fiber::switch`: pop the address, jump to it.
        unsafe fn resume(&self, stack: *mut u8) {
            // SAFETY: as above; the stack is one that `switch` saved.
            unsafe {
                let registers = &mut (*self.0).uc_mcontext.gregs;
                registers[libc::REG_RIP as usize] = stack.cast::<i64>().read();
                registers[libc::REG_RSP as usize] = stack as i64 + 8;
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    impl Registers {
        unsafe fn sp(&self) -> usize {
            // SAFETY: the context is the one the kernel passed.
            unsafe { (*self.0).uc_mcontext.sp as usize }
        }
        unsafe fn pc(&self) -> usize {
            // SAFETY: as above.
            unsafe { (*self.0).uc_mcontext.pc as usize }
        }
        /// As the end of `fiber::switch`: load the address, jump to it.
        unsafe fn resume(&self, stack: *mut u8) {
            // SAFETY: as above; the stack is one that `switch` saved.
            unsafe {
                (*self.0).uc_mcontext.pc = stack.add(16).cast::<u64>().read();
                (*self.0).uc_mcontext.sp = stack as u64;
            }
        }
    }
}
