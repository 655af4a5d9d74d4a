//! Lowering of mixtures of experts.

use std::sync::Arc;

use mlx_native::DType;
use mlx_native::ops::route::{self, RouteParams};
use mlx_native::ops::rowwise::Function;

use super::{Builder, part_of, whole};
use crate::error::{LmError, Result};
use crate::model::linear::Embedding;
use crate::model::number::u32_of;
use crate::model::program::{Ids, RouteStep, Step, Value};
use crate::spec::{Experts, Matrix, Moe, Router, Score, Stack};

impl Builder<'_, '_> {
    pub(super) fn moe(&mut self, m: &Moe, x: Value) -> Result<Value> {
        let (ids, weights) = self.route(&m.router, m.experts.n_experts, x)?;
        let k = m.router.top_k;
        let (mut input, mut per_slot) = (x, false);
        if let Some((down, ..)) = &m.latent {
            input = self.linear(down, x)?;
        }
        if let Some(norm) = &m.latent_pre {
            self.norm_in_place(norm, input)?;
        }
        let width = self.width(input);
        if m.weights_before {
            if k != 1 {
                return Err(LmError::Unsupported(format!(
                    "{k} experts a token whose inputs are weighted"
                )));
            }
            let weighted = self.value(width);
            let operands = [whole(input, width), whole(weights, 1).each(width)];
            self.rowwise_into(
                Function::Mul,
                &operands,
                whole(weighted, width),
                1,
                width,
                [1.0; 4],
            );
            (input, per_slot) = (weighted, true);
        }
        let slots = self.experts(&m.experts, input, ids, k, per_slot)?;
        if let Some(norm) = &m.expert_norm {
            self.norm_in_place(norm, slots)?;
        }
        let mut y = slots;
        if !m.weights_before {
            y = self.value(width);
            self.push(Step::WeightedSum {
                x: slots,
                weights,
                y,
                groups: 1,
                slots: k,
                dim: width,
            });
        }
        if m.router.n_identity > 0 {
            self.add_identity(m, input, ids, weights, y)?;
        }
        if let Some((_, norm, up)) = &m.latent {
            if let Some(norm) = norm {
                self.norm_in_place(norm, y)?;
            }
            y = self.linear(up, y)?;
        }
        if let Some(shared) = &m.shared {
            let s = self.mlp(&shared.mlp, x)?;
            if let Some(gate) = &shared.gate {
                let g = self.linear(gate, x)?;
                self.map_in_place(Function::Sigmoid, g, [0.0; 4]);
                let width = self.width(s);
                let operands = [whole(s, width), whole(g, 1).each(width)];
                self.rowwise_into(Function::Mul, &operands, whole(s, width), 1, width, [1.0; 4]);
            }
            match &shared.mix {
                None => self.add(y, s, 1.0, 1.0),
                Some(mix) => self.mix(mix, x, s, y)?,
            }
        }
        Ok(y)
    }

    /// `y = w₀·y + w₁·s`, the softmax of two logits being `w`: the first is the logistic function of their difference.
    fn mix(&mut self, mix: &Matrix, x: Value, s: Value, y: Value) -> Result<()> {
        let logits = self.linear(mix, x)?;
        if self.width(logits) != 2 {
            return Err(LmError::Config(format!("{}: two logits are wanted", mix.path)));
        }
        let first = self.value(1);
        let operands = [part_of(logits, 0, 2), part_of(logits, 1, 2)];
        self.rowwise_into(
            Function::Add,
            &operands,
            whole(first, 1),
            1,
            1,
            [1.0, -1.0, 0.0, 0.0],
        );
        self.map_in_place(Function::Sigmoid, first, [0.0; 4]);
        let width = self.width(y);
        let operands = [whole(s, width), whole(y, width), whole(first, 1).each(width)];
        self.rowwise_into(Function::Lerp, &operands, whole(y, width), 1, width, [0.0; 4]);
        Ok(())
    }

