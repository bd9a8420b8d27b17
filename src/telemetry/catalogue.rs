//! `observability/CATALOGUE.md`, generated from the closed sets so that it cannot lag behind them.

use super::counters::Counter;
use super::gauges::Gauge;
use super::names::{CATALOGUE, Kind};
use std::fmt::Write as _;

/// First line of the generated part.
pub const BEGIN: &str = "<!-- generated from src/telemetry: begin -->";
/// Last line of the generated part.
pub const END: &str = "<!-- generated from src/telemetry: end -->";

/// The generated part, without the markers.
#[must_use]
pub fn render() -> String {
    let mut out = String::new();
    for (title, kind) in [("Spans", Kind::Span), ("Fields", Kind::Field)] {
        let rows = CATALOGUE.iter().filter(|e| e.kind == kind).map(|e| (e.name, e.doc));
        table(&mut out, title, rows);
    }
    // Writing to a String cannot fail.
    write!(out, "\n## Counters\n\n| name | unit | meaning |\n|---|---|---|\n").ok();
    for counter in Counter::ALL {
        writeln!(out, "| `{}` | {} | {} |", counter.name(), counter.unit(), counter.doc()).ok();
    }
    table(&mut out, "Gauges", Gauge::ALL.iter().map(|g| (g.name(), g.doc())));
    out
}

fn table(out: &mut String, title: &str, rows: impl Iterator<Item = (&'static str, &'static str)>) {
    // Writing to a String cannot fail.
    write!(out, "\n## {title}\n\n| name | meaning |\n|---|---|\n").ok();
    for (name, doc) in rows {
        writeln!(out, "| `{name}` | {doc} |").ok();
    }
}

/// `document` with the part between the markers replaced; `None` if a marker is missing.
#[must_use]
pub fn splice_into(document: &str) -> Option<String> {
    let (head, rest) = document.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{}\n{END}{tail}", render()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_on_disk_is_the_one_in_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/observability/CATALOGUE.md");
        let found = std::fs::read_to_string(path).unwrap();
        let wanted = splice_into(&found).expect("markers");
        if std::env::var_os("UPDATE_CATALOGUE").is_some() {
            std::fs::write(path, &wanted).unwrap();
            return;
        }
        assert!(
            found == wanted,
            "run UPDATE_CATALOGUE=1 cargo test the_catalogue_on_disk"
        );
    }
}
