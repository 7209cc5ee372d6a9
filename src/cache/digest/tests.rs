//! What the memo may and may not be trusted with.

use super::super::key::digest_of_lines;
use super::*;
use crate::error::Kind;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, symlink};

/// A folder of files, and a memo beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        Self(folder)
    }

    fn memo(&self) -> PathBuf {
        self.0.path().join("memo")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("files").join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes the memo say `digest` of a file as it looks now, as if it had been read an hour ago. Gives when that was.
    fn pretend(&self, path: &Path, digest: [u8; 32]) -> u64 {
        let known = Known::load(self.memo(), true);
        let stamp = Stamp::of(&std::fs::metadata(path).unwrap());
        let checked = seconds(now()) - 3600;
        known.learn(memo::Entry { path: id(path), stamp, digest, checked, seen: checked });
        checked.into()
    }
}

const PRETENDED: [u8; 32] = [7; 32];

fn id(path: &Path) -> PathId {
    PathId::of(Path::new("/"), path, &mut vec![])
}

fn hex(digest: [u8; 32]) -> String {
    Hash::from_bytes(digest).to_hex().to_string()
}

fn plain(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[test]
fn what_looks_the_same_is_not_read() {
    let place = Place::new();
    let file = place.write("x y", "one");
    place.pretend(&file, PRETENDED);
    for digests in [Digests::open(place.memo()), Digests::read_only(place.memo())] {
        assert_eq!(digests.file(&file).unwrap(), hex(PRETENDED));
        assert_eq!(digests.files(&[file.clone(), file.clone()]).unwrap(), [hex(PRETENDED), hex(PRETENDED)]);
    }
    std::fs::remove_file(place.memo()).unwrap();
    assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), plain("one"));
}

#[test]
fn a_changed_file_is_read_whatever_was_done_to_hide_it() {
    let place = Place::new();
    let file = place.write("x", "one");
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let back = |path: &Path| File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    let read_again = |change: &dyn Fn()| {
        std::fs::write(&file, "one").unwrap();
        back(&file);
        place.pretend(&file, PRETENDED);
        assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), hex(PRETENDED));
        change();
        assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), plain("two"));
    };
    read_again(&|| std::fs::write(&file, "two").unwrap());
    // Of the same size, and with the old time set again: only the ctime tells.
    read_again(&|| {
        std::fs::write(&file, "two").unwrap();
        back(&file);
    });
    // Another file put in its place, made earlier and older by its mtime.
    let other = place.write("other", "two");
    back(&other);
    read_again(&|| std::fs::rename(&other, &file).unwrap());
    // A link that leads elsewhere now.
    let other = place.write("other", "two");
    back(&other);
    read_again(&|| {
        std::fs::remove_file(&file).unwrap();
        symlink(&other, &file).unwrap();
    });
}

#[test]
fn every_part_of_a_look_counts() {
    let place = Place::new();
    let file = place.write("x", "one");
    let stamp = Stamp::of(&std::fs::metadata(&file).unwrap());
    let others = [
        Stamp { device: stamp.device + 1, ..stamp },
        Stamp { inode: stamp.inode + 1, ..stamp },
        Stamp { size: stamp.size + 1, ..stamp },
        Stamp { mtime: stamp.mtime - 1, ..stamp },
        Stamp { ctime: stamp.ctime - 1, ..stamp },
    ];
    for (stamp, path) in others.map(|stamp| (stamp, id(&file))).into_iter().chain([(stamp, id(Path::new("/y")))]) {
        let known = Known::nothing();
        known.learn(memo::Entry { path, stamp, digest: PRETENDED, checked: 1, seen: 1 });
        known.keep();
        assert_eq!(Digests::new(known).file(&file).unwrap(), plain("one"));
    }
}

#[test]
fn a_file_that_changed_just_now_is_not_remembered() {
    let place = Place::new();
    let file = place.write("x", "one");
    let digests = Digests::open(place.memo());
    assert_eq!(digests.file(&file).unwrap(), plain("one"));
    assert_eq!(digests.checked_at(&file).unwrap(), None);
    // Nor with an old mtime: its ctime is of now.
    let past = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&file).unwrap().set_modified(past).unwrap();
    assert_eq!(digests.file(&file).unwrap(), plain("one"));
    assert_eq!(digests.checked_at(&file).unwrap(), None);
}

/// Files of this machine that no test writes: settled long ago.
fn settled() -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["Cargo.toml", "README.md", "src/lib.rs"].map(|name| source.join(name));
    files.into_iter().filter(|path| Stamp::of(&std::fs::metadata(path).unwrap()).is_settled(now())).collect()
}

#[test]
fn what_was_read_is_known_to_the_next_process_even_without_saving() {
    let (place, files) = (Place::new(), settled());
    let before = u64::from(seconds(now()));
    let digests = Digests::open(place.memo());
    let found = digests.files(&files).unwrap();
    // Not dropped, as if it had been killed here.
    let next = Digests::read_only(place.memo());
    for (file, digest) in files.iter().zip(&found) {
        assert_eq!(*digest, blake3::hash(&std::fs::read(file).unwrap()).to_hex().to_string());
        assert!(next.checked_at(file).unwrap().unwrap() >= before);
    }
    assert_eq!(next.files(&files).unwrap(), found);
    assert_eq!(next.watch.progress(), (0, 0), "nothing was read");
    drop(digests);
    assert_eq!(std::fs::read(place.memo()).unwrap().len(), files.len() * memo::RECORD);
}

