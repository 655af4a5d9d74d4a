//! Lowering: from a specification to a program, loading the weights on the way.

mod alternating;
mod attention;
mod experts;
mod feed_forward;
mod latent;
mod mixers;
mod recurrent;

use std::collections::HashMap;
use std::sync::Arc;

use mlx_native::ops::ngram_ids::{MAX_ORDER, NgramParams};
use mlx_native::ops::rowwise::Function;
use mlx_native::quant::Weight;
use mlx_native::{DType, MlxBuffer};

use super::linear::{Embedding, Linear};
use super::loader::Loader;
use super::number::u32_of;
use super::program::{Ids, NormStep, Operand, Program, RowwiseStep, Source, Step, Value, ValueInfo};
use super::rotation::Rotation;
use super::state::StateSpec;
use crate::error::{LmError, Result};
use crate::rope::RopeConfig;
use crate::spec::{Block, Branch, DecoderSpec, Gather, Matrix, Ngrams, Norm, Part, Temperature};

/// What a specification becomes.
#[derive(Debug)]
pub(super) struct Built {
    /// From ids to the last layer's output, which is `stream`.
    pub body: Program,
    pub stream: Value,
    /// From rows of the stream, `head_input`, to logits.
    pub head: Program,
    pub head_input: Value,
    pub logits: Value,
    pub states: Vec<StateSpec>,
    pub temperatures: Vec<Temperature>,
    /// Numbers of heads that stacks are products of.
    pub own_ids: Vec<usize>,
}

/// Collects the steps of a program.
pub(super) struct Builder<'b, 'a> {
    pub l: &'b mut Loader<'a>,
    steps: Vec<Step>,
    values: Vec<ValueInfo>,
    pub states: Vec<StateSpec>,
    temperatures: Vec<Temperature>,
    rotations: Vec<(RopeConfig, Arc<Rotation>)>,
    /// The embedding's output, where a layer asks for it again.
    embedded: Option<Value>,
    /// Keys and values of the attention before as they are projected, where a layer uses them again.
    projected: Option<(Value, Value)>,
    keeps_projected: bool,
    /// Values of the first layer, where others take a share of them.
    first_values: Option<Value>,
    /// All layers' inputs of a token.
    layer_inputs: Option<Value>,
    /// What the norm of the block that is being built reads.
    unnormed: Option<Value>,
    own_ids: Vec<usize>,
    vocab: usize,
    /// Modules whose inputs are turned, and the lengths of their blocks.
    turned: HashMap<String, usize>,
    /// Sums of the stream that were stored.
    stored: Vec<Value>,
    /// What is added to the stream behind the layer.
    late: Vec<Value>,
}

