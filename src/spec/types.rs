//! The types that options can have: schema, default as HCL and decoding of each.
//!
//! A type's `read` takes what every known host sends for it, see `value`.

use super::error::SpecError;
use super::go;
use super::options::{BindOptions, DeviceOption, DriverConfig, Entrypoint, MountOption, TmpfsOptions, VolumeOptions};
use super::schema::{AttrType, Schema};
use super::secret::Secret;
use super::settings::{AllowedModes, CanarySettings, ImageGcSettings, ReaperSettings, VolumeSettings};
use super::table::{self, Declared, OptionValue, Options};
use super::value::{Fields, concrete, each, is_nothing, kind, mistyped, text, want_text, wrong};
use rmpv::Value;
use std::collections::BTreeMap;
use std::time::Duration;

fn attr(ty: AttrType, required: bool, default: Option<String>) -> Schema {
    Schema::Attr { ty, required, default }
}

/// HCL source of a text.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace("${", "$${")
        .replace("%{", "%%{");
    format!("\"{escaped}\"")
}

impl OptionValue for String {
    const TYPE: &'static str = "string";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::String, required, default)
    }
    fn literal(&self) -> Option<String> {
        (!self.is_empty()).then(|| quoted(self))
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        want_text(at, value).map(|t| (!t.is_empty()).then_some(t))
    }
}

impl OptionValue for Option<String> {
    const TYPE: &'static str = "string";
    fn schema(required: bool, default: Option<String>) -> Schema {
        String::schema(required, default)
    }
    fn literal(&self) -> Option<String> {
        self.as_ref().and_then(OptionValue::literal)
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        Ok(String::read(at, value)?.map(Some))
    }
    fn merge(self, other: Self) -> Option<Self> {
        (self == other).then_some(self)
    }
}

/// A refusal that does not show the value.
fn secret(at: &str, allowed: &str) -> SpecError {
    SpecError::Option {
        option: at.to_owned(),
        value: "[secret]".to_owned(),
        allowed: allowed.to_owned(),
    }
}

impl OptionValue for Secret {
    const TYPE: &'static str = "string";
    fn schema(required: bool, _default: Option<String>) -> Schema {
        attr(AttrType::String, required, None)
    }
    fn literal(&self) -> Option<String> {
        None
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        match text(value) {
            Some(t) => Ok(Some(Self::new(t))),
            // The value is not shown: it may be the secret in another shape.
            None => Err(secret(at, &format!("a text is expected, not {}", kind(value)))),
        }
    }
}

impl OptionValue for bool {
    const TYPE: &'static str = "bool";
    const BLANK: &'static str = "false";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::Bool, required, default)
    }
    fn literal(&self) -> Option<String> {
        self.then(|| "true".to_owned())
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        match text(value).as_deref() {
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some("") => Ok(None),
            _ => Err(mistyped(at, value, "true or false")),
        }
    }
}

impl OptionValue for i64 {
    const TYPE: &'static str = "number";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::Number, required, default)
    }
    fn literal(&self) -> Option<String> {
        (*self != 0).then(|| self.to_string())
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let whole = match value {
            Value::Integer(n) => n.as_i64(),
            Value::F64(n) => whole(*n),
            Value::F32(n) => whole(f64::from(*n)),
            Value::String(_) | Value::Binary(_) => match text(value).as_deref().map(str::trim) {
                Some("") => return Ok(None),
                Some(t) => t.parse::<i64>().ok().or_else(|| t.parse::<f64>().ok().and_then(whole)),
                None => None,
            },
            _ => None,
        };
        whole.map(Some).ok_or_else(|| mistyped(at, value, "a whole number"))
    }
}

/// The integer that a float stands for, if it does.
fn whole(n: f64) -> Option<i64> {
    // 2^53: beyond it a float does not name one integer.
    #[allow(clippy::cast_possible_truncation, reason = "integral and within ±2^53")]
    (n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0).then_some(n as i64)
}

impl OptionValue for Duration {
    const TYPE: &'static str = "string";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::String, required, default)
    }
    fn literal(&self) -> Option<String> {
        Some(quoted(&go::format_duration(*self)))
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let text = want_text(at, value)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let allowed = "a duration above zero is expected, such as \"90s\" or \"1h30m\"";
        match go::parse_duration(&text) {
            Some(d) if !d.is_zero() => Ok(Some(d)),
            // The sentence of the Go driver, which scripts may look for.
            _ if at == "image_pull_timeout" => Err(SpecError::Refused {
                option: at.to_owned(),
                text: format!("Failed to parse image_pull_timeout: {text:?}: {allowed}"),
            }),
            _ => Err(wrong(at, value, allowed)),
        }
    }
}

impl OptionValue for Option<Duration> {
    const TYPE: &'static str = "string";
    fn schema(required: bool, default: Option<String>) -> Schema {
        Duration::schema(required, default)
    }
    fn literal(&self) -> Option<String> {
        self.as_ref().and_then(OptionValue::literal)
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        Ok(Duration::read(at, value)?.map(Some))
    }
}