#[test]
fn a_memo_that_may_not_be_written_is_not() {
    let (place, files) = (Place::new(), settled());
    let digests = Digests::read_only(place.memo());
    digests.files(&files).unwrap();
    digests.save().unwrap();
    drop(digests);
    assert!(!place.memo().exists());
}

#[test]
fn a_memo_that_cannot_be_written_harms_nothing() {
    let files = settled();
    let digests = Digests::open("/nowhere/memo".into());
    assert_eq!(digests.files(&files).unwrap().len(), files.len());
    assert_eq!(digests.save().is_err(), !files.is_empty());
    // Known all the same, as long as this process lives.
    assert!(files.iter().all(|file| digests.checked_at(file).unwrap().is_some()));
}

#[test]
fn content_that_was_read_long_ago_is_read_again_where_that_is_asked_for() {
    let place = Place::new();
    let file = place.write("x", "one");
    let checked = place.pretend(&file, PRETENDED);
    let digests = Digests::open(place.memo());
    assert_eq!(digests.checked_at(&file).unwrap(), Some(checked));
    assert_eq!(digests.trusted_for(Duration::from_secs(7200)).file(&file).unwrap(), hex(PRETENDED));
    assert_eq!(digests.trusted_for(Duration::from_secs(1800)).file(&file).unwrap(), plain("one"));
}

#[test]
fn garbage_in_the_memo_is_passed_over() {
    let place = Place::new();
    let file = place.write("x", "one");
    place.pretend(&file, PRETENDED);
    let whole = std::fs::read(place.memo()).unwrap();
    for garbage in [&b"5f0c91 12 13 14 15 /some/path\n"[..], &whole[..whole.len() - 1], &[0; 5000], b"\xff"] {
        std::fs::write(place.memo(), garbage).unwrap();
        assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), plain("one"));
        std::fs::write(place.memo(), [garbage, &whole[..], garbage].concat()).unwrap();
        assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), hex(PRETENDED));
    }
    std::fs::remove_file(place.memo()).unwrap();
    std::fs::create_dir(place.memo()).unwrap();
    assert_eq!(Digests::open(place.memo()).file(&file).unwrap(), plain("one"));
}

#[test]
fn a_folder_is_its_names_contents_and_rights_to_execute() {
    let place = Place::new();
    let digests = Digests::open(place.memo());
    let folder = |name: &str, text: &str| {
        place.write(&format!("{name}/sub/x"), text);
        place.path(name)
    };
    let (a, b) = (folder("a", "1"), folder("b", "1"));
    let before = digests.path(&a).unwrap();
    assert_eq!(before, digests.path(&b).unwrap());
    assert_eq!(before, hash_path(&b).unwrap());
    assert_eq!(before, digest_of_lines([["sub/x", &plain("1")]].into_iter()));
    assert_ne!(before, digests.path(&folder("c", "2")).unwrap());
    assert_ne!(before, digests.path(&b.join("sub")).unwrap());

    let rights = |mode| std::fs::set_permissions(b.join("sub/x"), std::fs::Permissions::from_mode(mode)).unwrap();
    rights(0o744);
    assert_eq!(digests.path(&b).unwrap(), digest_of_lines([["sub/x", &format!("{} x", plain("1"))]].into_iter()));
    rights(0o400);
    assert_eq!(digests.path(&b).unwrap(), before);

    // A program that lists classes by their folders sees an empty one.
    std::fs::create_dir(b.join("none")).unwrap();
    assert_ne!(digests.path(&b).unwrap(), before);
    std::fs::remove_dir(b.join("none")).unwrap();
    symlink("sub/x", b.join("link")).unwrap();
    std::fs::write(a.join("link"), "1").unwrap();
    assert_eq!(digests.path(&b).unwrap(), digests.path(&a).unwrap());
}

#[test]
fn everything_wrong_is_told_at_once() {
    let place = Place::new();
    symlink("nowhere", place.path("link")).unwrap();
    let mut paths = vec![place.path("link"), place.path(""), place.write("good", "")];
    paths.extend((0..10).map(|i| place.path(&format!("missing {i}"))));
    let error = Digests::open(place.memo()).files(&paths).unwrap_err().render("error");
    for expected in ["is a broken link", "is a folder", "missing 2`", "and so it is with 7 more files", "5 errors"] {
        assert!(error.contains(expected), "{expected} in\n{error}");
    }
    assert!(!error.contains("missing 3`"), "{error}");
}

#[test]
fn a_stopped_reading_is_an_interruption_and_keeps_what_was_read() {
    let (place, files) = (Place::new(), settled());
    let digests = Digests::open(place.memo());
    digests.files(&files).unwrap();
    let (read, total) = digests.watch.progress();
    assert_eq!((read, total), (files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum(), read));
    digests.watch.stop();
    let stopped = [digests.files(&files).map(drop), digests.path(place.0.path()).map(drop)];
    assert!(stopped.iter().all(|outcome| outcome.as_ref().is_err_and(|e| e.kind() == Kind::Interrupted)));
    // Another watch over the same memo goes on.
    let others = digests.watched(Arc::new(Watch::new(crate::stage::Stop::default())));
    assert_eq!(others.files(&files).unwrap().len(), files.len());
}

#[test]
fn a_pipe_is_read_to_its_end_and_not_remembered() {
    let place = Place::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)));
    let written = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &[b'x'; 700_000]).unwrap());
    let digests = Digests::open(place.memo());
    assert_eq!(digests.file(&path).unwrap(), plain(&"x".repeat(700_000)));
    written.join().unwrap();
    assert!(!place.memo().exists());
}
