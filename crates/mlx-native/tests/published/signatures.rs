//! Every signature that mlx-native 0.1.0 published, by its exact type: what is missing or differs does not compile.

#![allow(clippy::extra_unused_lifetimes, reason = "types of sessions and pools are named by them")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use mlx_native::ops::copy::StridedCopyParams;
use mlx_native::ops::dense_gemm::DenseGemmF16Params;
use mlx_native::ops::elementwise::CastDirection;
use mlx_native::ops::embedding::EmbeddingGatherParams;
use mlx_native::ops::flash_attn_vec::FlashAttnVecParams;
use mlx_native::ops::flash_attn_vec_tq::FlashAttnVecTqParams;
use mlx_native::ops::moe_dispatch::{ExpertWeights, MoeDispatchParams};
use mlx_native::ops::moe_gate::MoeGateParams;
use mlx_native::ops::sdpa::SdpaParams;
use mlx_native::ops::sdpa_sliding::SdpaSlidingParams;
use mlx_native::turboquant::*;
use mlx_native::weight::*;
use mlx_native::*;

type MemRange = (usize, usize);

#[test]
fn device() {
    let _: fn() -> Result<MlxDevice> = MlxDevice::new;
    let _: fn(&MlxDevice) -> Result<CommandEncoder> = MlxDevice::command_encoder;
    let _: fn(&MlxDevice, usize, DType, Vec<usize>) -> Result<MlxBuffer> = MlxDevice::alloc_buffer;
    let _: fn(&MlxDevice) -> &metal::DeviceRef = MlxDevice::metal_device;
    let _: fn(&MlxDevice) -> &metal::CommandQueue = MlxDevice::metal_queue;
    let _: fn(&MlxDevice) -> String = MlxDevice::name;
}

#[test]
fn buffer() {
    let _: fn(metal::Buffer, DType, Vec<usize>) -> MlxBuffer = MlxBuffer::from_raw;
    let _: fn(&MlxBuffer) -> DType = MlxBuffer::dtype;
    let _: fn(&MlxBuffer) -> &[usize] = MlxBuffer::shape;
    let _: fn(&MlxBuffer) -> usize = MlxBuffer::byte_len;
    let _: fn(&MlxBuffer) -> usize = MlxBuffer::element_count;
    let _: fn(&MlxBuffer) -> *mut std::ffi::c_void = MlxBuffer::contents_ptr;
    let _: fn(&MlxBuffer) -> &metal::Buffer = MlxBuffer::metal_buffer;
    let _: fn(&MlxBuffer) -> Result<&[f32]> = MlxBuffer::as_slice::<f32>;
    let _: fn(&mut MlxBuffer) -> Result<&mut [f32]> = MlxBuffer::as_mut_slice::<f32>;
}

