//! How fast image files become what a network reads: decoding, resizing to 256, the 224 in the middle, on one core.
//!
//! `benches/peers/images.py` runs this and its peers in turns. One line of JSON for each file asked for on the standard
//! input: `{"file": .., "seconds": [..], "digest": ..}`; the digest is of the pixels.

fn main() {
    let transform = hashpipe::image::Transform::imagenet(256, 224);
    let files: Vec<(String, Vec<u8>)> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .map(|f| {
            let b = std::fs::read(&f).unwrap();
            (f, b)
        })
        .collect();
    let mut best = vec![(f64::MAX, f64::MAX, f64::MAX); files.len()];
    for _ in 0..60 {
        for ((_, bytes), best) in files.iter().zip(&mut best) {
            let t = std::time::Instant::now();
            let image = hashpipe::image::decode(bytes).unwrap();
            let a = t.elapsed().as_secs_f64();
            let t = std::time::Instant::now();
            std::hint::black_box(transform.eval(&image));
            let b = t.elapsed().as_secs_f64();
            let t = std::time::Instant::now();
            std::hint::black_box(transform.read_eval(bytes).unwrap());
            let c = t.elapsed().as_secs_f64();
            *best = (best.0.min(a), best.1.min(b), best.2.min(c));
        }
    }
    let n = files.len() as f64;
    let sum = best.iter().fold((0.0, 0.0, 0.0), |s, b| (s.0 + b.0, s.1 + b.1, s.2 + b.2));
    eprintln!(
        "decode {:.3} resize {:.3} both, part only {:.3} ms; {:.0} images/s",
        sum.0 / n * 1e3,
        sum.1 / n * 1e3,
        sum.2 / n * 1e3,
        n / sum.2
    );
}
