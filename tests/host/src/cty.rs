//! Values as an agent encodes them (msgpack), and the dialect of the Go test harness.
//!
//! The agent writes the shortest integers, `str8` from 32 bytes on, float64 only for numbers that are exactly a float64, and a decimal
//! string for all other numbers. The harness ("legacy") has no `str8`: strings of 32 to 255 bytes use `str16`.

use std::collections::BTreeMap;

/// A fully decoded configuration value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Value>),
    /// Keys are sorted bytewise, as the encoder needs them.
    Map(BTreeMap<String, Value>),
}

/// Which producer is imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Agent,
    Legacy,
}

impl Value {
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::List(items.into_iter().collect())
    }

    pub fn map<K: Into<String>>(items: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Map(items.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// A number from its decimal text: integer if it is one, float64 if exactly one, else the text itself.
    pub fn number(text: &str) -> Option<Value> {
        let text = text.trim();
        if let Ok(int) = text.parse::<i64>() {
            return Some(Value::Int(int));
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
            return None;
        }
        let float = text.parse::<f64>().ok().filter(|f| f.is_finite())?;
        let plain = plain_decimal(text)?;
        if let Ok(int) = plain.parse::<i64>() {
            return Some(Value::Int(int));
        }
        if plain.contains('.') && plain_decimal(&format!("{float:.1100}")).as_deref() == Some(plain.as_str()) {
            return Some(Value::Float(float));
        }
        Some(Value::Str(plain))
    }

    /// The entry of a map, or `None`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    pub fn is_nil(&self) -> bool {
        *self == Value::Nil
    }

    /// msgpack as the agent writes it.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(Dialect::Agent)
    }

    pub fn encode_as(&self, dialect: Dialect) -> Vec<u8> {
        let mut out = Vec::new();
        write(self, dialect, &mut out);
        out
    }
}

/// `1.50e1` → `15`, `-0.250` → `-0.25`: no exponent, no superfluous zeros.
fn plain_decimal(text: &str) -> Option<String> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || exponent.abs() > 5000 {
        return None;
    }
    let mut point = whole.len() as i64 + exponent;
    while point < 1 {
        digits.insert(0, '0');
        point += 1;
    }
    while (digits.len() as i64) < point {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(point as usize);
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && !(whole == "0" && fraction.is_empty()) {
        "-"
    } else {
        ""
    };
    Some(if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    })
}

fn write(value: &Value, dialect: Dialect, out: &mut Vec<u8>) {
    match value {
        Value::Nil => out.push(0xc0),
        Value::Bool(true) => out.push(0xc3),
        Value::Bool(false) => out.push(0xc2),
        Value::Int(int) => write_int(*int, out),
        Value::Float(float) => {
            out.push(0xcb);
            out.extend(float.to_be_bytes());
        }
        Value::Str(text) => write_str(text, dialect, out),
        Value::List(items) => {
            write_head(items.len(), 0x90, 0xdc, out);
            items.iter().for_each(|item| write(item, dialect, out));
        }
        Value::Map(map) => {
            write_head(map.len(), 0x80, 0xde, out);
            for (key, item) in map {
                write_str(key, dialect, out);
                write(item, dialect, out);
            }
        }
    }
}

fn write_head(len: usize, fix: u8, wide: u8, out: &mut Vec<u8>) {
    match len {
        0..=15 => out.push(fix | len as u8),
        16..=0xffff => {
            out.push(wide);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(wide + 1);
            out.extend((len as u32).to_be_bytes());
        }
    }
}

fn write_str(text: &str, dialect: Dialect, out: &mut Vec<u8>) {
    let len = text.len();
    match len {
        0..=31 => out.push(0xa0 | len as u8),
        32..=255 if dialect == Dialect::Agent => out.extend([0xd9, len as u8]),
        32..=0xffff => {
            out.push(0xda);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend(text.as_bytes());
}

fn write_int(int: i64, out: &mut Vec<u8>) {
    match int {
        0..=0x7f => out.push(int as u8),
        0x80..=0xff => out.extend([0xcc, int as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend((int as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend((int as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend((int as u64).to_be_bytes());
        }
        -32..=-1 => out.push(int as u8),
        -128..=-33 => out.extend([0xd0, int as u8]),
        -0x8000..=-129 => {
            out.push(0xd1);
            out.extend((int as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2);
            out.extend((int as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend(int.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }

    fn num(text: &str) -> String {
        hex(&Value::number(text).expect("a number").encode())
    }

    #[test]
    fn scalars_match_the_golden_bytes() {
        for (text, bytes) in [
            ("0", "00"),
            ("127", "7f"),
            ("128", "cc 80"),
            ("255", "cc ff"),
            ("256", "cd 01 00"),
            ("65536", "ce 00 01 00 00"),
            ("4294967296", "cf 00 00 00 01 00 00 00 00"),
            ("-1", "ff"),
            ("-32", "e0"),
            ("-33", "d0 df"),
            ("-129", "d1 ff 7f"),
            ("0.5", "cb 3f e0 00 00 00 00 00 00"),
            ("0.1", "a3 30 2e 31"),
            ("5.0", "05"),
            ("1e3", "cd 03 e8"),
            ("70000", "ce 00 01 11 70"),
        ] {
            assert_eq!(num(text), bytes, "{text}");
        }
        assert_eq!(hex(&Value::str("").encode()), "a0");
        assert!(hex(&Value::str("x".repeat(33)).encode()).starts_with("d9 21 78"));
        assert!(hex(&Value::str("x".repeat(33)).encode_as(Dialect::Legacy)).starts_with("da 00 21 78"));
        let wide = Value::map((0..16).map(|i| (format!("k{i:02}"), Value::Nil)));
        assert!(hex(&wide.encode()).starts_with("de 00 10"));
        assert_eq!(Value::number("1e30"), Some(Value::str(format!("1{}", "0".repeat(30)))));
        assert_eq!(Value::number("abc"), None);
    }

    #[test]
    fn maps_match_the_golden_bytes() {
        let value = Value::map([
            ("foo", Value::str("v1")),
            ("bar", Value::Int(1337)),
            ("baz", Value::Bool(true)),
        ]);
        assert_eq!(
            hex(&value.encode()),
            "83 a3 62 61 72 cd 05 39 a3 62 61 7a c3 a3 66 6f 6f a2 76 31"
        );
        let task = Value::map([
            ("args", Value::list([Value::str("a"), Value::str("b")])),
            ("auth", Value::Nil),
            ("image", Value::str("redis:7")),
            ("mounts", Value::list([])),
            ("pids_limit", Value::Nil),
            (
                "port_map",
                Value::list([Value::map([("db", Value::Int(5432)), ("http", Value::Int(80))])]),
            ),
            ("tty", Value::Bool(false)),
        ]);
        assert_eq!(
            hex(&task.encode()),
            "87 a4 61 72 67 73 92 a1 61 a1 62 a4 61 75 74 68 c0 a5 69 6d 61 67 65 a7 72 65 64 69 73 3a 37 a6 6d 6f 75 6e 74 73 90 \
             aa 70 69 64 73 5f 6c 69 6d 69 74 c0 a8 70 6f 72 74 5f 6d 61 70 91 82 a2 64 62 cd 15 38 a4 68 74 74 70 50 a3 74 74 79 c2"
        );
    }
}