#[test]
fn buffer_pool<'a>() {
    let _: fn(&'a MlxDevice) -> MlxBufferPool<'a> = MlxBufferPool::new;
    let _: fn(&mut MlxBufferPool<'a>, usize, DType, Vec<usize>) -> Result<MlxBuffer> = MlxBufferPool::alloc;
    let _: fn(&mut MlxBufferPool<'a>, MlxBuffer) = MlxBufferPool::release;
    let _: fn(&MlxBufferPool<'a>) -> usize = MlxBufferPool::free_count;
    let _: fn(&MlxBufferPool<'a>) -> usize = MlxBufferPool::free_bytes;
    let _: fn(&mut MlxBufferPool<'a>) = MlxBufferPool::clear;
}

#[test]
fn dtypes() {
    let _: fn(DType) -> usize = DType::size_of;
    let _: fn(DType) -> &'static str = DType::name;
}

#[test]
fn error() {
    let _: fn(&MlxError) -> bool = MlxError::is_transient;
}

#[test]
fn encoder() {
    let _: fn(&f32) -> &[u8] = as_bytes::<f32>;
    let _: fn(&CapturedOpKind) -> bool = CapturedOpKind::is_reorderable;
    let _: fn() = reset_counters;
    let _: fn() -> u64 = sync_count;
    let _: fn() -> u64 = dispatch_count;
    let _: fn(&mut CommandEncoder) = CommandEncoder::start_capture;
    let _: fn(&CommandEncoder) -> bool = CommandEncoder::is_capturing;
    let _: fn(&mut CommandEncoder) -> Option<Vec<CapturedNode>> = CommandEncoder::take_capture;
    let _: fn(&mut CommandEncoder, CapturedOpKind) = CommandEncoder::set_op_kind;
    let _: fn(&mut CommandEncoder, Vec<MemRange>, Vec<MemRange>) = CommandEncoder::set_pending_buffer_ranges;
    let _: fn(&mut CommandEncoder) = CommandEncoder::memory_barrier;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef) = CommandEncoder::set_pipeline;
    let _: fn(&CommandEncoder, u64, &MlxBuffer) = CommandEncoder::set_buffer;
    let _: fn(&CommandEncoder, MTLSize, MTLSize) = CommandEncoder::dispatch_threads;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, &MlxBuffer)], MTLSize, MTLSize) = CommandEncoder::encode;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, &MlxBuffer)], MTLSize, MTLSize) = CommandEncoder::encode_threadgroups;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, &MlxBuffer)], &[(u64, u64)], MTLSize, MTLSize) = CommandEncoder::encode_threadgroups_with_shared;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], MTLSize, MTLSize) = CommandEncoder::encode_with_args;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], MTLSize, MTLSize) = CommandEncoder::encode_threadgroups_with_args;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], &[(u64, u64)], MTLSize, MTLSize) = CommandEncoder::encode_threadgroups_with_args_and_shared;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, RecordedBinding)], &[(u64, u64)], MTLSize, MTLSize, DispatchKind) = CommandEncoder::replay_dispatch;
    let _: fn(&mut CommandEncoder) -> Result<()> = CommandEncoder::commit_and_wait;
    let _: fn(&mut CommandEncoder) = CommandEncoder::commit;
    let _: fn(&CommandEncoder) -> Result<()> = CommandEncoder::wait_until_completed;
    let _: fn(&CommandEncoder) -> &metal::CommandBuffer = CommandEncoder::metal_command_buffer;
}

#[test]
fn kernel_registry() {
    let _: fn() -> KernelRegistry = KernelRegistry::new;
    let _: for<'r> fn(&'r mut KernelRegistry, &str, &metal::DeviceRef) -> Result<&'r metal::ComputePipelineState> = KernelRegistry::get_pipeline;
    let _: fn(&KernelRegistry, &str) -> bool = KernelRegistry::is_cached;
    let _: fn(&KernelRegistry) -> usize = KernelRegistry::cached_count;
    let _: fn(&KernelRegistry) -> usize = KernelRegistry::source_count;
}

