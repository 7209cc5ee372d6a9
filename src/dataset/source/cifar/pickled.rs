//! CIFAR's batches for Python: pickled dictionaries with the pixels as a NumPy array. Nothing in them is executed.

use super::batch::{self, Batch, Layout};
use super::bmp::PLANES;
use crate::error::{Error, Place, Result};
use crate::pickle::{self, Number};
use std::path::Path;

/// Reads a batch: `data`, an array of `[pictures, 3072]` bytes, and a list of classes.
///
/// # Errors
/// What is no such pickle, and every class out of range.
pub(super) fn read(path: &Path, layout: Layout) -> Result<Batch> {
    let bytes = batch::bytes(path)?;
    let place = || Place::Path(path.display().to_string());
    let fault = |words: String| Error::data(format!("the batch {words}")).at(place());
    let pickle = pickle::parse(&bytes).map_err(|e| e.at(place()))?;
    let array = pickle.root().get("data").and_then(pickle::Value::array);
    let array = array.ok_or_else(|| fault("has no array `data`".into()))?.map_err(|e| e.at(place()))?;
    if array.number != Number::U8 || array.shape.len() != 2 || array.shape[1] != PLANES || array.shape[0] == 0 {
        let words =
            format!("has `data` of {:?} {} and not of [pictures, {PLANES}] uint8", array.shape, array.number.name());
        return Err(fault(words));
    }
    let key = layout.key;
    let classes = pickle.root().get(key).and_then(pickle::Value::elements);
    let classes = classes.ok_or_else(|| {
        fault(format!("has no list `{key}`")).hint("it may be of the other CIFAR: `version` says which")
    })?;
    if classes.len() != array.shape[0] {
        return Err(fault(format!("has {} classes for {} pictures", classes.len(), array.shape[0])));
    }
    // A class that is no small number is out of range, and is told as such.
    let class = |value: pickle::Value| value.integer().and_then(|class| u32::try_from(class).ok()).unwrap_or(u32::MAX);
    Batch { labels: classes.map(class).collect(), pixels: array.data.into_owned() }.checked(path, layout)
}

/// The names of the classes, a list of texts under `key`.
pub(super) fn names(path: &Path, key: &str) -> Result<Vec<String>> {
    let bytes = batch::bytes(path)?;
    let place = || Place::Path(path.display().to_string());
    let pickle = pickle::parse(&bytes).map_err(|e| e.at(place()))?;
    let texts = pickle.root().get(key).and_then(pickle::Value::elements);
    let names: Option<Vec<String>> = texts.and_then(|texts| texts.map(|text| text.text().map(String::from)).collect());
    names.ok_or_else(|| Error::data(format!("there is no list of names `{key}`")).at(place()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Version;
    use super::super::tests::layout;
    use super::*;

    /// A batch as Python 2 pickled it: protocol 2, texts as bytes. Read back with Python 3's
    /// `pickle.load(file, encoding="bytes")` once, to see that it is one.
    pub(crate) fn pickle(labels: &[u8], pixels: &[u8], key: &str) -> Vec<u8> {
        let text = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
        let number = |n: usize| [&b"J"[..], &(n as i32).to_le_bytes()].concat();
        let mut out = b"\x80\x02}(".to_vec();
        out.extend(text(key));
        out.extend(b"](");
        labels.iter().for_each(|label| out.extend([b'K', *label]));
        out.push(b'e');
        out.extend(text("data"));
        // _reconstruct(ndarray, (0,), "b"), then its state: version, shape, type, order, bytes.
        out.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85");
        out.extend(text("b"));
        out.extend(b"\x87R(K\x01");
        out.extend([number(labels.len()), number(PLANES)].concat());
        out.extend(b"\x86cnumpy\ndtype\n");
        out.extend(text("u1"));
        out.extend(b"K\x00K\x01\x87R(K\x03");
        out.extend(text("|"));
        out.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        out.extend((pixels.len() as u32).to_le_bytes());
        out.extend(pixels);
        out.extend(b"tbu.");
        out
    }

    #[test]
    fn a_pickled_batch_is_the_binary_one() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(Version::Ten);
        let pixels: Vec<u8> = (0..3 * PLANES).map(|i| (i % 253) as u8).collect();
        let path = folder.path().join("data_batch_1");
        std::fs::write(&path, pickle(&[9, 0, 4], &pixels, "labels")).unwrap();
        let found = read(&path, layout).unwrap_or_else(|e| panic!("{}", e.render("error")));
        assert_eq!((&found.labels[..], &found.pixels), (&[9, 0, 4][..], &pixels));

        let shown = |bytes: Vec<u8>| {
            std::fs::write(&path, bytes).unwrap();
            read(&path, layout).map(|_| ()).unwrap_err().render("error")
        };
        assert!(shown(pickle(&[9, 10], &pixels[..2 * PLANES], "labels")).contains("picture 1 has class 10"));
        assert!(shown(pickle(&[9], &pixels[..PLANES], "fine_labels")).contains("has no list `labels`"));
        let lying = pickle(&[9, 1], &pixels[..PLANES], "labels");
        assert!(shown(lying).contains("data_batch_1"));
        assert!(shown(b"\x80\x02cos\nsystem\n(U\x02lstR.".to_vec()).contains("os"));
        let whole = pickle(&[1], &pixels[..PLANES], "labels");
        for end in [0, 1, 5, 40, 200, whole.len() - 1] {
            shown(whole[..end].to_vec());
        }
    }
}