/// Lowers `spec`.
pub(super) fn build(l: &mut Loader<'_>, spec: &DecoderSpec) -> Result<Built> {
    let mut b = Builder {
        l,
        steps: Vec::new(),
        values: Vec::new(),
        states: Vec::new(),
        temperatures: Vec::new(),
        rotations: Vec::new(),
        embedded: None,
        projected: None,
        keeps_projected: false,
        first_values: None,
        layer_inputs: None,
        unnormed: None,
        own_ids: Vec::new(),
        vocab: spec.vocab_size,
        turned: spec.turned.iter().cloned().collect(),
        stored: Vec::new(),
        late: Vec::new(),
    };
    let hidden = spec.hidden_size;
    let stream = b.embedding(spec)?;
    let parts = || {
        spec.layers
            .iter()
            .flat_map(|l| &l.branches)
            .flat_map(|b| &b.parts)
    };
    if parts().any(|p| p.block == Block::Embedded) {
        b.embedded = Some(b.map(Function::Scale, &[stream], [1.0, 0.0, 0.0, 0.0]));
    }
    let reuses = |p: &Part| matches!(&p.block, Block::Attention(a) if a.reuse_projected);
    b.keeps_projected = parts().any(reuses);
    if let Some(inputs) = &spec.layer_inputs {
        b.layer_inputs = Some(b.all_layer_inputs(inputs, stream)?);
    }
    let streams = match &spec.alternating {
        Some(alternating) => Some(b.alternating_streams(alternating, stream)?),
        None => None,
    };
    for layer in &spec.layers {
        for branch in &layer.branches {
            b.branch(branch, stream, hidden)?;
        }
        for late in std::mem::take(&mut b.late) {
            b.add(stream, late, 1.0, 1.0);
        }
        match (&layer.alternating, streams) {
            (Some(layer), Some(streams)) => b.alternating_layer(layer, streams, hidden)?,
            (None, _) => {}
            (Some(_), None) => {
                return Err(LmError::Config("an alternating layer without streams".to_owned()));
            }
        }
    }
    if let (Some(alternating), Some(streams)) = (&spec.alternating, streams) {
        b.joined_streams(alternating, streams, stream)?;
    }
    let body = b.take_program(&[(stream, false)]);
    let head_input = b.value(hidden);
    let mut x = head_input;
    if let Some(norm) = &spec.norm {
        x = b.norm(norm, x, hidden)?;
    }
    let logits = b.head(spec, x)?;
    let head = b.take_program(&[(head_input, true), (logits, false)]);
    let Builder {
        states,
        temperatures,
        own_ids,
        l,
        ..
    } = b;
    l.finish(&spec.dropped)?;
    Ok(Built {
        body,
        stream,
        head,
        head_input,
        logits,
        states,
        temperatures,
        own_ids,
    })
}

impl Builder<'_, '_> {
    fn take_program(&mut self, outside: &[(Value, bool)]) -> Program {
        Program::new(
            std::mem::take(&mut self.steps),
            std::mem::take(&mut self.values),
            outside,
        )
    }

    // --- values ----------------------------------------------------------------------------------------------------

    /// A new value of `width` elements a token, in the dtype of activations.
    pub fn value(&mut self, width: usize) -> Value {
        self.value_of(width, self.l.dtype)
    }

    /// A new value in `dtype`.
    pub fn value_of(&mut self, width: usize, dtype: DType) -> Value {
        self.values.push(ValueInfo { width, dtype });
        Value(self.values.len() - 1)
    }

    pub fn width(&self, v: Value) -> usize {
        self.values[v.0].width
    }

