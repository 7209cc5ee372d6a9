//! Downloads from a server on loopback that does what servers do: cut, lie, change, refuse.

mod server;

use super::*;
use server::{Reply, Server};
use std::io::Write as _;
use std::time::Duration;

/// A file of numbers, so that no two places are alike.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

fn md5(bytes: &[u8]) -> String {
    let mut summing = checksum::Summing::default();
    summing.update(bytes);
    summing.finish().md5
}

fn fetch(to: &Path) -> Fetch {
    Fetch {
        to: to.to_path_buf(),
        access: Access { proxy: None, patience: Duration::from_secs(20) },
        mirror: None,
        patience: Patience { attempts: 3, pause: Duration::ZERO },
        at_once: 2,
        keep_archives: false,
        unpack: true,
        again: false,
    }
}

fn run(fetch: &Fetch, files: &[Source]) -> Result<Vec<Fetched>> {
    fetch.run(files, &Progress::default(), &|_| {})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_gz(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

#[test]
fn a_cut_connection_goes_on_where_it_ended() {
    let (bytes, space) = (content(300_000), tempfile::tempdir().unwrap());
    let server = Server::start("/x/a.bin", bytes.clone(), vec![Reply::Cut(100_000), Reply::Cut(50_000)]);
    let source = Source::at(server.url("/x/a.bin")).with_md5(md5(&bytes));
    let fetched = run(&fetch(space.path()), &[source]).unwrap();
    assert_eq!((fetched[0].size, fetched[0].compared.as_deref()), (300_000, Some("MD5")));
    assert_eq!(std::fs::read(space.path().join("a.bin")).unwrap(), bytes);
    let asked: Vec<Option<u64>> = server.requests().into_iter().map(|request| request.from).collect();
    assert_eq!(asked, [None, Some(100_000), Some(150_000)]);
    assert!(!space.path().join(ASIDE).exists());
}

#[test]
fn what_has_come_survives_a_failure_and_a_change_is_noticed() {
    let (bytes, space) = (content(200_000), tempfile::tempdir().unwrap());
    let gone = vec![Reply::Cut(80_000), Reply::Status(503), Reply::Status(503), Reply::Status(503)];
    let server = Server::start("/a.bin", bytes.clone(), gone);
    let source = [Source::at(server.url("/a.bin"))];
    let shown = run(&fetch(space.path()), &source).unwrap_err().render("error");
    assert!(shown.contains("the server answers 503") && shown.contains("80000 bytes are kept"), "{shown}");
    assert!(!space.path().join("a.bin").exists());
    assert_eq!(std::fs::metadata(space.path().join(ASIDE).join("a.bin.part")).unwrap().len(), 80_000);

    // The next run goes on; but meanwhile the server has another file, so it starts again.
    let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
    server.change(other.clone());
    let fetched = run(&fetch(space.path()), &source).unwrap();
    assert_eq!(std::fs::read(space.path().join("a.bin")).unwrap(), other);
    assert!(fetched[0].notes[0].contains("the server has another version"), "{:?}", fetched[0].notes);
    let last = server.requests();
    assert_eq!((last[last.len() - 2].from, last[last.len() - 1].from), (Some(80_000), None));
}

#[test]
fn a_server_without_ranges_starts_again_and_one_without_versions_too() {
    let bytes = content(100_000);
    for reply in [Reply::CutWithoutRanges(30_000), Reply::CutWithoutVersion(30_000)] {
        let space = tempfile::tempdir().unwrap();
        let server = Server::start("/a.bin", bytes.clone(), vec![reply, Reply::WholeWithoutRanges]);
        let fetched = run(&fetch(space.path()), &[Source::at(server.url("/a.bin"))]).unwrap();
        assert_eq!(std::fs::read(space.path().join("a.bin")).unwrap(), bytes);
        assert_eq!(fetched[0].notes.len(), 1, "{:?}", fetched[0].notes);
    }
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let (bytes, space) = (content(1000), tempfile::tempdir().unwrap());
    let server = Server::start("/a.bin", bytes.clone(), vec![]);
    let source = Source::at(server.url("/a.bin")).with_md5(md5(b"other"));
    let error = run(&fetch(space.path()), &[source]).unwrap_err();
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.render("error").contains(&format!("found {} in 1000 bytes", md5(&bytes))));
    assert!(!space.path().join("a.bin").exists() && !space.path().join(ASIDE).join("a.bin.part").exists());
}

#[test]
fn without_a_published_checksum_the_lock_decides() {
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/a.bin", content(1000), vec![]);
    let source = [Source::at(server.url("/a.bin"))];
    assert!(!run(&fetch(space.path()), &source).unwrap()[0].was_there);
    assert!(run(&fetch(space.path()), &source).unwrap()[0].was_there);
    assert_eq!(server.requests().len(), 1);
    std::fs::remove_file(space.path().join("a.bin")).unwrap();
    server.change(content(999));
    let error = run(&fetch(space.path()), &source).unwrap_err();
    assert!(error.message().ends_with("is not what it was when it was fetched before"), "{error}");
    let again = Fetch { again: true, ..fetch(space.path()) };
    assert_eq!(run(&again, &source).unwrap()[0].size, 999);
}

#[test]
fn what_is_not_there_is_told_with_its_address_and_the_others_come() {
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/a.bin", content(1000), vec![]);
    let files = [Source::at(server.url("/none.bin")), Source::at(server.url("/a.bin"))];
    let error = run(&fetch(space.path()), &files).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    let shown = error.render("error");
    assert!(shown.contains(&format!("cannot fetch `{}`: 404", server.url("/none.bin"))), "{shown}");
    assert!(space.path().join("a.bin").is_file());
    // Nobody listens there.
    let nobody = Source::at("http://127.0.0.1:1/b.bin".to_string());
    assert!(run(&fetch(space.path()), &[nobody]).unwrap_err().render("error").contains("3 attempts"));
    for strange in ["http://127.0.0.1:1/..", "http://127.0.0.1:1/", "http://127.0.0.1:1/a%2fb"] {
        assert_eq!(run(&fetch(space.path()), &[Source::at(strange)]).unwrap_err().kind(), Kind::Input, "{strange}");
    }
}

#[test]
fn an_archive_is_unpacked_while_it_comes_and_seen_once_it_is_right() {
    let archive = tar_gz(&[("data/one.bin", content(400_000)), ("data/two.txt", b"two".to_vec())]);
    let space = tempfile::tempdir().unwrap();
    let (server, gate) = Server::gated("/a.tar.gz", archive.clone(), archive.len() - 40);
    let source = [Source::at(server.url("/a.tar.gz")).with_md5(md5(&archive))];
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&fetch(space.path()), &source));
        gate.wait_for_the_first_part();
        assert!(!space.path().join("data").exists());
        gate.open();
        let fetched = running.join().unwrap().unwrap();
        assert_eq!(fetched[0].unpacked, Some(Unpacked { files: 2, bytes: 400_003 }));
    });
    assert_eq!(std::fs::read(space.path().join("data/one.bin")).unwrap(), content(400_000));
    assert!(!space.path().join("a.tar.gz").exists() && !space.path().join(ASIDE).exists());
    assert!(run(&fetch(space.path()), &source).unwrap()[0].was_there);

    // The same, cut in the middle: what has come is unpacked once more from its beginning.
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/a.tar.gz", archive.clone(), vec![Reply::Cut(archive.len() / 2)]);
    let source = Source::at(server.url("/a.tar.gz")).with_md5(md5(&archive));
    let kept = Fetch { keep_archives: true, ..fetch(space.path()) };
    assert_eq!(run(&kept, &[source]).unwrap()[0].unpacked.unwrap().files, 2);
    assert_eq!(std::fs::read(space.path().join("a.tar.gz")).unwrap(), archive);
}

