//! What happens when lists break the rules of a retrieval experiment.

use super::Ctx;
use crate::error::{Error, Kind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How strictly the rules of a retrieval experiment are taken: queries are in neither the database nor the training
/// list, by content; training images are in the database where the data set says so; no more ranks count than there
/// are images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// A breach is a warning: published protocols have some, as HashNet's on COCO, whose database holds every query.
    #[default]
    Published,
    /// A breach is an error.
    Strict,
}

impl Protocol {
    /// Warns of breaches, or refuses them.
    pub(super) fn judge(self, cx: &mut Ctx, breaches: &[String]) -> Result<()> {
        if self == Self::Strict {
            return Error::all(breaches.iter().map(|breach| self::error(breach)).collect()).map_or(Ok(()), Err);
        }
        breaches.iter().for_each(|breach| cx.warn(breach.clone()));
        Ok(())
    }
}

/// A breach as an error.
pub(super) fn error(breach: &str) -> Error {
    Error::new(Kind::Contract, breach)
        .note("`protocol` is \"strict\"")
        .hint("mend the lists, or set `protocol = \"published\"` to be warned only")
}
