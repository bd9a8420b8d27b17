//! The table and the file.

use anyhow::{Context as _, Result};
use serde_json::json;
use std::path::PathBuf;

/// How far a figure may go.
#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// For comparison only.
    None,
}

struct Row {
    figure: String,
    unit: &'static str,
    value: Option<f64>,
    limit: Limit,
    note: String,
}

/// What was measured so far.
pub struct Report {
    kind: &'static str,
    count: usize,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(kind: &'static str, count: usize) -> Report {
        Report {
            kind,
            count,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, figure: impl Into<String>, value: f64, unit: &'static str, limit: Limit) {
        self.rows.push(Row {
            figure: figure.into(),
            unit,
            value: Some(value),
            limit,
            note: String::new(),
        });
    }

    /// A figure that there is none of, and why.
    pub fn missing(&mut self, figure: impl Into<String>, why: impl Into<String>) {
        self.rows.push(Row {
            figure: figure.into(),
            unit: "",
            value: None,
            limit: Limit::None,
            note: why.into(),
        });
    }

    pub fn print(&self) {
        println!("\n{} tasks, containerd {}", self.count, self.kind);
        println!("  {:<66}{:>12}  {:<14}", "figure", "measured", "limit");
        for row in &self.rows {
            let value = row.value.map_or_else(|| "-".to_owned(), |value| shown(value, row.unit));
            let limit = match row.limit {
                Limit::AtMost(limit) => format!("≤ {}", shown(limit, row.unit)),
                Limit::AtLeast(limit) => format!("≥ {}", shown(limit, row.unit)),
                Limit::None => String::new(),
            };
            println!("  {:<66}{value:>12}  {limit:<14}  {}", row.figure, row.verdict());
        }
    }

    pub fn write(&self) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({ "containerd": self.kind, "tasks": self.count, "cores": cores, "rows": rows });
        let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("density-{}.json", self.kind));
        std::fs::write(&path, serde_json::to_string_pretty(&all)?).with_context(|| path.display().to_string())?;
        println!("  also in {}", path.display());
        Ok(())
    }
}

impl Row {
    fn verdict(&self) -> &str {
        match (self.value, self.limit) {
            (None, _) => &self.note,
            (Some(_), Limit::None) => "",
            (Some(value), Limit::AtMost(limit)) if value <= limit => "reached",
            (Some(value), Limit::AtLeast(limit)) if value >= limit => "reached",
            (Some(_), _) => "NOT reached",
        }
    }

    fn json(&self) -> serde_json::Value {
        let (at_most, at_least) = match self.limit {
            Limit::AtMost(limit) => (Some(limit), None),
            Limit::AtLeast(limit) => (None, Some(limit)),
            Limit::None => (None, None),
        };
        json!({
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "at_most": at_most,
            "at_least": at_least,
            "verdict": self.verdict(),
        })
    }
}

fn shown(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        below if below < 10.0 && below.fract() != 0.0 => 2,
        below if below < 100.0 && below.fract() != 0.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}").trim().to_owned()
}
