use super::*;
use crate::error::Kind;
use crate::testdata::{hex, peer};

fn told(bytes: &[u8]) -> String {
    let Err(error) = parse(bytes) else { panic!("{}", bytes.escape_ascii()) };
    assert_eq!(error.kind(), Kind::Data);
    error.render("error")
}

fn array<'p>(value: Value<'p, '_>, key: &str) -> Array<'p> {
    value.get(key).unwrap().array().unwrap().unwrap()
}

#[test]
fn every_protocol_gives_the_same_data() {
    for protocol in 0..=5 {
        let bytes = peer(&format!("pickle_{protocol}"));
        let pickle = parse(&bytes).unwrap();
        assert_eq!(pickle.length(), bytes.len());
        let root = pickle.root();
        assert_eq!(root.entries().unwrap().len(), 13, "protocol {protocol}");
        let data = array(root, "data");
        assert_eq!(
            (data.number, &data.shape[..], &*data.data),
            (Number::U8, &[2, 6][..], &(0..12).collect::<Vec<u8>>()[..])
        );
        let labels: Vec<i64> = root.get("labels").unwrap().elements().unwrap().filter_map(Value::integer).collect();
        assert_eq!(labels, [3, -1, 300, 70000]);
        assert_eq!(root.get("name").unwrap().text(), Some("caf\u{e9} '\n\\ \u{20ac}"));
        let floats = array(root, "f");
        let values: Vec<f32> = floats.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!((floats.shape, values), (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), "protocol {protocol}");
        assert_eq!(array(root, "big").data[..], [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let ordered = root.get("ordered").unwrap();
        assert_eq!(ordered.get("b").unwrap().integer(), Some(2));
        assert_eq!(root.get("yes").unwrap().integer(), Some(1));
        assert_eq!(root.get("nothing").unwrap().kind(), "None");
        assert_eq!(root.get("large").unwrap().kind(), "an integer");
        assert_eq!(root.get("pair").unwrap().elements().unwrap().len(), 2);
    }
}

#[test]
fn files_of_paddle_and_torch_are_read() {
    let bytes = hex("/pdparams_hex");
    let pickle = parse(&bytes).unwrap();
    let weight = array(pickle.root(), "features.0.weight");
    assert_eq!((weight.number, weight.shape, weight.data.len()), (Number::F32, vec![2, 3], 24));
    assert!(pickle.root().get("StructuredToParameterName@@").unwrap().entries().is_some());

    // Five pickles, one behind the other: magic number, version, machine, tensors, keys.
    let bytes = hex("/legacy_pth_hex");
    let mut at = 0;
    let mut parts = vec![];
    for _ in 0..5 {
        let pickle = parse(&bytes[at..]).unwrap();
        at += pickle.length();
        parts.push(pickle);
    }
    assert_eq!(parts[0].root().long().unwrap()[..3], [0x6c, 0xfc, 0x9c]);
    assert_eq!(parts[1].root().integer(), Some(1001));
    let tensor = parts[3].root().get("a").unwrap().tensor().unwrap();
    assert_eq!((tensor.number, &tensor.shape[..], &tensor.strides[..]), (Number::F32, &[2, 3][..], &[3, 1][..]));
    assert_eq!((tensor.total, bytes.len() - at), (6, 8 + 24));
}

#[test]
fn nothing_is_executed_and_every_forbidden_name_is_told() {
    let text = told(b"cos\nsystem\n(S'rm -rf /'\ntR0csubprocess\nPopen\n0cbuiltins\neval\n.");
    for name in ["`os.system`", "`subprocess.Popen`", "`builtins.eval`", "nothing of it was executed"] {
        assert!(text.contains(name), "{text}");
    }
    assert!(told(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.").contains("`posix.system`"));
    assert!(told(b"(i__main__\nNet\n.").contains("`__main__.Net`"));
    assert!(told(b"\x80\x02c__main__\nNet\n)\x81}b.").contains("state_dict"));
    // A class where a function is called, and a function that is none.
    assert!(told(b"cnumpy\nndarray\n)R.").contains("makes no sense"));
    assert!(told(b"K\x01)R.").contains("it calls an integer"));
}

#[test]
fn what_names_itself_costs_no_stack() {
    // A list in itself, and a hundred thousand lists in each other.
    let bytes = b"]q\0h\0a.";
    let pickle = parse(bytes).unwrap();
    let inside = pickle.root().elements().unwrap().next().unwrap();
    assert_eq!(inside.elements().unwrap().len(), 1);
    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    assert!(parse(&deep).is_ok());
    let marks = [vec![b'('; 100_000], b"N.".to_vec()].concat();
    assert!(parse(&marks).is_ok());
}

#[test]
fn what_grows_beyond_the_limits_is_refused() {
    // Ten thousand values, listed again and again out of the memo.
    let mut bytes = b"(".to_vec();
    bytes.extend([b'N'; 10_000]);
    bytes.extend(b"lq\0");
    for _ in 0..2_000 {
        bytes.extend(b"0cbuiltins\nlist\nh\0\x85R");
    }
    bytes.push(b'.');
    assert!(told(&bytes).contains("references"));
    // Text that is made into bytes over and over.
    let mut bytes = b"\x80\x02X\x10\x27\0\0".to_vec();
    bytes.extend([b'a'; 10_000]);
    bytes.extend(b"q\0");
    for _ in 0..1_000 {
        bytes.extend(b"0c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R");
    }
    bytes.push(b'.');
    assert!(told(&bytes).contains("more bytes than it has"));
    // Lengths that lie.
    for lie in [
        &b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"X\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
    ] {
        assert!(told(lie).contains("cut short"));
    }
}

#[test]
fn every_truncation_is_an_error_and_no_damage_a_panic() {
    for name in ["pickle_0", "pickle_2", "pickle_5"] {
        let whole = peer(name);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{name}, {length} bytes");
        }
        for at in 0..whole.len() {
            for change in [0, 1, 0x28, 0x52, 0x94, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = change;
                if let Ok(pickle) = parse(&bytes) {
                    let entries = pickle.root().entries().into_iter().flatten();
                    entries.for_each(|(_, value)| drop(value.array()));
                }
            }
        }
    }
}

#[test]
fn arrays_that_lie_are_errors() {
    let array = |shape: &str, code: &str, data: &str| {
        let text = format!(
            "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n({shape}tcnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'{data}'\ntb."
        );
        let pickle = parse(text.as_bytes()).unwrap();
        pickle.root().array().unwrap().map(|array| array.data.len()).map_err(|e| e.render("error"))
    };
    assert_eq!(array("I2\nI2\n", "u1", "abcd"), Ok(4));
    assert!(array("I2\nI3\n", "u1", "abcd").unwrap_err().contains("[2, 3]"));
    assert!(array("I9223372036854775807\nI9223372036854775807\n", "f8", "abcd").is_err());
    assert!(array("I1\n", "O8", "abcdefgh").unwrap_err().contains("type `O8`"));
}
