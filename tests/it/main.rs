//! Integration tests, one binary.

/// Broken pipelines, lists, images, weights and cache entries.
mod bad_input;
/// What the machine can do, and what comes of knowing it.
mod bench;
/// Codes that no pipeline made: measured, searched, compared.
mod codes;
/// What the commands show, and the pipelines that are shipped.
mod commands;
/// Runs that are stopped in the middle, and go on as if they had not been.
mod crash;
/// Weights and codes out to other programs, and back.
mod formats;
/// What is changed, and exactly which stages run again.
mod freshness;
/// AlexNet, the loss and the optimiser against PyTorch's numbers.
mod golden_network;
/// Which stage needs which, what uses one, and how one leads to another.
mod graph;
/// Records of runs, what is made of them, and what machines read.
mod history;
/// What the cache holds is kept, freed and checked.
mod keeping;
/// Promises about the source itself: who imports whom, what is registered, what is in a key.
mod rules;
/// The field's data sets in miniature, from their own files, and lists that are checked.
mod sources;
/// A temporary project, and hashpipe run in it as a user would.
mod space;
/// Files and standard output: whole or an error.
mod written;

/// The folder of COCO's thirteen pictures, where there is one: they cannot be part of this repository.
fn coco_lite() -> Option<std::path::PathBuf> {
    let root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folders = ["data/coco_lite", "../shared/data/coco_lite", "../../shared/data/coco_lite"];
    folders.iter().map(|folder| root.join(folder)).find(|folder| folder.join("lists/train.txt").exists())
}
