//! Every type that mlx-native 0.1.0 published, built and taken apart as its programs do: by all fields, by every variant.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;

use mlx_native::ops::copy::StridedCopyParams;
use mlx_native::ops::dense_gemm::DenseGemmF16Params;
use mlx_native::ops::elementwise::CastDirection;
use mlx_native::ops::embedding::EmbeddingGatherParams;
use mlx_native::ops::encode_helpers::KernelArg;
use mlx_native::ops::flash_attn_vec::FlashAttnVecParams;
use mlx_native::ops::flash_attn_vec_tq::FlashAttnVecTqParams;
use mlx_native::ops::moe_dispatch::{ExpertWeights, MoeDispatchParams};
use mlx_native::ops::moe_gate::MoeGateParams;
use mlx_native::ops::sdpa::SdpaParams;
use mlx_native::ops::sdpa_sliding::SdpaSlidingParams;
use mlx_native::turboquant::{BitWidth, TurboQuantConfig};
use mlx_native::{
    CapturedNode, DType, DispatchKind, GgmlQuantizedMatmulIdParams, GgmlQuantizedMatmulParams, GgmlType,
    GgufFile, MTLSize, MetadataValue, MlxBuffer, MlxDevice, MlxError, OpKind, QuantizationConfig,
    QuantizedMatmulIdParams, QuantizedMatmulParams, QuantizedWeight, RecordedBinding, SafetensorsFile,
    TensorInfo, TensorQuantConfig,
};

fn copies<T: Copy + Clone + Debug>(_: T) {}
fn compares<T: PartialEq + Eq>(_: T) {}
fn hashes<T: Hash>(_: T) {}
fn shows<T: Display>(_: &T) {}
fn debugs<T: Debug>() {}

#[test]
fn parameter_structs() {
    let (m, n, k, group_size, bits) = (1, 2, 3, 4, 5);
    copies(QuantizedMatmulParams {
        m,
        k,
        n,
        group_size,
        bits,
    });
    copies(QuantizedMatmulIdParams {
        m,
        k,
        n,
        group_size,
        bits,
        n_expert_used: 6,
        num_experts: 7,
    });
    let ggml_type = GgmlType::Q4_0;
    copies(GgmlQuantizedMatmulParams { m, n, k, ggml_type });
    copies(GgmlQuantizedMatmulIdParams {
        n_tokens: 1,
        top_k: 2,
        n,
        k,
        n_experts: 5,
        expert_stride: 6u64,
        ggml_type,
    });
    let (n_heads, n_kv_heads, head_dim, seq_len, kv_seq_len, scale, kv_capacity) =
        (4, 2, 8, 1, 3, 0.5f32, 16);
    copies(SdpaParams {
        n_heads,
        n_kv_heads,
        head_dim,
        seq_len,
        kv_seq_len,
        scale,
        kv_capacity,
    });
    let window_size = 9u32;
    copies(SdpaSlidingParams {
        n_heads,
        n_kv_heads,
        head_dim,
        seq_len,
        kv_seq_len,
        window_size,
        scale,
        kv_capacity,
    });
    let (num_heads, num_kv_heads, mask_type, sliding_window, softcap) = (4, 2, 0, 0, 0.0f32);
    copies(FlashAttnVecParams {
        num_heads,
        num_kv_heads,
        head_dim,
        kv_seq_len,
        kv_capacity,
        scale,
        mask_type,
        sliding_window,
        softcap,
    });
    copies(FlashAttnVecTqParams {
        num_heads,
        num_kv_heads,
        head_dim,
        kv_seq_len,
        kv_capacity,
        scale,
        mask_type,
        sliding_window,
        softcap,
    });
    let StridedCopyParams {
        rows: _,
        cols: _,
        stride_row: _,
        stride_col: _,
    } = StridedCopyParams {
        rows: 1,
        cols: 2,
        stride_row: 3,
        stride_col: 4,
    };
    let DenseGemmF16Params { m: _, n: _, k: _ } = DenseGemmF16Params { m, n, k };
    let EmbeddingGatherParams {
        embed_dim: _,
        group_size: _,
        bits: _,
        n_tokens: _,
    } = EmbeddingGatherParams {
        embed_dim: 1usize,
        group_size: 2usize,
        bits: 4u8,
        n_tokens: 3usize,
    };
    let MoeDispatchParams {
        input_dim: _,
        intermediate_dim: _,
        n_selected: _,
    } = MoeDispatchParams {
        input_dim: 1usize,
        intermediate_dim: 2usize,
        n_selected: 3usize,
    };
    let MoeGateParams {
        hidden_dim: _,
        n_experts: _,
        top_k: _,
        seq_len: _,
        rms_eps: _,
    } = MoeGateParams {
        hidden_dim: 1usize,
        n_experts: 2usize,
        top_k: 3usize,
        seq_len: 4usize,
        rms_eps: 1e-6f32,
    };
    let size = MTLSize {
        width: 1u64,
        height: 2u64,
        depth: 3u64,
    };
    copies(size);
    hashes(size);
    compares(size);
    assert_eq!(
        (size, MTLSize::default()),
        (MTLSize::new(1, 2, 3), MTLSize::new(0, 0, 0))
    );
}

