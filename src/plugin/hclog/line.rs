//! One log event as one line of hclog JSON. Pure.
//!
//! The host parses each line and asserts, unchecked, that `@level`, `@message` and `@timestamp` are strings: anything
//! else there ends the whole Nomad agent. It reads with a 64 KiB buffer and cuts longer lines apart.

use crate::plugin::DRIVER_NAME;
use crate::spec::timestamp::timestamp;
use serde_json::{Map, Value};
use std::time::SystemTime;

/// Longest line with its line break: below the host's buffer of 64 KiB.
pub(super) const LINE_MAX: usize = 60 * 1024 - 1;

/// Texts are cut to the first of these sizes (bytes) with which the line fits. Escaping may make a text six times as
/// long, so that the last one holds for [`FIELDS_MAX`] fields whatever they contain.
const CUTS: [usize; 4] = [16 * 1024, 2 * 1024, 256, 32];

/// More fields than tracing allows in one event.
const FIELDS_MAX: usize = 64;

/// One line with its line break.
pub(super) fn render(at: SystemTime, level: &str, message: &str, fields: &[(String, Value)]) -> String {
    let mut line = String::new();
    for cut in CUTS {
        line = object(at, level, message, fields, cut).to_string();
        if line.len() < LINE_MAX {
            break;
        }
    }
    line.push('\n');
    line
}

fn object(at: SystemTime, level: &str, message: &str, fields: &[(String, Value)], cut: usize) -> Value {
    let mut map = Map::new();
    for (key, value) in fields.iter().take(FIELDS_MAX) {
        // Keys with @ are hclog's own.
        let key = if key.starts_with('@') {
            format!("field.{}", key.trim_start_matches('@'))
        } else {
            key.clone()
        };
        map.insert(shorten(&key, cut), scalar(value, cut));
    }
    map.insert("@level".into(), level.into());
    map.insert("@message".into(), shorten(message, cut).into());
    map.insert("@timestamp".into(), timestamp(at).into());
    map.insert("@module".into(), DRIVER_NAME.into());
    Value::Object(map)
}

/// Numbers and truth values as they are; everything else as text.
fn scalar(value: &Value, cut: usize) -> Value {
    match value {
        Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) => shorten(text, cut).into(),
        Value::Null | Value::Array(_) | Value::Object(_) => shorten(&value.to_string(), cut).into(),
    }
}

fn shorten(text: &str, cut: usize) -> String {
    if text.len() <= cut {
        return text.to_owned();
    }
    let mut end = cut;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    format!("{kept}… [{} bytes cut]", text.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn line_has_hclogs_keys_and_ours() {
        let fields = [("task.id".to_owned(), "a/b/c".into()), ("@level".to_owned(), 3.into())];
        let line = render(UNIX_EPOCH, "warn", "hello\nworld", &fields);
        let v: Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(v["@level"], "warn");
        assert_eq!(v["@message"], "hello\nworld");
        assert_eq!(v["@module"], "containerd-driver");
        assert_eq!((&v["task.id"], &v["field.level"]), (&"a/b/c".into(), &3.into()));
        assert_eq!(line.matches('\n').count(), 1);
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,60}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..40)
                .prop_map(|b| Value::from(b.iter().map(|b| char::from(*b)).collect::<String>())),
            (1usize..40_000).prop_map(|n| Value::from("\u{1}".repeat(n))),
        ]
    }

    proptest! {
        #[test]
        fn always_one_short_line_of_json_with_string_keys(
            message in prop_oneof![".{0,200}", (1usize..200_000).prop_map(|n| "é\"".repeat(n))],
            fields in proptest::collection::vec(("[@a-z.\\\"\u{0}-\u{20}]{0,12}", value()), 0..80),
            seconds in 0u64..40_000_000_000,
        ) {
            let line = render(UNIX_EPOCH + Duration::from_secs(seconds), "info", &message, &fields);
            prop_assert!(line.len() <= LINE_MAX + 1, "{}", line.len());
            prop_assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
            let v: Value = serde_json::from_str(&line).unwrap();
            for key in ["@level", "@message", "@timestamp", "@module"] {
                prop_assert!(v[key].is_string(), "{key}");
            }
            prop_assert!(v.as_object().unwrap().values().all(|v| !v.is_object() && !v.is_array() && !v.is_null()));
        }
    }
}
