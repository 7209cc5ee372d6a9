//! A look at one list on disk, in any of the forms that are known: what is in it, or everything that is wrong with it.

use super::coco::instances;
use super::rows::{self, Form};
use super::{Table, text, verify};
use crate::dataset::List;
use crate::error::{Error, Place, Result};
use std::path::{Path, PathBuf};

/// What is known of the list beforehand.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Folder of the images, which must then exist.
    pub root: Option<PathBuf>,
    /// What all paths begin with that `root` does not have.
    pub strip: Option<String>,
    /// Names of the classes.
    pub classes: Option<Vec<String>>,
}

/// What is in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What kind of list it is, in words.
    pub form: &'static str,
    pub images: u64,
    /// Images without any label.
    pub unlabelled: u64,
    /// Each class with the number of its images, in the order of the labels.
    pub classes: Vec<(String, u64)>,
    /// Whether all images were looked for.
    pub images_exist: bool,
}

/// Reads a list: one of hashpipe's own, a published one, a table (`.csv`, `.tsv`, `.jsonl`), or COCO's annotations
/// (`.json`).
///
/// # Errors
/// Every wrong row with its line, and every image that is missing under `root`.
pub fn check(path: &Path, expected: &Expected) -> Result<Summary> {
    let ending = path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "json" => annotations(path, expected),
        "csv" | "tsv" | "tab" | "ndjson" => table(path, expected),
        _ if is_own(path) => own(path, expected),
        "jsonl" => table(path, expected),
        _ => published(path, expected),
    }
}

/// Whether it begins as hashpipe's own lists do.
fn is_own(path: &Path) -> bool {
    use std::io::Read as _;
    const START: &[u8] = b"{\"format\":\"hashpipe.list\"";
    let mut start = vec![];
    let read = std::fs::File::open(path).and_then(|file| file.take(START.len() as u64).read_to_end(&mut start));
    read.is_ok() && start == START
}

fn own(path: &Path, expected: &Expected) -> Result<Summary> {
    let list = List::read(path)?;
    let names: Vec<&str> = list.items.iter().map(|item| item.path.as_str()).collect();
    let line = |i: usize| Place::Path(format!("{}:{}", path.display(), i + 2));
    look(&names, expected, &line)?;
    let labels = list.items.iter().map(|item| &item.labels[..]);
    Ok(summary("a list of hashpipe's", list.classes.clone(), labels, expected))
}

fn published(path: &Path, expected: &Expected) -> Result<Summary> {
    let text = text::read("the list", path, text::LARGEST)?;
    let source = rows::Source { list: 0, file: path.to_path_buf(), text };
    let form = Form { classes: expected.classes.as_ref().map(Vec::len), strip: expected.strip.as_deref() };
    let (lists, count) = rows::parse(vec![source], form)?;
    let numbered = || (0..count).map(|class| format!("class_{class}")).collect();
    of_rows("a published list", &lists[0], expected.classes.clone().unwrap_or_else(numbered), expected)
}

fn table(path: &Path, expected: &Expected) -> Result<Summary> {
    let text = text::read("the list", path, text::LARGEST)?;
    let (rows, classes) = Table::single(path, text, expected.classes.clone())?;
    of_rows("a table", &rows, classes, expected)
}

fn of_rows(form: &'static str, rows: &rows::Rows, classes: Vec<String>, expected: &Expected) -> Result<Summary> {
    let names: Vec<&str> = rows.rows.iter().map(|row| row.path.as_str()).collect();
    look(&names, expected, &|i| rows.place(i))?;
    Ok(summary(form, classes, rows.rows.iter().map(|row| &row.labels[..]), expected))
}

fn annotations(path: &Path, expected: &Expected) -> Result<Summary> {
    let found = instances::read(path)?;
    let mut numbers: Vec<&u64> = found.images.keys().collect();
    numbers.sort_unstable();
    let names: Vec<&str> = numbers.iter().map(|number| found.images[number].as_str()).collect();
    look(&names, expected, &|i| Place::Path(format!("{}: image {}", path.display(), numbers[i])))?;
    let mut classes: Vec<String> = found.categories.values().cloned().collect();
    classes.sort_unstable();
    let label = |category: &u32| {
        let position = classes.binary_search(found.categories.get(category)?).ok()?;
        u32::try_from(position).ok()
    };
    let labels: Vec<Vec<u32>> = numbers
        .iter()
        .map(|number| found.shown.get(number).into_iter().flatten().filter_map(label).collect())
        .collect();
    Ok(summary("annotations of COCO", classes.clone(), labels.iter().map(Vec::as_slice), expected))
}

/// Looks for the images, if it is known where they are.
fn look(names: &[&str], expected: &Expected, place: &dyn Fn(usize) -> Place) -> Result<()> {
    let Some(root) = &expected.root else { return Ok(()) };
    if !root.is_dir() {
        return Err(Error::data("the folder of images is missing").at(Place::Path(root.display().to_string())));
    }
    verify::exist(root, names, place)
}

fn summary<'a>(
    form: &'static str,
    classes: Vec<String>,
    labels: impl Iterator<Item = &'a [u32]>,
    expected: &Expected,
) -> Summary {
    let mut counts = vec![0; classes.len()];
    let (mut images, mut unlabelled) = (0, 0);
    for labels in labels {
        images += 1;
        unlabelled += u64::from(labels.is_empty());
        labels.iter().for_each(|label| counts[*label as usize] += 1);
    }
    let classes = classes.into_iter().zip(counts).collect();
    Summary { form, images, unlabelled, classes, images_exist: expected.root.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let digest = "0".repeat(64);
        let coco = r#"{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}], "annotations":
            [{"image_id": 1, "category_id": 7}], "categories": [{"id": 7, "name": "dog"}]}"#;
        let own = format!(
            "{{\"format\":\"hashpipe.list\",\"version\":1,\"classes\":[\"dog\"]}}\n{{\"path\":\"a.jpg\",\"labels\":[0],\"digest\":\"{digest}\"}}\n{{\"path\":\"b.jpg\",\"labels\":[],\"digest\":\"{digest}\"}}\n"
        );
        for (path, form, class) in [
            (write("a.txt", "/x/a.jpg 1\n/x/b.jpg 0\n"), "a published list", "class_0"),
            (write("a.csv", "path,labels\na.jpg,dog\nb.jpg,\n"), "a table", "dog"),
            (write("a.jsonl", "{\"path\": \"a.jpg\", \"labels\": [\"dog\"]}\n{\"path\": \"b.jpg\"}"), "a table", "dog"),
            (write("a.json", coco), "annotations of COCO", "dog"),
            (write("train", &own), "a list of hashpipe's", "dog"),
        ] {
            let mut expected = Expected { strip: path.ends_with("a.txt").then(|| "/x/".into()), ..Expected::default() };
            let found = check(&path, &expected).unwrap_or_else(|e| panic!("{}", e.render("error")));
            assert_eq!((found.form, found.images, found.unlabelled), (form, 2, 1));
            assert_eq!(found.classes, [(class.to_string(), 1)]);
            expected.root = Some(folder.path().to_path_buf());
            let shown = check(&path, &expected).unwrap_err().render("error");
            assert!(
                shown.contains("image `a.jpg` is missing") && shown.contains("image `b.jpg` is missing"),
                "{shown}"
            );
        }
    }
}
