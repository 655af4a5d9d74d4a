//! What a token of decoding costs: the host's part, on the device that runs nothing, and all of it on the CPU. The model has
//! the shape of Qwen3-0.6B and random weights of 4 bits, in a folder that is deleted again.
//! `cargo bench -p mlx-native-lm --bench step [-- TOKENS [SEQUENCES…]]`

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mlx_native::{DeviceKind, MlxDevice};
use mlx_native_lm::{
    Batch, Decoder, ModelOptions, NewSequence, Output, Sampler, SamplingParams, open_decoder,
};
use serde_json::{Map, json};

const LAYERS: usize = 28;
const HIDDEN: usize = 1024;
const VOCAB: usize = 151_936;

/// A tensor's name, type, shape, and how its bytes come about.
type Tensor = (String, &'static str, Vec<usize>);

fn tensors() -> Vec<Tensor> {
    let mut all: Vec<Tensor> = Vec::new();
    let matrix = |all: &mut Vec<Tensor>, name: String, n: usize, k: usize| {
        all.push((format!("{name}.weight"), "U32", vec![n, k / 8]));
        all.push((format!("{name}.scales"), "BF16", vec![n, k / 64]));
        all.push((format!("{name}.biases"), "BF16", vec![n, k / 64]));
    };
    matrix(&mut all, "model.embed_tokens".to_owned(), VOCAB, HIDDEN);
    for i in 0..LAYERS {
        let layer = format!("model.layers.{i}");
        for (name, n, k) in [
            ("self_attn.q_proj", 2048, HIDDEN),
            ("self_attn.k_proj", 1024, HIDDEN),
            ("self_attn.v_proj", 1024, HIDDEN),
            ("self_attn.o_proj", HIDDEN, 2048),
            ("mlp.gate_proj", 3072, HIDDEN),
            ("mlp.up_proj", 3072, HIDDEN),
            ("mlp.down_proj", HIDDEN, 3072),
        ] {
            matrix(&mut all, format!("{layer}.{name}"), n, k);
        }
        for (name, n) in [
            ("self_attn.q_norm", 128),
            ("self_attn.k_norm", 128),
            ("input_layernorm", HIDDEN),
            ("post_attention_layernorm", HIDDEN),
        ] {
            all.push((format!("{layer}.{name}.weight"), "BF16", vec![n]));
        }
    }
    all.push(("model.norm.weight".to_owned(), "BF16", vec![HIDDEN]));
    all
}

fn write_folder(folder: &Path) -> Result<(), Box<dyn Error>> {
    let config = json!({
        "model_type": "qwen3", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "intermediate_size": 3072,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
        "vocab_size": VOCAB, "max_position_embeddings": 40960, "rope_theta": 1e6, "tie_word_embeddings": true,
        "quantization": {"group_size": 64, "bits": 4},
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let (mut header, mut end) = (Map::new(), 0);
    let tensors = tensors();
    for (name, dtype, shape) in &tensors {
        let size = if *dtype == "U32" { 4 } else { 2 };
        let bytes = shape.iter().product::<usize>() * size;
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        end += bytes;
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("model.safetensors"))?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    let mut state = 1u64;
    for (name, dtype, shape) in &tensors {
        let n = shape.iter().product::<usize>();
        // Scales that keep activations near 1: codes 0 to 15, biases in their middle.
        let constant = match (name.ends_with(".scales"), name.ends_with(".biases")) {
            (true, _) => 0.005f32,
            (_, true) => -0.0375,
            _ => 1.0,
        };
        let half = ((constant.to_bits() >> 16) as u16).to_le_bytes();
        for _ in 0..n {
            if *dtype == "U32" {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                file.write_all(&((state >> 32) as u32).to_le_bytes())?;
            } else {
                file.write_all(&half)?;
            }
        }
    }
    Ok(file.flush()?)
}

/// The time of each of `tokens` steps of `n` sequences, chosen where `on_device` says; the median.
fn decode(
    decoder: &mut Decoder,
    n: usize,
    tokens: usize,
    on_device: bool,
) -> Result<Duration, Box<dyn Error>> {
    let mut batch = Batch::new(decoder)?;
    let mut samplers = Vec::new();
    for i in 0..n {
        let sampler = Sampler::new(&SamplingParams::default())?;
        let new = NewSequence {
            state: decoder.new_state(tokens + 64)?,
            history: Vec::new(),
            sampling: sampler.on_device().filter(|_| on_device),
            max_tokens: tokens + 16,
        };
        let id = batch.add(decoder, new)?;
        batch.append(id, &[i as u32 + 1; 8])?;
        samplers.push((id, sampler));
    }
    let mut times = Vec::new();
    for step in 0..tokens + 8 {
        let start = Instant::now();
        for (id, output) in batch.step(decoder)? {
            if let Output::Logits(mut logits) = output {
                let sampler = samplers.iter_mut().find(|(known, _)| *known == id);
                let token = match sampler {
                    Some((_, sampler)) => sampler.sample(&mut logits, batch.tokens(id))?,
                    None => 0,
                };
                batch.push(id, token)?;
            }
        }
        // The first steps feed the prompt and record.
        if step >= 8 {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let tokens = numbers.first().copied().unwrap_or(64);
    let sequences = if numbers.len() > 1 {
        numbers[1..].to_vec()
    } else {
        vec![1, 4, 8]
    };
    let folder = tempfile::tempdir()?;
    write_folder(folder.path())?;
    let options = ModelOptions::default();
    let device = MlxDevice::open(DeviceKind::Null)?;
    let mut decoder = open_decoder(&device, folder.path(), &options)?;
    let time = decode(&mut decoder, 1, 2000, true)?;
    println!("null device: from ids to submitted, step and choice: {time:.1?}");
    let device = MlxDevice::open(DeviceKind::Cpu)?;
    let mut decoder = open_decoder(&device, folder.path(), &options)?;
    for n in sequences {
        for (on_device, place) in [(true, "device"), (false, "host")] {
            let time = decode(&mut decoder, n, tokens, on_device)?;
            let rate = n as f64 / time.as_secs_f64();
            println!(
                "cpu: {n} sequences, tokens chosen on the {place}: {time:.1?} a step, {rate:.1} tokens/s"
            );
        }
    }
    Ok(())
}
