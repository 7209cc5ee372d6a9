use super::*;
use crate::testdata::{hex, peer, peers};
use std::io::Write as _;

fn on_disk(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.flush().unwrap();
    file
}

fn open(bytes: &[u8]) -> Result<WeightFile> {
    WeightFile::open(on_disk(bytes).path())
}

fn told(bytes: &[u8]) -> String {
    let Err(error) = open(bytes) else { panic!("opened") };
    error.render("error")
}

/// The golden network under our names: `tests/peers/goldens.py`.
fn network() -> Vec<Wanted> {
    let shapes: [(&str, &[usize]); 6] = [
        ("features.0.weight", &[4, 3, 5, 5]),
        ("features.0.bias", &[4]),
        ("classifier.1.weight", &[6, 36]),
        ("classifier.1.bias", &[6]),
        ("hash.weight", &[8, 6]),
        ("hash.bias", &[8]),
    ];
    shapes.map(|(name, shape)| Wanted { name: name.into(), shape: shape.to_vec() }).to_vec()
}

fn values(tensor: usize, wanted: &Wanted) -> Vec<f32> {
    let count = wanted.shape.iter().product();
    (0..count).map(|k: usize| ((37 * k + 11 * tensor) % 64) as f32 / 64.0 - 0.5).collect()
}

const WEIGHTS: [&str; 10] = [
    "torch_zip",
    "torch_legacy",
    "torch_half",
    "torch_bfloat16",
    "torch_wrapped",
    "paddle_2",
    "paddle_4",
    "safetensors",
    "npz",
    "npz_compressed",
];

#[track_caller]
fn check(file: &WeightFile, what: &str) {
    let fit = fit(file, &network());
    assert!(fit.wrong.is_empty() && fit.extra.is_empty(), "{what}: {fit:?}");
    for (index, wanted) in network().iter().enumerate() {
        assert!(fit.read(file, index).unwrap() == values(index, wanted), "{what}: {}", wanted.name);
    }
}

#[test]
fn one_network_out_of_every_format() {
    for name in WEIGHTS {
        check(&open(&peer(name)).unwrap_or_else(|e| panic!("{name}: {}", e.render("error"))), name);
    }
    let wrapped = open(&peer("torch_wrapped")).unwrap();
    assert_eq!(wrapped.tensors()[0].name, "module.features.0.weight");
    let layouts = ["torch_zip", "paddle_4", "safetensors"].map(|name| Layout::guess(&open(&peer(name)).unwrap()).name);
    assert_eq!(layouts, ["deephash", "paddle_hashnet", "hashpipe"]);
    // The files of the field study.
    let legacy = open(&hex("/legacy_pth_hex")).unwrap();
    assert_eq!(legacy.read_f32(&legacy.tensors()[0]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let paddle = open(&hex("/pdparams_hex")).unwrap();
    assert_eq!((paddle.tensors().len(), paddle.tensors()[0].shape.clone()), (2, vec![2, 3]));
}

#[test]
fn what_is_written_is_read_back_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = open(&peer("torch_zip")).unwrap();
    for (file, names) in [
        ("a.safetensors", "hashpipe"),
        ("a.pth", "deephash"),
        ("a.pth", "torchvision"),
        ("a.pdparams", "paddle_hashnet"),
        ("a.pdparams", "torchvision"),
        ("a.npz", "paddle_hashnet"),
    ] {
        let path = folder.path().join(file);
        let (format, to) = (can_write(&path).unwrap(), Layout::find(names).unwrap());
        let tensors: Vec<Outgoing> = source
            .tensors()
            .iter()
            .map(|tensor| {
                let (name, shape, turns) = rename(&source, tensor, to, format);
                Outgoing { name, shape, turns }
            })
            .collect();
        let mut take = |index: usize| source.read_f32(&source.tensors()[index]);
        write(&path, format, &tensors, &BTreeMap::new(), &mut take).unwrap();
        check(&WeightFile::open(&path).unwrap(), &format!("{file}, {names}"));
        let first = std::fs::read(&path).unwrap();
        let mut take = |index: usize| source.read_f32(&source.tensors()[index]);
        write(&path, format, &tensors, &BTreeMap::new(), &mut take).unwrap();
        assert!(std::fs::read(&path).unwrap() == first, "{file}: equal weights, equal files");
    }
    let failing = &mut |_: usize| Err(Error::data("no more"));
    let tensors = [Outgoing { name: "a".into(), shape: vec![1], turns: false }];
    let path = folder.path().join("half.pth");
    assert!(write(&path, can_write(&path).unwrap(), &tensors, &BTreeMap::new(), failing).is_err());
    assert!(!path.exists());
    for ending in ["safetensors", "pth", "pdparams", "npz"] {
        let path = folder.path().join("a").with_extension(ending);
        let before = std::fs::read(&path).unwrap();
        assert!(write(&path, can_write(&path).unwrap(), &tensors, &BTreeMap::new(), failing).is_err());
        assert!(std::fs::read(&path).unwrap() == before, "{ending}: what is there stays");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    let told = can_write(Path::new("a.h5")).unwrap_err().render("error");
    assert!(told.contains(".pdparams") && told.contains(".onnx"), "{told}");
}

#[test]
fn a_byte_that_was_changed_in_an_archive_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [Outgoing { name: "a".into(), shape: vec![200, 150], turns: false }];
    for (ending, entry) in [("npz", "`a.npy`"), ("pth", "`archive/data/0`")] {
        let path = folder.path().join("a").with_extension(ending);
        let half = &mut |_: usize| Ok(vec![0.5; 30_000]);
        write(&path, can_write(&path).unwrap(), &tensors, &BTreeMap::new(), half).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| open(bytes).and_then(|file| file.read_f32(&file.tensors()[0]));
        assert_eq!(read(&whole).unwrap(), vec![0.5; 30_000]);
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        let told = read(&changed).unwrap_err().render("error");
        assert!(told.contains("CRC-32") && told.contains(entry) && told.contains("save it anew"), "{told}");
        // PyTorch can be told to make no sums, and writes 0.
        if ending == "pth" {
            let sum = crc32fast::hash(&[0.5f32; 30_000].map(f32::to_le_bytes).concat()).to_le_bytes();
            for at in 0..changed.len() - 4 {
                if changed[at..at + 4] == sum {
                    changed[at..at + 4].fill(0);
                }
            }
            assert!(read(&changed).is_ok());
        }
    }
    // A compressed entry, and one that is read with its header.
    for name in ["npz", "npz_compressed"] {
        let (whole, mut refused) = (peer(name), 0);
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let read = |file: WeightFile| file.tensors().iter().map(|t| file.read_f32(t)).collect::<Result<Vec<_>>>();
            refused += usize::from(open(&changed).and_then(read).is_err_and(|e| e.render("error").contains("CRC-32")));
        }
        assert!(refused > 0, "{name}");
    }
}

