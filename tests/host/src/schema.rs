//! Evaluates a schema, as a plugin sends it, against an HCL-like configuration given as JSON.
//!
//! The result has every key of the schema: unset attributes are nil, unset block lists empty, defaults applied. A name the schema does not
//! know, a missing required one and a value of the wrong type are errors, just as on a real host. Blocks may be written as an object or as
//! a list of objects, because that is what job files turn into.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map as JsonMap, Value as Json};

use crate::cty::Value;
use crate::types::{Type, literal};
use crate::wire::hclspec::{Spec, spec::Block as Kind};

/// The decoded value of `config`, as the agent would encode it.
pub fn evaluate(spec: &Spec, config: &Json) -> Result<Value> {
    Evaluator { harness: false }.root(spec, config)
}

/// The same as Nomad's Go test harness would send it: no defaults, unset fields are Go zero values.
pub fn evaluate_harness(spec: &Spec, config: &Json) -> Result<Value> {
    Evaluator { harness: true }.root(spec, config)
}

/// The names a configuration body may use, with `false` for those inside the body's blocks left out.
pub fn names(spec: &Spec) -> Vec<String> {
    let mut out = Vec::new();
    collect_names(spec, "", &mut out);
    out.sort();
    out.dedup();
    out
}

fn collect_names(spec: &Spec, implied: &str, out: &mut Vec<String>) {
    let or = |name: &str| {
        if name.is_empty() {
            implied.to_owned()
        } else {
            name.to_owned()
        }
    };
    match spec.block.as_ref() {
        Some(Kind::Object(object)) => object
            .attributes
            .iter()
            .for_each(|(key, inner)| collect_names(inner, key, out)),
        Some(Kind::Array(array)) => array.values.iter().for_each(|inner| collect_names(inner, "", out)),
        Some(Kind::Attr(x)) => out.push(or(&x.name)),
        Some(Kind::BlockValue(x)) => out.push(or(&x.name)),
        Some(Kind::BlockAttrs(x)) => out.push(or(&x.name)),
        Some(Kind::BlockList(x)) => out.push(or(&x.name)),
        Some(Kind::BlockSet(x)) => out.push(or(&x.name)),
        Some(Kind::BlockMap(x)) => out.push(or(&x.name)),
        Some(Kind::Default(x)) => {
            for inner in [&x.primary, &x.default].into_iter().flatten() {
                collect_names(inner, "", out);
            }
        }
        Some(Kind::Literal(_)) | None => {}
    }
}

struct Evaluator {
    harness: bool,
}

type Body = JsonMap<String, Json>;

impl Evaluator {
    fn root(&self, spec: &Spec, config: &Json) -> Result<Value> {
        let empty = Body::new();
        let body = match config {
            Json::Null => &empty,
            Json::Object(map) => map,
            other => bail!("a configuration is an object, not {other}"),
        };
        self.body(spec, body)
    }

    /// Checks the names of a body, then evaluates `spec` in it.
    fn body(&self, spec: &Spec, body: &Body) -> Result<Value> {
        let known = names(spec);
        for key in body.keys() {
            ensure!(
                known.contains(key),
                "Invalid label: No argument or block type is named {key:?}."
            );
        }
        self.spec(spec, "", body)
    }

