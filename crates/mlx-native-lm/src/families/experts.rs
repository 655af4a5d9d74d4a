//! What families with mixtures of experts share.

use super::common::{Config, MAX_EXTENT};
use crate::error::Result;
use crate::spec::{
    Block, Experts, GroupLimit, Matrix, Mlp, MlpActivation, Moe, Router, Score, SharedExpert, Stack,
};

/// `n` gated experts under `path`: stacked `gate_proj`, `up_proj`, `down_proj`.
pub(super) fn experts(
    c: &Config<'_>,
    path: &str,
    n: usize,
    inner: usize,
    activation: MlpActivation,
) -> Experts {
    let names = [Some("gate_proj"), Some("up_proj"), Some("down_proj")];
    experts_of(path, names, n, [inner, c.hidden], activation)
}

/// `n` experts under other names, from and to a width that may be another than the stream's.
pub(super) fn experts_of(
    path: &str,
    names: [Option<&str>; 3],
    n: usize,
    [inner, width]: [usize; 2],
    activation: MlpActivation,
) -> Experts {
    let stack = |name: &str, outputs, inputs| Stack {
        path: format!("{path}.{name}"),
        outputs,
        inputs,
        bias: false,
        rows: None,
    };
    let [gate, up, down] = names;
    Experts {
        n_experts: n,
        gate: gate.map(|name| stack(name, inner, width)),
        up: stack(up.unwrap_or("up_proj"), inner, width),
        down: stack(down.unwrap_or("down_proj"), width, inner),
        activation,
    }
}

impl Experts {
    /// With biases on all matrices, or none.
    pub(super) fn biased(mut self, bias: bool) -> Self {
        for stack in self.gate.iter_mut().chain([&mut self.up, &mut self.down]) {
            stack.bias = bias;
        }
        self
    }
}

/// A router of one matrix.
pub(super) fn router(c: &Config<'_>, path: String, n: usize, top_k: usize, score: Score) -> Result<Router> {
    if top_k > n {
        return Err(c
            .fields
            .invalid("experts of a token", top_k, &format!("at most the {n} there are")));
    }
    Ok(Router {
        matrix: Matrix::new(path, n, c.hidden),
        norm: None,
        reads_unnormed: false,
        logit_factor: 1.0,
        n_identity: 0,
        correction: None,
        score,
        top_k,
        groups: None,
        normalise: None,
        factor: 1.0,
        cap: None,
        expert_scale: None,
    })
}

/// The two together.
pub(super) fn moe(router: Router, experts: Experts, shared: Option<SharedExpert>) -> Block {
    Block::Moe(Box::new(Moe {
        router,
        experts,
        shared,
        weights_before: false,
        latent: None,
        latent_pre: None,
        expert_norm: None,
    }))
}

/// A shared expert without a gate.
pub(super) fn shared(mlp: Mlp) -> SharedExpert {
    SharedExpert {
        mlp,
        gate: None,
        mix: None,
    }
}

/// The layer of DeepSeek V3 and of those that copied it, under `path`: scores with a correction, groups, a shared expert.
pub(super) fn deepseek(c: &Config<'_>, path: &str, names: [&str; 2], score: Score) -> Result<Block> {
    let n = c.count("n_routed_experts")?;
    let inner = c.count("moe_intermediate_size")?;
    let top_k = c.count("num_experts_per_tok")?;
    let mut router = router(c, format!("{path}.gate"), n, top_k, score)?;
    let correction = format!("{path}.{}", names[1]);
    router.correction = c.input.has(&correction).then_some(correction);
    router.groups = groups(c, n, "n_group", "topk_group", 2)?;
    if c.flag("norm_topk_prob", true)? && top_k > 1 {
        router.normalise = Some(0.0);
    }
    router.factor = c.positive("routed_scaling_factor", 1.0)? as f32;
    let shared = shared_of(c, path, inner)?;
    let experts = experts(c, &format!("{path}.{}", names[0]), n, inner, MlpActivation::Silu);
    Ok(moe(router, experts, shared))
}

