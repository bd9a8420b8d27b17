//! A specification as one text for each path, so that two can be compared line by line.
//!
//! What is a set in the meaning of the OCI specification is one here: a member is a path of its own. Absent, empty and false
//! are the same, as they are for a runtime (Go leaves such fields out); zero is not.

use serde_json::Value;
use std::collections::BTreeMap;

pub type Flat = BTreeMap<String, String>;

/// A mount that only one side has is one line.
pub fn whole_mounts(mut one: Flat, mut other: Flat) -> (Flat, Flat) {
    gather(&mut one, &other);
    gather(&mut other, &one);
    (one, other)
}

fn gather(side: &mut Flat, other: &Flat) {
    let heads: Vec<String> = side
        .iter()
        .filter(|(path, text)| path.starts_with("mounts.") && *text == "there" && !path.contains(".options."))
        .map(|(path, _)| path.clone())
        .filter(|path| !other.contains_key(path))
        .collect();
    for head in heads {
        let below = format!("{head}.");
        let parts: Flat = side
            .iter()
            .filter(|(p, _)| p.starts_with(&below))
            .map(|(p, t)| (p.clone(), t.clone()))
            .collect();
        side.retain(|path, _| !path.starts_with(&below));
        let options = format!("{below}options.");
        let options: Vec<&str> = parts.keys().filter_map(|p| p.strip_prefix(&options)).collect();
        let part = |name: &str| parts.get(&format!("{below}{name}")).cloned().unwrap_or_default();
        side.insert(
            head,
            format!("{} {} {}", part("type"), part("source"), options.join(",")),
        );
        let target = below.trim_start_matches("mounts.").trim_end_matches('.').to_owned();
        side.retain(|path, _| {
            !path
                .strip_prefix("mounts.order.")
                .is_some_and(|p| p.split(' ').any(|t| t == target))
        });
    }
}

/// `size=64k` in bytes, which is the same size.
fn option(text: &str) -> String {
    let size = text.strip_prefix("size=").and_then(|size| {
        let (digits, unit) = match size.char_indices().last()? {
            (at, 'k') => (&size[..at], 1 << 10),
            (at, 'm') => (&size[..at], 1 << 20),
            (at, 'g') => (&size[..at], 1 << 30),
            _ => (size, 1_u64),
        };
        Some(format!("size={}", digits.parse::<u64>().ok()? * unit))
    });
    size.unwrap_or_else(|| text.to_owned())
}

/// Path to text.
pub fn flatten(spec: &Value) -> Flat {
    let mut out = Flat::new();
    walk("", spec, &mut out);
    order(spec, &mut out);
    out
}

/// Of two mounts where one is at or below the other, which comes first: the later one is what is seen.
fn order(spec: &Value, out: &mut Flat) {
    let targets: Vec<String> = spec["mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| key(&m["destination"]))
        .collect();
    for (at, first) in targets.iter().enumerate() {
        for second in &targets[at + 1..] {
            let (upper, lower) = (format!("{first}/"), format!("{second}/"));
            if lower.starts_with(&upper) || upper.starts_with(&lower) {
                out.insert(format!("mounts.order.{first} {second}"), "in this order".to_owned());
            }
        }
    }
}

fn key(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn walk(path: &str, value: &Value, out: &mut Flat) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        Value::Object(map) => {
            for (name, inner) in map {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                walk(&path, inner, out);
            }
        }
        Value::Array(items) => members(path, items, out),
        other => {
            out.insert(path.to_owned(), key(other));
        }
    }
}

fn members(path: &str, items: &[Value], out: &mut Flat) {
    let last = path.rsplit('.').next().unwrap_or_default();
    let mut put = |name: String, text: &str| {
        let mut at = format!("{path}.{name}");
        while out.contains_key(&at) {
            at.push_str(" again");
        }
        out.insert(at, text.to_owned());
    };
    match last {
        // Lists whose order means something.
        "args" if path == "process.args" => {
            out.insert(path.to_owned(), Value::Array(items.to_vec()).to_string());
        }
        "env" => {
            for item in items {
                let line = key(item);
                let (name, value) = line.split_once('=').unwrap_or((&line, ""));
                put(name.to_owned(), &format!("={value}"));
            }
        }
        // The first rule is what holds where no other fits; the others only allow, in any order.
        "devices" if path == "linux.resources.devices" => {
            for (at, item) in items.iter().enumerate() {
                let part = |name: &str| match &item[name] {
                    Value::Null => "*".to_owned(),
                    other => key(other),
                };
                let text = format!("{} {}:{}", part("type"), part("major"), part("minor"));
                let verb = if item["allow"] == true { "allow" } else { "deny" };
                let place = if at == 0 { "first" } else { "then" };
                put(format!("{place} {verb} {text}"), &part("access"));
            }
        }
        "syscalls" => {
            for item in items {
                let rule = format!("{} {} {}", key(&item["action"]), item["args"], item["errnoRet"]);
                for name in item["names"].as_array().into_iter().flatten() {
                    put(key(name), &rule);
                }
            }
        }
        "mounts" | "namespaces" | "rlimits" | "devices" | "hugepageLimits" => {
            let by = match last {
                "mounts" => "destination",
                "devices" => "path",
                "hugepageLimits" => "pageSize",
                _ => "type",
            };
            for item in items {
                let mut at = format!("{path}.{}", key(&item[by]));
                while out.contains_key(&at) {
                    at.push_str(" again");
                }
                out.insert(at.clone(), "there".to_owned());
                let mut rest = item.clone();
                rest.as_object_mut().unwrap().remove(by);
                walk(&at, &rest, out);
            }
        }
        "prestart" | "createRuntime" | "createContainer" | "startContainer" | "poststart" | "poststop"
        | "uidMappings" | "gidMappings" => {
            for (at, item) in items.iter().enumerate() {
                put(at.to_string(), &item.to_string());
            }
        }
        "options" => {
            for item in items {
                put(option(&key(item)), "there");
            }
        }
        _ => {
            for item in items {
                put(key(item), "there");
            }
        }
    }
}