    /// The step that was pushed last.
    pub fn last_step(&mut self) -> Option<&mut Step> {
        self.steps.last_mut()
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    // --- operations ------------------------------------------------------------------------------------------------

    /// `x Wᵀ + b`
    pub fn linear(&mut self, matrix: &Matrix, x: Value) -> Result<Value> {
        if self.width(x) != matrix.inputs {
            return Err(LmError::Config(format!(
                "{}: takes {} inputs where {} come in",
                matrix.path,
                matrix.inputs,
                self.width(x)
            )));
        }
        let loaded = self.l.linear(matrix)?;
        let addition = self.l.low_rank(matrix, &loaded)?;
        let turned = self.turned_input(&matrix.path, x)?;
        let Some(addition) = addition else {
            return Ok(self.apply(loaded, turned));
        };
        let factors = addition.factors;
        let (plain, bias) = match (&factors, &loaded.bias) {
            // The bias comes behind the factors.
            (Some(_), Some(bias)) => {
                let weight = loaded.weight.rows_from(0, loaded.weight.rows() as usize)?;
                (Arc::new(Linear { weight, bias: None }), Some(bias.clone()))
            }
            _ => (loaded, None),
        };
        let y = self.apply(plain, turned);
        let low = self.apply(addition.a, x);
        let added = self.apply(addition.b, low);
        self.add(y, added, 1.0, addition.scale);
        let width = self.width(y);
        for (function, by) in [(Function::Mul, factors), (Function::Add, bias)] {
            if let Some(by) = by {
                let operands = [whole(y, width), vector(by)];
                self.rowwise_into(function, &operands, whole(y, width), 1, width, [1.0; 4]);
            }
        }
        Ok(y)
    }

    /// What a module reads: `x`, or, where its weights are turned, `x` times signs and a Hadamard matrix.
    fn turned_input(&mut self, path: &str, x: Value) -> Result<Value> {
        let Some(block) = self.turned.get(path).copied() else {
            return Ok(x);
        };
        let width = self.width(x);
        let signs = self.signs(path, width, block)?;
        let y = self.value(width);
        self.rowwise_into(
            Function::Mul,
            &[whole(x, width), vector(signs)],
            whole(y, width),
            1,
            width,
            [1.0; 4],
        );
        self.push(Step::Hadamard { x: y, block });
        Ok(y)
    }

    fn signs(&mut self, path: &str, width: usize, block: usize) -> Result<Arc<MlxBuffer>> {
        if !block.is_power_of_two() || !width.is_multiple_of(block) {
            return Err(LmError::Config(format!(
                "{path}: a Hadamard matrix of {block} for {width} elements"
            )));
        }
        self.l.vector(&format!("{path}.signs"), width)
    }

    /// A loaded matrix, applied.
    pub fn apply(&mut self, matrix: Arc<Linear>, x: Value) -> Value {
        let y = self.value(matrix.weight.rows() as usize);
        self.push(Step::Linear { matrix, x, y });
        y
    }

    /// `norm` of each of the groups that `width` elements have.
    pub fn norm(&mut self, norm: &Norm, x: Value, width: usize) -> Result<Value> {
        let y = self.value(width);
        self.norm_into(norm, x, y, width)?;
        Ok(y)
    }

    /// The same in place.
    pub fn norm_in_place(&mut self, norm: &Norm, x: Value) -> Result<()> {
        self.norm_into(norm, x, x, self.width(x))
    }

    fn norm_into(&mut self, norm: &Norm, x: Value, y: Value, width: usize) -> Result<()> {
        if norm.dim == 0 || !width.is_multiple_of(norm.dim) || self.width(x) != width {
            return Err(LmError::Config(format!(
                "a norm over {} elements of {width}{}",
                norm.dim,
                norm.weight
                    .as_deref()
                    .map(|w| format!(" ({w})"))
                    .unwrap_or_default()
            )));
        }
        let groups = width / norm.dim;
        if norm.weight_rows > 1 && norm.weight_rows != groups {
            return Err(LmError::Config(format!(
                "a norm with weights for {} groups of {groups}",
                norm.weight_rows
            )));
        }
        let len = norm.dim * norm.weight_rows;
        let load = |l: &mut Loader<'_>, name: &Option<String>, offset| {
            let dtype = l.dtype;
            // A norm of heads by themselves is stored by head.
            let Some(name) = name else { return Ok(None) };
            if name.contains("{}") {
                let each =
                    (0..norm.weight_rows).map(|i| l.host(&name.replace("{}", &i.to_string()), &[norm.dim]));
                let mut values: Vec<f32> = each.collect::<Result<Vec<_>>>()?.concat();
                values.iter_mut().for_each(|v| *v += offset);
                return Ok(Some(Arc::new(l.upload(&values, dtype)?)));
            }
            let shape = l.shape(name).map_or(vec![len], <[usize]>::to_vec);
            if shape.iter().product::<usize>() != len {
                return Err(LmError::Weights(format!(
                    "{name}: found {shape:?}, wanted {len} elements"
                )));
            }
            l.vector_as(name, &shape, dtype, offset).map(Some)
        };
        let mut weight = load(self.l, &norm.weight, norm.offset)?;
        let bias = load(self.l, &norm.bias, 0.0)?;
        let shared = norm.weight_rows == 1;
        let mut x = x;
        if let Some(first) = weight.clone().filter(|_| norm.weight_first) {
            let (from, to) = (part_of(x, 0, norm.dim), part_of(y, 0, norm.dim));
            self.rowwise_into(
                Function::Mul,
                &[from, vector(first)],
                to,
                groups,
                norm.dim,
                [1.0; 4],
            );
            (x, weight) = (y, None);
        }
        self.push(Step::Norm(NormStep {
            kind: norm.kind,
            weight: weight.clone().filter(|_| shared),
            bias: bias.clone().filter(|_| shared),
            x,
            y,
            groups,
            dim: norm.dim,
            eps: norm.eps,
        }));
        if !shared {
            if let Some(weight) = weight {
                self.rowwise_into(
                    Function::Mul,
                    &[whole(y, width), vector(weight)],
                    whole(y, width),
                    1,
                    width,
                    [1.0; 4],
                );
            }
            if let Some(bias) = bias {
                self.rowwise_into(
                    Function::Add,
                    &[whole(y, width), vector(bias)],
                    whole(y, width),
                    1,
                    width,
                    [1.0; 4],
                );
            }
        }
        Ok(())
    }

