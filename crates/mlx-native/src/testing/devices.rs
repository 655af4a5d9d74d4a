//! The devices that every case runs on.

use crate::backend::cpu::Isa;
use crate::config::{Config, EmulatorConfig, Schedule};
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;

/// A device with a name for the table.
#[derive(Debug)]
pub struct TestDevice {
    /// Column of the table: the device and its variant.
    pub name: String,
    /// The device.
    pub device: MlxDevice,
    /// Whether it runs only the small cases.
    pub small_only: bool,
    /// Variants of one group give equal bits.
    pub group: &'static str,
}

/// Every device of this build and machine: the CPU at each instruction set and with one and three threads, the emulator
/// under several schedules, with the checker and with memory of its own, and the GPU where there is one.
///
/// # Panics
/// When a device that must be there cannot be opened.
#[must_use]
pub fn test_devices() -> Vec<TestDevice> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let config = Config {
                threads: Some(threads),
                isa: Some(isa),
                ..Config::default()
            };
            all.push(TestDevice {
                name: format!("cpu {isa} x{threads}"),
                device: MlxDevice::with_config(DeviceKind::Cpu, &config).expect("the cpu opens"),
                small_only: false,
                group: isa.name(),
            });
        }
    }
    if cfg!(feature = "emulator") {
        let variants = [
            ("emulator forward", Schedule::Forward, false, false),
            ("emulator reverse", Schedule::Reverse, false, false),
            ("emulator random", Schedule::Random(7), false, false),
            ("emulator checked", Schedule::Random(11), true, false),
            ("emulator separate memory", Schedule::Forward, false, true),
        ];
        for (name, schedule, checked, separate_memory) in variants {
            let emulator = EmulatorConfig {
                schedule,
                checked,
                separate_memory,
                ..EmulatorConfig::default()
            };
            let config = Config {
                emulator,
                ..Config::default()
            };
            match MlxDevice::with_config(DeviceKind::Emulator, &config) {
                Ok(device) => {
                    all.push(TestDevice {
                        name: name.to_owned(),
                        device,
                        small_only: true,
                        group: "emulator",
                    });
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    if let Ok(device) = MlxDevice::open(DeviceKind::Metal) {
        all.push(TestDevice {
            name: "metal".to_owned(),
            device,
            small_only: false,
            group: "metal",
        });
    }
    all
}
