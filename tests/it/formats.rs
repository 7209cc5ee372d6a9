//! Weights and codes out to other programs' files and in again, by the commands that people use.

use crate::space::{PIPELINE, Space};
use serde_json::Value;

/// The pipeline with everything exported, looked up through the exported files, and imported again from PyTorch's.
fn pipeline() -> String {
    let formats = "formats = [\"onnx\", \"pth\", \"pdparams\", \"npz\"]\nonnx = { normalise = true, sign = true }\n\
                   code_formats = [\"parquet\", \"faiss-hash\", \"jsonl\", \"pgvector\"]\n";
    let infer = "\n[infer.exported]\nmodel = \"train.net/model\"\ncodes = \"encode.database/codes\"\nonnx = true\n\
                 exported = \"export.files/files\"\nlist = \"lists.shapes/query\"\ndatabase = \"lists.shapes/database\"\n";
    format!("{PIPELINE}{formats}{infer}")
}

const IMPORT: &str = r#"
[import.back]
weights = "output/small/export.files@bits=16/weights_16.FORMAT"
bits = 16
backbone = { name = "small", channels = [4, 8], width = 16, dropout = 0.5 }
transform = { resize = 28, crop = 24 }
list = "lists.shapes/train"

[encode.back]
model = "import.back/model"
list = "lists.shapes/database"
"#;

#[test]
fn what_is_exported_answers_alike_and_is_taken_back() {
    let space = Space::empty();
    space.write("p.toml", pipeline());
    let run = space.run(&[]).ok();
    assert!(run.tasks("done").contains(&"infer.exported@bits=16".to_string()));
    let log = std::fs::read(space.path("output/small/infer.exported@bits=8/inference_log.json")).unwrap();
    let log: Value = serde_json::from_slice(&log).unwrap();
    assert!(log["agree"] == true && log["milliseconds"]["inference, onnx"]["p95"].as_f64() > Some(0.0), "{log}");

    let trained = std::fs::read(space.object("train.net@bits=16", "model")).unwrap();
    for format in ["pth", "pdparams", "npz", "safetensors"] {
        space.write("p.toml", format!("{}{}", pipeline(), IMPORT.replace("FORMAT", format)));
        space.run(&["--only", "encode.back"]).ok();
        let imported = std::fs::read(space.object("import.back", "model")).unwrap();
        assert!(imported == trained, "{format}");
    }

    let file = "output/small/export.files@bits=16/weights_16.pdparams";
    let told = space.hashpipe(&["weights", "inspect", file, "--json", "--values"]).ok();
    let told = &told.json()[0];
    assert_eq!((&told["names"], &told["transposed"]), (&"paddle_hashnet".into(), &true.into()));
    let hash = told["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "classifier_plus.6.weight").unwrap();
    assert_eq!((&hash["shape"], &hash["here"]), (&serde_json::json!([16, 16]), &"hash.weight".into()));
    let seen = space.hashpipe(&["weights", "inspect", file]).ok().stdout;
    assert!(seen.contains("PaddlePaddle's parameters; names of paddle_hashnet, linear weights [in, out]"), "{seen}");
    space.hashpipe(&["weights", "convert", file, "out.pth"]).ok();
    let exported = std::fs::read(space.path("output/small/export.files@bits=16/weights_16.pth")).unwrap();
    assert!(std::fs::read(space.path("out.pth")).unwrap() == exported);
    let safetensors = "output/small/export.files@bits=16/weights_16.safetensors";
    space.hashpipe(&["weights", "convert", safetensors, "out.onnx", "--normalise", "--sign"]).ok();
    let exported = std::fs::read(space.path("output/small/export.files@bits=16/model_16.onnx")).unwrap();
    assert!(std::fs::read(space.path("out.onnx")).unwrap() == exported);
    let wrong = space.hashpipe(&["weights", "convert", file, "out.h5"]);
    assert!(wrong.code == 2 && wrong.stderr.contains(".safetensors"), "{}", wrong.stderr);
    space.write("evil.pth", b"\x80\x02cos\nsystem\nU\x09touch hitR.");
    let refused = space.hashpipe(&["weights", "inspect", "evil.pth"]);
    assert!(refused.code == 2 && refused.stderr.contains("`os.system`"), "{}", refused.stderr);
}

#[test]
fn codes_go_through_every_format_and_back() {
    let space = Space::new();
    space.run(&["--only", "encode.database"]).ok();
    let codes = std::fs::read(space.object("encode.database@bits=16", "codes")).unwrap();
    space.write("first", &codes);
    let formats = space.hashpipe(&["codes", "formats"]).ok().stdout;
    let mut from = "first".to_string();
    for name in formats.lines().filter_map(|line| line.split_whitespace().next()) {
        space.hashpipe(&["codes", "convert", &from, name, "--to", name]).ok();
        from = name.to_string();
    }
    space.hashpipe(&["codes", "convert", &from, "last.codes"]).ok();
    let (first, _) = hashpipe::retrieval::read(&space.path("first")).unwrap();
    let (last, _) = hashpipe::retrieval::read(&space.path("last.codes")).unwrap();
    assert!(first == last && formats.lines().count() > 8);
    let told = space.hashpipe(&["codes", "inspect", "faiss-hash", "--json"]).ok().json();
    assert_eq!(
        (&told[0]["codes"], &told[0]["bits"], &told[0]["format"]),
        (&24.into(), &16.into(), &"faiss-hash".into())
    );
}