#[test]
fn enums() {
    for (direction, name) in [
        (CastDirection::F16ToF32, 0),
        (CastDirection::F32ToF16, 1),
        (CastDirection::BF16ToF32, 2),
        (CastDirection::F32ToBF16, 3),
    ] {
        // All there are: this match has no arm for others.
        assert_eq!(
            name,
            match direction {
                CastDirection::F16ToF32 => 0,
                CastDirection::F32ToF16 => 1,
                CastDirection::BF16ToF32 => 2,
                CastDirection::F32ToBF16 => 3,
            }
        );
    }
    for dtype in [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::I32,
    ] {
        let (bytes, name) = match dtype {
            DType::F32 => (4, "f32"),
            DType::F16 => (2, "f16"),
            DType::BF16 => (2, "bf16"),
            DType::U8 => (1, "u8"),
            DType::U16 => (2, "u16"),
            DType::U32 => (4, "u32"),
            DType::I32 => (4, "i32"),
        };
        assert_eq!(
            (dtype.size_of(), dtype.name(), dtype.to_string()),
            (bytes, name, name.to_owned())
        );
        hashes(dtype);
        compares(dtype);
    }
    for (ty, values, bytes) in [
        (GgmlType::F32, 1, 4),
        (GgmlType::F16, 1, 2),
        (GgmlType::Q4_0, 32, 18),
        (GgmlType::Q8_0, 32, 34),
        (GgmlType::Q4_K, 256, 144),
        (GgmlType::Q6_K, 256, 210),
    ] {
        assert_eq!((ty.block_values(), ty.block_bytes()), (values, bytes));
        copies(ty);
        hashes(ty);
        compares(ty);
    }
    let movable = [
        OpKind::MatMul,
        OpKind::MatMulId,
        OpKind::Norm,
        OpKind::Rope,
        OpKind::Elementwise,
    ];
    assert!(
        movable
            .iter()
            .chain(&[OpKind::Copy, OpKind::Gather])
            .all(OpKind::is_reorderable)
    );
    assert!(
        ![OpKind::Sdpa, OpKind::Softmax, OpKind::MoeGate, OpKind::Other]
            .iter()
            .any(OpKind::is_reorderable)
    );
    for width in [
        BitWidth::Two,
        BitWidth::Three,
        BitWidth::Four,
        BitWidth::TwoPointFive,
    ] {
        let config = TurboQuantConfig {
            bit_width: width,
            head_dim: 64,
        };
        assert_eq!(config.clone().bit_width, width);
        copies(width);
    }
    copies(DispatchKind::Threads);
    copies(DispatchKind::ThreadGroups);
}

#[test]
fn errors() {
    let of = |s: &str| s.to_owned();
    for (error, words) in [
        (MlxError::DeviceNotFound, &["Metal GPU device"][..]),
        (
            MlxError::CommandBufferError(of("x")),
            &["Command buffer error: x"],
        ),
        (
            MlxError::ShaderCompilationError {
                name: of("kern"),
                message: of("why"),
            },
            &["kern", "why"],
        ),
        (MlxError::BufferAllocationError { bytes: 1234 }, &["1234"]),
        (MlxError::InvalidArgument(of("x")), &["Invalid argument: x"]),
        (MlxError::KernelNotFound(of("x")), &["Kernel not found: x"]),
        (MlxError::IoError(of("x")), &["I/O error: x"]),
        (MlxError::SafetensorsError(of("x")), &["Safetensors error: x"]),
        (
            MlxError::QuantConfigError(of("x")),
            &["Quantization config error: x"],
        ),
        (MlxError::UnsupportedDtype(of("x")), &["Unsupported dtype: x"]),
        (MlxError::GgufParseError(of("x")), &["GGUF parse error: x"]),
    ] {
        let shown = error.to_string();
        assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
        let is_transient = matches!(error, MlxError::CommandBufferError(_));
        assert_eq!(error.is_transient(), is_transient, "{shown}");
        let _: Box<dyn std::error::Error> = Box::new(error);
    }
}

