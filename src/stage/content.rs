//! What the outputs of stages are, so that a reference to the wrong one is told before anything runs.

/// What an output holds, or what a reference must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Whatever the user's program wrote, or any file will do.
    Any,
    List,
    Network,
    Codes,
    /// Prepared images.
    Prepared,
    /// The files of an `export` stage.
    Exported,
    /// A folder of image files.
    Images,
    /// Something that no stage reads.
    Other,
}

impl Content {
    /// Whether an output that holds this can be given where `wanted` is read.
    pub fn suits(self, wanted: Self) -> bool {
        self == wanted || self == Self::Any || wanted == Self::Any
    }

    /// `a network`
    pub fn told(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::List => "a list of images",
            Self::Network => "a network",
            Self::Codes => "codes",
            Self::Prepared => "prepared images",
            Self::Exported => "exported files",
            Self::Images => "a folder of images",
            Self::Other => "a record",
        }
    }

    /// A reference to an output that holds this.
    pub fn example(self) -> &'static str {
        match self {
            Self::List => "lists.NAME/train",
            Self::Network => "train.NAME/model",
            Self::Codes => "encode.NAME/codes",
            Self::Prepared => "prepare.NAME/images",
            Self::Exported => "export.NAME/files",
            Self::Any | Self::Images | Self::Other => "command.NAME/OUTPUT",
        }
    }
}
