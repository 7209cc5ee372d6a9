//! Archives to files, taking nothing on trust: neither where an entry wants to lie, nor what it says of its size.
//!
//! Only plain files and folders are made, inside of an empty folder. Links, devices, absolute paths, `..`, names that
//! are there twice, and more bytes than were announced are errors.

use crate::error::{Error, Result};
use flate2::read::GzDecoder;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    Tar,
    TarGz,
    Zip,
}

impl Archive {
    /// By the end of a file's name.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |end: &[&str]| end.iter().any(|end| name.ends_with(end));
        if ends(&[".tar.gz", ".tgz"]) {
            Some(Self::TarGz)
        } else if ends(&[".tar"]) {
            Some(Self::Tar)
        } else {
            ends(&[".zip"]).then_some(Self::Zip)
        }
    }

    /// Whether it can be unpacked while it comes; a ZIP has its table of contents at the end.
    pub fn is_stream(self) -> bool {
        self != Self::Zip
    }
}

/// What an archive held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// The most bytes that an archive of this size may unpack to, if nobody says otherwise.
pub(super) fn limit(size: u64) -> u64 {
    const SMALL: u64 = 64 << 20;
    size.saturating_mul(20).saturating_add(SMALL)
}

/// Where an archive is unpacked, and how much it may hold.
pub(super) struct Unpacking<'a> {
    folder: PathBuf,
    /// Bytes that are allowed; more may be when more of the archive is there.
    at_most: Box<dyn Fn() -> u64 + Send + 'a>,
    seen: HashSet<String>,
    folders: HashSet<PathBuf>,
    found: Unpacked,
}

/// The most entries; ImageNet's training archive has 1,281,167 files.
const MOST_ENTRIES: usize = 4_000_000;
/// The longest name of an entry, in bytes, and the most folders in it.
const LONGEST_NAME: usize = 4096;
const DEEPEST: usize = 64;
/// The most bytes behind the end of a tar archive.
const MOST_PADDING: u64 = 64 << 20;
/// The largest extended header of a tar entry, in bytes.
const LARGEST_HEADER: u64 = 1 << 20;

impl<'a> Unpacking<'a> {
    /// Unpacks into an empty folder, at most so many bytes.
    pub(super) fn into(folder: &Path, at_most: impl Fn() -> u64 + Send + 'a) -> Self {
        let (seen, folders) = (HashSet::new(), HashSet::new());
        let at_most = Box::new(at_most);
        Self { folder: folder.to_path_buf(), at_most, seen, folders, found: Unpacked::default() }
    }

    /// Reads a tar archive as it comes.
    ///
    /// # Errors
    /// What is no archive or has entries that are refused; of kind Io if the reader or the disk fails.
    pub(super) fn tar(mut self, reader: &mut dyn Read, gzipped: bool) -> Result<Unpacked> {
        match gzipped {
            true => {
                let mut reader = GzDecoder::new(reader);
                self.entries(&mut reader)?;
                // What follows the archive's end is padding; only then is the checksum of gzip looked at.
                let padding = std::io::copy(&mut reader.take(MOST_PADDING), &mut std::io::sink());
                if padding.map_err(|e| broken(&e))? == MOST_PADDING {
                    return Err(Error::data("the archive goes on after its end"));
                }
            }
            false => self.entries(reader)?,
        }
        self.finish()
    }

    fn entries(&mut self, reader: &mut dyn Read) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        // Raw: the long names of other entries come as entries, and are read here with a limit.
        let entries = archive.entries().map_err(|e| broken(&e))?.raw(true);
        let mut long_name = None;
        for entry in entries {
            let mut entry = entry.map_err(|e| broken(&e))?;
            let kind = entry.header().entry_type();
            if kind.is_gnu_longname() {
                let name = limited(&mut entry)?;
                long_name = Some(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            } else if kind.is_pax_local_extensions() {
                long_name = pax_path(&limited(&mut entry)?).or(long_name);
            } else if kind.is_pax_global_extensions() {
                limited(&mut entry)?;
            } else {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let name = String::from_utf8(name).map_err(|_| Error::data("a name in the archive is not UTF-8"))?;
                if kind.is_dir() {
                    self.folder(&name)?;
                } else if kind.is_file() || kind.is_contiguous() {
                    self.file(&name, &mut entry)?;
                } else {
                    let message = format!("`{name}` in the archive is neither a file nor a folder");
                    return Err(Error::data(message).note("links and devices are not unpacked"));
                }
            }
        }
        Ok(())
    }

