//! Broken pipelines, lists, images, weights and cache entries: each has its message, its exit code, and loses nothing.

use crate::space::{PIPELINE, Space};

/// A fault, and what must be said of it.
struct Case {
    what: &'static str,
    /// Text of `p.toml`.
    text: String,
    more: &'static [&'static str],
    /// Pieces the message must have, in this order.
    says: &'static [&'static str],
}

fn case(what: &'static str, text: impl Into<String>, says: &'static [&'static str]) -> Case {
    Case { what, text: text.into(), more: &[], says }
}

/// [`PIPELINE`] with one piece replaced, which must be there.
fn with(old: &str, new: &str) -> String {
    assert!(PIPELINE.contains(old), "{old}");
    PIPELINE.replacen(old, new, 1)
}

/// A command with these parameters.
fn swept(params: &str) -> String {
    format!("[command.c]\nrun = 'true'\nparams = {{ {params} }}\noutputs = {{ o = 'o' }}\n")
}

/// A command whose output is to be put somewhere.
fn put_at(place: &str) -> String {
    format!("[command.c]\nrun = 'echo a > {{out.o}}'\n\noutputs = {{ o = '{place}' }}\n")
}

fn files_pipeline() -> String {
    with(
        "{ name = \"shapes\", train = 24, query = 8, database = 24, size = 32, seed = 1 }",
        "{ name = \"files\", train = \"train.txt\", query = \"query.txt\", database = \"train.txt\", root = \"images\" }",
    )
}

fn assert_says(space: &Space, case: &Case) {
    let ended = space.hashpipe(&[&["run", "p.toml"], case.more].concat());
    let text = &ended.stderr;
    assert_ne!(ended.code, 0, "{}: it passed", case.what);
    assert!(!text.contains("panicked"), "{}: {text}", case.what);
    let mut rest = text.as_str();
    for piece in case.says {
        let Some(at) = rest.find(piece) else { panic!("{}: `{piece}` is not said in\n{text}", case.what) };
        rest = &rest[at + piece.len()..];
    }
}

#[test]
fn pipelines() {
    let cases = [
        case("no such file", "", &["there is no pipeline file `q.toml`", "beside it lie: p.toml"]),
        case("syntax", "[train\n", &["not valid TOML", "--> p.toml:1:7"]),
        case("a key twice", "name = \"a\"\nname = \"b\"\n", &["not valid TOML", "--> p.toml:2:1"]),
        case("nothing in it", "name = \"a\"\n", &["has no stages", "hint: add a table such as"]),
        case(
            "unknown key",
            with("epochs = 1", "epocs = 1"),
            &[
                "unknown key `epocs` in `[train.net]`",
                "--> p.toml:10:1",
                "10 | epocs = 1",
                "^^^^^",
                "did you mean `epochs`?",
                "`[train.net]` needs `epochs`",
            ],
        ),
        case(
            "wrong type",
            with("epochs = 1", "epochs = \"many\""),
            &["`epochs` cannot be \"many\"", "--> p.toml:10:10", "^^^^^^", "expected a whole number from 1"],
        ),
        case("a fraction", with("epochs = 1", "epochs = 1.5"), &["`epochs` cannot be 1.5", "expected a whole number"]),
        case("out of range", with("[8, 16]", "[8, 2000]"), &["`bits.1` cannot be 2000", "from 1 to 1024"]),
        case("a negative number", with("batch = 10", "batch = -1"), &["`batch` cannot be -1", "from 1"]),
        case(
            "unknown kind",
            with("[train.net]", "[trian.net]"),
            &["unknown kind of stage `trian`", "did you mean `train`?"],
        ),
        case(
            "unknown choice",
            with("\"small\", channels", "\"smal\", channels"),
            &["there is no backbone `smal`", "did you mean `small`?"],
        ),
        case(
            "unknown key of a choice",
            with("width = 16", "widht = 16"),
            &["unknown key `widht` in `backbone` of `[train.net]`", "did you mean `width`?"],
        ),
        case(
            "a choice without its name",
            with("name = \"sgd\", ", ""),
            &["`optimizer` needs `name`", "`name` = \"sgd\""],
        ),
        case(
            "unknown word",
            with("batch = 10", "loss = { name = \"hashnet\", pairs = \"bnak\" }"),
            &["`loss.pairs` cannot be \"bnak\"", "did you mean `bank`?"],
        ),
        case(
            "missing key",
            with("list = \"lists.shapes/train\"\n", ""),
            &["`[train.net]` needs `list`", "--> p.toml:7:8"],
        ),
        case(
            "missing stage",
            with("lists.shapes/train", "lists.shape/train"),
            &["there is no stage `lists.shape`", "did you mean `lists.shapes`?"],
        ),
        case(
            "missing output",
            with("lists.shapes/train", "lists.shapes/trian"),
            &["`lists.shapes` has no output `trian`", "--> p.toml:8:8", "did you mean `train`?"],
        ),
        case(
            "missing file",
            with("lists.shapes/train", "lists-shapes/train"),
            &["`lists-shapes/train` of `train.net@bits=8` does not exist"],
        ),
        case(
            "a cycle",
            with(
                "model = \"train.net/model\"\nlist = \"lists.shapes/query\"",
                "model = \"train.net/model\"\nlist = \"encode.query/codes\"",
            ),
            &["stages need each other: encode.query -> encode.query"],
        ),
        case("an empty sweep", with("[8, 16]", "[]"), &["`bits` has no values to sweep over"]),
        case("a sweep with a value twice", with("[8, 16]", "[8, 8]"), &["`bits` sweeps over 8 twice"]),
        case(
            "a sweep with a number and its text",
            swept("n = [1, '1']"),
            &["`params.n` sweeps over 1 and \"1\": both would be called params.n=1", "--> p.toml:3:20"],
        ),
        case(
            "points that only their commas tell apart",
            swept("a = ['1', '1,params.b=2'], b = ['2,params.b=3', '3']"),
            &[
                "two tasks of `command.c` would both be called command.c@params.a=1,params.b=2,params.b=3",
                "--> p.toml:1:10",
            ],
        ),
        case(
            "a point without a value",
            with("epochs = 1", "epochs = { by = \"bits\", 8 = 1 }"),
            &["`epochs` has no value for bits=16"],
        ),
        case(
            "an axis that is none",
            with("epochs = 1", "epochs = { by = \"bitz\", 8 = 1 }"),
            &["`by = \"bitz\"`, but this stage is swept over bits"],
        ),
        case("unknown variable", with("lists.shapes/train", "{vars.list}"), &["there is no `list` in `[vars]`"]),
        case(
            "images too small for the network",
            with("crop = 24", "crop = 8").replace("[4, 8]", "[4, 8, 8]"),
            &["`small` with 3 blocks cannot take images of 8 pixels"],
        ),
        case("crop larger than the image", with("crop = 24", "crop = 32"), &["crop"]),
        case("a bad name", with("name = \"small\"", "name = \"a b\""), &["`name` must be letters"]),
        case(
            "a bad base",
            format!("extends = \"none.toml\"\n{PIPELINE}"),
            &["there is no pipeline file", "--> p.toml:1:11"],
        ),
        case(
            "a point without its axis",
            with("model = \"train.net/model\"", "model = \"train.net@8/model\""),
            &["`train.net` is not swept over `8`", "train.name@bits=64/model"],
        ),
        case(
            "a point of an axis that is none",
            with("model = \"train.net/model\"", "model = \"train.net@bit=8/model\""),
            &["`train.net` is not swept over `bit`", "did you mean `bits`?"],
        ),
        case("a kind that is no table", format!("infer = 3\n{PIPELINE}"), &["`infer` must be a table of stages"]),
        case("a list in a list", with("[4, 8]", "[[4], [8]]"), &["`backbone.channels.0` cannot be a list"]),
        case(
            "an output forgotten",
            with("lists.shapes/train", "lists.shapes"),
            &["`lists.shapes` is a stage: say which of its outputs", "lists.shapes/train"],
        ),
        case(
            "a loss that cannot work",
            with("batch = 10", "loss = { name = \"hashnet\", alpha = 0 }"),
            &["alpha", "--> p.toml:11:1"],
        ),
        case(
            "parameters that contradict each other",
            with("seed = 1", "train_in_database = true").replace("train = 24", "train = 25"),
            &["cannot hold 25 training pictures", "--> p.toml:5:1"],
        ),
        case(
            "resources of nothing",
            format!("{PIPELINE}\n[resources]\ntrian = {{ cpus = 1 }}\n"),
            &["`[resources]` speaks of `trian`", "did you mean `train`?"],
        ),
        case(
            "help for nothing",
            format!("{PIPELINE}\n[obtain.lists]\nshape = \"x\"\n"),
            &["`[obtain]` speaks of `lists.shape`", "did you mean `lists.shapes`?"],
        ),
        case(
            "bad resources",
            format!("{PIPELINE}\n[resources]\ntrain = {{ cups = 1 }}\n"),
            &["`[resources]` of `train`", "cups"],
        ),
        Case {
            what: "unknown profile",
            text: PIPELINE.into(),
            more: &["--profile", "lite"],
            says: &["there is no profile `lite`"],
        },
        Case {
            what: "bad --set",
            text: PIPELINE.into(),
            more: &["--set", "epochs"],
            says: &["`--set` needs `key=value`"],
        },
        Case {
            what: "--set of an unknown key",
            text: PIPELINE.into(),
            more: &["--set", "train.net.epocs=2"],
            says: &["unknown key `epocs`", "--> --set train.net.epocs=2"],
        },
        Case {
            what: "unknown stage",
            text: PIPELINE.into(),
            more: &["--only", "train.ent"],
            says: &["`small` has no stage `train.ent`", "did you mean `train.net`?"],
        },
        case(
            "a list for a network",
            with(
                "model = \"train.net/model\"\nlist = \"lists.shapes/query\"",
                "model = \"lists.shapes/train\"\nlist = \"lists.shapes/query\"",
            ),
            &[
                "`model` takes a network, and `lists.shapes/train` is not",
                "--> p.toml:",
                "model = \"lists.shapes/train\"",
                "`lists.shapes/train` is a list of images",
                "hint: write, for example, \"train.NAME/model\"",
            ],
        ),
        case(
            "a record for codes",
            with("codes = { database = \"encode.database/codes\" }", "codes = { database = \"train.net/log\" }"),
            &["`codes.database` takes codes", "`train.net/log` is a record", "for example, \"encode.NAME/codes\""],
        ),
        case(
            "the cache as a place",
            put_at("cache"),
            &["cannot be put at", "p.toml:4", "is, or holds, what is hashpipe's own"],
        ),
        case(
            "a place in the cache",
            put_at("cache/v2/objects"),
            &["cannot be put at", "lies in what is hashpipe's own"],
        ),
        case("the pipeline as a place", put_at("./p.toml"), &["cannot be put at", "the pipeline's: `", "p.toml`"]),
        case("the project as a place", put_at("."), &["cannot be put at", "is, or holds, the project's folder"]),
        case("what holds the project as a place", put_at("a/../.."), &["cannot be put at", "the project's folder"]),
        case(
            "a hole in a place",
            put_at("r/{bits}"),
            &["`{bits}` in a place of `command.c` stands for nothing", "p.toml:4"],
        ),
        case("an unknown parameter in a place", put_at("{param.nope}"), &["a place uses `nope`", "p.toml:4"]),
        Case {
            what: "a GPU in a CPU build",
            text: PIPELINE.into(),
            more: &["--gpus", "1"],
            says: &["built without CUDA", "leave out `--gpus`"],
        },
    ];
    for case in &cases {
        let space = Space::empty();
        space.write("p.toml", &case.text);
        if case.what == "no such file" {
            let ended = space.hashpipe(&["run", "q.toml"]);
            assert!(case.says.iter().all(|piece| ended.stderr.contains(piece)), "{}", ended.stderr);
            continue;
        }
        if case.what == "a GPU in a CPU build" && hashpipe::device::can_use_gpus() {
            continue;
        }
        assert_says(&space, case);
        assert_eq!(space.hashpipe(&[&["run", "p.toml"], case.more].concat()).code, 2, "{}", case.what);
        assert!(!space.path("output").exists(), "{}: something was written", case.what);
    }
}

#[test]
fn a_gpu_for_an_evaluation_is_refused_in_a_cpu_build() {
    if hashpipe::device::can_use_gpus() {
        return;
    }
    let space = Space::empty();
    space.write("p.toml", format!("{PIPELINE}\n[resources]\nevaluate = {{ gpus = 1 }}\n"));
    let ended = space.hashpipe(&["run", "p.toml"]);
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    for piece in ["`evaluate.map@bits=", "is to have a GPU, which it cannot use", "built without CUDA"] {
        assert!(ended.stderr.contains(piece), "`{piece}` is not said in\n{}", ended.stderr);
    }
}

#[test]
fn what_this_machine_can_never_run_is_foreseen() {
    let space = Space::empty();
    let command = "[command.NAME]\nrun = 'echo a > {out.o}'\noutputs = { o = '' }\n";
    space.write(
        "p.toml",
        format!("{}{}resources = {{ cpus = 100000 }}\n", command.replace("NAME", "a"), command.replace("NAME", "b")),
    );
    for more in [&["run", "p.toml"][..], &["run", "-n", "p.toml"], &["run", "-n", "--json", "p.toml"]] {
        let ended = space.hashpipe(more);
        assert_eq!(ended.code, 6, "{more:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("`command.b` can never run on this machine"), "{more:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("`command.a` can"), "{}", ended.stderr);
    }
    assert_eq!(space.hashpipe(&["run", "-n", "p.toml", "--only", "command.a"]).code, 0);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_told_before_any_work() {
    let space = Space::empty();
    space.write("p.toml", put_at("o"));
    space.write("taken", "a file\n");
    let ended = space.hashpipe(&["run", "p.toml", "--output", "taken/out"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("taken/out") && ended.stderr.contains("--output DIR"), "{}", ended.stderr);
    assert!(!space.path("o").exists(), "work was done");
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    let text =
        with("epochs = 1", "epocs = 1").replace("top_k = 10", "top_k = \"ten\"").replace("batch = 10", "batch = 0");
    let space = Space::empty();
    space.write("p.toml", text);
    let ended = space.hashpipe(&["run", "p.toml"]);
    for piece in ["`epocs`", "needs `epochs`", "`top_k` cannot be", "`batch` cannot be 0", "4 errors"] {
        assert!(ended.stderr.contains(piece), "`{piece}` is not said in\n{}", ended.stderr);
    }
}

#[test]
fn a_misspelt_environment_variable_is_not_ignored() {
    let space = Space::new();
    let output = space.command(&["run", "p.toml"]).env("HASHPIPE_CAHCE", "x").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("unknown environment variable `HASHPIPE_CAHCE`") && text.contains("HASHPIPE_CACHE"),
        "{text}"
    );
    let output = space.command(&["run", "-n", "p.toml"]).env("HASHPIPE_TRAIN__NET__EPOCS", "2").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("--> HASHPIPE_TRAIN__NET__EPOCS"), "{text}");
}

/// A JPEG of one colour.
fn jpeg() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    image::RgbImage::from_pixel(40, 30, image::Rgb([9, 99, 199]))
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    bytes.into_inner()
}

/// A project with lists of four pictures, two of which share a class with each other.
fn listed() -> Space {
    let space = Space::empty();
    space.write("p.toml", files_pipeline());
    for name in ["a", "b", "c", "d"] {
        space.write(&format!("images/{name}.jpg"), jpeg());
    }
    space.write("train.txt", "a.jpg 1 0\nb.jpg 1 0\nc.jpg 0 1\n");
    space.write("query.txt", "d.jpg 0 1\n");
    space
}

#[test]
fn lists_and_images() {
    type Break = fn(&Space);
    let cases: [(&str, Break, &[&str]); 9] = [
        ("no list", |s| std::fs::remove_file(s.path("query.txt")).unwrap(), &["query.txt"]),
        ("no images", |s| std::fs::remove_dir_all(s.path("images")).unwrap(), &["images"]),
        ("a bad label", |s| s.write("train.txt", "a.jpg 1 0\nb.jpg 1 x\nc.jpg 0 1\n"), &["train.txt:2:9"]),
        ("a label too many", |s| s.write("train.txt", "a.jpg 1 0\nb.jpg 1 0 1\nc.jpg 0 1\n"), &["train.txt:2:1"]),
        ("an empty line", |s| s.write("train.txt", "a.jpg 1 0\n\nc.jpg 0 1\n"), &["train.txt:2"]),
        ("an image twice", |s| s.write("train.txt", "a.jpg 1 0\na.jpg 1 0\n"), &["train.txt:2:1"]),
        ("a way out", |s| s.write("train.txt", "../a.jpg 1 0\nb.jpg 0 1\n"), &["train.txt:1:1"]),
        (
            "missing images",
            |s| s.write("train.txt", "a.jpg 1 0\nx.jpg 1 0\nc.jpg 0 1\ny.jpg 0 1\n"),
            &["train.txt:2:1", "x.jpg", "train.txt:4:1", "y.jpg"],
        ),
        (
            "images that do not decode",
            |s| {
                s.write("images/b.jpg", &jpeg()[..jpeg().len() / 2]);
                s.write("images/c.jpg", "no picture");
            },
            &["train.txt:2:1", "b.jpg", "train.txt:3:1", "c.jpg"],
        ),
    ];
    for (what, spoil, says) in cases {
        let space = listed();
        spoil(&space);
        let ended = space.hashpipe(&["run", "p.toml"]);
        assert_eq!(ended.code, 2, "{what}: {}", ended.stderr);
        for piece in says {
            assert!(ended.stderr.contains(piece), "{what}: `{piece}` is not said in\n{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("start   train"), "{what}: a training was started");
    }
    assert_eq!(listed().hashpipe(&["run", "p.toml"]).ok().code, 0);
}

#[test]
fn an_image_that_changed_after_it_was_listed_is_not_read() {
    let space = listed();
    space.run(&["--only", "lists.shapes"]).ok();
    let list = hashpipe::dataset::List::read(&space.object("lists.shapes", "train")).unwrap();
    let transform = hashpipe::image::Transform::imagenet(28, 24);
    let images = hashpipe::dataset::Images::new(list, space.path("images"), transform);
    let first = || hashpipe::dataset::Examples::batches(&images, vec![vec![0]], None).next().unwrap();
    assert!(first().is_ok());
    // Still a picture, but another one.
    space.write("images/a.jpg", [jpeg(), vec![0]].concat());
    assert_eq!(first().unwrap_err().kind(), hashpipe::error::Kind::Changed);
}

#[test]
fn weights() {
    let good = {
        let space = Space::new();
        space.run(&["--only", "train.net@bits=8"]).ok();
        std::fs::read(space.object("train.net@bits=8", "model")).unwrap()
    };
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("empty", vec![], "safetensors"),
        ("not safetensors", b"PK\x03\x04 and more of another format".to_vec(), "safetensors"),
        ("cut short", good[..good.len() / 2].to_vec(), "safetensors"),
        ("a header that lies about its length", lying, "safetensors"),
        ("of another network", good, "features.0.weight"),
    ];
    for (what, bytes, says) in cases {
        let space = Space::empty();
        let wider = with("batch = 10", "batch = 10\npretrained = \"w.safetensors\"").replace("[4, 8]", "[6, 8]");
        space.write("p.toml", wider);
        space.write("w.safetensors", bytes);
        let ended = space.hashpipe(&["run", "p.toml", "--only", "train.net@bits=8"]);
        assert_eq!(ended.code, 2, "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains("w.safetensors") && ended.stderr.contains(says), "{what}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
    }
}

#[test]
fn pictures_are_no_list() {
    let space = Space::empty();
    space.write("p.toml", with("lists.shapes/train", "lists.shapes/images"));
    let ended = space.hashpipe(&["run", "p.toml"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("`lists.shapes/images` is a folder of images"), "{}", ended.stderr);
}

#[test]
fn codes_of_another_list_are_refused() {
    let space = Space::empty();
    space.write("p.toml", with("query_list = \"lists.shapes/query\"", "query_list = \"lists.shapes/train\""));
    let ended = space.hashpipe(&["run", "p.toml"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("`encode.query/codes` was not made from `lists.shapes/train`"), "{}", ended.stderr);
}

#[test]
fn a_strict_protocol_refuses_leaks_and_a_published_one_warns() {
    let space = Space::empty();
    let published = PIPELINE.replace("top_k = 10", "top_k = 100");
    space.write("p.toml", &published);
    let warned = space.run(&[]).ok().json();
    let beyond = "`top_k` is 100, but the database has 24 images: all of them count";
    assert!(warned.iter().any(|event| event["event"] == "warning" && event["text"] == beyond), "{warned:?}");

    space.write("p.toml", published.replace("top_k = 100", "top_k = 100\nprotocol = \"strict\""));
    for _ in 0..2 {
        let refused = space.run(&[]);
        assert_eq!(refused.code, 7, "{}", refused.stderr);
        assert!(!refused.tasks("start").is_empty(), "a refusal is never cached");
        let failed = refused.json().into_iter().find(|event| event["event"] == "failed").unwrap();
        let error = failed["error"].as_str().unwrap();
        assert!(
            error.starts_with(&format!("error: {beyond}\n")) && error.contains("protocol = \"published\""),
            "{error}"
        );
    }
}

#[test]
fn one_list_for_queries_and_database_is_refused_before_anything_runs() {
    let space = Space::empty();
    let files = "{ name = \"files\", train = \"t.txt\", query = \"d.txt\", database = \"d.txt\", root = \".\" }\n\
                 protocol = \"strict\"";
    let shapes = "{ name = \"shapes\", train = 24, query = 8, database = 24, size = 32, seed = 1 }";
    space.write("p.toml", PIPELINE.replace(shapes, files));
    let refused = space.run(&[]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("`query` and `database` are the same list"), "{}", refused.stderr);
}
