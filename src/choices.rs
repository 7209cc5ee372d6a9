//! The macro behind `loss = { name = "hashnet", .. }`: one file and one line per choice.

/// An enum read from `key = { name = "variant", .. }`, each variant one file.
///
/// `pub enum LossSpec: BuildLoss { HashNet(hashnet::HashNet) = "hashnet" }` makes the enum, the list of its names, and
/// `builder()`, which gives the chosen variant as `&dyn BuildLoss`.
#[macro_export]
macro_rules! choices {
    ($(#[$doc:meta])* $vis:vis enum $name:ident: $build:ident { $($variant:ident($params:path) = $key:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(tag = "name")]
        $vis enum $name { $(#[serde(rename = $key)] $variant($params)),+ }
        impl $name {
            /// Names in the order they are registered, for listings and tests.
            $vis const NAMES: &'static [&'static str] = &[$($key),+];
            /// The chosen variant.
            $vis fn builder(&self) -> &dyn $build {
                match self { $(Self::$variant(params) => params),+ }
            }
        }
    };
}