    fn spec(&self, spec: &Spec, implied: &str, body: &Body) -> Result<Value> {
        let kind = spec.block.as_ref().context("a spec without a kind")?;
        Ok(match kind {
            Kind::Object(object) => {
                let mut out = BTreeMap::new();
                for (key, inner) in &object.attributes {
                    let value = self.spec(inner, key, body).with_context(|| format!("option {key:?}"))?;
                    out.insert(key.clone(), value);
                }
                Value::Map(out)
            }
            Kind::Array(array) => Value::List(
                array
                    .values
                    .iter()
                    .map(|inner| self.spec(inner, "", body))
                    .collect::<Result<_>>()?,
            ),
            Kind::Attr(attr) => {
                let name = label(&attr.name, implied)?;
                let kind = Type::parse(&attr.r#type)?;
                match body.get(name) {
                    Some(given) if !given.is_null() => {
                        kind.convert(given).with_context(|| format!("argument {name:?}"))?
                    }
                    _ if attr.required => bail!("Missing required argument: {name:?}"),
                    _ if self.harness => kind.harness_zero(),
                    _ => Value::Nil,
                }
            }
            Kind::BlockValue(block) => {
                let name = label(&block.name, implied)?;
                let nested = block.nested.as_deref().context("a block without nested spec")?;
                let found = blocks(body, name)?;
                ensure!(found.len() <= 1, "Duplicate {name} block");
                match found.first() {
                    Some(inner) => self.body(nested, inner).with_context(|| format!("block {name:?}"))?,
                    None if block.required => bail!("Missing {name} block"),
                    None if self.harness => zero(nested)?,
                    None => Value::Nil,
                }
            }
            Kind::BlockAttrs(block) => {
                let name = label(&block.name, implied)?;
                let kind = Type::parse(&block.r#type)?;
                let found = blocks(body, name)?;
                ensure!(found.len() <= 1, "Duplicate {name} block");
                match found.first() {
                    Some(inner) => Type::Map(Box::new(kind)).convert(&Json::Object((*inner).clone()))?,
                    None if block.required => bail!("Missing {name} block"),
                    None => Value::Nil,
                }
            }
            Kind::BlockList(x) => self.block_list(
                label(&x.name, implied)?,
                x.min_items,
                x.max_items,
                x.nested.as_deref(),
                body,
            )?,
            Kind::BlockSet(x) => self.block_list(
                label(&x.name, implied)?,
                x.min_items,
                x.max_items,
                x.nested.as_deref(),
                body,
            )?,
            Kind::BlockMap(x) => {
                let name = label(&x.name, implied)?;
                let nested = x.nested.as_deref().context("a block map without nested spec")?;
                let mut out = BTreeMap::new();
                for level in blocks(body, name)? {
                    self.labelled(level, x.labels.len(), nested, &mut out)?;
                }
                Value::Map(out)
            }
            Kind::Default(x) => {
                let primary = self.spec(
                    x.primary.as_deref().context("a default without primary")?,
                    implied,
                    body,
                )?;
                if !primary.is_nil() {
                    return Ok(primary);
                }
                self.spec(
                    x.default.as_deref().context("a default without default")?,
                    implied,
                    body,
                )?
            }
            Kind::Literal(x) => literal(&x.value)?,
        })
    }

    fn block_list(&self, name: &str, min: u64, max: u64, nested: Option<&Spec>, body: &Body) -> Result<Value> {
        let nested = nested.context("a block list without nested spec")?;
        let found = blocks(body, name)?;
        let count = found.len() as u64;
        ensure!(count >= min, "Insufficient {name} blocks: at least {min}");
        ensure!(max == 0 || count <= max, "Too many {name} blocks: at most {max}");
        if found.is_empty() && self.harness {
            return Ok(Value::Nil);
        }
        let items = found
            .into_iter()
            .map(|inner| self.body(nested, inner).with_context(|| format!("block {name:?}")));
        Ok(Value::List(items.collect::<Result<_>>()?))
    }

    fn labelled(&self, level: &Body, depth: usize, nested: &Spec, out: &mut BTreeMap<String, Value>) -> Result<()> {
        for key in level.keys() {
            for inner in blocks(level, key)? {
                if depth <= 1 {
                    ensure!(!out.contains_key(key), "Duplicate block {key:?}");
                    out.insert(key.clone(), self.body(nested, inner)?);
                } else {
                    let entry = out.entry(key.clone()).or_insert_with(|| Value::Map(BTreeMap::new()));
                    if let Value::Map(map) = entry {
                        self.labelled(inner, depth - 1, nested, map)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn label<'a>(name: &'a str, implied: &'a str) -> Result<&'a str> {
    let found = if name.is_empty() { implied } else { name };
    ensure!(
        !found.is_empty(),
        "an attribute or block outside an object needs a name"
    );
    Ok(found)
}

/// The blocks called `name`: one object, or a list of objects.
fn blocks<'a>(body: &'a Body, name: &str) -> Result<Vec<&'a Body>> {
    match body.get(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Object(map)) => Ok(vec![map]),
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| {
                item.as_object()
                    .with_context(|| format!("{name:?} holds {item}, not a block"))
            })
            .collect(),
        Some(other) => bail!("{name:?} is a block, not {other}"),
    }
}

/// A Go struct nobody filled in.
fn zero(spec: &Spec) -> Result<Value> {
    Ok(match spec.block.as_ref() {
        Some(Kind::Object(object)) => {
            let items = object
                .attributes
                .iter()
                .map(|(key, inner)| Ok((key.clone(), zero(inner)?)));
            Value::Map(items.collect::<Result<_>>()?)
        }
        Some(Kind::Attr(attr)) => Type::parse(&attr.r#type)?.harness_zero(),
        Some(Kind::Default(x)) => zero(x.primary.as_deref().context("a default without primary")?)?,
        Some(Kind::BlockValue(x)) => zero(x.nested.as_deref().context("a block without nested spec")?)?,
        _ => Value::Nil,
    })
}