    /// `function` of whole values of one width.
    pub fn map(&mut self, function: Function, values: &[Value], p: [f32; 4]) -> Value {
        let width = self.width(values[0]);
        let y = self.value_of(width, self.values[values[0].0].dtype);
        let operands: Vec<Operand> = values.iter().map(|v| whole(*v, width)).collect();
        self.rowwise_into(function, &operands, whole(y, width), 1, width, p);
        y
    }

    /// The same value in `dtype`.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Value {
        if self.values[x.0].dtype == dtype {
            return x;
        }
        let y = self.value_of(self.width(x), dtype);
        self.push(Step::Cast { x, y });
        y
    }

    /// `value = function(value)`
    pub fn map_in_place(&mut self, function: Function, v: Value, p: [f32; 4]) {
        let width = self.width(v);
        self.rowwise_into(function, &[whole(v, width)], whole(v, width), 1, width, p);
    }

    /// The sum of products of `groups` parts of two values, a number for each part.
    pub fn dot(&mut self, a: Value, b: Value, groups: usize) -> Value {
        let y = self.value_of(groups, self.values[a.0].dtype);
        self.push(Step::WeightedSum {
            x: a,
            weights: b,
            y,
            groups,
            slots: self.width(a) / groups,
            dim: 1,
        });
        y
    }

    /// A vector, the same for each token.
    pub fn constant(&mut self, values: &[f32], dtype: DType) -> Result<Value> {
        let vector_of = Arc::new(self.l.upload(values, dtype)?);
        Ok(self.spread(vector_of, values.len(), dtype))
    }

    /// Numbers as a table of one column.
    pub fn column(&mut self, numbers: &[f32]) -> Result<Arc<Embedding>> {
        let shape = [numbers.len(), 1];
        let list = self.l.upload(numbers, self.l.dtype)?;
        let column = list.view(0, list.dtype(), shape.to_vec())?;
        Ok(Arc::new(Embedding {
            table: Weight::dense(column, &shape)?,
        }))
    }

    /// The same of a vector that is loaded.
    pub fn spread(&mut self, v: Arc<MlxBuffer>, width: usize, dtype: DType) -> Value {
        let y = self.value_of(width, dtype);
        self.rowwise_into(
            Function::Scale,
            &[vector(v)],
            whole(y, width),
            1,
            width,
            [1.0, 0.0, 0.0, 0.0],
        );
        y
    }

    /// `function` over `rows` rows a token of `cols` elements.
    pub fn rowwise_into(
        &mut self,
        function: Function,
        operands: &[Operand],
        output: Operand,
        rows: usize,
        cols: usize,
        p: [f32; 4],
    ) {
        self.push(Step::Rowwise(RowwiseStep {
            function,
            operands: operands.to_vec(),
            output,
            rows,
            cols,
            p,
        }));
    }

    /// The rotation of `config`, its periods on the device.
    pub fn rotation(&mut self, config: &RopeConfig) -> Result<Arc<Rotation>> {
        if let Some((_, known)) = self.rotations.iter().find(|(c, _)| c == config) {
            return Ok(known.clone());
        }
        let rotation = Arc::new(Rotation::new(self.l.device, config)?);
        self.rotations.push((config.clone(), rotation.clone()));
        Ok(rotation)
    }

    /// Index of a temperature among those of the model.
    pub fn temperature(&mut self, t: Temperature) -> usize {
        if let Some(known) = self.temperatures.iter().position(|k| *k == t) {
            return known;
        }
        self.temperatures.push(t);
        self.temperatures.len() - 1
    }

    /// Notes that a stack is a product of so many heads.
    pub fn own_ids(&mut self, heads: usize) {
        if !self.own_ids.contains(&heads) {
            self.own_ids.push(heads);
        }
    }

    pub fn state(&mut self, spec: StateSpec) -> usize {
        self.states.push(spec);
        self.states.len() - 1
    }

    // --- the parts of a decoder ------------------------------------------------------------------------------------

    fn embedding(&mut self, spec: &DecoderSpec) -> Result<Value> {
        let (hidden, e) = (spec.hidden_size, &spec.embedding);
        let table = self.l.embedding(&e.table, spec.vocab_size, hidden)?;
        let turned = self.turned.get(&e.table).copied();
        // The rows of a turned table are f16 whatever dtype the model runs in: the packs are made for that.
        let dtype = turned.map_or(self.l.dtype, |_| DType::F16);
        let output = self.value_of(hidden, dtype);
        self.push(Step::Embed { table, output });
        let stream = self.cast(output, self.l.dtype);
        if let Some(block) = turned {
            // The inverse of what is done to a module's input.
            let signs = self.signs(&e.table, hidden, block)?;
            self.push(Step::Hadamard { x: stream, block });
            let operands = [whole(stream, hidden), vector(signs)];
            self.rowwise_into(
                Function::Mul,
                &operands,
                whole(stream, hidden),
                1,
                hidden,
                [1.0; 4],
            );
        }
        if e.scale != 1.0 {
            self.map_in_place(Function::Scale, stream, [e.scale, 0.0, 0.0, 0.0]);
        }
        if let Some((path, rows)) = &e.positions {
            let table = self.l.embedding(path, *rows, hidden)?;
            let output = self.value(hidden);
            self.push(Step::Positions { table, output });
            self.add(stream, output, 1.0, 1.0);
        }
        if let Some(norm) = &e.norm {
            self.norm_in_place(norm, stream)?;
        }
        if let Some(ngrams) = &e.ngrams {
            self.ngrams(ngrams, stream)?;
        }
        Ok(stream)
    }

    /// `stream = mean of the stream and of what tables of several tokens give`
    fn ngrams(&mut self, n: &Ngrams, stream: Value) -> Result<()> {
        let mut planes = self.planes();
        let (state, plane) = planes.add(n.history, DType::F32);
        self.finish_planes(planes);
        let mut params = NgramParams {
            rows: 1,
            order: 1,
            history: u32_of(n.history)?,
            modulus: 1,
            multipliers: [0; MAX_ORDER as usize],
        };
        for t in &n.tables {
            let Some(factors) = params.multipliers.get_mut(..t.multipliers.len()) else {
                return Err(LmError::Unsupported(format!(
                    "{}: rows by {} tokens, {MAX_ORDER} are possible",
                    t.table,
                    t.multipliers.len()
                )));
            };
            factors.copy_from_slice(&t.multipliers);
            (params.order, params.modulus) = (u32_of(t.multipliers.len())?, u32_of(t.rows)?);
            let table = self.l.embedding(&t.table, t.rows, t.projection.inputs)?;
            let ids = self.value_of(1, DType::U32);
            self.push(Step::NgramIds {
                params,
                output: ids,
                state,
                plane,
            });
            let row = self.value(t.projection.inputs);
            self.push(Step::LookUp {
                table,
                ids: Ids::Chosen(ids),
                output: row,
                slots: 1,
            });
            let projected = self.linear(&t.projection, row)?;
            self.add(stream, projected, 1.0, 1.0);
        }
        params.order = 1;
        self.push(Step::NgramKeep { params, state, plane });
        let mean = 1.0 / (n.tables.len() + 1) as f32;
        self.map_in_place(Function::Scale, stream, [mean, 0.0, 0.0, 0.0]);
        Ok(())
    }

    /// `x = keep·x + factor·y`
    pub fn add(&mut self, x: Value, y: Value, keep: f32, factor: f32) {
        let width = self.width(x);
        let p = [keep, factor, 0.0, 0.0];
        self.rowwise_into(
            Function::Add,
            &[whole(x, width), whole(y, width)],
            whole(x, width),
            1,
            width,
            p,
        );
    }

    fn branch(&mut self, branch: &Branch, stream: Value, hidden: usize) -> Result<()> {
        let copy = [1.0, 0.0, 0.0, 0.0];
        let read = match &branch.gather {
            Some(gather) => self.gathered(gather, stream, hidden)?,
            None => stream,
        };
        if branch.store {
            let stored = self.map(Function::Scale, &[stream], copy);
            self.stored.push(stored);
        }
        let x = match &branch.norm {
            Some(norm) => self.norm(norm, read, hidden)?,
            None => read,
        };
        if let Some(late) = &branch.late {
            let late = self.part(&Part::from(late.clone()), x, hidden)?;
            self.late.push(late);
        }
        let mut sum: Option<Value> = None;
        for part in &branch.parts {
            let y = self.part(part, x, hidden)?;
            match sum {
                None => sum = Some(y),
                Some(sum) => self.add(sum, y, 1.0, 1.0),
            }
        }
        let Some(mut y) = sum else { return Ok(()) };
        if let Some(post) = &branch.post {
            y = self.norm(post, y, hidden)?;
        }
        if let Some((of_stream, of_sum)) = &branch.mix {
            for (value, name) in [(stream, of_stream), (y, of_sum)] {
                let factor = self.l.vector(name, hidden)?;
                let operands = [whole(value, hidden), vector(factor)];
                self.rowwise_into(
                    Function::Mul,
                    &operands,
                    whole(value, hidden),
                    1,
                    hidden,
                    [1.0; 4],
                );
            }
        }
        let gain = match &branch.gain {
            Some(name) => self.l.scalar(name)?,
            None => 1.0,
        };
        match branch.store || branch.keep == 0.0 {
            // Not a sum: what is not a number does not stay.
            true => {
                let p = [branch.factor * gain, 0.0, 0.0, 0.0];
                self.rowwise_into(
                    Function::Scale,
                    &[whole(y, hidden)],
                    whole(stream, hidden),
                    1,
                    hidden,
                    p,
                );
            }
            false => self.add(stream, y, branch.keep, branch.factor * gain),
        }
        if let Some(name) = &branch.scale_after {
            let scale = self.l.scalar(name)?;
            self.map_in_place(Function::Scale, stream, [scale, 0.0, 0.0, 0.0]);
        }
        Ok(())
    }

    /// The mixture of the stored sums and of the stream.
    fn gathered(&mut self, gather: &Gather, stream: Value, hidden: usize) -> Result<Value> {
        if self.stored.is_empty() {
            return Ok(stream);
        }
        let mut sums = self.stored.clone();
        sums.push(stream);
        let n = sums.len();
        let logits = self.value(n);
        for (i, sum) in sums.iter().enumerate() {
            let normed = self.norm(&gather.norm, *sum, hidden)?;
            let logit = self.linear(&gather.projection, normed)?;
            let target = part_of(logits, i, n);
            self.rowwise_into(
                Function::Scale,
                &[whole(logit, 1)],
                target,
                1,
                1,
                [1.0, 0.0, 0.0, 0.0],
            );
        }
        let shares = self.value(n);
        self.push(Step::Softmax { x: logits, y: shares });
        let mixed = self.value(hidden);
        for (i, sum) in sums.into_iter().enumerate() {
            let target = if i == 0 { mixed } else { self.value(hidden) };
            let operands = [whole(sum, hidden), part_of(shares, i, n).each(hidden)];
            self.rowwise_into(
                Function::Mul,
                &operands,
                whole(target, hidden),
                1,
                hidden,
                [1.0; 4],
            );
            if i > 0 {
                self.add(mixed, target, 1.0, 1.0);
            }
        }
        Ok(mixed)
    }

    fn part(&mut self, part: &Part, x: Value, hidden: usize) -> Result<Value> {
        self.unnormed = Some(x);
        let x = match &part.norm {
            Some(norm) => self.norm(norm, x, hidden)?,
            None => x,
        };
        let y = match &part.block {
            Block::Attention(a) => self.attention(a, x)?,
            Block::Mlp(m) => self.mlp(m, x)?,
            Block::Latent(a) => self.latent(a, x)?,
            Block::Moe(m) => self.moe(m, x)?,
            Block::ShortConv(s) => self.short_conv(s, x)?,
            Block::Delta(d) => self.delta(d, x)?,
            Block::Mamba1(m) => self.mamba1(m, x)?,
            Block::Mamba2(m) => self.mamba2(m, x)?,
            Block::Fading(f) => self.fading(f, x)?,
            Block::ConvMixer(m) => self.conv_mixer(m, x)?,
            Block::GatedUnit(u) => self.gated_unit(u, x)?,
            Block::TimeMix(t) => self.time_mix(t, x)?,
            Block::ChannelMix(c) => self.channel_mix(c, x)?,
            Block::LayerInput(i) => self.layer_input(i, x)?,
            Block::Linear(m) => self.linear(m, x)?,
            Block::Identity => x,
            Block::Embedded => self.embedded.unwrap_or(x),
        };
        match &part.post {
            Some(post) => self.norm(post, y, hidden),
            None => Ok(y),
        }
    }

    fn head(&mut self, spec: &DecoderSpec, x: Value) -> Result<Value> {
        let head = &spec.head;
        let logits = match &head.matrix {
            Some(matrix) => self.linear(matrix, x)?,
            None => {
                let table = self
                    .l
                    .embedding(&spec.embedding.table, spec.vocab_size, spec.hidden_size)?;
                let x = self.turned_input(&spec.embedding.table, x)?;
                let y = self.value(spec.vocab_size);
                self.push(Step::TiedHead { table, x, y });
                y
            }
        };
        let gain = match &head.gain {
            Some(name) => self.l.scalar(name)?,
            None => 1.0,
        };
        let scale = head.scale * gain;
        if scale != 1.0 {
            self.map_in_place(Function::Scale, logits, [scale, 0.0, 0.0, 0.0]);
        }
        if let Some(cap) = head.cap {
            self.map_in_place(Function::Cap, logits, [cap, 0.0, 0.0, 0.0]);
        }
        let never: Vec<usize> = head
            .never
            .iter()
            .map(|id| *id as usize)
            .filter(|id| *id < spec.vocab_size)
            .collect();
        if !never.is_empty() {
            let mut added = vec![0.0; spec.vocab_size];
            never.into_iter().for_each(|id| added[id] = f32::NEG_INFINITY);
            let added = Arc::new(self.l.upload(&added, self.l.dtype)?);
            let width = spec.vocab_size;
            let operands = [whole(logits, width), vector(added)];
            self.rowwise_into(Function::Add, &operands, whole(logits, width), 1, width, [1.0; 4]);
        }
        Ok(logits)
    }
}

/// All elements of a value.
pub(super) fn whole(v: Value, width: usize) -> Operand {
    part_of(v, 0, width)
}

/// Elements of a value from `offset` on, rows `stride` apart.
pub(super) fn part_of(v: Value, offset: usize, stride: usize) -> Operand {
    Operand {
        source: Source::Value(v),
        offset,
        stride,
        div: 1,
    }
}

/// A vector for every row.
pub(super) fn vector(v: Arc<MlxBuffer>) -> Operand {
    Operand {
        source: Source::Vector(v),
        offset: 0,
        stride: 0,
        div: 1,
    }
}

impl Operand {
    /// Each element for `div` columns.
    pub(super) fn each(mut self, div: usize) -> Self {
        self.div = div;
        self
    }
}
