//! `containerd-driver config`: every option with type, default and meaning, from the declarations themselves.

use crate::spec::table::OptionDoc;
use crate::spec::{options, settings};
use std::fmt::Write as _;

/// Width at which a description is broken.
const WIDTH: usize = 100;

/// What `config` prints.
#[must_use]
pub fn render(json: bool) -> String {
    let (plugin, task) = (settings::table(), options::table());
    if json {
        let value = serde_json::json!({ "plugin": rows(&plugin), "task": rows(&task) });
        return format!("{value:#}\n");
    }
    let mut out = String::new();
    section(
        &mut out,
        "Plugin settings: plugin \"containerd-driver\" { config { … } }",
        &plugin,
    );
    section(&mut out, "Task options: task \"…\" { config { … } }", &task);
    out
}

fn rows(table: &[OptionDoc]) -> Vec<serde_json::Value> {
    table
        .iter()
        .map(|o| {
            let required = o.default == "required";
            let default = (!required && !o.default.is_empty()).then_some(o.default.as_str());
            serde_json::json!({ "name": o.name, "aliases": o.aliases, "type": o.ty, "required": required, "default": default, "doc": o.doc })
        })
        .collect()
}

fn section(out: &mut String, title: &str, table: &[OptionDoc]) {
    // Writing to a String cannot fail.
    writeln!(out, "{title}\n").ok();
    for o in table {
        let default = match o.default.as_str() {
            "" => String::new(),
            "required" => ", required".to_owned(),
            value => format!(", default {value}"),
        };
        let also: String = o.aliases.iter().map(|a| format!(", {a}")).collect();
        writeln!(out, "  {}{also} ({}{default})", o.name, o.ty).ok();
        let mut line = String::from("     ");
        for word in o.doc.split_whitespace() {
            if line.chars().count() + word.chars().count() + 1 > WIDTH {
                writeln!(out, "{line}").ok();
                line = String::from("     ");
            }
            line.push(' ');
            line.push_str(word);
        }
        writeln!(out, "{line}").ok();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_printed_both_ways() {
        let text = render(false);
        let json: serde_json::Value = serde_json::from_str(&render(true)).unwrap();
        for o in settings::table().iter().chain(&options::table()) {
            let also: String = o.aliases.iter().map(|a| format!(", {a}")).collect();
            assert!(text.contains(&format!("  {}{also} (", o.name)), "{}", o.name);
        }
        assert_eq!(json["plugin"].as_array().unwrap().len(), settings::table().len());
        assert_eq!(json["task"].as_array().unwrap().len(), options::table().len());
        assert_eq!(json["task"][0]["name"], "image");
        assert_eq!(json["task"][0]["required"], true);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH + 1));
    }
}
