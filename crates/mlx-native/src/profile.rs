//! What kind of device one is, as far as tables of thresholds and bounds care. Below the devices, so that settings and
//! operators can name it.

/// What kernels are routed by. Two devices of equal profiles are given the same kernels, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeviceProfile {
    /// How it gets its speed.
    pub execution: Execution,
    /// Units that multiply matrices.
    pub matrix_units: MatrixUnits,
    /// Memory bandwidth.
    pub bandwidth: Bandwidth,
    /// Threads that run in step.
    pub subgroup_width: u32,
}

/// How a device gets its speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Execution {
    /// A few strong cores with wide registers: work is cut into few parts.
    Cores,
    /// Many groups of threads at once: work is cut into many small parts.
    Groups,
}

/// Units that multiply matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MatrixUnits {
    /// None, or none that kernels use.
    None,
    /// `simdgroup_matrix`, 8 by 8.
    Simdgroup,
    /// Tensor cores.
    Tensor,
}

/// Memory bandwidth, in classes: below 100 GB/s, below 500, beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Bandwidth {
    /// Below 100 GB/s: phones, laptops, most processors.
    Low,
    /// 100 to 500 GB/s: Pro and Max chips, servers.
    Medium,
    /// More: Ultra chips, cards.
    High,
}

impl DeviceProfile {
    /// A processor.
    #[must_use]
    pub const fn processor() -> Self {
        DeviceProfile {
            execution: Execution::Cores,
            matrix_units: MatrixUnits::None,
            bandwidth: Bandwidth::Low,
            subgroup_width: 32,
        }
    }

    /// A GPU that runs the Metal text as it stands; what the emulator passes for.
    #[must_use]
    pub const fn gpu() -> Self {
        DeviceProfile {
            execution: Execution::Groups,
            matrix_units: MatrixUnits::Simdgroup,
            bandwidth: Bandwidth::Low,
            subgroup_width: 32,
        }
    }

    /// A GPU of Apple's.
    #[must_use]
    pub const fn apple(gpu: GpuArchitecture) -> Self {
        DeviceProfile {
            matrix_units: if gpu.simdgroup_matrix {
                MatrixUnits::Simdgroup
            } else {
                MatrixUnits::None
            },
            bandwidth: match gpu.class {
                GpuClass::Unknown | GpuClass::Phone | GpuClass::Base => Bandwidth::Low,
                GpuClass::Max => Bandwidth::Medium,
                GpuClass::Ultra => Bandwidth::High,
            },
            ..Self::gpu()
        }
    }

    /// A GPU of NVIDIA's.
    #[must_use]
    pub const fn cuda(bandwidth: Bandwidth) -> Self {
        DeviceProfile {
            matrix_units: MatrixUnits::Tensor,
            bandwidth,
            ..Self::gpu()
        }
    }
}

/// How big a GPU is among those of its generation: a key for tables of thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GpuClass {
    /// A name that no table knows: treated with the caution due to the smallest.
    Unknown,
    /// Of a phone or tablet.
    Phone,
    /// Of an M chip without a surname.
    Base,
    /// Of a Pro or Max chip.
    Max,
    /// Of an Ultra chip: two dies.
    Ultra,
}

/// The architecture of a GPU, as far as kernels are chosen by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GpuArchitecture {
    /// Generation: 13 = M1, 14 = M2, 15 = M3, 16 = M4, 17 = M5; 0 where the name does not say.
    pub generation: u32,
    /// Class within the generation.
    pub class: GpuClass,
    /// Whether it multiplies matrices by simdgroup: `simdgroup_matrix`.
    pub simdgroup_matrix: bool,
    /// Whether it has the type `bfloat`.
    pub bfloat: bool,
}

impl GpuArchitecture {
    /// Reads a name like `applegpu_g15s`: generation 15, class [`GpuClass::Max`]. The letter's meaning is Apple's habit
    /// and nowhere promised; a letter that is not known gives [`GpuClass::Unknown`].
    #[must_use]
    pub fn from_name(name: &str, simdgroup_matrix: bool, bfloat: bool) -> Self {
        let tail = name.strip_prefix("applegpu_g").unwrap_or_default();
        let digits = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let generation = tail[..digits].parse().unwrap_or(0);
        let class = match &tail[digits..] {
            _ if generation == 0 => GpuClass::Unknown,
            "p" => GpuClass::Phone,
            "g" => GpuClass::Base,
            "s" | "c" => GpuClass::Max,
            "d" => GpuClass::Ultra,
            _ => GpuClass::Unknown,
        };
        GpuArchitecture {
            generation,
            class,
            simdgroup_matrix,
            bfloat,
        }
    }
}