impl OptionValue for Vec<String> {
    const TYPE: &'static str = "list(string)";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::StringList, required, default)
    }
    fn literal(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(|t| quoted(t)).collect();
        (!self.is_empty()).then(|| format!("[{}]", items.join(", ")))
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let Value::Array(items) = value else {
            return Err(mistyped(at, value, "a list of texts"));
        };
        items
            .iter()
            .enumerate()
            .map(|(i, v)| want_text(&format!("{at}[{i}]"), v))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// `list(map(string))`: the maps are merged, later ones win.
impl OptionValue for BTreeMap<String, String> {
    const TYPE: &'static str = "map";
    fn schema(required: bool, default: Option<String>) -> Schema {
        attr(AttrType::StringMaps, required, default)
    }
    fn literal(&self) -> Option<String> {
        None
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let mut merged = Self::new();
        for map in each(value).iter().filter(|m| !m.is_nil()) {
            let fields = Fields::of(at, map).ok_or_else(|| mistyped(at, map, "a map of texts"))?;
            for (key, v) in &fields.map {
                merged.insert(key.clone(), want_text(&format!("{at}.{key}"), v)?);
            }
        }
        Ok(Some(merged))
    }
}

/// `Option` tells "not given" from any value, also from the zero of its type.
macro_rules! optional {
    ($($inner:ty),*) => { $(
        impl OptionValue for Option<$inner> {
            const TYPE: &'static str = <$inner>::TYPE;
            fn schema(required: bool, _default: Option<String>) -> Schema {
                <$inner>::schema(required, None)
            }
            fn literal(&self) -> Option<String> {
                None
            }
            fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
                Ok(<$inner>::read(at, value)?.map(Some))
            }
            fn merge(self, other: Self) -> Option<Self> {
                (self == other).then_some(self)
            }
        }
    )* };
}
optional!(bool, i64, Vec<String>);

/// A block of one kind that may come as a list of one.
macro_rules! block {
    ($($inner:ty),*) => { $(
        impl OptionValue for Option<$inner> {
            const TYPE: &'static str = "block";
            fn schema(_required: bool, _default: Option<String>) -> Schema {
                Schema::Block(table::schema_of::<$inner>())
            }
            fn literal(&self) -> Option<String> {
                None
            }
            fn inner() -> Vec<Declared> {
                <$inner>::declared()
            }
            fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
                let Some(block) = each(value).iter().find(|b| !b.is_nil()) else {
                    return Ok(None);
                };
                let fields = Fields::of(at, block).ok_or_else(|| mistyped(at, block, "a block"))?;
                <$inner>::read(&fields).map(|b| Some(Some(b)))
            }
        }
    )* };
}
block!(
    AllowedModes,
    CanarySettings,
    VolumeSettings,
    ReaperSettings,
    ImageGcSettings,
    BindOptions,
    TmpfsOptions,
    VolumeOptions,
    DriverConfig
);

impl OptionValue for Entrypoint {
    const TYPE: &'static str = "list(string) or string";
    /// A list in a job is converted to a text by no agent, nor the other way round.
    fn schema(required: bool, _default: Option<String>) -> Schema {
        attr(AttrType::Any, required, None)
    }
    fn literal(&self) -> Option<String> {
        None
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let (value, one) = (concrete(value), |at: &str, item| want_text(at, concrete(item)));
        match value {
            Value::Array(items) => {
                let texts = items
                    .iter()
                    .enumerate()
                    .map(|(i, item)| one(&format!("{at}[{i}]"), item));
                Ok(Some(Self(texts.collect::<Result<_, _>>()?)))
            }
            Value::Map(_) | Value::Boolean(_) => Err(wrong(at, value, "a list of texts, or one text, is expected")),
            text if is_nothing(text) => Ok(None),
            text => Ok(Some(Self(vec![one(at, text)?]))),
        }
    }
}

impl OptionValue for Vec<DeviceOption> {
    const TYPE: &'static str = "list(string) or blocks";
    fn schema(required: bool, _default: Option<String>) -> Schema {
        attr(AttrType::Any, required, None)
    }
    fn literal(&self) -> Option<String> {
        None
    }
    fn inner() -> Vec<Declared> {
        DeviceOption::declared()
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let allowed = "a path, host:container:permissions, a CDI name or a block with host_path is expected";
        let each = each(concrete(value)).iter().enumerate();
        each.filter(|(_, item)| !item.is_nil())
            .map(|(i, item)| {
                let at = format!("{at}[{i}]");
                let item = concrete(item);
                if let Some(fields) = Fields::of(&at, item) {
                    // Nobody but us checks what the schema calls `any`.
                    if let Some(name) = fields.unknown(&DeviceOption::declared()) {
                        return Err(SpecError::option(
                            format!("{at}.{name}"),
                            name,
                            "host_path, container_path and cgroup_permissions are expected",
                        ));
                    }
                    let device = DeviceOption::read(&fields)?;
                    return if device.host_path.is_empty() {
                        let allowed = "an absolute path on the host or a CDI name is expected";
                        Err(SpecError::option(format!("{at}.host_path"), "", allowed))
                    } else {
                        Ok(device.of_a_block())
                    };
                }
                match text(item) {
                    Some(host_path) if !host_path.is_empty() && !matches!(item, Value::Boolean(_)) => {
                        Ok(DeviceOption {
                            host_path,
                            ..DeviceOption::default()
                        })
                    }
                    _ => Err(wrong(&at, item, allowed)),
                }
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }
    fn merge(mut self, other: Self) -> Option<Self> {
        self.extend(other);
        Some(self)
    }
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl OptionValue for Vec<MountOption> {
    const TYPE: &'static str = "blocks";
    fn schema(_required: bool, _default: Option<String>) -> Schema {
        Schema::BlockList(table::schema_of::<MountOption>())
    }
    fn literal(&self) -> Option<String> {
        None
    }
    fn inner() -> Vec<Declared> {
        MountOption::declared()
    }
    fn merge(mut self, other: Self) -> Option<Self> {
        self.extend(other);
        Some(self)
    }
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
    fn read(at: &str, value: &Value) -> Result<Option<Self>, SpecError> {
        let blocks = each(value).iter().enumerate().filter(|(_, b)| !b.is_nil());
        blocks
            .map(|(i, block)| {
                let at = format!("{at}[{i}]");
                let fields = Fields::of(&at, block).ok_or_else(|| mistyped(&at, block, "a block"))?;
                MountOption::read(&fields)
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }
}
