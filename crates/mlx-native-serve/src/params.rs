//! What all interfaces have in common of a request: how to choose tokens, when to stop, which form the text has.

use mlx_native_lm::SamplingParams;
use mlx_native_lm::engine::{Grammar, MAX_CHOICES, MAX_TOP_LOGPROBS, Request};
use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::gbnf;
use crate::known;
use crate::models::ServedModel;

/// Reads the fields that the interfaces in OpenAI's manner share; the prompt is empty still.
pub(crate) fn read(fields: &Fields<'_>, model: &ServedModel) -> ApiResult<Request> {
    known::refuse_lacking(fields)?;
    let mut request = Request::new(Vec::new());
    request.sampling = sampling(fields, model)?;
    for name in ["max_completion_tokens", "max_tokens", "n_predict"] {
        // llama.cpp's has -1 for no limit.
        if request.max_tokens.is_none() && !(name == "n_predict" && fields.i64(name)? == Some(-1)) {
            request.max_tokens = fields.usize(name, 0, usize::MAX)?;
        }
    }
    request.min_tokens = fields.usize("min_tokens", 0, usize::MAX)?.unwrap_or(0);
    request.n = fields.usize("n", 1, MAX_CHOICES)?.unwrap_or(1);
    if let Some(best_of) = fields.usize("best_of", 1, MAX_CHOICES)?
        && best_of != request.n
    {
        return Err(ApiError::unsupported("best_of"));
    }
    request.stop = fields.strings("stop")?.unwrap_or_default();
    request.stop.retain(|s| !s.is_empty());
    request.stop_token_ids = fields.ids("stop_token_ids")?.unwrap_or_default();
    request.allowed_token_ids = fields.ids("allowed_token_ids")?;
    request.ignore_eos = fields.bool("ignore_eos")?.unwrap_or(false);
    request.prompt_logprobs = fields.usize("prompt_logprobs", 0, MAX_TOP_LOGPROBS)?;
    request.cache_salt = fields.str("cache_salt")?.unwrap_or_default().to_owned();
    request.use_cache = fields.bool("cache_prompt")?.unwrap_or(true);
    Ok(request)
}

fn sampling(fields: &Fields<'_>, model: &ServedModel) -> ApiResult<SamplingParams> {
    let mut params = model.sampling.clone();
    let set = |target: &mut f32, value: Option<f32>| {
        if let Some(value) = value {
            *target = value;
        }
    };
    set(
        &mut params.temperature,
        fields.f32_within("temperature", 0.0, 1e6)?,
    );
    set(&mut params.top_p, fields.f32_within("top_p", 0.0, 1.0)?);
    set(&mut params.min_p, fields.f32_within("min_p", 0.0, 1.0)?);
    set(
        &mut params.xtc_probability,
        fields.f32_within("xtc_probability", 0.0, 1.0)?,
    );
    set(
        &mut params.xtc_threshold,
        fields.f32_within("xtc_threshold", 0.0, 0.5)?,
    );
    if let Some(k) = fields.i64("top_k")? {
        // -1 is how some say that there is no limit.
        params.top_k = match k {
            -1 => 0,
            k => usize::try_from(k)
                .map_err(|_| ApiError::invalid("top_k", format!("found {k}, wanted -1 or more")))?,
        };
    }
    for name in ["repeat_penalty", "repetition_penalty"] {
        if let Some(penalty) = fields.f32_within(name, 0.0, 1e6)? {
            params.repetition_penalty = Some(penalty);
        }
    }
    if let Some(penalty) = fields.f32_within("presence_penalty", -2.0, 2.0)? {
        params.presence_penalty = Some(penalty);
    }
    if let Some(penalty) = fields.f32_within("frequency_penalty", -2.0, 2.0)? {
        params.frequency_penalty = Some(penalty);
    }
    let sizes = [
        ("repetition_context_size", &mut params.repetition_context_size),
        ("presence_context_size", &mut params.presence_context_size),
        ("frequency_context_size", &mut params.frequency_context_size),
    ];
    for (name, size) in sizes {
        if let Some(n) = fields.usize(name, 1, usize::MAX)? {
            *size = n;
        }
    }
    if let Some(seed) = fields.i64("seed")? {
        params.seed = Some(seed as u64);
    }
    if let Some(bias) = fields.object("logit_bias")? {
        for (key, value) in bias {
            let wrong = || {
                ApiError::invalid(
                    "logit_bias",
                    format!("{key:?}: {value}: wanted a token id and a number from -100 to 100"),
                )
            };
            let id = key.trim().parse::<u32>().map_err(|_| wrong())?;
            let bias = value
                .as_f64()
                .filter(|b| (-100.0..=100.0).contains(b))
                .ok_or_else(wrong)?;
            params.logit_bias.insert(id, bias as f32);
        }
    }
    Ok(params)
}

