//! Logging of the process. As a plugin: one hclog JSON object per line on standard error, which the host parses,
//! filters by its own level and puts into the agent's log. On a terminal: plain lines.
//!
//! May not block and may not panic: after an agent crash standard error is a broken pipe, and `eprintln!` would panic.

mod line;
mod sink;

pub use sink::Sink;

use serde_json::Value;
use std::fmt;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Variable with filter directives, e.g. `debug` or `containerd_driver=trace,warn`.
pub const FILTER_VARIABLE: &str = "CONTAINERD_DRIVER_LOG";

/// For whom the lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The plugin host: hclog JSON, everything from debug; the host filters.
    Plugin,
    /// A person: plain text, warnings and worse.
    Terminal,
}

impl Mode {
    fn default_directives(self) -> &'static str {
        match self {
            Self::Plugin => "warn,containerd_driver=debug",
            Self::Terminal => "warn",
        }
    }
}

/// The layer that writes events to `sink`. `directives` is the value of [`FILTER_VARIABLE`]; what cannot be read of
/// it is ignored.
pub fn layer<S>(mode: Mode, directives: Option<&str>, sink: Sink) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let directives = directives
        .filter(|d| !d.trim().is_empty())
        .unwrap_or(mode.default_directives());
    let filter = EnvFilter::builder().parse_lossy(directives);
    match mode {
        Mode::Plugin => Hclog { sink }.with_filter(filter).boxed(),
        Mode::Terminal => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(Lines(sink))
            .with_filter(filter)
            .boxed(),
    }
}

/// A panic hook that logs through `sink`. No backtrace: taking the first one costs 31 MB for good.
#[must_use]
pub fn panic_hook(mode: Mode, sink: Sink) -> Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> {
    Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no text)");
        let place = panic
            .location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        sink.line(match mode {
            Mode::Plugin => {
                let fields = [
                    ("panic".to_owned(), text.into()),
                    ("panic.location".to_owned(), place.into()),
                    ("thread".to_owned(), thread.into()),
                ];
                line::render(SystemTime::now(), "error", "panic", &fields)
            }
            Mode::Terminal => format!("panic in thread {thread} at {place}: {text}\n"),
        });
    })
}

/// Writes events as hclog JSON.
struct Hclog {
    sink: Sink,
}

impl<S: Subscriber> Layer<S> for Hclog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
            .rest
            .push(("target".to_owned(), event.metadata().target().into()));
        let message = fields.message.unwrap_or_else(|| event.metadata().name().to_owned());
        self.sink.line(line::render(
            SystemTime::now(),
            level(*event.metadata().level()),
            &message,
            &fields.rest,
        ));
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[derive(Default)]
struct Fields {
    message: Option<String>,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = Some(text),
            ("message", other) => self.message = Some(other.to_string()),
            (name, value) => self.rest.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        self.put(
            field,
            if value.is_finite() {
                value.into()
            } else {
                value.to_string().into()
            },
        );
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

/// Plain lines through the same thread.
#[derive(Clone)]
struct Lines(Sink);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// `fmt` hands over one whole event per write.
impl Write for Lines {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.line(String::from_utf8_lossy(buf).into_owned());
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);
    impl Write for Memory {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(mode: Mode, directives: Option<&str>, f: impl FnOnce()) -> String {
        let memory = Memory::default();
        let sink = Sink::to(memory.clone()).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(mode, directives, sink.clone()));
        tracing::subscriber::with_default(subscriber, f);
        sink.flush(Duration::from_secs(5));
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn event_becomes_hclog_json_with_its_fields() {
        let text = logged(Mode::Plugin, None, || {
            tracing::warn!(task.id = "a/b", attempt = 3, ratio = f64::NAN, ok = true, "asked again");
        });
        let v: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (v["@message"].as_str(), v["@level"].as_str()),
            (Some("asked again"), Some("warn"))
        );
        assert_eq!(
            (v["task.id"].as_str(), v["attempt"].as_i64(), v["ok"].as_bool()),
            (Some("a/b"), Some(3), Some(true))
        );
        assert_eq!(v["ratio"].as_str(), Some("NaN"));
    }

    #[test]
    fn own_debug_passes_others_from_warnings_on() {
        let text = logged(Mode::Plugin, None, || {
            tracing::debug!("own");
            tracing::debug!(target: "h2", "theirs");
            tracing::warn!(target: "h2", "their warning");
        });
        assert!(
            text.contains("\"own\"") && text.contains("their warning") && !text.contains("\"theirs\""),
            "{text}"
        );
    }

    #[test]
    fn directives_replace_the_default() {
        let text = logged(Mode::Plugin, Some("error"), || tracing::warn!("quiet"));
        assert_eq!(text, "");
    }

    #[test]
    fn terminal_gets_plain_lines() {
        let text = logged(Mode::Terminal, None, || {
            tracing::warn!(path = "/x", "cannot read");
            tracing::debug!("not shown");
        });
        assert!(
            text.contains("cannot read") && !text.contains('{') && text.lines().count() == 1,
            "{text}"
        );
    }
}