/// What routers of the kind of DeepSeek V3 differ in: names of tensors under the layer's path, and of keys.
pub(super) struct Grouped<'a> {
    pub router: &'a str,
    pub correction: Option<&'a str>,
    pub score: Score,
    pub top_k: (&'a str, Option<usize>),
    pub groups: &'a str,
    pub normalise: &'a str,
    pub factor: (&'a str, f64),
    /// What scores of groups that are left out become.
    pub others: f32,
}

pub(super) const GROUPED: Grouped<'_> = Grouped {
    router: "gate",
    correction: Some("gate.e_score_correction_bias"),
    score: Score::Sigmoid,
    top_k: ("num_experts_per_tok", None),
    groups: "n_group",
    normalise: "norm_topk_prob",
    factor: ("routed_scaling_factor", 2.5),
    others: 0.0,
};

/// Such a router over `n` experts.
pub(super) fn grouped_router(c: &Config<'_>, path: &str, n: usize, g: &Grouped<'_>) -> Result<Router> {
    let top_k = match g.top_k {
        (key, Some(default)) => c.count_or(key, default)?,
        (key, None) => c.count(key)?,
    };
    let mut router = router(c, format!("{path}.{}", g.router), n, top_k, g.score)?;
    router.correction = g.correction.map(|name| format!("{path}.{name}"));
    router.groups = groups(c, n, g.groups, "topk_group", 2)?;
    if let Some(groups) = &mut router.groups {
        groups.others = g.others;
    }
    if c.flag(g.normalise, true)? && top_k > 1 {
        router.normalise = Some(1e-20);
    }
    router.factor = c.number(g.factor.0, g.factor.1)? as f32;
    Ok(router)
}

/// So many shared experts as `key` says, as one wide expert; none where it is zero or missing.
pub(super) fn shared_by(c: &Config<'_>, path: &str, key: &str, inner: usize) -> Result<Option<SharedExpert>> {
    let n = c.natural(key, 0)?;
    let inner = inner.saturating_mul(n);
    if inner > MAX_EXTENT {
        return Err(c
            .fields
            .invalid(key, n, "a number of experts that a layer can have"));
    }
    let own = format!("{path}.shared_experts");
    Ok((n > 0).then(|| shared(c.mlp(&own, inner, MlpActivation::Silu, false))))
}

/// The limit to some groups, where there is more than one.
pub(super) fn groups(
    c: &Config<'_>,
    n: usize,
    groups: &str,
    top: &str,
    best_of: usize,
) -> Result<Option<GroupLimit>> {
    let n_groups = c.count_or(groups, 1)?;
    if n_groups == 1 {
        return Ok(None);
    }
    let top_groups = c.count_or(top, n_groups)?;
    if !n.is_multiple_of(n_groups) || top_groups > n_groups {
        return Err(c.fields.invalid(
            groups,
            n_groups,
            &format!("a divisor of {n} experts, no less than {top}"),
        ));
    }
    Ok(Some(GroupLimit {
        n_groups,
        top_groups,
        best_of,
        others: 0.0,
    }))
}

/// `n_shared_experts` as one wide expert.
pub(super) fn shared_of(c: &Config<'_>, path: &str, inner: usize) -> Result<Option<SharedExpert>> {
    Ok(c.fields.count("n_shared_experts", MAX_EXTENT)?.map(|n| {
        shared(c.mlp(
            &format!("{path}.shared_experts"),
            inner * n,
            MlpActivation::Silu,
            false,
        ))
    }))
}

/// Whether layer `i` has experts, by `first_k_dense_replace` and `moe_layer_freq`.
pub(super) fn is_sparse(c: &Config<'_>, i: usize) -> Result<bool> {
    // Zero dense layers is a usual value.
    let dense = c
        .fields
        .get("first_k_dense_replace")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0) as usize;
    Ok(i >= dense && i.is_multiple_of(c.count_or("moe_layer_freq", 1)?))
}
