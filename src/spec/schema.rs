//! The neutral schema tree that both configurations are declared in; `plugin/schema.rs` turns it into hclspec.

/// Type expression of an attribute (Nomad's hclspec: `string`, `number`, `bool`, `list(string)`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrType {
    /// `string`
    String,
    /// `number`
    Number,
    /// `bool`
    Bool,
    /// `list(string)`
    StringList,
    /// `list(map(string))`: accepts one block, several blocks and an attribute in HCL.
    StringMaps,
    /// `any`: for options that take texts and blocks alike; the decoder tells what is allowed.
    Any,
}

/// One node of a schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Schema {
    /// An attribute. With a default literal (HCL expression source) the host fills it in.
    Attr {
        /// Its type.
        ty: AttrType,
        /// Whether the user must give it.
        required: bool,
        /// Default as HCL source, e.g. `true` or `"5m"` with its quotes.
        default: Option<String>,
    },
    /// At most one block.
    Block(Vec<(String, Schema)>),
    /// Any number of blocks of one kind.
    BlockList(Vec<(String, Schema)>),
}

impl Schema {
    /// The same without a default.
    #[must_use]
    pub fn without_default(self) -> Self {
        match self {
            Self::Attr { ty, .. } => Self::Attr {
                ty,
                required: false,
                default: None,
            },
            block => block,
        }
    }
}
