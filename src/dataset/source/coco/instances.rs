//! COCO's `instances_*.json`: which image shows things of which categories. Read as a stream; nothing else is kept.
//!
//! ```text
//! {"images": [{"id": 9, "file_name": "000000000009.jpg", ..}, ..],
//!  "annotations": [{"image_id": 9, "category_id": 51, ..}, ..],
//!  "categories": [{"id": 51, "name": "bowl", ..}, ..]}
//! ```
//!
//! The three sections may come in any order. Memory is a small part of the file's size: segmentations, boxes, licences
//! and the like are passed over while they are read.

use super::guard::Guard;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::marker::PhantomData;
use std::path::Path;

/// The most images that are taken; COCO has 123,287.
const MOST_IMAGES: usize = 10_000_000;
/// The most categories that are taken; COCO has 80.
const MOST_CATEGORIES: usize = 100_000;

/// What a file says of images and categories.
#[derive(Debug, Default)]
pub(in crate::dataset::source) struct Instances {
    /// Name of each image file, by the image's number.
    pub(in crate::dataset::source) images: HashMap<u64, String>,
    /// Numbers of the categories that an image shows, by the image's number.
    pub(in crate::dataset::source) shown: HashMap<u64, Vec<u32>>,
    /// Names of the categories, by their numbers.
    pub(in crate::dataset::source) categories: BTreeMap<u32, String>,
    /// Sections that were there.
    sections: [bool; 3],
    file: String,
    faults: Faults,
}

const SECTIONS: [&str; 3] = ["images", "annotations", "categories"];

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u32,
}

#[derive(Deserialize)]
struct Category {
    id: u32,
    name: String,
}

/// Reads an annotation file.
///
/// # Errors
/// A file that is no such JSON, with line and column; and all images, categories and annotations that contradict each
/// other.
pub(in crate::dataset::source) fn read(path: &Path) -> Result<Instances> {
    let place = || Place::Path(path.display().to_string());
    let file = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::data("the annotations are missing").at(place()).hint("`hashpipe fetch coco2014 --to DIR` gets them")
        }
        _ => Error::io("read", path, &e),
    })?;
    let mut found = Instances { file: path.display().to_string(), ..Instances::default() };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 18, Guard::new(file)));
    let outcome = json.deserialize_map(Sections(&mut found)).and_then(|()| json.end());
    outcome.map_err(|e| {
        let at = match e.line() {
            0 => place(),
            line => Place::Path(format!("{}:{line}:{}", path.display(), e.column())),
        };
        let words = e.to_string();
        let reason = words.split(" at line ").next().unwrap_or_default().to_string();
        Error::data("the annotations are broken, or not of the form `instances_*.json`").at(at).note(reason)
    })?;
    found.check()
}

impl Instances {
    fn check(mut self) -> Result<Self> {
        let mut faults = std::mem::take(&mut self.faults);
        let mut fault = |message: String| faults.push(Error::data(message).at(Place::Path(self.file.clone())));
        for (section, there) in SECTIONS.into_iter().zip(self.sections) {
            if !there {
                fault(format!("the annotations have no `{section}`"));
            }
        }
        if self.sections == [true; 3] {
            // In order of their numbers, so that the same file always gives the same errors.
            let mut images: Vec<_> = self.shown.keys().filter(|image| !self.images.contains_key(image)).collect();
            images.sort_unstable();
            images.iter().for_each(|image| fault(format!("an annotation is of image {image}, which is not listed")));
            let known = |category: &&u32| !self.categories.contains_key(category);
            let mut categories: Vec<_> = self.shown.values().flatten().filter(known).collect();
            categories.sort_unstable();
            categories.dedup();
            categories
                .iter()
                .for_each(|number| fault(format!("an annotation is of category {number}, which is not listed")));
        }
        faults.into_result().map(|()| self)
    }

    fn fault(&mut self, message: String) {
        self.faults.push(Error::data(message).at(Place::Path(self.file.clone())));
    }

    fn image(&mut self, image: Image) -> Result<(), String> {
        if self.images.len() >= MOST_IMAGES {
            return Err(format!("more than {MOST_IMAGES} images"));
        }
        let Image { id, file_name } = image;
        if let Some(other) = self.images.insert(id, file_name.clone()) {
            self.fault(format!("image {id} is listed twice: `{other}` and `{file_name}`"));
        }
        Ok(())
    }