/// When a list of work is cut into several command buffers, and how many may be on their way.
///
/// A command buffer that is full is ended at the next barrier, or at twice the bound where no barrier comes. Cutting lets
/// the device start before all is encoded, and keeps each command buffer far below the seconds after which the system
/// ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandBounds {
    /// Dispatches of the first command buffer of a list: small, so that the device starts soon.
    pub first_dispatches: u32,
    /// Dispatches of the others.
    pub dispatches: u32,
    /// Bytes of the buffers bound, each dispatch's counted anew: a measure of time.
    pub bytes: u64,
    /// Command buffers committed and not ended; encoding waits beyond.
    pub in_flight: u32,
}

const MIB: u64 = 1 << 20;

/// The bounds by class. Chosen from arithmetic, not from measurement: at the bandwidth of the class, a command buffer of
/// that many bytes takes about a millisecond, a thousandth of what the watchdog allows; a matrix product of a long prompt
/// takes a few hundred times as long for its bytes.
const BOUNDS: &[(GpuClass, CommandBounds)] = &[
    (GpuClass::Unknown, bounds(8, 20, 64)),
    (GpuClass::Phone, bounds(8, 20, 64)),
    (GpuClass::Base, bounds(16, 40, 96)),
    (GpuClass::Max, bounds(16, 50, 256)),
    (GpuClass::Ultra, bounds(16, 50, 512)),
];

const fn bounds(first_dispatches: u32, dispatches: u32, mebibytes: u64) -> CommandBounds {
    CommandBounds {
        first_dispatches,
        dispatches,
        bytes: mebibytes * MIB,
        in_flight: 16,
    }
}

impl CommandBounds {
    /// The bounds for GPUs of `class`.
    #[must_use]
    pub fn of(class: GpuClass) -> Self {
        let row = BOUNDS.iter().find(|row| row.0 == class);
        row.map_or(BOUNDS[0].1, |row| row.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architecture_names_are_read() {
        let rows = [
            ("applegpu_g13g", 13, GpuClass::Base),
            ("applegpu_g13s", 13, GpuClass::Max),
            ("applegpu_g13c", 13, GpuClass::Max),
            ("applegpu_g14d", 14, GpuClass::Ultra),
            ("applegpu_g15p", 15, GpuClass::Phone),
            ("applegpu_g117s", 117, GpuClass::Max),
            ("applegpu_g16", 16, GpuClass::Unknown),
            ("applegpu_g16zz", 16, GpuClass::Unknown),
            ("applegpu_g", 0, GpuClass::Unknown),
            ("applegpu_gs", 0, GpuClass::Unknown),
            ("applegpu_g99999999999999999999s", 0, GpuClass::Unknown),
            ("paravirtual", 0, GpuClass::Unknown),
            ("", 0, GpuClass::Unknown),
        ];
        for (name, generation, class) in rows {
            let found = GpuArchitecture::from_name(name, true, false);
            assert_eq!((found.generation, found.class), (generation, class), "{name}");
            assert!(found.simdgroup_matrix && !found.bfloat);
        }
    }

    #[test]
    fn bounds_grow_with_the_class_and_are_usable() {
        for pair in BOUNDS.windows(2) {
            assert!(pair[0].0 < pair[1].0, "the table is in the order of the classes");
            assert!(pair[0].1.dispatches <= pair[1].1.dispatches && pair[0].1.bytes <= pair[1].1.bytes);
        }
        for (class, b) in BOUNDS {
            assert_eq!(CommandBounds::of(*class), *b);
            assert!(0 < b.first_dispatches && b.first_dispatches <= b.dispatches);
            // A queue holds 64 command buffers, and blocks beyond.
            assert!(b.bytes > 0 && (2..64).contains(&b.in_flight));
        }
    }
}
