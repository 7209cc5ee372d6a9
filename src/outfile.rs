//! A file that the user named, written whole or not at all.
//!
//! What is written goes into a hidden file beside it, which takes its place at the very end: whatever fails before leaves
//! what was there. A symbolic link is followed, and the file keeps its permissions. Devices and pipes have nothing to
//! lose: they are written as they come. It does not know what is written.

use crate::error::{Error, Result};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// A file that is being written.
#[derive(Debug)]
pub struct Outfile {
    /// As the user named it.
    path: PathBuf,
    out: BufWriter<File>,
    /// What takes which file's place at the end; dropped, it is removed. None for devices and pipes.
    aside: Option<(TempPath, PathBuf)>,
    /// Whether there is an older file, which is kept until this one is safe on the disk.
    replaces: bool,
}

impl Outfile {
    /// Begins to write; [`Outfile::finish`] ends it, and dropped before, nothing has happened.
    ///
    /// # Errors
    /// A folder, a file that may not be written, or a place where none can be made.
    pub fn create(path: &Path) -> Result<Self> {
        Self::open(path).map_err(|e| Error::io("write", path, &e))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let whole = |file| BufWriter::with_capacity(1 << 16, file);
        if let Some(file) = stream(path)? {
            return Ok(Self { path: path.to_path_buf(), out: whole(file), aside: None, replaces: false });
        }
        let target = followed(path);
        let old = old(&target)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut aside = tempfile::Builder::new();
        // What the user's mask takes away from it is taken away.
        aside.prefix(".hashpipe-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
        let (file, aside) = aside.tempfile_in(folder)?.into_parts();
        if let Some(old) = &old {
            // Only root may give files away: for others it is their own already, or they cannot help it.
            let _ = std::os::unix::fs::chown(&aside, Some(old.uid()), Some(old.gid()));
            file.set_permissions(old.permissions())?;
        }
        let replaces = old.is_some();
        Ok(Self { path: path.to_path_buf(), out: whole(file), aside: Some((aside, target)), replaces })
    }

    /// Puts what was written in its place.
    ///
    /// # Errors
    /// If it cannot be written whole.
    pub fn finish(self) -> Result<()> {
        let Self { path, out, aside, replaces } = self;
        let failed = |e: &io::Error| Error::io("write", &path, e);
        let file = out.into_inner().map_err(|e| failed(e.error()))?;
        let Some((aside, target)) = aside else { return Ok(()) };
        if replaces {
            file.sync_all().map_err(|e| failed(&e))?;
        }
        aside.persist(&target).map_err(|e| failed(&e.error))
    }

    /// The error of a failed write, with the file's name.
    pub fn failed(&self, error: &io::Error) -> Error {
        Error::io("write", &self.path, error)
    }
}

impl Write for Outfile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Seek for Outfile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.out.seek(to)
    }
}

/// Writes a whole file.
///
/// # Errors
/// If it cannot be written; what was there before is there still.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut out = Outfile::create(path)?;
    out.write_all(bytes).map_err(|e| out.failed(&e))?;
    out.finish()
}

/// A device, a pipe or a descriptor that is open already, ready to be written; `None` for a file or nothing.
fn stream(path: &Path) -> io::Result<Option<File>> {
    let Ok(there) = std::fs::metadata(path) else { return Ok(None) };
    if there.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // `/dev/stdout` may be a file, to which others write too: at the place where they all are.
    let (out, err) = (io::stdout(), io::stderr());
    for own in [out.as_fd(), err.as_fd()] {
        if let Ok(own) = own.try_clone_to_owned().map(File::from)
            && own.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
        {
            return Ok(Some(own));
        }
    }
    if there.is_file() {
        return Ok(None);
    }
    OpenOptions::new().write(true).open(path).map(Some)
}

/// Where symbolic links lead to, whether or not there is something.
fn followed(path: &Path) -> PathBuf {
    /// As many as Linux follows.
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        let Ok(next) = std::fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}

/// The file that is to be replaced, if there is one. One that may not be written may not be replaced either.
fn old(target: &Path) -> io::Result<Option<Metadata>> {
    match OpenOptions::new().write(true).open(target) {
        Ok(file) => file.metadata().map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_at_the_end_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("link"));
        write(&file, b"old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();

        let mut half = Outfile::create(&link).unwrap();
        half.write_all(b"half").unwrap();
        half.flush().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"old");
        drop(half);
        assert_eq!(
            (fs::read(&file).unwrap(), names(folder.path())),
            (b"old".to_vec(), vec!["a".into(), "link".into()])
        );

        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!((fs::read(&file).unwrap(), mode), (b"new".to_vec(), 0o640));

        // A link to nothing yet makes what it leads to.
        fs::remove_file(&file).unwrap();
        write(&link, b"made").unwrap();
        assert_eq!((fs::read(&file).unwrap(), names(folder.path()).len()), (b"made".to_vec(), 2));
        let error = write(folder.path(), b"x").unwrap_err().render("error");
        assert!(error.contains("cannot write `") && error.contains("irectory"), "{error}");
    }

    #[test]
    fn pipes_and_devices_are_written_as_they_are() {
        use nix::sys::stat::Mode;
        use std::io::Read as _;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        write(&pipe, b"through").unwrap();
        assert_eq!((reader.join().unwrap().as_str(), names(folder.path()).len()), ("through", 1));
        if Path::new("/dev/full").exists() {
            let error = write(Path::new("/dev/full"), b"x").unwrap_err().render("error");
            assert!(error.contains("cannot write `/dev/full`") && error.contains("No space"), "{error}");
        }
    }
}
