//! PASCAL VOC's annotation of one image: which classes of objects it shows. Reads XML, and as little of it as will do.
//!
//! ```text
//! <annotation> <filename>2007_000027.jpg</filename>
//!   <object> <name>person</name> <difficult>0</difficult> <part> <name>head</name> </part> </object>
//! </annotation>
//! ```
//!
//! No entity but the five of XML itself is known and no document type is taken, so nothing can grow while it is read.

use crate::error::{Error, Place, Result};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::path::Path;

/// The largest annotation, in bytes; VOC's largest has 25 kB.
const LARGEST: u64 = 1 << 20;
/// The most elements within each other; VOC has 5.
const DEEPEST: usize = 32;

/// An object of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Object {
    pub(super) name: String,
    /// Hard to recognise: VOC's own lists of images do not count it.
    pub(super) difficult: bool,
}

/// Reads an annotation file.
///
/// # Errors
/// What is no annotation, with its line.
pub(super) fn read(path: &Path) -> Result<Vec<Object>> {
    let content = super::super::text::read("the annotation", path, LARGEST)?;
    objects(&content).map_err(|(at, words)| {
        let line = content.as_bytes()[..at.min(content.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        let text = content.lines().nth(line - 1).unwrap_or_default();
        Error::data("the annotation is broken").at(Place::line(path, line, text)).note(words)
    })
}

/// The objects of an annotation; or what is wrong and at which byte.
fn objects(content: &str) -> Result<Vec<Object>, (usize, String)> {
    let mut reader = Reader::from_str(content);
    let (mut found, mut path, mut object, mut text) = (vec![], Vec::<String>::new(), None::<Object>, String::new());
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let fail = |words: String| Err((at, words));
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(e) => return fail(e.to_string()),
        };
        match event {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_string());
                text.clear();
                if path.len() > DEEPEST {
                    return fail(format!("elements nested more than {DEEPEST} deep"));
                }
                match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["annotation"] | ["annotation", ..] => {}
                    _ => return fail(format!("the first element is `{}` and not `annotation`", path[0])),
                }
                if is(&path, &["annotation", "object"]) {
                    object = Some(Object::default());
                }
            }
            Event::End(_) => {
                match object.as_mut() {
                    Some(object) if is(&path, &["annotation", "object", "name"]) => object.name = text.trim().into(),
                    Some(object) if is(&path, &["annotation", "object", "difficult"]) => match text.trim() {
                        "0" => object.difficult = false,
                        "1" => object.difficult = true,
                        other => return fail(format!("`difficult` is `{other}` and neither 0 nor 1")),
                    },
                    _ => {}
                }
                if is(&path, &["annotation", "object"]) {
                    match object.take() {
                        Some(object) if object.name.is_empty() => return fail("an object has no `name`".into()),
                        object => found.extend(object),
                    }
                }
                text.clear();
                path.pop();
            }
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(entity) => match &*entity {
                "amp" => text.push('&'),
                "lt" => text.push('<'),
                "gt" => text.push('>'),
                "quot" => text.push('"'),
                "apos" => text.push('\''),
                other => return fail(format!("the entity `{other}` is unknown")),
            },
            Event::DocType(_) => return fail("a document type is not taken".into()),
            Event::Eof if path.is_empty() => return Ok(found),
            Event::Eof => return fail(format!("the text ends within `{}`", path[path.len() - 1])),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn is(path: &[String], expected: &[&str]) -> bool {
    path.len() == expected.len() && path.iter().zip(expected).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(content: &str) -> Result<Vec<(String, bool)>, String> {
        let found = objects(content).map_err(|(_, words)| words)?;
        Ok(found.into_iter().map(|object| (object.name, object.difficult)).collect())
    }

    #[test]
    fn objects_are_read_and_their_parts_are_not() {
        let content = "<?xml version=\"1.0\"?>\n<annotation>\n<filename>a.jpg</filename><!-- x -->
            <object><name>person</name><part><name>head</name></part><difficult>1</difficult></object>
            <object><difficult>0</difficult><name> tvmonitor </name><pose/></object><name>no object</name></annotation>";
        assert_eq!(names(content).unwrap(), [("person".to_string(), true), ("tvmonitor".to_string(), false)]);
        assert_eq!(names("<annotation><segmented>0</segmented></annotation>").unwrap(), []);
    }

    #[test]
    fn what_is_no_annotation_is_told() {
        let bomb = "<!DOCTYPE lolz [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><annotation>&b;</annotation>";
        let object = |inner: &str| format!("<annotation><object>{inner}</object></annotation>");
        for (content, words) in [
            (bomb.to_string(), "a document type is not taken"),
            (object("<name>&lol;</name>"), "the entity `lol` is unknown"),
            (object("<name></name>"), "an object has no `name`"),
            (object("<name>a</name><difficult>2</difficult>"), "neither 0 nor 1"),
            ("<x></x>".into(), "the first element is `x` and not `annotation`"),
            ("<annotation><object>".into(), "the text ends within `object`"),
            ("<annotation></object>".into(), "expected `</annotation>`"),
            (format!("<annotation>{}", "<a>".repeat(100)), "nested more than 32 deep"),
        ] {
            let told = names(&content).unwrap_err();
            assert!(told.contains(words), "{words} in {told}");
        }
    }
}