#[test]
fn graph<'a>() {
    let _: fn(&OpKind) -> bool = OpKind::is_reorderable;
    let _: fn() -> ComputeGraph = ComputeGraph::new;
    let _: fn(Vec<CapturedNode>) -> ComputeGraph = ComputeGraph::from_nodes;
    let _: fn(&mut ComputeGraph, CapturedNode) = ComputeGraph::record;
    let _: fn(&ComputeGraph) -> usize = ComputeGraph::len;
    let _: fn(&ComputeGraph) -> bool = ComputeGraph::is_empty;
    let _: fn(&ComputeGraph) -> usize = ComputeGraph::dispatch_count;
    let _: fn(&ComputeGraph) -> usize = ComputeGraph::barrier_count;
    let _: fn(&ComputeGraph) -> &[CapturedNode] = ComputeGraph::nodes;
    let _: fn(&ComputeGraph) -> usize = ComputeGraph::unannotated_dispatch_count;
    let _: fn(ComputeGraph) -> Vec<CapturedNode> = ComputeGraph::into_nodes;
    let _: fn(&ComputeGraph, &mut CommandEncoder) -> u32 = ComputeGraph::encode_sequential;
    let _: fn(&ComputeGraph, &mut CommandEncoder) -> u32 = ComputeGraph::encode_with_barriers;
    let _: fn(&ComputeGraph, &mut CommandEncoder, &mut CommandEncoder) -> (u32, u32) = ComputeGraph::encode_dual_buffer;
    let _: fn(&mut ComputeGraph, &mut KernelRegistry, &metal::DeviceRef) -> Result<u32> = ComputeGraph::fuse;
    let _: fn(&mut ComputeGraph) -> u32 = ComputeGraph::reorder;
    let _: fn(MlxDevice) -> GraphExecutor = GraphExecutor::new;
    let _: fn(&GraphExecutor) -> Result<GraphSession<'_>> = GraphExecutor::begin;
    let _: fn(&GraphExecutor) -> Result<GraphSession<'_>> = GraphExecutor::begin_recorded;
    let _: fn(&GraphExecutor) -> &MlxDevice = GraphExecutor::device;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = GraphSession::rms_norm;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &ops::quantized_matmul::QuantizedMatmulParams) -> Result<MlxBuffer> = GraphSession::quantized_matmul;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &ops::quantized_matmul::QuantizedMatmulParams) -> Result<MlxBuffer> = GraphSession::quantized_matmul_simd;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &mut MlxBuffer, &ops::quantized_matmul_ggml::GgmlQuantizedMatmulParams) -> Result<()> = GraphSession::quantized_matmul_ggml;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &mut MlxBuffer, &ops::quantized_matmul_id_ggml::GgmlQuantizedMatmulIdParams) -> Result<()> = GraphSession::quantized_matmul_id_ggml;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &ops::sdpa::SdpaParams, u32) -> Result<()> = GraphSession::sdpa;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &ops::flash_attn_vec::FlashAttnVecParams) -> Result<()> = GraphSession::flash_attn_vec;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, DType) -> Result<()> = GraphSession::elementwise_add;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, DType) -> Result<()> = GraphSession::elementwise_mul;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = GraphSession::rope;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer) -> Result<()> = GraphSession::gelu;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = GraphSession::softmax;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, f32) -> Result<()> = GraphSession::softcap;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = GraphSession::rms_norm_no_scale_f32;
    let _: fn(&mut GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, u32, u32, u32, u32) -> Result<()> = GraphSession::rope_neox_f32;
    let _: fn(&mut GraphSession<'a>) = GraphSession::barrier;
    let _: fn(&mut GraphSession<'a>, &[&MlxBuffer], &[&MlxBuffer]) = GraphSession::barrier_between;
    let _: fn(&GraphSession<'a>) = GraphSession::dump_group_stats;
    let _: fn(&mut GraphSession<'a>, &[&MlxBuffer], &[&MlxBuffer]) = GraphSession::track_dispatch;
    let _: fn(&GraphSession<'a>) -> u32 = GraphSession::barrier_count;
    let _: fn(&GraphSession<'a>) -> u64 = GraphSession::tracker_overhead_ns;
    let _: for<'s> fn(&'s mut GraphSession<'a>) -> &'s mut CommandEncoder = GraphSession::encoder_mut;
    let _: for<'s> fn(&'s GraphSession<'a>) -> &'s MlxDevice = GraphSession::device;
    let _: fn(&GraphSession<'a>) -> bool = GraphSession::is_recording;
    let _: fn(GraphSession<'a>) -> Result<()> = GraphSession::finish;
    let _: fn(GraphSession<'a>) -> CommandEncoder = GraphSession::commit;
    let _: fn(GraphSession<'a>, Instant) -> Result<(u64, u64)> = GraphSession::finish_with_timing;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef) -> Result<u32> = GraphSession::finish_with_fusion;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, Instant) -> Result<(u64, u64, u32)> = GraphSession::finish_with_fusion_and_timing;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef) -> Result<(u32, u32)> = GraphSession::finish_with_fusion_and_reorder;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, Instant) -> Result<(u64, u64, u32, u32)> = GraphSession::finish_with_fusion_reorder_and_timing;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef) -> Result<(u32, u32, u32, u32)> = GraphSession::finish_optimized;
    let _: fn(GraphSession<'a>, &mut KernelRegistry, &metal::DeviceRef, Instant) -> Result<(u64, u64, u32, u32, u32, u32)> = GraphSession::finish_optimized_with_timing;
}

#[test]
fn weight() {
    let _: fn(&Path) -> Result<QuantizationConfig> = QuantizationConfig::from_file;
    let _: fn(&str) -> Result<QuantizationConfig> = QuantizationConfig::from_json;
    let _: fn(&str) -> Result<QuantizationConfig> = QuantizationConfig::from_model_config_json;
    let _: fn(&Path) -> Result<QuantizationConfig> = QuantizationConfig::from_model_config_file;
    let _: fn(&QuantizationConfig, &str) -> (u8, usize) = QuantizationConfig::config_for_tensor;
    let _: fn(String, Vec<usize>, DType, u8, usize, MlxBuffer, Option<MlxBuffer>, MlxBuffer) -> QuantizedWeight = QuantizedWeight::new;
    let _: fn(&QuantizedWeight) -> &str = QuantizedWeight::tensor_name;
    let _: fn(&QuantizedWeight) -> &[usize] = QuantizedWeight::shape;
    let _: fn(&QuantizedWeight) -> DType = QuantizedWeight::dtype;
    let _: fn(&QuantizedWeight) -> u8 = QuantizedWeight::bits;
    let _: fn(&QuantizedWeight) -> usize = QuantizedWeight::group_size;
    let _: fn(&QuantizedWeight) -> &MlxBuffer = QuantizedWeight::scales;
    let _: fn(&QuantizedWeight) -> Option<&MlxBuffer> = QuantizedWeight::biases;
    let _: fn(&QuantizedWeight) -> &MlxBuffer = QuantizedWeight::packed_data;
    let _: fn(&QuantizedWeight) -> usize = QuantizedWeight::element_count;
    let _: fn(&QuantizedWeight) -> usize = QuantizedWeight::num_groups;
    let _: fn(&MlxDevice, &[u8], DType, Vec<usize>) -> Result<MlxBuffer> = weight::safetensors_to_metal_buffer;
    let _: fn(&Path) -> Result<SafetensorsFile> = SafetensorsFile::open;
    let _: fn(&SafetensorsFile) -> Result<Vec<String>> = SafetensorsFile::tensor_names;
    let _: fn(&SafetensorsFile, &str, &MlxDevice) -> Result<(DType, Vec<usize>, MlxBuffer)> = SafetensorsFile::load_tensor;
    let _: fn(&SafetensorsFile, &MlxDevice) -> Result<HashMap<String, (DType, Vec<usize>, MlxBuffer)>> = SafetensorsFile::load_all_tensors;
    let _: fn(&Path, &MlxDevice) -> Result<Vec<QuantizedWeight>> = weight::load_quantized_weights;
}

#[test]
fn gguf() {
    let _: fn(&MetadataValue) -> Option<&str> = MetadataValue::as_str;
    let _: fn(&MetadataValue) -> Option<u32> = MetadataValue::as_u32;
    let _: fn(&MetadataValue) -> Option<f32> = MetadataValue::as_f32;
    let _: fn(&Path) -> Result<GgufFile> = GgufFile::open;
    let _: for<'f> fn(&'f GgufFile, &str) -> Option<&'f MetadataValue> = GgufFile::metadata;
    let _: for<'f> fn(&'f GgufFile, &str) -> Option<&'f str> = GgufFile::metadata_string;
    let _: fn(&GgufFile, &str) -> Option<u32> = GgufFile::metadata_u32;
    let _: fn(&GgufFile, &str) -> Option<f32> = GgufFile::metadata_f32;
    let _: fn(&GgufFile) -> Vec<&str> = GgufFile::tensor_names;
    let _: for<'f> fn(&'f GgufFile, &str) -> Option<&'f TensorInfo> = GgufFile::tensor_info;
    let _: fn(&GgufFile) -> usize = GgufFile::tensor_count;
    let _: fn(&GgufFile) -> usize = GgufFile::metadata_count;
    let _: fn(&GgufFile, &str, &MlxDevice) -> Result<MlxBuffer> = GgufFile::load_tensor;
    let _: fn(&GgufFile, &str, &MlxDevice) -> Result<MlxBuffer> = GgufFile::load_tensor_f32;
}

#[test]
fn turboquant() {
    let _: fn(&mut [f32]) -> Result<()> = turboquant::fwht_inplace;
    let _: fn(&[f32], &TurboQuantConfig) -> Result<(Vec<u8>, f32)> = turboquant::turboquant_quantize;
    let _: fn(&[u8], f32, &TurboQuantConfig) -> Result<Vec<f32>> = turboquant::turboquant_dequantize;
    let _: fn(usize) -> Vec<f64> = turboquant::compute_lloyd_max_codebook;
    let _: fn(usize, usize) -> Vec<f64> = turboquant::compute_lloyd_max_beta_codebook;
}

#[test]
fn ops_argmax() {
    let _: &'static str = ops::argmax::ARGMAX_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::argmax::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32) -> Result<()> = ops::argmax::dispatch_argmax_f32;
}

#[test]
fn ops_argsort() {
    let _: &'static str = ops::argsort::ARGSORT_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::argsort::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::argsort::dispatch_argsort_desc_f32;
}

#[test]
fn ops_copy() {
    let _: &'static str = ops::copy::COPY_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::copy::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &StridedCopyParams) -> Result<()> = ops::copy::dispatch_strided_copy_f32;
}

#[test]
fn ops_dense_gemm() {
    let _: &'static str = ops::dense_gemm::DENSE_GEMM_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::dense_gemm::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &DenseGemmF16Params) -> Result<()> = ops::dense_gemm::dispatch_dense_gemm_f16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &DenseGemmF16Params) -> Result<()> = ops::dense_gemm::dispatch_dense_matvec_f16w_f32io;
}

#[test]
fn ops_elementwise() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, DType) -> Result<()> = ops::elementwise::elementwise_add;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, DType) -> Result<()> = ops::elementwise::elementwise_mul;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, f32) -> Result<()> = ops::elementwise::scalar_mul_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, f32) -> Result<()> = ops::elementwise::scalar_mul_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, usize, f32) -> Result<()> = ops::elementwise::embedding_gather_scale_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32) -> Result<()> = ops::elementwise::dispatch_cast_f32_to_bf16_with_encoder;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32) -> Result<()> = ops::elementwise::dispatch_cast_bf16_to_f32_with_encoder;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, f32) -> Result<()> = ops::elementwise::dispatch_scalar_mul_bf16_with_encoder;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, CastDirection) -> Result<()> = ops::elementwise::cast;
}

