//! Speed of a model's shape, with random weights: nothing need be downloaded, and time does not depend on what weights say.
//!
//! `cargo run --release -p mlx-native-lm --features cuda --example shape_speed -- --device cuda --folder /dev/shm/shape`
//!
//! Writes a 4-bit Qwen3 of the sizes that are asked for (8B by default, 4.6 GB) into the folder unless it is there, opens it
//! by the ordinary loader, and prints seconds until the first token, then tokens a second of a prompt and of decoding.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mlx_native::{Config, DeviceKind, MlxDevice};
use mlx_native_lm::{
    Batch, Decoder, ModelOptions, NewSequence, Output, Sampler, SamplingParams, SequenceState, open_decoder,
};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const GROUP: usize = 64;

/// Sizes of a Qwen3.
struct Shape {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
}

const QWEN3_8B: Shape = Shape {
    hidden: 4096,
    layers: 36,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    intermediate: 12288,
    vocab: 151_936,
};

/// A tensor to be written.
enum Kind {
    Codes,
    /// bf16, positive.
    Scales(f32),
    /// bf16, which with the scales of the same seed centre the weights.
    Biases(f32),
    Ones,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    kind: Kind,
}

impl Tensor {
    fn bytes(&self) -> usize {
        let width = if matches!(self.kind, Kind::Codes) { 4 } else { 2 };
        self.shape.iter().product::<usize>() * width
    }

    fn dtype(&self) -> &'static str {
        if matches!(self.kind, Kind::Codes) {
            "U32"
        } else {
            "BF16"
        }
    }

    fn fill(&self, out: &mut [u8]) {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        // Scales and biases of one matrix take the same numbers.
        if matches!(self.kind, Kind::Codes) {
            seed ^= self
                .name
                .bytes()
                .fold(7, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        }
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        match self.kind {
            Kind::Codes => {
                for word in out.chunks_mut(8) {
                    let bytes = next().to_le_bytes();
                    word.copy_from_slice(&bytes[..word.len()]);
                }
            }
            _ => {
                for pair in out.chunks_exact_mut(2) {
                    let step = 0.5 + (next() >> 40) as f32 / (1u64 << 25) as f32;
                    let value = match self.kind {
                        Kind::Scales(s) => s * step,
                        Kind::Biases(s) => -7.5 * s * step,
                        _ => 1.0,
                    };
                    pair.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
                }
            }
        }
    }
}

fn tensors(s: &Shape) -> Vec<Tensor> {
    let mut all = Vec::new();
    let mut matrix = |name: String, n: usize, k: usize| {
        // Codes of variance 21; weights of variance 1/k keep the size of what passes through.
        let scale = 1.3 / (4.6 * (k as f32).sqrt());
        let rows = [(".weight", k / 8), (".scales", k / GROUP), (".biases", k / GROUP)];
        for (suffix, columns) in rows {
            let kind = match suffix {
                ".weight" => Kind::Codes,
                ".scales" => Kind::Scales(scale),
                _ => Kind::Biases(scale),
            };
            all.push(Tensor {
                name: format!("{name}{suffix}"),
                shape: vec![n, columns],
                kind,
            });
        }
    };
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    matrix("model.embed_tokens".into(), s.vocab, s.hidden);
    matrix("lm_head".into(), s.vocab, s.hidden);
    for i in 0..s.layers {
        let layer = format!("model.layers.{i}");
        for (name, n, k) in [
            ("self_attn.q_proj", q, s.hidden),
            ("self_attn.k_proj", kv, s.hidden),
            ("self_attn.v_proj", kv, s.hidden),
            ("self_attn.o_proj", s.hidden, q),
            ("mlp.gate_proj", s.intermediate, s.hidden),
            ("mlp.up_proj", s.intermediate, s.hidden),
            ("mlp.down_proj", s.hidden, s.intermediate),
        ] {
            matrix(format!("{layer}.{name}"), n, k);
        }
    }
    let mut ones = |name: String, n: usize| {
        all.push(Tensor {
            name,
            shape: vec![n],
            kind: Kind::Ones,
        })
    };
    ones("model.norm.weight".into(), s.hidden);
    for i in 0..s.layers {
        let layer = format!("model.layers.{i}");
        ones(format!("{layer}.input_layernorm.weight"), s.hidden);
        ones(format!("{layer}.post_attention_layernorm.weight"), s.hidden);
        ones(format!("{layer}.self_attn.q_norm.weight"), s.head_dim);
        ones(format!("{layer}.self_attn.k_norm.weight"), s.head_dim);
    }
    all
}

