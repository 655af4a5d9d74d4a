//! The published 0.1 operators of a session: each calls the function of its name with the session's encoder.

use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::GraphSession;
use crate::ops;
use crate::ops::flash_attn_vec::FlashAttnVecParams;
use crate::ops::quantized_matmul::QuantizedMatmulParams;
use crate::ops::quantized_matmul_ggml::GgmlQuantizedMatmulParams;
use crate::ops::quantized_matmul_id_ggml::GgmlQuantizedMatmulIdParams;
use crate::ops::sdpa::SdpaParams;
use crate::registry::KernelRegistry;

macro_rules! forwarded {
    ($($name:ident(device: $device:ty, $($arg:ident: $type:ty),* $(,)?) -> $result:ty = $function:path;)*) => {
        impl GraphSession<'_> {
            $(
                #[doc = concat!("Records [`", stringify!($name), "`](crate::", stringify!($function), ") with the session's encoder.")]
                ///
                /// # Errors
                /// As the function.
                pub fn $name(
                    &mut self,
                    registry: &mut KernelRegistry,
                    device: $device,
                    $($arg: $type),*
                ) -> Result<$result> {
                    $function(self.encoder_mut(), registry, device, $($arg),*)
                }
            )*
        }
    };
}

forwarded! {
    rms_norm(
        device: &DeviceRef, input: &MlxBuffer, weight: &MlxBuffer, output: &MlxBuffer,
        params_buf: &MlxBuffer, rows: u32, dim: u32,
    ) -> ()
        = ops::rms_norm::dispatch_rms_norm;
    quantized_matmul(
        device: &MlxDevice, input: &MlxBuffer, weight: &MlxBuffer, scales: &MlxBuffer, biases: &MlxBuffer,
        params: &QuantizedMatmulParams,
    ) -> MlxBuffer
        = ops::quantized_matmul::quantized_matmul;
    quantized_matmul_simd(
        device: &MlxDevice, input: &MlxBuffer, weight: &MlxBuffer, scales: &MlxBuffer, biases: &MlxBuffer,
        params: &QuantizedMatmulParams,
    ) -> MlxBuffer
        = ops::quantized_matmul::quantized_matmul_simd;
    quantized_matmul_ggml(
        device: &MlxDevice, input: &MlxBuffer, weight: &MlxBuffer, output: &mut MlxBuffer,
        params: &GgmlQuantizedMatmulParams,
    ) -> ()
        = ops::quantized_matmul_ggml::quantized_matmul_ggml;
    quantized_matmul_id_ggml(
        device: &MlxDevice, input: &MlxBuffer, weight: &MlxBuffer, ids: &MlxBuffer, output: &mut MlxBuffer,
        params: &GgmlQuantizedMatmulIdParams,
    ) -> ()
        = ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml;
    sdpa(
        device: &MlxDevice, q: &MlxBuffer, k: &MlxBuffer, v: &MlxBuffer, output: &MlxBuffer,
        params: &SdpaParams, batch_size: u32,
    ) -> ()
        = ops::sdpa::sdpa;
    flash_attn_vec(
        device: &MlxDevice, q: &MlxBuffer, k: &MlxBuffer, v: &MlxBuffer, output: &MlxBuffer, tmp: &MlxBuffer,
        params: &FlashAttnVecParams,
    ) -> ()
        = ops::flash_attn_vec::flash_attn_vec;
    elementwise_add(
        device: &DeviceRef, a: &MlxBuffer, b: &MlxBuffer, output: &MlxBuffer, n_elements: usize,
        dtype: DType,
    ) -> ()
        = ops::elementwise::elementwise_add;
    elementwise_mul(
        device: &DeviceRef, a: &MlxBuffer, b: &MlxBuffer, output: &MlxBuffer, n_elements: usize,
        dtype: DType,
    ) -> ()
        = ops::elementwise::elementwise_mul;
    rope(
        device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer, params_buf: &MlxBuffer,
        positions_buf: &MlxBuffer, seq_len: u32, head_dim: u32,
    ) -> ()
        = ops::rope::dispatch_rope;
    gelu(device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer) -> ()
        = ops::gelu::dispatch_gelu;
    softmax(
        device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer, params_buf: &MlxBuffer, rows: u32,
        cols: u32,
    ) -> ()
        = ops::softmax::dispatch_softmax;
    softcap(device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer, params_buf: &MlxBuffer, cap: f32) -> ()
        = ops::softcap::dispatch_softcap;
    rms_norm_no_scale_f32(
        device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer, params_buf: &MlxBuffer, rows: u32,
        dim: u32,
    ) -> ()
        = ops::rms_norm::dispatch_rms_norm_no_scale_f32;
    rope_neox_f32(
        device: &DeviceRef, input: &MlxBuffer, output: &MlxBuffer, params_buf: &MlxBuffer,
        positions_buf: &MlxBuffer, freq_factors: Option<&MlxBuffer>, seq_len: u32, n_heads: u32,
        head_dim: u32, rope_dim: u32,
    ) -> ()
        = ops::rope::dispatch_rope_neox_f32;
}