#[test]
fn ops_embedding() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &EmbeddingGatherParams) -> Result<()> = ops::embedding::embedding_gather;
}

#[test]
fn ops_encode_helpers() {
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], MTLSize, MTLSize) = ops::encode_helpers::encode_with_args;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], MTLSize, MTLSize) = ops::encode_helpers::encode_threadgroups_with_args;
    let _: fn(&mut CommandEncoder, &metal::ComputePipelineStateRef, &[(u64, KernelArg<'_>)], &[(u64, u64)], MTLSize, MTLSize) = ops::encode_helpers::encode_threadgroups_with_args_and_shared;
}

#[test]
fn ops_flash_attn_vec() {
    let _: &'static str = ops::flash_attn_vec::FLASH_ATTN_VEC_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::flash_attn_vec::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &FlashAttnVecParams) -> Result<()> = ops::flash_attn_vec::flash_attn_vec;
    let _: fn(u32, u32) -> usize = ops::flash_attn_vec::tmp_buffer_bytes;
}

#[test]
fn ops_flash_attn_vec_tq() {
    let _: &'static str = ops::flash_attn_vec_tq::FLASH_ATTN_VEC_TQ_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::flash_attn_vec_tq::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &FlashAttnVecTqParams) -> Result<()> = ops::flash_attn_vec_tq::flash_attn_vec_tq;
    let _: fn(u32, u32) -> usize = ops::flash_attn_vec_tq::tmp_buffer_bytes;
}

#[test]
fn ops_fused_head_norm_rope() {
    let _: &'static str = ops::fused_head_norm_rope::FUSED_HEAD_NORM_ROPE_SHADER_SOURCE;
    let _: &'static str = ops::fused_head_norm_rope::FUSED_HEAD_NORM_ROPE_F32_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::fused_head_norm_rope::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, &MlxBuffer, &MlxBuffer, u32, u32, u32, f32) -> Result<()> = ops::fused_head_norm_rope::dispatch_fused_head_norm_rope_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, &MlxBuffer, Option<&MlxBuffer>, u32, u32, u32, f32, f32) -> Result<()> = ops::fused_head_norm_rope::dispatch_fused_head_norm_rope_f32;
}

#[test]
fn ops_fused_norm_add() {
    let _: &'static str = ops::fused_norm_add::FUSED_NORM_ADD_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::fused_norm_add::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, f32) -> Result<()> = ops::fused_norm_add::dispatch_fused_norm_add_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, f32) -> Result<()> = ops::fused_norm_add::dispatch_fused_norm_add_no_weight_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, f32) -> Result<()> = ops::fused_norm_add::dispatch_fused_norm_add_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, u32, u32, f32) -> Result<()> = ops::fused_norm_add::dispatch_fused_residual_norm_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, f32, bool) -> Result<()> = ops::fused_norm_add::dispatch_fused_residual_norm_scalar_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::fused_norm_add::dispatch_fused_moe_routing_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, f32, bool) -> Result<()> = ops::fused_norm_add::dispatch_fused_norm_add_scalar_f32;
}

#[test]
fn ops_fused_residual_norm() {
    let _: &'static str = ops::fused_residual_norm::FUSED_RESIDUAL_NORM_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::fused_residual_norm::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, u32, u32, f32) -> Result<()> = ops::fused_residual_norm::dispatch_fused_residual_norm_bf16;
}

#[test]
fn ops_fwht_standalone() {
    let _: &'static str = ops::fwht_standalone::FWHT_STANDALONE_SHADER_SOURCE;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, u32, u32) -> Result<()> = ops::fwht_standalone::dispatch_fwht_f32;
}

#[test]
fn ops_gather() {
    let _: &'static str = ops::gather::GATHER_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::gather::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, u32) -> Result<()> = ops::gather::dispatch_gather_f32;
}

#[test]
fn ops_gather_bench() {
    let _: &'static str = ops::gather_bench::GATHER_BENCH_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::gather_bench::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::gather_bench::dispatch_gather_nibble;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::gather_bench::dispatch_gather_f16_seq;
}

#[test]
fn ops_gelu() {
    let _: &'static str = ops::gelu::GELU_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::gelu::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer) -> Result<()> = ops::gelu::dispatch_gelu;
}

#[test]
fn ops_hadamard() {
    let _: &'static str = ops::hadamard::HADAMARD_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::hadamard::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, u32, u32) -> Result<()> = ops::hadamard::dispatch_hadamard_transform;
}

#[test]
fn ops_hadamard_quantize_kv() {
    let _: &'static str = ops::hadamard_quantize_kv::HADAMARD_QUANTIZE_KV_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::hadamard_quantize_kv::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32, bool) -> Result<()> = ops::hadamard_quantize_kv::dispatch_hadamard_quantize_kv;
}

#[test]
fn ops_kv_cache_copy() {
    let _: &'static str = ops::kv_cache_copy::KV_CACHE_COPY_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::kv_cache_copy::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32, bool) -> Result<()> = ops::kv_cache_copy::dispatch_kv_cache_copy;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32) -> Result<()> = ops::kv_cache_copy::dispatch_kv_cache_copy_batch_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32, bool) -> Result<()> = ops::kv_cache_copy::dispatch_kv_cache_copy_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32) -> Result<()> = ops::kv_cache_copy::dispatch_kv_cache_copy_batch_f32_to_f16;
}

#[test]
fn ops_moe_dispatch() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &[ExpertWeights<'_>], &[f32], &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MoeDispatchParams) -> Result<()> = ops::moe_dispatch::moe_dispatch;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize) -> Result<()> = ops::moe_dispatch::moe_swiglu_fused_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, usize) -> Result<()> = ops::moe_dispatch::moe_zero_buffer_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, f32, usize) -> Result<()> = ops::moe_dispatch::moe_accumulate_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, usize) -> Result<()> = ops::moe_dispatch::moe_swiglu_batch_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, usize) -> Result<()> = ops::moe_dispatch::moe_weighted_sum_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, usize, usize) -> Result<()> = ops::moe_dispatch::moe_gather_topk_weights_encode;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, usize, &MlxBuffer, usize, usize) -> Result<()> = ops::moe_dispatch::moe_swiglu_fused_encode_offset;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, f32, usize) -> Result<()> = ops::moe_dispatch::moe_accumulate_encode_offset;
}

#[test]
fn ops_moe_gate() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MoeGateParams) -> Result<()> = ops::moe_gate::moe_gate;
}

