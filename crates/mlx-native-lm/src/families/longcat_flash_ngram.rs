//! LongCat Flash with an embedding that tables of several tokens take part in.

use super::Family;
use super::common::{Config, MAX_EXTENT};
use super::longcat_flash;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Head, Matrix, NgramTable, Ngrams};

pub(super) const FAMILY: Family = Family {
    name: "longcat_flash_ngram",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &longcat_flash::read(input)?;
    let template = longcat_flash::latent(c)?;
    let head = Head::new(Some(c.lm_head("")));
    let names = ["ngram_embeddings.word_embeddings", "layers", "norm"];
    let mut spec = c.decoder_named("model", names, head, |_, path| longcat_flash::layer(c, &template, path))?;
    if !input.has("model.ngram_embeddings.word_embeddings.weight") {
        spec.embedding.table = "model.embed_tokens".to_owned();
    }
    spec.embedding.ngrams = Some(ngrams(c)?);
    Ok(spec)
}

/// For the last two to `n` tokens some tables each, every one two rows longer than the one before.
fn ngrams(c: &Config<'_>) -> Result<Ngrams> {
    let (n, split) = (c.count_or("emb_neighbor_num", 4)?, c.count_or("emb_split_num", 4)?);
    let ratio = c.count_or("ngram_vocab_size_ratio", 78)?;
    if !(2..=8).contains(&n) || split > 64 {
        return Err(c.fields.invalid("emb_neighbor_num", n, "2 to 8, with at most 64 tables for each"));
    }
    let least = ratio.saturating_mul(c.vocab);
    if least > u32::MAX as usize - 4096 {
        return Err(c.fields.invalid("ngram_vocab_size_ratio", ratio, "tables of less than 2^32 rows"));
    }
    let count = split * (n - 1);
    let dim = c.hidden / count;
    if dim == 0 || c.vocab > MAX_EXTENT {
        return Err(c.fields.invalid("emb_split_num", split, &format!("few enough for a width of {}", c.hidden)));
    }
    let table = |index: usize| {
        let rows = least + 2 * index + 1;
        let order = index / split + 2;
        let powers = std::iter::successors(Some(1u64), |power| Some(power * c.vocab as u64 % rows as u64));
        let path = |name: &str| format!("model.ngram_embeddings.{name}.{index}");
        NgramTable {
            table: path("embedders"),
            rows,
            multipliers: powers.take(order).map(|power| power as u32).collect(),
            projection: Matrix::new(path("post_projs"), c.hidden, dim),
        }
    };
    Ok(Ngrams { tables: (0..count).map(table).collect(), history: n - 1 })
}