    /// Experts of each token and their weights.
    fn route(&mut self, r: &Router, n_experts: usize, x: Value) -> Result<(Value, Value)> {
        let x = match self.unnormed {
            Some(unnormed) if r.reads_unnormed => unnormed,
            _ => x,
        };
        let (width, n_experts) = (self.width(x), n_experts + r.n_identity);
        let x = match &r.norm {
            Some(norm) => self.norm(norm, x, width)?,
            None => x,
        };
        let logits = self.linear(&r.matrix, x)?;
        if r.logit_factor != 1.0 {
            self.map_in_place(Function::Scale, logits, [r.logit_factor, 0.0, 0.0, 0.0]);
        }
        if let Some(cap) = r.cap {
            self.map_in_place(Function::Cap, logits, [cap, 0.0, 0.0, 0.0]);
        }
        if self.width(logits) != n_experts {
            return Err(LmError::Config(format!(
                "{}: {} logits for {n_experts} experts",
                r.matrix.path,
                self.width(logits)
            )));
        }
        let score = match r.score {
            Score::Softmax => route::Score::Softmax,
            Score::SoftmaxOfChosen => route::Score::SoftmaxOfChosen,
            Score::Sigmoid => route::Score::Sigmoid,
            Score::SqrtSoftplus => route::Score::SqrtSoftplus,
            Score::SparseMixer { .. } => route::Score::SparseMixer,
        };
        let correction = match &r.correction {
            Some(name) => Some(self.l.vector_as(name, &[n_experts], DType::F32, 0.0)?),
            None => None,
        };
        let (ids, weights) = (self.value_of(r.top_k, DType::U32), self.value(r.top_k));
        let groups = r.groups;
        let params = RouteParams {
            rows: 1,
            n_experts: u32_of(n_experts)?,
            top_k: u32_of(r.top_k)?,
            score: score as u32,
            n_groups: u32_of(groups.map_or(1, |g| g.n_groups))?,
            top_groups: u32_of(groups.map_or(1, |g| g.top_groups))?,
            best_of: u32_of(groups.map_or(1, |g| g.best_of))?,
            others: groups.is_some_and(|g| g.others != 0.0).into(),
            normalise: r.normalise.is_some().into(),
            sum_eps: r.normalise.unwrap_or(0.0),
            factor: r.factor,
            jitter: match r.score {
                Score::SparseMixer { jitter } => jitter,
                _ => 0.0,
            },
        };
        self.push(Step::Route(Box::new(RouteStep {
            logits,
            correction,
            ids,
            weights,
            params,
        })));
        if let Some(name) = &r.expert_scale {
            let scales = self.l.host(name, &[n_experts])?;
            let scales = self.column(&scales)?;
            let scales = self.numbers_of(scales, ids, r.top_k);
            let width = r.top_k;
            let operands = [whole(weights, width), whole(scales, width)];
            self.rowwise_into(
                Function::Mul,
                &operands,
                whole(weights, width),
                1,
                width,
                [1.0; 4],
            );
        }
        Ok((ids, weights))
    }

    /// Of a list of numbers those that ids name.
    fn numbers_of(&mut self, table: Arc<Embedding>, ids: Value, slots: usize) -> Value {
        let output = self.value(slots);
        self.push(Step::LookUp {
            table,
            ids: Ids::Chosen(ids),
            output,
            slots,
        });
        output
    }

    /// Adds the token itself times the weights of choices that are no experts; those give zeros as experts.
    fn add_identity(&mut self, m: &Moe, x: Value, ids: Value, weights: Value, y: Value) -> Result<()> {
        let (n, k) = (m.experts.n_experts, m.router.top_k);
        let all = n + m.router.n_identity;
        let is_identity: Vec<f32> = (0..all).map(|e| f32::from(u8::from(e >= n))).collect();
        let list = self.column(&is_identity)?;
        let chosen = self.numbers_of(list, ids, k);
        let share = self.dot(chosen, weights, 1);
        let width = self.width(x);
        let own = self.value(width);
        let operands = [whole(x, width), whole(share, 1).each(width)];
        self.rowwise_into(Function::Mul, &operands, whole(own, width), 1, width, [1.0; 4]);
        self.add(y, own, 1.0, 1.0);
        Ok(())
    }

    /// Outputs of the chosen experts, `slots` rows a token.
    fn experts(
        &mut self,
        e: &Experts,
        x: Value,
        ids: Value,
        slots: usize,
        x_per_slot: bool,
    ) -> Result<Value> {
        let n = e.n_experts;
        let up = self.expert_product(&e.up, n, x, ids, slots, x_per_slot)?;
        let gate = match &e.gate {
            Some(gate) => Some(self.expert_product(gate, n, x, ids, slots, x_per_slot)?),
            None => None,
        };
        let inner = self.activate(&e.activation, gate, up)?;
        self.expert_product(&e.down, n, inner, ids, slots, true)
    }

    fn expert_product(
        &mut self,
        stack: &Stack,
        n: usize,
        x: Value,
        ids: Value,
        slots: usize,
        x_per_slot: bool,
    ) -> Result<Value> {
        let y = self.value(slots * stack.outputs);
        let stack = self.l.stack(stack, n)?;
        let ids = Ids::Chosen(ids);
        self.push(Step::Experts {
            stack,
            x,
            ids,
            y,
            slots,
            x_per_slot,
        });
        Ok(y)
    }
}