#[test]
fn ops_quantized_matmul() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &QuantizedMatmulParams) -> Result<MlxBuffer> = ops::quantized_matmul::quantized_matmul;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &QuantizedMatmulParams) -> Result<MlxBuffer> = ops::quantized_matmul::quantized_matmul_simd;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &QuantizedMatmulParams) -> Result<MlxBuffer> = ops::quantized_matmul::dispatch_quantized_matmul_simd_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &QuantizedMatmulParams, u32, u32, u32) -> Result<MlxBuffer> = ops::quantized_matmul::dispatch_quantized_matmul_simd_bf16_expert;
}

#[test]
fn ops_quantized_matmul_ggml() {
    let _: fn(GgmlType) -> u32 = GgmlType::block_values;
    let _: fn(GgmlType) -> u32 = GgmlType::block_bytes;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &mut MlxBuffer, &GgmlQuantizedMatmulParams) -> Result<()> = ops::quantized_matmul_ggml::quantized_matmul_ggml;
}

#[test]
fn ops_quantized_matmul_id() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &QuantizedMatmulIdParams) -> Result<MlxBuffer> = ops::quantized_matmul_id::quantized_matmul_id;
}

#[test]
fn ops_quantized_matmul_id_ggml() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &mut MlxBuffer, &GgmlQuantizedMatmulIdParams) -> Result<()> = ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml;
}

