//! The neutral schema as hclspec. Two rules of the host's decoder bite: an attribute inside a `Default` needs its name
//! spelled out (only a direct child of an object inherits its key), and a required attribute never gets its default.

use super::pb::hclspec::{Attr, Block, BlockList, Default as Fallback, Literal, Object, Spec, spec};
use crate::spec::schema::{AttrType, Schema};

/// The root: an object with these members.
pub(super) fn root(members: &[(String, Schema)]) -> Spec {
    object(members)
}

fn object(members: &[(String, Schema)]) -> Spec {
    let attributes = members
        .iter()
        .map(|(name, schema)| (name.clone(), member(name, schema)))
        .collect();
    wrap(spec::Block::Object(Object { attributes }))
}

fn member(name: &str, schema: &Schema) -> Spec {
    match schema {
        Schema::Attr {
            ty,
            required,
            default: None,
        } => attr(name, *ty, *required),
        Schema::Attr {
            ty,
            required: _,
            default: Some(literal),
        } => wrap(spec::Block::Default(Box::new(Fallback {
            primary: Some(Box::new(attr(name, *ty, false))),
            default: Some(Box::new(wrap(spec::Block::Literal(Literal { value: literal.clone() })))),
        }))),
        Schema::Block(members) => wrap(spec::Block::BlockValue(Box::new(Block {
            name: name.to_owned(),
            required: false,
            nested: Some(Box::new(object(members))),
        }))),
        Schema::BlockList(members) => wrap(spec::Block::BlockList(Box::new(BlockList {
            name: name.to_owned(),
            min_items: 0,
            max_items: 0,
            nested: Some(Box::new(object(members))),
        }))),
    }
}

fn attr(name: &str, ty: AttrType, required: bool) -> Spec {
    wrap(spec::Block::Attr(Attr {
        name: name.to_owned(),
        r#type: expression(ty).to_owned(),
        required,
    }))
}

fn expression(ty: AttrType) -> &'static str {
    match ty {
        AttrType::String => "string",
        AttrType::Number => "number",
        AttrType::Bool => "bool",
        AttrType::StringList => "list(string)",
        AttrType::StringMaps => "list(map(string))",
        AttrType::Any => "any",
    }
}

fn wrap(block: spec::Block) -> Spec {
    Spec { block: Some(block) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::pb::base::ConfigSchemaResponse;
    use prost::Message as _;

    fn plain(ty: AttrType) -> Schema {
        Schema::Attr {
            ty,
            required: false,
            default: None,
        }
    }

    #[test]
    fn one_attribute_has_the_bytes_that_nomad_has() {
        let spec = root(&[("foo".into(), plain(AttrType::String))]);
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let golden = "0a180a160a03666f6f120f1a0d0a03666f6f1206737472696e67";
        assert_eq!(hex(spec.encode_to_vec()), golden);
        assert_eq!(
            hex(ConfigSchemaResponse { spec: Some(spec) }.encode_to_vec()),
            format!("0a1a{golden}")
        );
    }

    #[test]
    fn default_names_its_attribute_and_keeps_the_literals_quotes() {
        let schema = Schema::Attr {
            ty: AttrType::String,
            required: true,
            default: Some("\"5m\"".into()),
        };
        let Some(spec::Block::Object(o)) = root(&[("t".into(), schema)]).block else {
            panic!("object")
        };
        let Some(spec::Block::Default(d)) = o.attributes["t"].block.clone() else {
            panic!("default")
        };
        assert_eq!(*d.primary.unwrap(), attr("t", AttrType::String, false));
        assert_eq!(
            d.default.unwrap().block,
            Some(spec::Block::Literal(Literal { value: "\"5m\"".into() }))
        );
    }

    #[test]
    fn blocks_carry_their_name_and_an_object() {
        let inner = vec![("a".to_owned(), plain(AttrType::StringMaps))];
        let spec = root(&[
            ("b".into(), Schema::Block(inner.clone())),
            ("l".into(), Schema::BlockList(inner)),
        ]);
        let Some(spec::Block::Object(o)) = spec.block else {
            panic!("object")
        };
        let Some(spec::Block::BlockValue(b)) = o.attributes["b"].block.clone() else {
            panic!("block")
        };
        let Some(spec::Block::BlockList(l)) = o.attributes["l"].block.clone() else {
            panic!("list")
        };
        assert_eq!((b.name.as_str(), l.name.as_str(), l.max_items), ("b", "l", 0));
        let Some(spec::Block::Object(n)) = b.nested.unwrap().block else {
            panic!("nested object")
        };
        assert!(matches!(&n.attributes["a"].block, Some(spec::Block::Attr(a)) if a.r#type == "list(map(string))"));
    }

    #[test]
    fn both_schemas_are_the_same_in_every_launch() {
        for schema in [crate::spec::settings::schema(), crate::spec::options::schema()] {
            assert_eq!(root(&schema).encode_to_vec(), root(&schema).encode_to_vec());
        }
    }
}