#[test]
fn a_wrapper_in_front_of_all_names_is_no_part_of_them_here() {
    let names = here(&open(&peer("torch_wrapped")).unwrap());
    assert!(
        names.contains(&"hash.weight".to_string()) && names.contains(&"features.0.weight".to_string()),
        "{names:?}"
    );
}

#[test]
fn every_mismatch_is_told_at_once() {
    let file = open(&peer("paddle_4")).unwrap();
    let mut wanted = network();
    wanted[2].shape = vec![7, 36];
    wanted[0].name = "features.3.weight".into();
    let fit = fit(&file, &wanted);
    assert_eq!(
        fit.wrong,
        [
            "`features.3.weight` [4, 3, 5, 5] is missing",
            "`classifier.1.weight` (here `classifier_plus.1.weight`) is [36, 6], expected [36, 7]",
        ]
    );
    assert_eq!(fit.extra, ["features.0.weight"]);
}

#[test]
fn whole_modules_are_refused_by_name() {
    let text = told(&peer("torch_module"));
    assert!(text.contains("`__main__.Net`") && text.contains("torch.save(model.state_dict(), ..)"), "{text}");
}

#[test]
fn every_truncation_is_an_error() {
    for name in WEIGHTS {
        let whole = peer(name);
        for length in (0..whole.len()).step_by(7) {
            // A ZIP archive that is cut, or a tensor that is: told when it is opened, or when it is read.
            let Ok(file) = open(&whole[..length]) else { continue };
            let cut = file.tensors().len() < 6 || file.tensors().iter().any(|tensor| file.read_f32(tensor).is_err());
            assert!(cut, "{name}, {length} of {} bytes", whole.len());
        }
    }
}

/// Damaged files of every format, some thousands of them, the same ones each time.
#[test]
fn damage_is_an_error_or_other_numbers_but_never_a_panic() {
    let mut draw = crate::seeded::stream(3, "damage", &[]);
    for name in WEIGHTS.iter().copied().chain(["torch_module", "pickle_0", "pickle_4"]) {
        let whole = peer(name);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..1 + draw.below(4) {
                let at = draw.below(bytes.len());
                match draw.below(4) {
                    0 => bytes[at] = draw.bits() as u8,
                    1 => bytes[at] ^= 1 << draw.below(8),
                    2 => drop(bytes.drain(at..(at + 1 + draw.below(9)).min(bytes.len()))),
                    _ => bytes.insert(at, [0, 0xff, 0x80, b'('][draw.below(4)]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            if let Ok(file) = open(&bytes) {
                file.tensors().iter().for_each(|tensor| drop(file.read_f32(tensor)));
            }
        }
    }
    assert!(peers().len() > 20);
}

#[test]
fn lies_cost_no_memory() {
    // A storage of eight numbers that a tensor expands to a billion.
    let mut bytes = peer("torch_legacy");
    let text = b"hash_layer.6.bias";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    let shape = bytes[at..].windows(4).position(|w| w == b"K\x08\x85q").unwrap() + at;
    bytes.splice(shape..shape + 2, *b"J\xff\xff\xff\x7f");
    assert!(told(&bytes).contains("beyond its storage"));
    // NaN.
    let mut bytes = peer("safetensors");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let file = open(&bytes).unwrap();
    let last = file.tensors().last().unwrap();
    assert!(file.read_f32(last).unwrap_err().message().contains("NaN"));
    assert!(told(b"").contains("0 bytes"));
    assert!(told(&[0xff; 100]).contains("no file of weights"));
}

#[test]
fn bombs_are_refused_before_they_unpack() {
    use zip::write::SimpleFileOptions;
    let archive = |name: &str, bytes: &[u8]| {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
        archive.finish().unwrap().into_inner()
    };
    // 65 MiB of zeros in some tens of kilobytes: no pickle of names and shapes is as long.
    let bomb = archive("archive/data.pkl", &vec![0; 65 << 20]);
    assert!(bomb.len() < 100_000 && told(&bomb).contains("`data.pkl` claims 68157440 bytes"));
    // An array whose header promises more than the entry has, and one that claims to be larger than it is.
    let header = crate::npy::head("<f4", &[1 << 40]);
    assert!(told(&archive("a.npy", &header)).contains("has another size than its shape"));
    let whole = archive("a.npy", &[&crate::npy::head("<f4", &[4])[..], &[0; 16]].concat());
    let place = whole.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let mut lying = whole;
    lying[place + 24..place + 28].copy_from_slice(&(1u32 << 31).to_le_bytes());
    assert!(told(&lying).contains("claims 2147483648 bytes"));
}