/// The grammar that a request asks for, whichever of the many names it uses.
pub(crate) fn grammar(fields: &Fields<'_>) -> ApiResult<Option<(String, Grammar)>> {
    let mut found: Vec<(String, Grammar)> = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        found.extend(response_format(format, "response_format")?.map(|g| ("response_format".to_owned(), g)));
    }
    if let Some(map) = fields.object("structured_outputs")? {
        let inside = Fields::inside(map, "structured_outputs.");
        const NAMES: [&str; 5] = ["json", "json_object", "regex", "choice", "grammar"];
        if !NAMES.iter().any(|name| inside.get(name).is_some()) {
            let message = format!("wanted one of {}", NAMES.join(", "));
            return Err(ApiError::invalid("structured_outputs", message));
        }
        found.extend(structured(&inside, NAMES)?);
    }
    let guided = [
        "guided_json",
        "guided_json_object",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    ];
    found.extend(structured(fields, guided)?);
    // As llama.cpp has them.
    found.extend(structured(fields, ["json_schema", "", "", "", "grammar"])?);
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        return Err(ApiError::invalid(
            names[1],
            format!("found {} too, wanted one of them", names[0]),
        ));
    }
    Ok(found.pop())
}

/// `response_format` of chats and completions, `text.format` of responses.
pub(crate) fn response_format(format: &Map<String, Value>, name: &str) -> ApiResult<Option<Grammar>> {
    let fields = Fields::new(format);
    let inner = |key: &str| ApiError::invalid(format!("{name}.{key}"), "missing");
    match fields.str("type")? {
        Some("text") => Ok(None),
        Some("json_object") => match fields.get("schema") {
            Some(schema) => Ok(Some(Grammar::JsonSchema(schema.clone()))),
            None => Ok(Some(Grammar::json_object())),
        },
        Some("json_schema") => {
            let holder = match fields.object("json_schema")? {
                Some(holder) => Fields::inside(holder, "response_format.json_schema."),
                None => fields,
            };
            let schema = holder.get("schema").ok_or_else(|| inner("json_schema.schema"))?;
            if !schema.is_object() {
                return Err(holder.wrong("schema", schema, "an object"));
            }
            Ok(Some(Grammar::JsonSchema(schema.clone())))
        }
        Some("regex") => {
            let pattern = fields.str("pattern")?.or(fields.str("value")?);
            Ok(Some(Grammar::Regex(
                pattern.ok_or_else(|| inner("pattern"))?.to_owned(),
            )))
        }
        Some(other) => Err(ApiError::invalid(
            format!("{name}.type"),
            format!("found {other:?}, wanted \"text\", \"json_object\" or \"json_schema\""),
        )),
        None => Err(inner("type")),
    }
}

fn structured(fields: &Fields<'_>, names: [&str; 5]) -> ApiResult<Vec<(String, Grammar)>> {
    let [json, object, regex, choice, grammar] = names;
    let mut found = Vec::new();
    if let Some(schema) = fields.get(json) {
        let schema = match schema {
            Value::String(text) => {
                serde_json::from_str(text).map_err(|e| ApiError::invalid(fields.name(json), e))?
            }
            other => other.clone(),
        };
        if !schema.is_object() {
            return Err(fields.wrong(json, &schema, "a schema: an object"));
        }
        found.push((fields.name(json), Grammar::JsonSchema(schema)));
    }
    if fields.bool(object)? == Some(true) {
        found.push((fields.name(object), Grammar::json_object()));
    }
    if let Some(pattern) = fields.str(regex)? {
        found.push((fields.name(regex), Grammar::Regex(pattern.to_owned())));
    }
    if !choice.is_empty()
        && let Some(choices) = fields.strings(choice)?
    {
        found.push((fields.name(choice), Grammar::Choice(choices)));
    }
    if let Some(text) = fields.str(grammar)?.filter(|text| !text.trim().is_empty()) {
        let lark = if gbnf::is_gbnf(text) {
            gbnf::to_lark(text).map_err(|e| ApiError::invalid(fields.name(grammar), e))?
        } else {
            text.to_owned()
        };
        found.push((fields.name(grammar), Grammar::Lark(lark)));
    }
    Ok(found)
}
