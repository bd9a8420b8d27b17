//! Reading option values out of msgpack as hosts encode it (cty in the agent, go-msgpack in the test harness).
//!
//! Lenient where hosts differ: nil and blank mean "not given", text may be `str` or `bin`, whole numbers may come as
//! integer, float or decimal text, unknown keys and the order of keys do not matter. Source of the rules: Nomad's
//! `hclspecutils`/`cty` msgpack encoder and `base.MsgPackDecode`.

use super::error::SpecError;
use super::table::{Declared, OptionValue, plain};
use rmpv::Value;
use std::collections::BTreeMap;

/// Deeper than any schema of ours. Each level is a stack frame, and a stack that is too small ends the process.
const DEPTH_MAX: usize = 32;

/// Parses a whole configuration; `None` for no bytes and for nil.
pub(super) fn parse(msgpack: &[u8]) -> Result<Option<Value>, SpecError> {
    if msgpack.is_empty() {
        return Ok(None);
    }
    // The one byte that msgpack never uses; rmpv reads it as nil, which would make garbage a valid configuration.
    if msgpack.first() == Some(&0xc1) {
        return Err(SpecError::Decode("not msgpack: it begins with byte 0xc1".to_owned()));
    }
    let mut rest = msgpack;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH_MAX)
        .map_err(|e| SpecError::Decode(format!("not msgpack: {e}")))?;
    if !rest.is_empty() {
        return Err(SpecError::Decode(format!(
            "{} bytes after the end of the configuration",
            rest.len()
        )));
    }
    Ok((!value.is_nil()).then_some(value))
}

/// The keys of one map, and where it stands, for error texts.
pub(super) struct Fields<'a> {
    at: String,
    pub(super) map: BTreeMap<String, &'a Value>,
}

impl<'a> Fields<'a> {
    /// The root map.
    pub(super) fn root(value: &'a Value) -> Result<Self, SpecError> {
        Self::of("", value)
            .ok_or_else(|| SpecError::Decode(format!("a map of options is expected, not {}", shown(value))))
    }

    pub(super) fn of(at: &str, value: &'a Value) -> Option<Self> {
        let Value::Map(pairs) = value else { return None };
        let map = pairs.iter().filter_map(|(k, v)| Some((text(k)?, v))).collect();
        Some(Self { at: at.to_owned(), map })
    }

    /// Where the map stands in the job; empty for the root.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// The first key that none of these options has.
    pub(super) fn unknown(&self, declared: &[Declared]) -> Option<&str> {
        let known = |key: &str| declared.iter().any(|d| d.name == key || d.aliases.contains(&key));
        self.map.keys().map(String::as_str).find(|key| !known(key))
    }

    /// Reads one option under its name and its other names; `None` if it is not given under any.
    pub(super) fn get<T: OptionValue>(
        &self,
        name: &'static str,
        aliases: &[&'static str],
    ) -> Result<Option<T>, SpecError> {
        let mut given: Option<(&str, T)> = None;
        for name in std::iter::once(plain(name)).chain(aliases.iter().copied()) {
            let at = if self.at.is_empty() {
                name.to_owned()
            } else {
                format!("{}.{name}", self.at)
            };
            let value = match self.map.get(name) {
                None | Some(Value::Nil) => None,
                Some(value) => T::read(&at, value)?,
            };
            given = match (given, value) {
                (given, None) => given,
                (None, Some(value)) => Some((name, value)),
                (Some((_, first)), Some(value)) if first.is_blank() => Some((name, value)),
                (given, Some(value)) if value.is_blank() => given,
                (Some((first, one)), Some(other)) => match one.merge(other) {
                    Some(both) => Some((first, both)),
                    None => {
                        return Err(SpecError::Refused {
                            option: at.clone(),
                            text: format!(
                                "option {at}: it is another name for {first}, which is given too: only one of them is allowed"
                            ),
                        });
                    }
                },
            };
        }
        Ok(given.map(|(_, value)| value))
    }
}

/// The value inside the pair of type and value in which cty encodes what a schema calls `any`, or the value itself.
pub(super) fn concrete(value: &Value) -> &Value {
    match value {
        Value::Array(pair) => match pair.as_slice() {
            // A type is a text or a list in JSON, which no list of texts such as `["true", "x"]` begins with.
            [Value::Binary(ty), inner]
                if serde_json::from_slice::<serde_json::Value>(ty).is_ok_and(|ty| ty.is_string() || ty.is_array()) =>
            {
                inner
            }
            _ => value,
        },
        other => other,
    }
}

/// What a host sends where nobody has written anything.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Nil => true,
        Value::String(text) => text.as_bytes().is_empty(),
        Value::Binary(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_nothing),
        Value::Map(pairs) => pairs.is_empty(),
        Value::Boolean(_) | Value::Integer(_) | Value::F32(_) | Value::F64(_) | Value::Ext(..) => false,
    }
}

/// Text of a `str`, `bin` or number value.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => s.as_str().map(ToOwned::to_owned),
        Value::Binary(b) => std::str::from_utf8(b).ok().map(ToOwned::to_owned),
        Value::Integer(n) => Some(n.to_string()),
        Value::F64(n) => Some(n.to_string()),
        Value::F32(n) => Some(n.to_string()),
        Value::Boolean(b) => Some(b.to_string()),
        Value::Nil | Value::Array(_) | Value::Map(_) | Value::Ext(..) => None,
    }
}

/// A value for an error text, cut to a readable length.
fn shown(value: &Value) -> String {
    text(value)
        .unwrap_or_else(|| value.to_string())
        .chars()
        .take(80)
        .collect()
}

pub(super) fn wrong(at: &str, value: &Value, allowed: &str) -> SpecError {
    SpecError::option(at, shown(value), allowed)
}

/// The refusal of a value of another type than the wanted one, naming both.
pub(super) fn mistyped(at: &str, value: &Value, wanted: &str) -> SpecError {
    wrong(at, value, &format!("{wanted} is expected, not {}", kind(value)))
}

fn number(n: f64) -> &'static str {
    match n.fract() == 0.0 {
        // 2^53: beyond it a float does not name one integer.
        true if n.abs() <= 9_007_199_254_740_992.0 => "a number",
        true => "a number too great to be exact",
        false => "a number with a fraction",
    }
}

/// The type of a value in the words of a job's author.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Boolean(_) => "true or false",
        Value::Integer(_) => "a number",
        Value::F32(n) => number(f64::from(*n)),
        Value::F64(n) => number(*n),
        Value::String(_) | Value::Binary(_) => "a text",
        Value::Array(_) => "a list",
        Value::Map(_) => "a block",
        Value::Ext(..) => "a value of no known type",
    }
}

pub(super) fn want_text(at: &str, value: &Value) -> Result<String, SpecError> {
    text(value).ok_or_else(|| mistyped(at, value, "a text"))
}

/// The members of an array; anything else stands for itself.
pub(super) fn each(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => std::slice::from_ref(other),
    }
}
