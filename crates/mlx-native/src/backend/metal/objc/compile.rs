//! Libraries, functions and pipelines.

use std::ptr::NonNull;

use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSArray, NSString};
use objc2_metal::*;

use super::words;
use crate::kernel::ConstantValue;

pub(super) fn library(
    device: &ProtocolObject<dyn MTLDevice>,
    text: &str,
    fast_math: bool,
) -> Result<Retained<ProtocolObject<dyn MTLLibrary>>, String> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_1);
    if options.respondsToSelector(sel!(setMathMode:)) {
        let (mode, functions) = if fast_math {
            (MTLMathMode::Fast, MTLMathFloatingPointFunctions::Fast)
        } else {
            (MTLMathMode::Safe, MTLMathFloatingPointFunctions::Precise)
        };
        options.setMathMode(mode);
        options.setMathFloatingPointFunctions(functions);
    } else {
        // Before macOS 15 one switch had both meanings.
        #[allow(deprecated)]
        options.setFastMathEnabled(fast_math);
    }
    device
        .newLibraryWithSource_options_error(&NSString::from_str(text), Some(&options))
        .map_err(|e| words(&e))
}

pub(super) fn function(
    library: &ProtocolObject<dyn MTLLibrary>,
    name: &str,
    constants: &[(u32, ConstantValue)],
) -> Result<Retained<ProtocolObject<dyn MTLFunction>>, String> {
    let values = MTLFunctionConstantValues::new();
    for (index, value) in constants {
        let (bytes, ty) = match value {
            ConstantValue::Bool(b) => (u32::from(*b), MTLDataType::Bool),
            ConstantValue::U32(n) => (*n, MTLDataType::UInt),
            ConstantValue::I32(n) => (n.cast_unsigned(), MTLDataType::Int),
            ConstantValue::F32Bits(bits) => (*bits, MTLDataType::Float),
        };
        // SAFETY: four bytes that hold a value of the type given (a bool is the first of them, on a little-endian machine);
        // Metal copies them.
        unsafe { values.setConstantValue_type_atIndex(NonNull::from(&bytes).cast(), ty, *index as usize) };
    }
    library
        .newFunctionWithName_constantValues_error(&NSString::from_str(name), &values)
        .map_err(|e| words(&e))
}

/// What a pipeline is made of; an archive finds it by the same.
pub(super) fn descriptor(
    function: &ProtocolObject<dyn MTLFunction>,
    label: &str,
) -> Retained<MTLComputePipelineDescriptor> {
    let descriptor = MTLComputePipelineDescriptor::new();
    descriptor.setLabel(Some(&NSString::from_str(label)));
    descriptor.setComputeFunction(Some(function));
    descriptor
}

pub(super) fn pipeline(
    device: &ProtocolObject<dyn MTLDevice>,
    function: &ProtocolObject<dyn MTLFunction>,
    label: &str,
    archive: Option<&ProtocolObject<dyn MTLBinaryArchive>>,
) -> Result<Retained<ProtocolObject<dyn MTLComputePipelineState>>, String> {
    let descriptor = descriptor(function, label);
    if let Some(archive) = archive {
        descriptor.setBinaryArchives(Some(&NSArray::from_slice(&[archive])));
    }
    device
        .newComputePipelineStateWithDescriptor_options_reflection_error(
            &descriptor,
            MTLPipelineOption::empty(),
            None,
        )
        .map_err(|e| words(&e))
}