#[test]
fn a_broken_archive_stops_its_download() {
    let space = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..4].copy_from_slice(b"../x");
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let archive = gzip(&builder.into_inner().unwrap());
    let server = Server::start("/a.tar.gz", archive, vec![]);
    let error = run(&fetch(space.path()), &[Source::at(server.url("/a.tar.gz"))]).unwrap_err();
    assert!(error.message().contains("leaves its folder by `..`"), "{error}");
    assert!(!space.path().parent().unwrap().join("x").exists());
}

#[test]
fn a_zip_is_unpacked_when_it_is_whole() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    writer.start_file("sky.txt", zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"1\n2\n").unwrap();
    let archive = writer.finish().unwrap().into_inner();
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/labels.zip", archive, vec![]);
    let source = Source { into: Some("labels".into()), ..Source::at(server.url("/labels.zip")) };
    let fetched = run(&fetch(space.path()), &[source]).unwrap();
    assert_eq!(fetched[0].unpacked, Some(Unpacked { files: 1, bytes: 4 }));
    assert_eq!(std::fs::read_to_string(space.path().join("labels/sky.txt")).unwrap(), "1\n2\n");
}

#[test]
fn a_mirror_and_a_proxy_stand_in_for_the_server() {
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/mirror/a.bin", content(1000), vec![]);
    let source = [Source::at("http://data.invalid/x/y/a.bin")];
    let mirrored = Fetch { mirror: Some(server.url("/mirror/")), ..fetch(space.path()) };
    assert_eq!(run(&mirrored, &source).unwrap()[0].url, server.url("/mirror/a.bin"));

    let space = tempfile::tempdir().unwrap();
    // Nobody else knows `data.invalid`; a proxy is asked for the whole address.
    let proxy = Server::start("http://data.invalid/x/y/a.bin", content(500), vec![Reply::Cut(200)]);
    let through = Fetch { access: Access { proxy: Some(proxy.url("")), ..Access::default() }, ..fetch(space.path()) };
    assert_eq!(run(&through, &source).unwrap()[0].size, 500);
    // For other schemes, and with a password, it is asked for a tunnel.
    let space = tempfile::tempdir().unwrap();
    let tunnel = Server::start("/x/y/a.bin", content(400), vec![]);
    let url = tunnel.url("").replace("http://", "http://me:secret@");
    let through = Fetch { access: Access { proxy: Some(url), ..Access::default() }, ..fetch(space.path()) };
    assert_eq!(run(&through, &source).unwrap()[0].size, 400);
    let wrong = Fetch { access: Access { proxy: Some("::".into()), ..Access::default() }, again: true, ..through };
    assert_eq!(run(&wrong, &source).unwrap_err().kind(), Kind::Input);
}

