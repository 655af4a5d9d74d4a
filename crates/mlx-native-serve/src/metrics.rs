//! Numbers for Prometheus, under vLLM's stems.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mlx_native_lm::engine::{EngineStats, STEP_BOUNDS};

/// Upper bounds of the buckets of times, in milliseconds.
const BOUNDS: [u64; 16] = [
    1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000, 120_000, 600_000,
];

/// A histogram of times.
#[derive(Debug, Default)]
struct Times {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Times {
    fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            if micros <= bound * 1000 {
                bucket.fetch_add(1, Relaxed);
            }
        }
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let count = self.count.load(Relaxed);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            let _ = writeln!(
                out,
                "{name}_bucket{{le=\"{}\"}} {}",
                *bound as f64 / 1e3,
                bucket.load(Relaxed)
            );
        }
        let seconds = self.micros.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {seconds}\n{name}_count {count}"
        );
    }
}

/// The histogram of the tokens of a step.
fn step_sizes(out: &mut String, engines: &[(String, EngineStats)]) {
    let name = "mlx_native_iteration_tokens_total";
    let _ = writeln!(out, "# HELP {name} Tokens of a step.\n# TYPE {name} histogram");
    for (model, stats) in engines {
        let label = format!("model_name={}", serde_json::json!(model));
        for (bound, n) in STEP_BOUNDS.iter().zip(stats.step_sizes) {
            let _ = writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {n}");
        }
        let (n, tokens) = (stats.steps, stats.step_tokens);
        let _ = writeln!(
            out,
            "{name}_bucket{{{label},le=\"+Inf\"}} {n}\n{name}_sum{{{label}}} {tokens}\n{name}_count{{{label}}} {n}"
        );
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub reason: &'static str,
    pub seconds: Duration,
    pub queued: Duration,
    pub prompt: usize,
    pub completion: usize,
}

const REASONS: [&str; 5] = ["stop", "length", "tool_calls", "cancelled", "error"];

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    first_token: Times,
    between_tokens: Times,
    whole: Times,
    queued: Times,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    finished: [AtomicU64; REASONS.len()],
    http: AtomicU64,
    http_errors: AtomicU64,
}

impl Metrics {
    pub fn first_token(&self, time: Duration) {
        self.first_token.add(time);
    }

    pub fn between_tokens(&self, time: Duration) {
        self.between_tokens.add(time);
    }

    pub fn answered(&self, status: u16) {
        self.http.fetch_add(1, Relaxed);
        if status >= 400 {
            self.http_errors.fetch_add(1, Relaxed);
        }
    }

    pub fn finished(&self, finished: &Finished) {
        self.whole.add(finished.seconds);
        self.queued.add(finished.queued);
        self.prompt_tokens.fetch_add(finished.prompt as u64, Relaxed);
        self.generation_tokens
            .fetch_add(finished.completion as u64, Relaxed);
        if let Some(index) = REASONS.iter().position(|r| *r == finished.reason) {
            self.finished[index].fetch_add(1, Relaxed);
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self, engines: &[(String, EngineStats)]) -> String {
        let mut out = String::new();
        let mut number = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
            let _ = writeln!(
                out,
                "# HELP mlx_native_{name} {help}\n# TYPE mlx_native_{name} {kind}"
            );
            for (labels, value) in values {
                let _ = writeln!(out, "mlx_native_{name}{labels} {value}");
            }
        };
        let each = |value: &dyn Fn(&EngineStats) -> f64| -> Vec<(String, f64)> {
            let label = |model: &str| format!("{{model_name={}}}", serde_json::json!(model));
            engines
                .iter()
                .map(|(model, stats)| (label(model), value(stats)))
                .collect()
        };
        let one = |value: f64| [(String::new(), value)];
        number(
            "num_requests_running",
            "gauge",
            "Texts that are computed.",
            &each(&|s| s.running as f64),
        );
        number(
            "num_requests_waiting",
            "gauge",
            "Requests that wait.",
            &each(&|s| s.waiting as f64),
        );
        number(
            "kv_cache_usage_perc",
            "gauge",
            "Part of the memory for keys and values that is in use, from 0 to 1.",
            &each(&|s| s.kv_bytes as f64 / s.kv_limit.max(1) as f64),
        );
        number(
            "prefix_cache_entries",
            "gauge",
            "Texts in the prompt cache.",
            &each(&|s| s.cache_entries as f64),
        );
        number(
            "prefix_cache_queries_total",
            "counter",
            "Tokens looked up in the prompt cache.",
            &each(&|s| s.cache_queried as f64),
        );
        number(
            "prefix_cache_hits_total",
            "counter",
            "Tokens that the prompt cache had.",
            &each(&|s| s.cache_hits as f64),
        );
        number(
            "num_preemptions_total",
            "counter",
            "Texts that had to wait in the middle.",
            &each(&|s| s.preemptions as f64),
        );
        number(
            "spec_decode_num_draft_tokens_total",
            "counter",
            "Tokens that were guessed.",
            &each(&|s| s.guessed as f64),
        );
        number(
            "spec_decode_num_accepted_tokens_total",
            "counter",
            "Tokens that were guessed and came.",
            &each(&|s| s.guessed_right as f64),
        );
        number(
            "prompt_tokens_total",
            "counter",
            "Tokens of prompts.",
            &one(self.prompt_tokens.load(Relaxed) as f64),
        );
        number(
            "generation_tokens_total",
            "counter",
            "Tokens generated.",
            &one(self.generation_tokens.load(Relaxed) as f64),
        );
        number(
            "http_requests_total",
            "counter",
            "Requests answered.",
            &one(self.http.load(Relaxed) as f64),
        );
        number(
            "http_errors_total",
            "counter",
            "Requests answered with an error.",
            &one(self.http_errors.load(Relaxed) as f64),
        );
        let finished: Vec<(String, f64)> = REASONS
            .iter()
            .zip(&self.finished)
            .map(|(reason, n)| {
                (
                    format!("{{finished_reason=\"{reason}\"}}"),
                    n.load(Relaxed) as f64,
                )
            })
            .collect();
        number(
            "request_success_total",
            "counter",
            "Answers by how they ended.",
            &finished,
        );
        step_sizes(&mut out, engines);
        self.first_token.write(
            &mut out,
            "mlx_native_time_to_first_token_seconds",
            "From the request to its first token.",
        );
        self.between_tokens.write(
            &mut out,
            "mlx_native_inter_token_latency_seconds",
            "Between pieces of an answer.",
        );
        self.whole.write(
            &mut out,
            "mlx_native_e2e_request_latency_seconds",
            "From the request to its end.",
        );
        self.queued.write(
            &mut out,
            "mlx_native_request_queue_time_seconds",
            "Time that requests wait.",
        );
        out
    }

    /// Tokens of prompts, and tokens generated.
    pub fn tokens(&self) -> [u64; 2] {
        [
            self.prompt_tokens.load(Relaxed),
            self.generation_tokens.load(Relaxed),
        ]
    }
}
