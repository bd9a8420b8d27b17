//! One declaration per option: from it come the schema, the decoder, the default and the documentation.
//!
//! `options!` declares a struct whose fields are options; the doc comment of a field is the text in
//! `docs/configuration.md`, its type decides schema and decoding (`OptionValue`), its initial value is the default.

use super::error::SpecError;
use super::schema::Schema;
use super::value::{self, Fields};
use std::collections::BTreeMap;

/// One row of the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionDoc {
    /// Name as the user writes it; options inside a block as `block.name`.
    pub name: String,
    /// Other names that mean the same, as other drivers call it.
    pub aliases: Vec<&'static str>,
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
    pub(super) aliases: &'static [&'static str],
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
    /// What is documented as the default where there is no literal for it.
    const BLANK: &'static str = "";
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
    /// One value out of those given under two names of one option; `None` if they contradict each other. Lists are put
    /// one after the other.
    fn merge(self, _other: Self) -> Option<Self> {
        None
    }
    /// True for what a host sends for an empty list, which nobody needs to have written.
    fn is_blank(&self) -> bool {
        false
    }
}

/// Makes the [`Declared`] of one field.
pub(super) fn declare<T: OptionValue>(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &T,
    required: bool,
    doc: &str,
) -> Declared {
    let literal = default.literal();
    let shown = match (&literal, required) {
        (_, true) => "required".to_owned(),
        (Some(text), false) => text.clone(),
        (None, false) => T::BLANK.to_owned(),
    };
    Declared {
        name: plain(name),
        aliases,
        schema: T::schema(required, literal),
        ty: T::TYPE,
        default: shown,
        doc: doc.trim().to_owned(),
        inner: T::inner(),
    }
}

/// The schema of a declared set. An alias has the schema of its option, but no default: what is not given under one
/// name must not look as if it were.
pub(super) fn schema_of<T: Options>() -> Vec<(String, Schema)> {
    T::declared()
        .into_iter()
        .flat_map(|d| {
            let alias = d.schema.clone().without_default();
            let aliases = d.aliases.iter().map(move |a| ((*a).to_owned(), alias.clone()));
            std::iter::once((d.name.to_owned(), d.schema)).chain(aliases)
        })
        .collect()
}

/// Decodes a whole configuration.
pub(super) fn decode<T: Options + Default>(msgpack: &[u8]) -> Result<T, SpecError> {
    match value::parse(msgpack)? {
        None => Ok(T::default()),
        Some(root) => T::read(&Fields::root(&root)?),
    }
}

/// Of a configuration, the names of options that are given under another name than their first: the first, and that one.
pub(super) fn written<T: Options>(msgpack: &[u8]) -> Result<BTreeMap<&'static str, &'static str>, SpecError> {
    let Some(root) = value::parse(msgpack)? else {
        return Ok(BTreeMap::new());
    };
    let fields = Fields::root(&root)?;
    let given = |name: &str| fields.map.get(name).is_some_and(|value| !value::is_nothing(value));
    let declared = T::declared().into_iter().filter(|d| !given(d.name));
    let other = declared.filter_map(|d| Some((d.name, d.aliases.iter().copied().find(|alias| given(alias))?)));
    Ok(other.collect())
}

/// The documentation of a declared set, blocks flattened.
pub(super) fn docs_of<T: Options>() -> Vec<OptionDoc> {
    flat("", T::declared())
}

fn flat(prefix: &str, declared: Vec<Declared>) -> Vec<OptionDoc> {
    let mut out = Vec::new();
    for d in declared {
        let name = format!("{prefix}{}", d.name);
        let inner = flat(&format!("{name}."), d.inner);
        out.push(OptionDoc {
            name,
            aliases: d.aliases.to_vec(),
            ty: d.ty,
            default: d.default,
            doc: d.doc,
        });
        out.extend(inner);
    }
    out
}

/// Name of an option whose field is a raw identifier (`r#type`).
pub(super) fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Declares a struct of options; see the module. `=> required` after the default makes an option required, `, name`
/// gives it one more name. A struct that begins with
/// `@at;` knows where it stands in the job, such as `mount[1]`; that is no option.
macro_rules! options {
    ($(#[$meta:meta])* pub struct $name:ident {
        $( @$at:ident; )?
        $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:expr $(=> $req:ident)? $(, $alias:ident)* ; )*
    }) => {
        $(#[$meta])*
        pub struct $name {
            $( #[doc = "Where the block stands in the job, for errors; empty if it is from no job."] pub $at: String, )?
            $( $(#[doc = $doc])+ pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $at: String::new(), )? $( $field: $default, )* }
            }
        }

        impl $crate::spec::table::Options for $name {
            fn declared() -> Vec<$crate::spec::table::Declared> {
                let default = Self::default();
                vec![ $( $crate::spec::table::declare::<$ty>(
                    stringify!($field),
                    &[ $( stringify!($alias) ),* ],
                    &default.$field,
                    false $(|| stringify!($req) == "required")?,
                    concat!($($doc),+),
                ), )* ]
            }

            fn read(fields: &$crate::spec::value::Fields<'_>) -> Result<Self, $crate::spec::SpecError> {
                let default = Self::default();
                Ok(Self { $( $at: fields.at().to_owned(), )? $( $field: fields.get::<$ty>(stringify!($field), &[ $( stringify!($alias) ),* ])?.unwrap_or(default.$field), )* })
            }
        }
    };
}
pub(super) use options;