fn write_model(folder: &Path, s: &Shape) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let config = json!({
        "model_type": "qwen3", "hidden_size": s.hidden, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim,
        "intermediate_size": s.intermediate, "vocab_size": s.vocab, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 40960, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "quantization": {"group_size": GROUP, "bits": 4},
    });
    let tensors = tensors(s);
    let mut header = Map::new();
    let mut at = 0;
    for t in &tensors {
        let end = at + t.bytes();
        header.insert(
            t.name.clone(),
            json!({"dtype": t.dtype(), "shape": t.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = std::fs::File::create(folder.join("model.safetensors"))?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for some in tensors.chunks(threads) {
        let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let handles: Vec<_> = some
                .iter()
                .map(|t| {
                    scope.spawn(|| {
                        let mut bytes = vec![0; t.bytes()];
                        t.fill(&mut bytes);
                        bytes
                    })
                })
                .collect();
            handles
                .into_iter()
                .map(|h| h.join().unwrap_or_default())
                .collect()
        });
        for part in parts {
            file.write_all(&part)?;
        }
    }
    // Last: a folder with it is whole.
    std::fs::write(folder.join("config.json"), config.to_string())?;
    Ok(())
}

struct Options {
    folder: PathBuf,
    device: DeviceKind,
    shape: Shape,
    prompt: Vec<usize>,
    /// Sequences that are decoded together, behind prompts of 128 tokens.
    batch: Vec<usize>,
    decode: usize,
    graphs: Option<bool>,
}

fn numbers(list: &str) -> Result<Vec<usize>> {
    Ok(list
        .split(',')
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?)
}

fn options() -> Result<Options> {
    let mut o = Options {
        folder: std::env::temp_dir().join("mlx-native-shape"),
        device: DeviceKind::Cpu,
        shape: QWEN3_8B,
        prompt: vec![2048],
        batch: Vec::new(),
        decode: 64,
        graphs: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} wants a value"))?;
        match flag.as_str() {
            "--folder" => o.folder = value.into(),
            "--device" => {
                let known = [
                    DeviceKind::Cpu,
                    DeviceKind::Metal,
                    DeviceKind::Cuda,
                    DeviceKind::Emulator,
                ];
                let found = known.into_iter().find(|d| d.name() == value);
                o.device = found.ok_or_else(|| format!("no device {value}"))?;
            }
            "--layers" => o.shape.layers = value.parse()?,
            "--vocab" => o.shape.vocab = value.parse()?,
            "--prompt" => o.prompt = numbers(&value)?,
            "--batch" => o.batch = numbers(&value)?,
            "--decode" => o.decode = value.parse()?,
            "--graphs" => o.graphs = Some(value.parse()?),
            _ => return Err(format!("no flag {flag}").into()),
        }
    }
    Ok(o)
}

fn best(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.unwrap_or(0) as u32
}

fn feed(decoder: &mut Decoder, ids: &[u32], state: &mut SequenceState) -> Result<Vec<f32>> {
    let chunk = decoder.chunk();
    let last = (ids.len() - 1) / chunk * chunk;
    for part in ids[..last].chunks(chunk) {
        decoder.feed(part, state)?;
    }
    Ok(decoder.forward(&ids[last..], state)?)
}