#[test]
fn files_and_weights() {
    let config = QuantizationConfig {
        bits: 4u8,
        group_size: 64usize,
        per_tensor: HashMap::from([(
            "x".to_owned(),
            TensorQuantConfig {
                bits: 8u8,
                group_size: 32usize,
            },
        )]),
    };
    assert_eq!(config.clone().config_for_tensor("x"), (8, 32));
    let read: QuantizationConfig = serde_json::from_str("{}").unwrap();
    assert_eq!((read.bits, read.group_size, read.per_tensor.len()), (4, 64, 0));
    for value in [
        MetadataValue::Uint8(1),
        MetadataValue::Int8(1),
        MetadataValue::Uint16(1),
        MetadataValue::Int16(1),
        MetadataValue::Uint32(1),
        MetadataValue::Int32(1),
        MetadataValue::Float32(1.0),
        MetadataValue::Bool(true),
        MetadataValue::String("x".to_owned()),
        MetadataValue::Array(vec![]),
        MetadataValue::Uint64(1),
        MetadataValue::Int64(1),
        MetadataValue::Float64(1.0),
    ] {
        let is_u32 = matches!(
            value,
            MetadataValue::Uint32(_)
                | MetadataValue::Uint8(_)
                | MetadataValue::Uint16(_)
                | MetadataValue::Int32(_)
        );
        assert_eq!(value.clone().as_u32(), is_u32.then_some(1), "{value:?}");
        let is_f32 = matches!(value, MetadataValue::Float32(_) | MetadataValue::Float64(_));
        assert_eq!(value.as_f32(), is_f32.then_some(1.0), "{value:?}");
    }
    assert_eq!(MetadataValue::Int32(-1).as_u32(), None);
    let info = TensorInfo {
        name: "x".to_owned(),
        shape: vec![2, 3],
        ggml_type: GgmlType::F32,
        offset: 0u64,
        byte_len: 24usize,
    };
    let TensorInfo {
        name: _,
        shape: _,
        ggml_type: _,
        offset: _,
        byte_len: _,
    } = info.clone();
    debugs::<QuantizedWeight>();
    debugs::<SafetensorsFile>();
    let opened = GgufFile::open(std::path::Path::new("/nowhere/x.gguf"));
    assert!(matches!(opened.err(), Some(MlxError::IoError(_))));
    shows(&MlxError::IoError(String::new()));
}

#[test]
fn borrowed_types_and_captured_nodes() {
    let device = MlxDevice::new().unwrap();
    let buffer = device.alloc_buffer(16, DType::F32, vec![4]).unwrap();
    let ExpertWeights {
        gate_proj,
        up_proj: _,
        down_proj: _,
    } = ExpertWeights {
        gate_proj: &buffer,
        up_proj: &buffer,
        down_proj: &buffer,
    };
    let args = [
        KernelArg::Buffer(gate_proj),
        KernelArg::BufferWithOffset(&buffer, 4),
        KernelArg::Bytes(&[1, 2]),
    ];
    for arg in args {
        match arg {
            KernelArg::Buffer(b) | KernelArg::BufferWithOffset(b, _) => assert_eq!(b.byte_len(), 16),
            KernelArg::Bytes(bytes) => assert_eq!(bytes.len(), 2),
        }
    }
    let metal_buffer: mlx_native::metal::Buffer = buffer.metal_buffer().clone();
    let again = MlxBuffer::from_raw(metal_buffer.clone(), DType::U8, vec![16]);
    assert_eq!(
        (again.contents_ptr(), again.dtype()),
        (buffer.contents_ptr(), DType::U8)
    );
    let bindings = vec![
        (
            0u64,
            RecordedBinding::Buffer {
                metal_buffer,
                offset: 0u64,
            },
        ),
        (1, RecordedBinding::Bytes(vec![1])),
    ];
    let mut registry = mlx_native::KernelRegistry::new();
    let pipeline = registry
        .get_pipeline("softmax_f32", device.metal_device())
        .unwrap()
        .clone();
    let node = CapturedNode::Dispatch {
        pipeline,
        bindings,
        threads_per_grid: MTLSize::new(1, 1, 1),
        threads_per_threadgroup: MTLSize::new(1, 1, 1),
        threadgroup_memory: vec![(0u64, 16u64)],
        dispatch_kind: DispatchKind::Threads,
        op_kind: mlx_native::CapturedOpKind::Other,
        reads: vec![(0usize, 4usize)],
        writes: vec![],
    };
    let graph = mlx_native::ComputeGraph::from_nodes(vec![node, CapturedNode::Barrier]);
    assert_eq!(
        (graph.len(), graph.dispatch_count(), graph.barrier_count()),
        (2, 1, 1)
    );
    assert_eq!(graph.unannotated_dispatch_count(), 1);
}
