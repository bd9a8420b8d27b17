//! YAML as vendors write it: `nvidia-ctk` makes YAML by default.
//!
//! The text is taken apart by `saphyr-parser` and becomes a JSON value here. Aliases are refused: no vendor needs
//! them, and a few lines of them stand for more text than memory holds.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Deepest nesting; a CDI file needs 6.
const DEPTH: usize = 32;

/// A list or mapping that is not at its end.
enum Open {
    List(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| format!("YAML: {e}"))?;
        let line = span.start.line();
        let value = match event {
            Event::Alias(_) => return Err(format!("YAML: line {line}: aliases are not taken")),
            Event::Scalar(text, style, _, tag) => {
                let text = text.into_owned();
                let is_text = tag.is_some_and(|t| t.suffix == "str");
                if style == ScalarStyle::Plain && !is_text {
                    plain(text)
                } else {
                    Value::String(text)
                }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEPTH => {
                return Err(format!("YAML: line {line}: at most {DEPTH} levels are taken"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Mapping(map, _)) => Value::Object(map),
                None => return Err(format!("YAML: line {line}: an end without a beginning")),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                continue;
            }
        };
        match open.last_mut() {
            Some(Open::List(list)) => list.push(value),
            Some(Open::Mapping(map, key @ None)) => {
                let name = match value {
                    Value::String(name) => name,
                    Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
                    Value::Array(_) | Value::Object(_) => {
                        return Err(format!("YAML: line {line}: a key is expected to be a text"));
                    }
                };
                if map.contains_key(&name) {
                    return Err(format!("YAML: line {line}: {name:?} is there twice"));
                }
                *key = Some(name);
            }
            Some(Open::Mapping(map, key)) => {
                map.insert(key.take().unwrap_or_default(), value);
            }
            None if document.is_some() => return Err(format!("YAML: line {line}: one document is expected")),
            None => document = Some(value),
        }
    }
    document.ok_or_else(|| "YAML: the file is empty".to_owned())
}

/// A scalar without quotes: the core schema of YAML 1.2, and octal numbers as YAML 1.1 has them (`0666`), which is how
/// the Go implementation reads them.
fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (base, digits) = if let Some(hex) = digits.strip_prefix("0x") {
        (16, hex)
    } else if let Some(octal) = digits.strip_prefix("0o").or_else(|| digits.strip_prefix('0')) {
        (8, if octal.is_empty() { "0" } else { octal })
    } else {
        (10, digits)
    };
    let all_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    match i64::from_str_radix(digits, base) {
        Ok(number) if all_digits => Value::from(if negative { -number } else { number }),
        _ => Value::String(text),
    }
}