#[test]
fn redirections_are_followed_and_circles_are_not() {
    let space = tempfile::tempdir().unwrap();
    let server = Server::start("/b/a.bin", content(1000), vec![Reply::Status(503), Reply::Cut(300)]);
    let source = [Source::at(server.url("/to/b/a.bin"))];
    assert_eq!(run(&fetch(space.path()), &source).unwrap()[0].size, 1000);
    let twice = [Source::at(server.url("/to/to/round/c.bin"))];
    assert!(run(&fetch(space.path()), &twice).unwrap_err().message().contains("/round/c.bin`: 404"));
    let circle = [Source::at(server.url("/loop/c.bin"))];
    assert!(run(&fetch(space.path()), &circle).unwrap_err().message().ends_with("leads on and on"));
    let strange = [Source::at(server.url("/to//x/d.bin"))];
    assert!(run(&fetch(space.path()), &strange).unwrap_err().message().contains("which is no web address"));
}

#[test]
fn two_processes_do_not_fetch_to_one_folder() {
    let space = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(space.path().join(ASIDE)).unwrap();
    let _held = hold(&space.path().join(ASIDE)).unwrap();
    assert_eq!(run(&fetch(space.path()), &[]).unwrap_err().kind(), Kind::Busy);
}

#[test]
fn archives_that_were_tampered_with_stay_inside_of_their_folder() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for name in ["a/b.txt", "c.txt"] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&content(3000)).unwrap();
    }
    let zip = writer.finish().unwrap().into_inner();
    let tar_gz = tar_gz(&[("a/b.txt", content(3000)), (&format!("{}/c.txt", "d".repeat(120)), content(100))]);
    let mut tar = vec![];
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&tar_gz[..]), &mut tar).unwrap();
    let space = tempfile::tempdir().unwrap();
    for (archive, whole) in [(Archive::Zip, zip), (Archive::Tar, tar), (Archive::TarGz, tar_gz)] {
        for round in 0..400 {
            let mut lot = crate::seeded::stream(3, "archives", &[round]);
            let mut bytes = whole.clone();
            for _ in 0..=lot.below(6) {
                let at = lot.below(bytes.len());
                match lot.below(5) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = 0xff,
                    2 => bytes[at] = b'/',
                    _ => bytes[at] ^= 1 << lot.below(8),
                }
            }
            let (to, path) = (space.path().join("to"), space.path().join("archive"));
            std::fs::create_dir(&to).unwrap();
            let unpacking = unpack::Unpacking::into(&to, || 100_000);
            let outcome = match archive {
                Archive::Zip => {
                    std::fs::write(&path, &bytes).unwrap();
                    unpacking.zip(&path)
                }
                archive => unpacking.tar(&mut &bytes[..], archive == Archive::TarGz),
            };
            if let Ok(unpacked) = outcome {
                assert!(unpacked.bytes <= 100_000);
            }
            let beside = std::fs::read_dir(space.path()).unwrap().count();
            assert!(beside <= 2, "round {round}: something lies beside the folder");
            std::fs::remove_dir_all(&to).unwrap();
        }
    }
}