#[test]
fn ops_rms_norm() {
    let _: &'static str = ops::rms_norm::RMS_NORM_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::rms_norm::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::rms_norm::dispatch_rms_norm;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::rms_norm::dispatch_rms_norm_no_scale_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::rms_norm::dispatch_rms_norm_no_scale_f32;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::rms_norm::dispatch_rms_norm_mul;
}

#[test]
fn ops_rope() {
    let _: &'static str = ops::rope::ROPE_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::rope::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::rope::dispatch_rope;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32, u32, u32) -> Result<()> = ops::rope::dispatch_rope_neox_bf16;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, Option<&MlxBuffer>, u32, u32, u32, u32) -> Result<()> = ops::rope::dispatch_rope_neox_f32;
}

#[test]
fn ops_sdpa() {
    let _: &'static str = ops::sdpa::SDPA_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::sdpa::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &SdpaParams, u32) -> Result<()> = ops::sdpa::sdpa;
}

#[test]
fn ops_sdpa_sliding() {
    let _: &'static str = ops::sdpa_sliding::SDPA_SLIDING_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::sdpa_sliding::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &SdpaSlidingParams, u32) -> Result<()> = ops::sdpa_sliding::sdpa_sliding;
}

#[test]
fn ops_softcap() {
    let _: &'static str = ops::softcap::SOFTCAP_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::softcap::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, f32) -> Result<()> = ops::softcap::dispatch_softcap;
}