    fn annotation(&mut self, annotation: Annotation) -> Result<(), String> {
        if self.shown.len() >= MOST_IMAGES {
            return Err(format!("annotations of more than {MOST_IMAGES} images"));
        }
        let shown = self.shown.entry(annotation.image_id).or_default();
        if let Err(at) = shown.binary_search(&annotation.category_id) {
            if shown.len() >= MOST_CATEGORIES {
                return Err(format!("image {} shows more than {MOST_CATEGORIES} categories", annotation.image_id));
            }
            shown.insert(at, annotation.category_id);
        }
        Ok(())
    }

    fn category(&mut self, category: Category) -> Result<(), String> {
        if self.categories.len() >= MOST_CATEGORIES {
            return Err(format!("more than {MOST_CATEGORIES} categories"));
        }
        let Category { id, name } = category;
        if let Some(other) = self.categories.insert(id, name.clone()) {
            self.fault(format!("category {id} is listed twice: `{other}` and `{name}`"));
        }
        Ok(())
    }
}

/// The object that is the whole file.
struct Sections<'a>(&'a mut Instances);

impl<'de> Visitor<'de> for Sections<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object with `images`, `annotations` and `categories`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let found = self.0;
        while let Some(key) = map.next_key::<String>()? {
            let section = SECTIONS.iter().position(|section| *section == key);
            section.into_iter().for_each(|section| found.sections[section] = true);
            match section {
                Some(0) => map.next_value_seed(Each::new(|image| found.image(image)))?,
                Some(1) => map.next_value_seed(Each::new(|annotation| found.annotation(annotation)))?,
                Some(_) => map.next_value_seed(Each::new(|category| found.category(category)))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A list, handed on item by item.
struct Each<T, F> {
    each: F,
    item: PhantomData<T>,
}

impl<T, F: FnMut(T) -> Result<(), String>> Each<T, F> {
    fn new(each: F) -> Self {
        Self { each, item: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), String>> DeserializeSeed<'de> for Each<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), String>> Visitor<'de> for Each<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.each)(item).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Instances> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    const IMAGES: &str =
        r#""images": [{"id": 9, "file_name": "a.jpg", "height": 480}, {"file_name": "b.jpg", "id": 25}]"#;
    const CATEGORIES: &str =
        r#""categories": [{"supercategory": "x", "id": 51, "name": "bowl"}, {"id": 1, "name": "person"}]"#;

    #[test]
    fn sections_may_come_in_any_order_and_hold_more() {
        let annotations = r#""annotations": [
            {"segmentation": [[1.5, 2]], "iscrowd": 0, "image_id": 9, "bbox": [1, 2], "category_id": 51, "id": 1038967},
            {"segmentation": {"counts": [1, 2], "size": [3, 4]}, "image_id": 9, "category_id": 1},
            {"image_id": 9, "category_id": 51}]"#;
        let info = r#""info": {"description": "COCO", "year": 2014}, "licenses": []"#;
        for text in [
            format!("{{{info}, {IMAGES}, {annotations}, {CATEGORIES}}}"),
            format!("{{{CATEGORIES}, {annotations}, {info}, {IMAGES}}}\n"),
        ] {
            let found = read_text(&text).unwrap();
            assert_eq!((&found.images[&25], found.images.len()), (&"b.jpg".to_string(), 2));
            assert_eq!((&found.shown[&9], found.shown.len()), (&vec![1, 51], 1));
            assert_eq!(found.categories[&51], "bowl");
        }
    }

    #[test]
    fn contradictions_are_told_at_once() {
        let images = IMAGES.replace("25", "9");
        let annotations = r#""annotations": [{"image_id": 7, "category_id": 51}, {"image_id": 9, "category_id": 3}]"#;
        let shown = read_text(&format!("{{{images}, {annotations}, {CATEGORIES}}}")).unwrap_err().render("error");
        for expected in [
            "image 9 is listed twice: `a.jpg` and `b.jpg`",
            "an annotation is of image 7, which is not listed",
            "an annotation is of category 3, which is not listed",
            "3 errors",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    #[test]
    fn what_is_broken_is_told_with_line_and_column() {
        for (text, expected) in [
            (format!("{{\n{IMAGES},\n\"annotations\": [{{\"image_id\": -1}}]}}"), ":3:"),
            (format!("{{{IMAGES}"), "EOF while parsing an object"),
            ("[]".into(), "expected an object with `images`, `annotations` and `categories`"),
            (format!("{{{IMAGES}, {CATEGORIES}}} x"), "trailing characters"),
            (format!("{{{IMAGES}, {CATEGORIES}}}"), "the annotations have no `annotations`"),
            (r#"{"annotations": [{"image_id": 1, "caption": "a dog"}]}"#.into(), "missing field `category_id`"),
            (format!("{{\"x\": {}}}", "[".repeat(1000)), "nested more than 64 deep"),
        ] {
            let shown = read_text(&text).unwrap_err().render("error");
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }
}