    /// Reads a ZIP archive.
    ///
    /// # Errors
    /// As [`Self::tar`].
    pub(super) fn zip(mut self, path: &Path) -> Result<Unpacked> {
        let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
        let no_archive = |e: zip::result::ZipError| Error::data("the archive is broken").note(e.to_string());
        let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(no_archive)?;
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).map_err(no_archive)?;
            let name = entry.name().map_err(no_archive)?.into_owned();
            // The kind of file in the upper bits of a Unix mode: none, a plain file, or a folder.
            if !matches!(entry.unix_mode().unwrap_or(0) & 0o170_000, 0 | 0o100_000 | 0o040_000) {
                let message = format!("`{name}` in the archive is neither a file nor a folder");
                return Err(Error::data(message).note("links and devices are not unpacked"));
            }
            if entry.is_dir() {
                self.folder(&name)?;
            } else {
                self.file(&name, &mut entry)?;
            }
        }
        self.finish()
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        let name = inside(name)?;
        self.count()?;
        let path = self.folder.join(name);
        self.make(&path)
    }

    fn make(&mut self, folder: &Path) -> Result<()> {
        if self.folders.insert(folder.to_path_buf()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, &e))?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, content: &mut dyn Read) -> Result<()> {
        let name = inside(name)?;
        self.count()?;
        if name.is_empty() {
            return Err(Error::data("a file in the archive has no name"));
        }
        if !self.seen.insert(name.clone()) {
            return Err(Error::data(format!("`{name}` is in the archive twice")));
        }
        let path = self.folder.join(&name);
        let folder = path.parent().unwrap_or(&self.folder).to_path_buf();
        self.make(&folder)?;
        let mut file = File::create_new(&path).map_err(|e| Error::io("write", &path, &e))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = content.read(&mut buffer).map_err(|e| broken(&e))?;
            if count == 0 {
                break;
            }
            let at_most = (self.at_most)();
            if self.found.bytes + count as u64 > at_most {
                return Err(Error::data(format!("the archive unpacks to more than {at_most} bytes"))
                    .note("so much more than its own size is taken for an attack")
                    .hint("if it is what it should be, unpack it by hand"));
            }
            file.write_all(&buffer[..count]).map_err(|e| Error::io("write", &path, &e))?;
            self.found.bytes += count as u64;
        }
        self.found.files += 1;
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        match self.seen.len() + self.folders.len() < MOST_ENTRIES {
            true => Ok(()),
            false => Err(Error::data(format!("the archive has more than {MOST_ENTRIES} entries"))),
        }
    }

    fn finish(self) -> Result<Unpacked> {
        match self.found.files {
            0 => Err(Error::data("the archive is empty")),
            _ => Ok(self.found),
        }
    }
}

/// A broken archive; or a reader that failed, whose own words count.
fn broken(error: &std::io::Error) -> Error {
    Error::data("the archive is broken").note(error.to_string())
}

fn limited(entry: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    entry.take(LARGEST_HEADER + 1).read_to_end(&mut bytes).map_err(|e| broken(&e))?;
    match bytes.len() as u64 > LARGEST_HEADER {
        true => Err(Error::data("the archive has a header of more than 1 MiB")),
        false => Ok(bytes),
    }
}

/// The `path` of an extended header: lines of `LENGTH KEY=VALUE`.
fn pax_path(header: &[u8]) -> Option<Vec<u8>> {
    let mut rest = header;
    let mut path = None;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let line = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        if let Some(value) = line.strip_prefix(b"path=") {
            path = Some(value.to_vec());
        }
        rest = &rest[length..];
    }
    path
}