fn main() -> Result<()> {
    let o = options()?;
    if !o.folder.join("config.json").is_file() {
        let start = Instant::now();
        write_model(&o.folder, &o.shape)?;
        println!(
            "wrote {} in {:.2} s",
            o.folder.display(),
            start.elapsed().as_secs_f64()
        );
    }
    let start = Instant::now();
    let mut config = Config::default();
    if let Some(graphs) = o.graphs {
        config.cuda.graphs_from = graphs.then_some(8);
    }
    let device = MlxDevice::with_config(o.device, &config)?;
    let opened = start.elapsed().as_secs_f64();
    let mut decoder = open_decoder(&device, &o.folder, &ModelOptions::default())?;
    let loaded = start.elapsed().as_secs_f64();
    let mut state = decoder.new_state(64)?;
    let vocab = o.shape.vocab as u32;
    feed(&mut decoder, &[1, 2, 3], &mut state)?;
    println!(
        "{}: device {opened:.2} s, model {loaded:.2} s, first token {:.2} s; activations {:?}",
        device.name(),
        start.elapsed().as_secs_f64(),
        decoder.dtype()
    );
    for &n in &o.prompt {
        let ids: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(7919) % vocab).collect();
        let mut state = decoder.new_state(n + 2 * o.decode + 2)?;
        // Once unmeasured: kernels are compiled.
        if n > 1 {
            let mut warm = decoder.new_state(n)?;
            feed(&mut decoder, &ids, &mut warm)?;
        }
        let start = Instant::now();
        let mut token = best(&feed(&mut decoder, &ids, &mut state)?);
        let prompt = start.elapsed().as_secs_f64();
        // The host chooses some, and waits for the logits of each; the device the others, one step ahead of the host.
        let start = Instant::now();
        let few = o.decode.min(8);
        for _ in 0..few {
            token = best(&decoder.forward(&[token], &mut state)?);
        }
        let by_host = start.elapsed().as_secs_f64() / few as f64;
        let mut batch = Batch::new(&decoder)?;
        add(&mut batch, &decoder, state, &[token], o.decode + 9)?;
        let seconds = steps(&mut batch, &mut decoder, 1, o.decode)?;
        println!(
            "prompt {n}: {:.1} tokens/s ({:.1} ms); decode {}: {:.2} tokens/s ({:.3} ms); the host choosing: {:.3} ms",
            n as f64 / prompt,
            prompt * 1e3,
            o.decode,
            o.decode as f64 / seconds,
            seconds * 1e3 / o.decode as f64,
            by_host * 1e3
        );
    }
    for &n in &o.batch {
        let mut batch = Batch::new(&decoder)?;
        for s in 0..n as u32 {
            let prompt: Vec<u32> = (0..128)
                .map(|i: u32| (s + i).wrapping_mul(7919) % vocab)
                .collect();
            let state = decoder.new_state(128 + o.decode + 16)?;
            // All begin to decode together: those whose prompts come first wait with a token that is not counted.
            add(
                &mut batch,
                &decoder,
                state,
                &prompt,
                128 / n.max(1) + n + o.decode + 9,
            )?;
        }
        let seconds = steps(&mut batch, &mut decoder, n, o.decode)?;
        println!(
            "{n} sequences: {:.1} tokens/s ({:.3} ms a step)",
            (n * o.decode) as f64 / seconds,
            seconds * 1e3 / o.decode as f64
        );
    }
    Ok(())
}

fn add(
    batch: &mut Batch,
    decoder: &Decoder,
    state: SequenceState,
    tokens: &[u32],
    max_tokens: usize,
) -> Result<()> {
    let params = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let new = NewSequence {
        state,
        history: Vec::new(),
        sampling: Sampler::new(&params)?.on_device(),
        max_tokens,
    };
    let id = batch.add(decoder, new)?;
    batch.append(id, tokens)?;
    Ok(())
}

/// Seconds of `steps` steps that give a token of each of `n` sequences, behind some that are not counted.
fn steps(batch: &mut Batch, decoder: &mut Decoder, n: usize, steps: usize) -> Result<f64> {
    let mut full = 0;
    let mut start = Instant::now();
    loop {
        let outputs = batch.step(decoder)?;
        let tokens = outputs.iter().filter(|(_, o)| matches!(o, Output::Token(_)));
        if tokens.count() == n {
            full += 1;
            if full == 8 {
                start = Instant::now();
            }
            if full == 8 + steps {
                return Ok(start.elapsed().as_secs_f64());
            }
        } else if !batch.has_work() {
            return Err("a sequence ended early".into());
        }
    }
}
