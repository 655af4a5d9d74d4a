//! The published 0.1 operators of a session: each calls the function of its name with the session's encoder.

use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::GraphSession;
use crate::ops;
use crate::registry::KernelRegistry;

impl GraphSession<'_> {
    /// Records [`dispatch_rms_norm`](crate::ops::rms_norm::dispatch_rms_norm).
    ///
    /// # Errors
    /// As the function.
    pub fn rms_norm(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        weight: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        rows: u32,
        dim: u32,
    ) -> Result<()> {
        ops::rms_norm::dispatch_rms_norm(
            self.encoder_mut(),
            registry,
            device,
            input,
            weight,
            output,
            params_buf,
            rows,
            dim,
        )
    }

    /// Records [`quantized_matmul`](crate::ops::quantized_matmul::quantized_matmul).
    ///
    /// # Errors
    /// As the function.
    pub fn quantized_matmul(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
        weight: &MlxBuffer,
        scales: &MlxBuffer,
        biases: &MlxBuffer,
        params: &ops::quantized_matmul::QuantizedMatmulParams,
    ) -> Result<MlxBuffer> {
        ops::quantized_matmul::quantized_matmul(
            self.encoder_mut(),
            registry,
            device,
            input,
            weight,
            scales,
            biases,
            params,
        )
    }

    /// Records [`quantized_matmul_simd`](crate::ops::quantized_matmul::quantized_matmul_simd).
    ///
    /// # Errors
    /// As the function.
    pub fn quantized_matmul_simd(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
        weight: &MlxBuffer,
        scales: &MlxBuffer,
        biases: &MlxBuffer,
        params: &ops::quantized_matmul::QuantizedMatmulParams,
    ) -> Result<MlxBuffer> {
        ops::quantized_matmul::quantized_matmul_simd(
            self.encoder_mut(),
            registry,
            device,
            input,
            weight,
            scales,
            biases,
            params,
        )
    }

    /// Records [`quantized_matmul_ggml`](crate::ops::quantized_matmul_ggml::quantized_matmul_ggml).
    ///
    /// # Errors
    /// As the function.
    pub fn quantized_matmul_ggml(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
        weight: &MlxBuffer,
        output: &mut MlxBuffer,
        params: &ops::quantized_matmul_ggml::GgmlQuantizedMatmulParams,
    ) -> Result<()> {
        ops::quantized_matmul_ggml::quantized_matmul_ggml(
            self.encoder_mut(),
            registry,
            device,
            input,
            weight,
            output,
            params,
        )
    }

    /// Records [`quantized_matmul_id_ggml`](crate::ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml).
    ///
    /// # Errors
    /// As the function.
    pub fn quantized_matmul_id_ggml(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        input: &MlxBuffer,
        weight: &MlxBuffer,
        ids: &MlxBuffer,
        output: &mut MlxBuffer,
        params: &ops::quantized_matmul_id_ggml::GgmlQuantizedMatmulIdParams,
    ) -> Result<()> {
        ops::quantized_matmul_id_ggml::quantized_matmul_id_ggml(
            self.encoder_mut(),
            registry,
            device,
            input,
            weight,
            ids,
            output,
            params,
        )
    }

    /// Records [`sdpa`](crate::ops::sdpa::sdpa).
    ///
    /// # Errors
    /// As the function.
    pub fn sdpa(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        q: &MlxBuffer,
        k: &MlxBuffer,
        v: &MlxBuffer,
        output: &MlxBuffer,
        params: &ops::sdpa::SdpaParams,
        batch_size: u32,
    ) -> Result<()> {
        ops::sdpa::sdpa(
            self.encoder_mut(),
            registry,
            device,
            q,
            k,
            v,
            output,
            params,
            batch_size,
        )
    }

    /// Records [`flash_attn_vec`](crate::ops::flash_attn_vec::flash_attn_vec).
    ///
    /// # Errors
    /// As the function.
    pub fn flash_attn_vec(
        &mut self,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        q: &MlxBuffer,
        k: &MlxBuffer,
        v: &MlxBuffer,
        output: &MlxBuffer,
        tmp: &MlxBuffer,
        params: &ops::flash_attn_vec::FlashAttnVecParams,
    ) -> Result<()> {
        ops::flash_attn_vec::flash_attn_vec(
            self.encoder_mut(),
            registry,
            device,
            q,
            k,
            v,
            output,
            tmp,
            params,
        )
    }

    /// Records [`elementwise_add`](crate::ops::elementwise::elementwise_add).
    ///
    /// # Errors
    /// As the function.
    pub fn elementwise_add(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        a: &MlxBuffer,
        b: &MlxBuffer,
        output: &MlxBuffer,
        n_elements: usize,
        dtype: DType,
    ) -> Result<()> {
        ops::elementwise::elementwise_add(
            self.encoder_mut(),
            registry,
            device,
            a,
            b,
            output,
            n_elements,
            dtype,
        )
    }

    /// Records [`elementwise_mul`](crate::ops::elementwise::elementwise_mul).
    ///
    /// # Errors
    /// As the function.
    pub fn elementwise_mul(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        a: &MlxBuffer,
        b: &MlxBuffer,
        output: &MlxBuffer,
        n_elements: usize,
        dtype: DType,
    ) -> Result<()> {
        ops::elementwise::elementwise_mul(
            self.encoder_mut(),
            registry,
            device,
            a,
            b,
            output,
            n_elements,
            dtype,
        )
    }

    /// Records [`dispatch_rope`](crate::ops::rope::dispatch_rope).
    ///
    /// # Errors
    /// As the function.
    pub fn rope(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        positions_buf: &MlxBuffer,
        seq_len: u32,
        head_dim: u32,
    ) -> Result<()> {
        ops::rope::dispatch_rope(
            self.encoder_mut(),
            registry,
            device,
            input,
            output,
            params_buf,
            positions_buf,
            seq_len,
            head_dim,
        )
    }

    /// Records [`dispatch_gelu`](crate::ops::gelu::dispatch_gelu).
    ///
    /// # Errors
    /// As the function.
    pub fn gelu(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
    ) -> Result<()> {
        ops::gelu::dispatch_gelu(self.encoder_mut(), registry, device, input, output)
    }

    /// Records [`dispatch_softmax`](crate::ops::softmax::dispatch_softmax).
    ///
    /// # Errors
    /// As the function.
    pub fn softmax(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        rows: u32,
        cols: u32,
    ) -> Result<()> {
        ops::softmax::dispatch_softmax(
            self.encoder_mut(),
            registry,
            device,
            input,
            output,
            params_buf,
            rows,
            cols,
        )
    }

    /// Records [`dispatch_softcap`](crate::ops::softcap::dispatch_softcap).
    ///
    /// # Errors
    /// As the function.
    pub fn softcap(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        cap: f32,
    ) -> Result<()> {
        ops::softcap::dispatch_softcap(
            self.encoder_mut(),
            registry,
            device,
            input,
            output,
            params_buf,
            cap,
        )
    }

    /// Records [`dispatch_rms_norm_no_scale_f32`](crate::ops::rms_norm::dispatch_rms_norm_no_scale_f32).
    ///
    /// # Errors
    /// As the function.
    pub fn rms_norm_no_scale_f32(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        rows: u32,
        dim: u32,
    ) -> Result<()> {
        ops::rms_norm::dispatch_rms_norm_no_scale_f32(
            self.encoder_mut(),
            registry,
            device,
            input,
            output,
            params_buf,
            rows,
            dim,
        )
    }

    /// Records [`dispatch_rope_neox_f32`](crate::ops::rope::dispatch_rope_neox_f32).
    ///
    /// # Errors
    /// As the function.
    pub fn rope_neox_f32(
        &mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        input: &MlxBuffer,
        output: &MlxBuffer,
        params_buf: &MlxBuffer,
        positions_buf: &MlxBuffer,
        freq_factors: Option<&MlxBuffer>,
        seq_len: u32,
        n_heads: u32,
        head_dim: u32,
        rope_dim: u32,
    ) -> Result<()> {
        ops::rope::dispatch_rope_neox_f32(
            self.encoder_mut(),
            registry,
            device,
            input,
            output,
            params_buf,
            positions_buf,
            freq_factors,
            seq_len,
            n_heads,
            head_dim,
            rope_dim,
        )
    }
}
