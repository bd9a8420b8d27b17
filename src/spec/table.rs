//! One declaration per option: from it come the schema, the decoder, the default and the documentation.
//!
//! `options!` declares a struct whose fields are options; the doc comment of a field is the text in
//! `docs/configuration.md`, its type decides schema and decoding (`OptionValue`), its initial value is the default.

use super::error::SpecError;
use super::schema::Schema;
use super::value::{self, Fields};

/// One row of the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionDoc {
    /// Name as the user writes it; options inside a block as `block.name`.
    pub name: String,
    /// Type, e.g. `list(string)`.
    pub ty: &'static str,
    /// Default as HCL, `required`, or empty for none.
    pub default: String,
    /// What it does.
    pub doc: String,
}

/// One declared option: its place in the schema and in the documentation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Declared {
    pub(super) name: &'static str,
    pub(super) schema: Schema,
    pub(super) ty: &'static str,
    pub(super) default: String,
    pub(super) doc: String,
    pub(super) inner: Vec<Declared>,
}

/// A struct made by `options!`.
pub(super) trait Options: Sized {
    /// Its options in the order of their declaration.
    fn declared() -> Vec<Declared>;
    /// Reads them; what is not given has its default.
    fn read(fields: &Fields<'_>) -> Result<Self, SpecError>;
}

/// A type that an option can have.
pub(super) trait OptionValue: Sized {
    /// Type as documented.
    const TYPE: &'static str;
    /// Node of the schema.
    fn schema(required: bool, default: Option<String>) -> Schema;
    /// This value as HCL source; `None` for the value that "not given" decodes to anyway.
    fn literal(&self) -> Option<String>;
    /// Reads a value; `None` if it counts as not given (nil, and what old hosts send for unset).
    fn read(at: &str, value: &rmpv::Value) -> Result<Option<Self>, SpecError>;
    /// Options inside a block.
    fn inner() -> Vec<Declared> {
        Vec::new()
    }
}

/// Makes the [`Declared`] of one field.
pub(super) fn declare<T: OptionValue>(name: &'static str, default: &T, required: bool, doc: &str) -> Declared {
    let literal = default.literal();
    let shown = match (&literal, required) {
        (_, true) => "required".to_owned(),
        (Some(text), false) => text.clone(),
        (None, false) if T::TYPE == "bool" => "false".to_owned(),
        (None, false) => String::new(),
    };
    Declared {
        name: plain(name),
        schema: T::schema(required, literal),
        ty: T::TYPE,
        default: shown,
        doc: doc.trim().to_owned(),
        inner: T::inner(),
    }
}

/// The schema of a declared set.
pub(super) fn schema_of<T: Options>() -> Vec<(String, Schema)> {
    T::declared()
        .into_iter()
        .map(|d| (d.name.to_owned(), d.schema))
        .collect()
}

/// Decodes a whole configuration.
pub(super) fn decode<T: Options + Default>(msgpack: &[u8]) -> Result<T, SpecError> {
    match value::parse(msgpack)? {
        None => Ok(T::default()),
        Some(root) => T::read(&Fields::root(&root)?),
    }
}

/// The documentation of a declared set, blocks flattened.
pub(super) fn docs_of<T: Options>() -> Vec<OptionDoc> {
    T::declared()
        .into_iter()
        .flat_map(|d| {
            let block = d.name;
            let inner: Vec<OptionDoc> = d
                .inner
                .iter()
                .map(|i| OptionDoc {
                    name: format!("{block}.{}", i.name),
                    ty: i.ty,
                    default: i.default.clone(),
                    doc: i.doc.clone(),
                })
                .collect();
            std::iter::once(OptionDoc {
                name: block.to_owned(),
                ty: d.ty,
                default: d.default,
                doc: d.doc,
            })
            .chain(inner)
        })
        .collect()
}

/// Name of an option whose field is a raw identifier (`r#type`).
pub(super) fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Declares a struct of options; see the module.
macro_rules! options {
    ($(#[$meta:meta])* pub struct $name:ident {
        $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:expr $(=> $req:ident)? ; )*
    }) => {
        $(#[$meta])*
        pub struct $name { $( $(#[doc = $doc])+ pub $field: $ty, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::spec::table::Options for $name {
            fn declared() -> Vec<$crate::spec::table::Declared> {
                let default = Self::default();
                vec![ $( $crate::spec::table::declare::<$ty>(
                    stringify!($field),
                    &default.$field,
                    false $(|| stringify!($req) == "required")?,
                    concat!($($doc),+),
                ), )* ]
            }

            fn read(fields: &$crate::spec::value::Fields<'_>) -> Result<Self, $crate::spec::SpecError> {
                let default = Self::default();
                Ok(Self { $( $field: fields.get::<$ty>(stringify!($field))?.unwrap_or(default.$field), )* })
            }
        }
    };
}
pub(super) use options;