/// The name of an entry as a relative path, which stays inside of the folder.
fn inside(name: &str) -> Result<String> {
    let refused = |why: &str| {
        let shown: String = name.chars().take(200).collect();
        Err(Error::data(format!("`{shown}` in the archive {why}")).note("nothing is unpacked outside of its folder"))
    };
    if name.len() > LONGEST_NAME || name.contains('\0') {
        return refused("has a name that no file may have");
    }
    let name = name.replace('\\', "/");
    if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
        return refused("is an absolute path");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return refused("leaves its folder by `..`");
    }
    if parts.len() > DEEPEST {
        return refused("lies too deep");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A tar archive of files, each with its content; a name may be anything.
    pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(vec![]));
        for (name, content) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn unpack(archive: Archive, bytes: &[u8], at_most: u64) -> (tempfile::TempDir, Result<Unpacked>) {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("to");
        std::fs::create_dir(&to).unwrap();
        let unpacking = Unpacking::into(&to, move || at_most);
        let outcome = match archive {
            Archive::Zip => {
                let path = folder.path().join("a.zip");
                std::fs::write(&path, bytes).unwrap();
                unpacking.zip(&path)
            }
            archive => unpacking.tar(&mut { bytes }, archive == Archive::TarGz),
        };
        (folder, outcome)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const FILES: [(&str, &[u8]); 2] = [("a/b.txt", b"hello"), ("./c.txt", b"")];

    #[test]
    fn files_come_out_of_every_kind() {
        let long = format!("{}/x.txt", "d".repeat(150));
        let mut builder = tar::Builder::new(vec![]);
        for name in ["a/b.txt", &long] {
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
        }
        let long_names = builder.into_inner().unwrap();
        for (archive, bytes, files) in [
            (Archive::Tar, tar(&FILES), 2),
            (Archive::TarGz, gzip(&tar(&FILES)), 2),
            (Archive::Zip, zip(&FILES), 2),
            (Archive::TarGz, gzip(&long_names), 2),
        ] {
            let (folder, outcome) = unpack(archive, &bytes, 1000);
            assert_eq!(outcome.unwrap().files, files);
            assert_eq!(std::fs::read(folder.path().join("to/a/b.txt")).unwrap(), b"hello");
        }
        let (folder, _) = unpack(Archive::Tar, &long_names, 1000);
        assert!(folder.path().join("to").join(long).is_file());
    }

    #[test]
    fn nothing_lands_outside() {
        for name in ["../x", "/etc/x", "a/../../x", "C:\\x", "..\\x"] {
            let archives = [(Archive::Tar, tar(&[(name, b"x")])), (Archive::Zip, zip(&[(name, b"x")]))];
            for (archive, bytes) in archives {
                let (folder, outcome) = unpack(archive, &bytes, 1000);
                let words = outcome.unwrap_err().render("error");
                assert!(words.contains("absolute path") || words.contains("leaves its folder"), "{name}: {words}");
                assert!(!folder.path().join("x").exists());
            }
        }
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
            let mut builder = tar::Builder::new(vec![]);
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            builder.append_link(&mut header, "link", "/etc").unwrap();
            let (_, outcome) = unpack(Archive::Tar, &builder.into_inner().unwrap(), 1000);
            assert!(outcome.unwrap_err().message().contains("neither a file nor a folder"));
        }
        let mut writer = zip::ZipWriter::new(Cursor::new(vec![]));
        writer.add_symlink("link", "/etc", zip::write::SimpleFileOptions::default()).unwrap();
        let (_, outcome) = unpack(Archive::Zip, &writer.finish().unwrap().into_inner(), 1000);
        assert!(outcome.unwrap_err().message().contains("neither a file nor a folder"));
    }

    #[test]
    fn bombs_repetitions_and_rubbish_are_refused() {
        let zeros = vec![0; 10_000_000];
        for (archive, bytes) in [(Archive::TarGz, gzip(&tar(&[("a", &zeros)]))), (Archive::Zip, zip(&[("a", &zeros)]))]
        {
            assert!(bytes.len() < 100_000);
            let (folder, outcome) = unpack(archive, &bytes, 1_000_000);
            assert!(outcome.unwrap_err().message().contains("unpacks to more than 1000000 bytes"));
            assert!(std::fs::metadata(folder.path().join("to/a")).unwrap().len() <= 1_000_000);
        }
        let (_, outcome) = unpack(Archive::Tar, &tar(&[("a", b"1"), ("./a", b"2")]), 1000);
        assert_eq!(outcome.unwrap_err().message(), "`a` is in the archive twice");
        for archive in [Archive::Tar, Archive::TarGz, Archive::Zip] {
            assert!(unpack(archive, &[7; 3000], 1000).1.is_err());
            assert!(unpack(archive, &[], 1000).1.is_err());
        }
        let whole = gzip(&tar(&FILES));
        for end in 0..whole.len() {
            assert!(unpack(Archive::TarGz, &whole[..end], 1000).1.is_err(), "cut at {end}");
        }
    }
}
