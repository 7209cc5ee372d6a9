//! Tasks that the scheduler gave a GPU.

use super::Job;
use super::testing::{Desk, run};
use serde_json::json;

#[test]
fn a_network_is_trained_and_encodes_on_the_gpu_of_its_task() {
    if crate::device::for_test(0).is_none() {
        return;
    }
    let desk = Desk::new();
    desk.list("list", &desk.pictures(0..40, "all"));
    for precision in ["f32", "tf32", "bf16"] {
        let params = json!({
            "list": "list", "bits": 8, "epochs": 3, "batch": 16, "precision": precision,
            "backbone": { "name": "small", "channels": [4], "width": 6 },
            "optimizer": { "name": "sgd", "lr": 0.01 }, "transform": { "resize": 8, "crop": 8 },
        });
        let train = || run(Job { gpus: vec![0], ..desk.job("train", params.clone()) }).ok();
        let (first, second) = (train(), train());
        assert!(first.bytes("model") == second.bytes("model"), "{precision}");
        assert_eq!(first.warnings(), [""; 0], "a GPU has all precisions");

        std::fs::copy(first.path("model"), desk.path(precision)).unwrap();
        let params = json!({ "model": precision, "list": "list", "batch": 7, "precision": precision });
        let encode = |gpus: Vec<usize>| {
            let shards = desk.path(&format!("{precision} {gpus:?}"));
            run(Job { gpus, shards, ..desk.job("encode", params.clone()) }).ok()
        };
        let (ours, expected) = (encode(vec![0]), encode(vec![]));
        let codes = |ended: &super::testing::Ended| crate::retrieval::read(&ended.path("codes")).unwrap().0;
        let (ours, expected) = (codes(&ours), codes(&expected));
        let differing =
            |i: usize| ours.code(i).iter().zip(expected.code(i)).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        let bits: u32 = (0..40).map(differing).sum();
        // Only outputs next to 0 may fall on the other side.
        assert!(bits <= if precision == "f32" { 1 } else { 8 }, "{precision}: {bits} bits of 320 differ");
    }
}
