//! The devices that every case runs on.

use crate::backend::cpu::Isa;
#[cfg(feature = "emulator")]
use crate::backend::metal::executing::{self, MetalHost};
use crate::config::{Config, EmulatorConfig, Schedule};
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;
#[cfg(feature = "emulator")]
use crate::error::Result;

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

/// The whole host code of the Metal backend, over a stand-in for Metal whose GPU is the emulator. Its kind is
/// [`DeviceKind::Metal`]; no product opens it.
///
/// # Errors
/// As the emulator and the Metal device.
#[cfg(feature = "emulator")]
pub fn metal_host_device(config: &Config, host: &MetalHost) -> Result<MlxDevice> {
    Ok(MlxDevice::of(executing::open(config, host)?))
}

/// Threads in random order.
#[cfg(feature = "emulator")]
fn host_config() -> Config {
    Config {
        emulator: EmulatorConfig {
            schedule: Schedule::Random(7),
            ..EmulatorConfig::default()
        },
        threads: Some(1),
        ..Config::default()
    }
}

/// Every device of this build and machine, each with a thread of its own where it is emulated (the cases share the
/// machine's processors, not the groups of a dispatch): the CPU at each instruction set and with one and three threads,
/// the emulator under several schedules, with the checker and with memory of its own, the Metal host code over the
/// emulator, and the GPU where there is one.
///
/// # Panics
/// When a device that must be there cannot be opened.
#[must_use]
pub fn test_devices() -> Vec<TestDevice> {
    test_devices_of(None)
}

/// [`test_devices`], or those of one kind: `cpu`, `emulator`, `metal`, `cuda`.
///
/// # Panics
/// As [`test_devices`].
#[must_use]
pub fn test_devices_of(kind: Option<DeviceKind>) -> Vec<TestDevice> {
    let is_wanted = |k: DeviceKind| kind.is_none_or(|wanted| wanted == k);
    let mut all = Vec::new();
    for isa in Isa::available()
        .into_iter()
        .filter(|_| is_wanted(DeviceKind::Cpu))
    {
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
    if cfg!(feature = "emulator") && is_wanted(DeviceKind::Emulator) {
        // The reverse order runs with memory apart, the random one below the Metal host code.
        let variants = [
            ("emulator forward", Schedule::Forward, false, false),
            ("emulator separate memory", Schedule::Reverse, false, true),
            ("emulator checked", Schedule::Random(11), true, false),
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
                threads: Some(1),
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
    #[cfg(feature = "emulator")]
    if is_wanted(DeviceKind::Emulator) {
        all.push(TestDevice {
            name: "metal host code".to_owned(),
            device: metal_host_device(&host_config(), &MetalHost::default())
                .unwrap_or_else(|e| panic!("{e}")),
            small_only: true,
            group: "emulator",
        });
    }
    let mut gpu = |name: &str, kind: DeviceKind, config: &Config| {
        if is_wanted(kind)
            && let Ok(device) = MlxDevice::with_config(kind, config)
        {
            all.push(TestDevice {
                name: name.to_owned(),
                device,
                small_only: false,
                group: kind.name(),
            });
        }
    };
    gpu("metal", DeviceKind::Metal, &Config::default());
    // One kernel after the other, and every list as a graph.
    let mut config = Config::default();
    config.cuda.graphs_from = None;
    gpu("cuda", DeviceKind::Cuda, &config);
    config.cuda.graphs_from = Some(1);
    gpu("cuda graphs", DeviceKind::Cuda, &config);
    all
}
