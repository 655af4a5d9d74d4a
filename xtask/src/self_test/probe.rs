//! A correct call of Metal. `cargo xtask check-metal --self-test` plants defects in copies of it.

#[cfg(target_vendor = "apple")]
mod metal {
    use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice, MTLResourceOptions};

    // MTLCreateSystemDefaultDevice finds no GPU in a program that is not linked with CoreGraphics.
    #[link(name = "CoreGraphics", kind = "framework")]
    unsafe extern "C" {
        fn CGMainDisplayID() -> u32;
    }

    pub fn run() {
        // SAFETY: the function takes nothing and has no preconditions.
        let display = unsafe { CGMainDisplayID() };
        let Some(device) = MTLCreateSystemDefaultDevice() else {
            return;
        };
        let length: usize = 16;
        let buffer = device.newBufferWithLength_options(length, MTLResourceOptions::StorageModeShared);
        if buffer.is_some() {
            println!("display {display}");
        }
    }
}

fn main() {
    #[cfg(target_vendor = "apple")]
    metal::run();
}
