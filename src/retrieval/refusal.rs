//! What retrieval refuses to work with. A plain enum: `file` turns it into the program's error.

/// Input that has no meaning as codes, labels, or a question about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A code length outside of 1 to [`MAX_BITS`](super::MAX_BITS).
    Bits(usize),
    /// A row of network outputs of another length than the codes.
    OutputCount { expected: usize, found: usize },
    /// An output that has no sign.
    NotANumber { code: usize, bit: usize },
    /// More codes than an index of 32 bits can name.
    TooManyCodes,
    /// Packed codes that end inside a code.
    PartialCode { bits: usize, bytes: usize },
    /// A bit set beyond the end of a code.
    Padding { code: usize },
    /// A search for a code of another length than the database's.
    QueryWords { expected: usize, found: usize },
    /// Queries and database of different lengths.
    DifferentBits { queries: usize, database: usize },
    /// A class number that the classes do not reach.
    Class { item: usize, class: u32, classes: usize },
    /// Labels of queries and database that do not speak of the same classes.
    DifferentClasses { queries: usize, database: usize },
    /// Not one row of labels for each code of the `side` ("queries" or "database").
    LabelCount { side: &'static str, codes: usize, labels: usize },
    /// Nothing to measure: the `side` has no codes.
    Empty { side: &'static str },
    /// mAP@0, or nothing to measure at all.
    ZeroTopK,
    /// Not one list of excluded items for each query.
    ExcludeCount { queries: usize, lists: usize },
    /// An excluded item that is not in the database.
    ExcludedItem { item: usize, database: usize },
    /// A file of codes that are not binary.
    TernaryFile,
    /// A GPU that did not do what it was asked; its own words.
    Gpu(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "codes of {bits} bits, where 1 to {} are possible", super::MAX_BITS),
            Self::OutputCount { expected, found } => {
                write!(f, "{found} network outputs for a code of {expected} bits")
            }
            Self::NotANumber { code, bit } => write!(f, "network output {bit} of code {code} is not a number"),
            Self::TooManyCodes => write!(f, "more than {} codes", super::MAX_CODES),
            Self::PartialCode { bits, bytes } => write!(f, "{bytes} bytes are no whole number of {bits}-bit codes"),
            Self::Padding { code } => write!(f, "code {code} has bits set beyond its end"),
            Self::QueryWords { expected, found } => {
                write!(f, "a query of {found} words for a database whose codes have {expected}")
            }
            Self::DifferentBits { queries, database } => {
                write!(f, "query codes have {queries} bits, database codes {database}")
            }
            Self::Class { item, class, classes } => {
                write!(f, "item {item} has class {class}, but there are only {classes} classes")
            }
            Self::DifferentClasses { queries, database } => {
                write!(f, "queries are labelled with {queries} classes, the database with {database}")
            }
            Self::LabelCount { side, codes, labels } => {
                write!(f, "`{side}` has {codes} codes, but labels for {labels} items")
            }
            Self::Empty { side } => write!(f, "no codes in `{side}`"),
            Self::ZeroTopK => write!(f, "a ranking cut at 0 has no average precision"),
            Self::ExcludeCount { queries, lists } => {
                write!(f, "{lists} lists of excluded items for {queries} queries")
            }
            Self::ExcludedItem { item, database } => {
                write!(f, "item {item} is to be excluded, but the database has {database}")
            }
            Self::TernaryFile => write!(f, "some signs are zero, and a codes file holds ones and zeros only"),
            Self::Gpu(_) => write!(f, "the GPU failed while it compared codes"),
        }
    }
}

impl std::error::Error for Refusal {}