#[test]
fn ops_softmax() {
    let _: &'static str = ops::softmax::SOFTMAX_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::softmax::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, u32) -> Result<()> = ops::softmax::dispatch_softmax;
}

#[test]
fn ops_softmax_sample() {
    let _: &'static str = ops::softmax_sample::SOFTMAX_SAMPLE_SHADER_SOURCE;
    let _: fn(&mut KernelRegistry) = ops::softmax_sample::register;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, &MlxBuffer, u32, f32, f32) -> Result<()> = ops::softmax_sample::dispatch_softmax_sample_f32;
}

#[test]
fn ops_transpose() {
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, usize, DType) -> Result<()> = ops::transpose::transpose_2d;
    let _: fn(&mut CommandEncoder, &mut KernelRegistry, &metal::DeviceRef, &MlxBuffer, &MlxBuffer, usize, usize, usize) -> Result<()> = ops::transpose::permute_021_bf16;
}

#[test]
fn constants_and_generic_functions() {
    let _: [f32; 4] = CODEBOOK_2BIT;
    let _: [f32; 8] = CODEBOOK_3BIT;
    let _: [f32; 16] = CODEBOOK_4BIT;
    let _: fn(&f32) -> &[u8] = ops::encode_helpers::as_bytes::<f32>;
    let _ = |registry: &mut KernelRegistry, name: String, text: &'static str| {
        registry.register_source(name, text);
        registry.register_source("name", text);
    };
    let _: fn() -> KernelRegistry = KernelRegistry::default;
    let _: fn() -> ComputeGraph = ComputeGraph::default;
    let _: fn() -> Result<MlxDevice> = MlxDevice::new;
}

