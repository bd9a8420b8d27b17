//! Type expressions and literals of the schema language, and conversion of plain JSON to a wanted type.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use crate::cty::Value;

/// `string`, `list(map(number))`, `object({a=string})` …
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    String,
    Number,
    Bool,
    Any,
    List(Box<Type>),
    Map(Box<Type>),
    Object(BTreeMap<String, Type>),
    Tuple(Vec<Type>),
}

impl Type {
    pub fn parse(text: &str) -> Result<Type> {
        ensure!(!text.trim().is_empty(), "empty type expression");
        let mut cursor = Cursor { rest: text };
        let found = cursor.parse_type()?;
        cursor.end().with_context(|| format!("type expression {text:?}"))?;
        Ok(found)
    }

    /// What a Go struct field of this type encodes to when nothing was set.
    pub fn harness_zero(&self) -> Value {
        match self {
            Type::String => Value::str(""),
            Type::Number => Value::Int(0),
            Type::Bool => Value::Bool(false),
            Type::List(inner) if matches!(**inner, Type::Map(_)) => Value::list([Value::Nil]),
            Type::Any | Type::List(_) | Type::Map(_) | Type::Object(_) | Type::Tuple(_) => Value::Nil,
        }
    }

    /// Converts as the host does: number↔string and bool↔string are allowed, nothing else.
    pub fn convert(&self, json: &Json) -> Result<Value> {
        if json.is_null() {
            return Ok(Value::Nil);
        }
        Ok(match (self, json) {
            (Type::Any, _) => any(json),
            (Type::String, Json::String(text)) => Value::str(text),
            (Type::String, Json::Number(n)) => match any(json) {
                Value::Int(int) => Value::str(int.to_string()),
                _ => Value::str(n.to_string()),
            },
            (Type::String, Json::Bool(b)) => Value::str(b.to_string()),
            (Type::Number, Json::Number(_)) => any(json),
            (Type::Number, Json::String(text)) => {
                Value::number(text).with_context(|| format!("a number is required, not {text:?}"))?
            }
            (Type::Bool, Json::Bool(b)) => Value::Bool(*b),
            (Type::Bool, Json::String(text)) if text == "true" || text == "1" => Value::Bool(true),
            (Type::Bool, Json::String(text)) if text == "false" || text == "0" => Value::Bool(false),
            (Type::List(inner), Json::Array(items)) => {
                Value::List(items.iter().map(|item| inner.convert(item)).collect::<Result<_>>()?)
            }
            (Type::Map(inner), Json::Object(map)) => Value::Map(
                map.iter()
                    .map(|(k, v)| Ok((k.clone(), inner.convert(v)?)))
                    .collect::<Result<_>>()?,
            ),
            (Type::Object(fields), Json::Object(map)) => {
                let mut out = BTreeMap::new();
                for (key, kind) in fields {
                    let given = map.get(key).with_context(|| format!("attribute {key:?} is required"))?;
                    out.insert(key.clone(), kind.convert(given)?);
                }
                Value::Map(out)
            }
            (Type::Tuple(kinds), Json::Array(items)) => {
                ensure!(
                    kinds.len() == items.len(),
                    "a tuple of {} elements is required",
                    kinds.len()
                );
                Value::List(
                    kinds
                        .iter()
                        .zip(items)
                        .map(|(kind, item)| kind.convert(item))
                        .collect::<Result<_>>()?,
                )
            }
            _ => bail!("incorrect type: {self:?} is required, not {json}"),
        })
    }
}

/// A JSON value as it looks.
pub fn any(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => Value::number(&n.to_string()).unwrap_or(Value::Nil),
        Json::String(text) => Value::str(text),
        Json::Array(items) => Value::List(items.iter().map(any).collect()),
        Json::Object(map) => Value::Map(map.iter().map(|(k, v)| (k.clone(), any(v))).collect()),
    }
}

/// The value of a literal's expression: strings, numbers, booleans, null, lists and objects (no functions).
pub fn literal(text: &str) -> Result<Value> {
    let mut cursor = Cursor { rest: text };
    let value = cursor.parse_literal().with_context(|| format!("literal {text:?}"))?;
    cursor.end().with_context(|| format!("literal {text:?}"))?;
    Ok(value)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn want(&mut self, token: char) -> Result<()> {
        ensure!(self.eat(token), "{token:?} is missing before {:?}", self.rest);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.skip();
        ensure!(self.rest.is_empty(), "superfluous {:?}", self.rest);
        Ok(())
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let len = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || "_-.+".contains(c)))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        word
    }

    fn string(&mut self) -> Result<String> {
        self.skip();
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = stream.next().context("string expected")??;
        self.rest = &self.rest[stream.byte_offset()..];
        Ok(text)
    }

    fn parse_type(&mut self) -> Result<Type> {
        let word = self.word();
        Ok(match word {
            "string" => Type::String,
            "number" => Type::Number,
            "bool" => Type::Bool,
            "any" => Type::Any,
            "list" | "set" | "map" => {
                self.want('(')?;
                let inner = Box::new(self.parse_type()?);
                self.want(')')?;
                if word == "map" {
                    Type::Map(inner)
                } else {
                    Type::List(inner)
                }
            }
            "tuple" => {
                self.want('(')?;
                self.want('[')?;
                let mut kinds = Vec::new();
                while !self.eat(']') {
                    kinds.push(self.parse_type()?);
                    self.eat(',');
                }
                self.want(')')?;
                Type::Tuple(kinds)
            }
            "object" => {
                self.want('(')?;
                self.want('{')?;
                let mut fields = BTreeMap::new();
                while !self.eat('}') {
                    let key = self.word().to_owned();
                    self.want('=')?;
                    fields.insert(key, self.parse_type()?);
                    self.eat(',');
                }
                self.want(')')?;
                Type::Object(fields)
            }
            other => bail!("unknown type {other:?}"),
        })
    }

    fn parse_literal(&mut self) -> Result<Value> {
        self.skip();
        if self.rest.starts_with('"') {
            return Ok(Value::Str(self.string()?));
        }
        if self.eat('[') {
            let mut items = Vec::new();
            while !self.eat(']') {
                items.push(self.parse_literal()?);
                self.eat(',');
            }
            return Ok(Value::List(items));
        }
        if self.eat('{') {
            let mut map = BTreeMap::new();
            while !self.eat('}') {
                self.skip();
                let key = if self.rest.starts_with('"') {
                    self.string()?
                } else {
                    self.word().to_owned()
                };
                if !self.eat('=') {
                    self.want(':')?;
                }
                map.insert(key, self.parse_literal()?);
                self.eat(',');
            }
            return Ok(Value::Map(map));
        }
        Ok(match self.word() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Nil,
            word => Value::number(word).with_context(|| format!("not understood: {word:?}"))?,
        })
    }
}