/// The root has what it had, whatever module it comes from; `ops::x` is a module and a function of one name there.
#[test]
fn the_root_has_the_functions() {
    let _ = (
        mlx_native::quantized_matmul,
        mlx_native::quantized_matmul_simd,
        mlx_native::quantized_matmul_ggml,
        mlx_native::quantized_matmul_id,
        mlx_native::quantized_matmul_id_ggml,
        mlx_native::load_quantized_weights,
        mlx_native::safetensors_to_metal_buffer,
        mlx_native::dispatch_count,
        mlx_native::sync_count,
        mlx_native::reset_counters,
    );
    let _: fn(u64, u64, u64) -> MTLSize = MTLSize::new;
    let _: fn(&metal::ComputePipelineStateRef) -> &str = |pipeline| pipeline.label();
    let _: fn(&metal::ComputePipelineState) -> &metal::ComputePipelineStateRef = |pipeline| pipeline;
    let _: fn(&metal::ComputePipelineState) -> metal::ComputePipelineState = Clone::clone;
}

mlx_native::static_assertions_send_sync!(MlxDevice);
mlx_native::static_assertions_send_sync!(MlxBuffer);
mlx_native::static_assertions_send_sync!(MlxError);
mlx_native::static_assertions_send_sync!(KernelRegistry);
