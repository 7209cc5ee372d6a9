//! Odd files, written by libjpeg-turbo itself: our decoder and its own must agree on every pixel and on every fault.
#![expect(unsafe_code, reason = "libjpeg's own encoder writes the files; it is C")]

use super::{Window, decode, idct, inks, whole};
use crate::seeded::{self, Stream};
use mozjpeg_sys as c;
use proptest::prelude::*;

/// How a file is made.
#[derive(Debug, Clone)]
struct Odd {
    size: (usize, usize),
    /// Sampling factors of each channel: one grey, three YCbCr, four CMYK.
    sampling: Vec<(i32, i32)>,
    quality: i32,
    progressive: bool,
    optimised: bool,
    /// MCUs between restart markers; 0 for none.
    restart: u32,
    /// Keep red, green and blue as they are.
    rgb: bool,
}

fn odd(size: (usize, usize), sampling: &[(i32, i32)]) -> Odd {
    let sampling = sampling.to_vec();
    Odd { size, sampling, quality: 85, progressive: false, optimised: false, restart: 0, rgb: false }
}

const FULL: &[(i32, i32)] = &[(1, 1), (1, 1), (1, 1)];
const HALF: &[(i32, i32)] = &[(2, 2), (1, 1), (1, 1)];

/// A picture with edges, gradients and noise.
fn picture((width, height): (usize, usize), channels: usize, stream: &mut Stream) -> Vec<u8> {
    let sample = |i: usize, stream: &mut Stream| {
        let (channel, x, y) = (i % channels, i / channels % width, i / channels / width);
        let edge = if (x / 9 + y / 5).is_multiple_of(2) { 40 } else { 210 };
        let base = [x * 5, y * 7, edge, x + y][channel];
        (base as u8).saturating_add((stream.bits() % 48) as u8)
    };
    (0..width * height * channels).map(|i| sample(i, stream)).collect()
}

fn encode(odd: &Odd) -> Vec<u8> {
    let mut stream = seeded::stream(7, "odd", &[odd.size.0 as u64, odd.size.1 as u64, odd.quality as u64]);
    let channels = odd.sampling.len();
    let pixels = picture(odd.size, channels, &mut stream);
    use c::J_COLOR_SPACE::{JCS_CMYK, JCS_GRAYSCALE, JCS_RGB};
    let (mut out, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: as libjpeg's manual has it; the error manager's default ends the process, which ends the test.
    unsafe {
        let (mut errors, mut jpeg): (c::jpeg_error_mgr, c::jpeg_compress_struct) = std::mem::zeroed();
        jpeg.common.err = c::jpeg_std_error(&mut errors);
        c::jpeg_create_compress(&mut jpeg);
        c::jpeg_mem_dest(&mut jpeg, &mut out, &mut length);
        (jpeg.image_width, jpeg.image_height) = (odd.size.0 as u32, odd.size.1 as u32);
        jpeg.input_components = channels as i32;
        jpeg.in_color_space = [JCS_GRAYSCALE, JCS_RGB, JCS_RGB, JCS_CMYK][channels - 1];
        // libjpeg-turbo's ways; mozjpeg's own are always progressive.
        c::jpeg_c_set_int_param(&mut jpeg, c::JINT_COMPRESS_PROFILE, c::JCP_FASTEST as i32);
        c::jpeg_set_defaults(&mut jpeg);
        if odd.rgb {
            c::jpeg_set_colorspace(&mut jpeg, JCS_RGB);
        }
        c::jpeg_set_quality(&mut jpeg, odd.quality, 1);
        for (i, sampling) in odd.sampling.iter().enumerate() {
            let component = &mut *jpeg.comp_info.add(i);
            (component.h_samp_factor, component.v_samp_factor) = *sampling;
        }
        jpeg.optimize_coding = odd.optimised.into();
        jpeg.restart_interval = odd.restart;
        if odd.progressive {
            c::jpeg_simple_progression(&mut jpeg);
        }
        c::jpeg_start_compress(&mut jpeg, 1);
        for row in pixels.chunks_exact(odd.size.0 * channels) {
            c::jpeg_write_scanlines(&mut jpeg, &row.as_ptr(), 1);
        }
        c::jpeg_finish_compress(&mut jpeg);
        let bytes = std::slice::from_raw_parts(out, length as usize).to_vec();
        c::jpeg_destroy_compress(&mut jpeg);
        bytes
    }
}

/// At least forty of them.
fn odd_files() -> Vec<Odd> {
    let mut files = vec![];
    let samplings: [&[(i32, i32)]; 9] = [
        FULL,
        HALF,
        &[(2, 1), (1, 1), (1, 1)],
        &[(1, 2), (1, 1), (1, 1)],
        &[(4, 1), (1, 1), (1, 1)],
        &[(1, 1)],
        &[(2, 2)],
        &[(2, 2), (2, 1), (1, 2)],
        &[(1, 1), (2, 2), (1, 1)],
    ];
    for sampling in samplings {
        for size in [(1, 1), (2, 3), (5, 4), (8, 8), (17, 31), (61, 47), (130, 66)] {
            files.push(odd(size, sampling));
        }
        files.push(Odd { progressive: true, ..odd((61, 47), sampling) });
        files.push(Odd { optimised: true, ..odd((61, 47), sampling) });
        files.push(Odd { restart: 3, ..odd((61, 47), sampling) });
    }
    files.extend([1, 2, 5, 25, 50, 75, 95, 100].map(|quality| Odd { quality, ..odd((40, 50), HALF) }));
    files.extend([1, 50, 100].map(|quality| Odd { quality, ..odd((40, 50), FULL) }));
    files.push(Odd { rgb: true, ..odd((33, 20), FULL) });
    files.push(odd((33, 20), &[(1, 1); 4]));
    files.push(Odd { restart: 1, progressive: true, optimised: true, ..odd((90, 40), HALF) });
    files
}

fn all(width: usize, height: usize) -> Window {
    Window { left: 0, top: 0, width, height }
}

#[test]
fn odd_files_are_as_libjpeg_decodes_them() {
    let files = odd_files();
    assert!(files.len() >= 40);
    let mut quick = 0;
    for odd in files {
        let bytes = encode(&odd);
        let (ours, theirs) = (decode(&bytes, &mut all).unwrap(), whole(&bytes).unwrap());
        assert!(ours == theirs, "{odd:?}");
        assert_eq!((ours.width, ours.height), odd.size);
        quick += usize::from(super::Header::read(&bytes).is_some());
    }
    assert!(quick >= 60, "only {quick} were decoded by the code that this is about");
}

#[test]
fn a_part_is_a_part_of_the_whole() {
    for odd in odd_files() {
        let bytes = encode(&odd);
        let picture = whole(&bytes).unwrap();
        let (width, height) = odd.size;
        let mut stream = seeded::stream(3, "parts", &[width as u64, height as u64]);
        for _ in 0..6 {
            let (left, top) = (stream.below(width), stream.below(height));
            let part =
                Window { left, top, width: 1 + stream.below(width - left), height: 1 + stream.below(height - top) };
            let ours = decode(&bytes, &mut |_, _| part).unwrap();
            for y in part.top..part.top + part.height {
                let row = |image: &crate::image::Pixels| {
                    let at = ((y - image.part.top) * image.part.width + part.left - image.part.left) * 3;
                    image.data[at..at + part.width * 3].to_vec()
                };
                assert!(row(&ours) == row(&picture), "{part:?} of {odd:?}");
            }
        }
    }
}

/// Flipped bytes and lost ends: no panic, and what libjpeg makes of it.
#[test]
fn damaged_files_end_as_libjpeg_has_it() {
    let mut stream = seeded::stream(5, "damage", &[]);
    let (mut refused, mut accepted) = (0, 0);
    for odd in odd_files().into_iter().filter(|odd| odd.size.0 > 8) {
        let bytes = encode(&odd);
        for round in 0..24 {
            let mut damaged = bytes.clone();
            // Headers are short: a third of the flips is aimed at them.
            let from = if round % 3 == 0 { 2 } else { bytes.len() / 2 };
            for _ in 0..1 + stream.below(4) {
                let at = from + stream.below(bytes.len() - from);
                damaged[at] = stream.bits() as u8;
            }
            if round % 4 == 0 {
                damaged.truncate(2 + stream.below(bytes.len() - 2));
            }
            let limit = crate::image::MAX_PIXELS;
            let claims_much = super::Header::read(&damaged).is_some_and(|h| (h.width * h.height) as u64 > limit / 100);
            if claims_much {
                continue;
            }
            match (decode(&damaged, &mut all), whole(&damaged)) {
                (Ok(ours), Ok(theirs)) => assert!(ours == theirs, "{odd:?}"),
                (Err(ours), Err(theirs)) => assert_eq!(ours, theirs),
                (ours, theirs) => panic!("{:?} for {:?}: {odd:?}", ours.err(), theirs.err()),
            }
            match whole(&damaged) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50 && accepted > 50, "{refused} refused, {accepted} accepted");
}

#[test]
fn an_early_end_is_an_error() {
    for odd in [odd((61, 47), HALF), Odd { progressive: true, ..odd((61, 47), FULL) }] {
        let bytes = encode(&odd);
        for kept in [bytes.len() / 2, bytes.len() - 10, bytes.len() - 2, bytes.len() - 1] {
            let told = decode(&bytes[..kept], &mut all).unwrap_err();
            assert_eq!(told.to_string(), "the file is cut off: the JPEG data ends too early");
        }
        let longer = [&bytes[..], b"what follows"].concat();
        assert!(decode(&longer, &mut all).unwrap() == decode(&bytes, &mut all).unwrap());
    }
}

/// A mark of a segment in the middle of the data, which claims to be longer than the file: the rest of the picture is
/// grey, and as with Pillow, nobody misses the mark of the end.
#[test]
fn an_end_that_is_passed_over_is_not_missed() {
    let mut bytes = encode(&odd((61, 47), HALF));
    let middle = bytes.len() * 2 / 3;
    bytes[middle..middle + 4].copy_from_slice(&[0xff, 0xe7, 0xff, 0xf0]);
    let pixels = decode(&bytes, &mut all).unwrap();
    assert_eq!((pixels.width, pixels.height), (61, 47));
    assert!(decode(&bytes[..middle], &mut all).is_err(), "nothing follows: it is cut off");
}

#[test]
fn inks_are_mixed_as_pillow_does() {
    // Stored is what the inks leave over. From Pillow 13: Image.fromarray(..., "CMYK").convert("RGB").
    let mixed = [[255, 255, 255, 255], [0, 255, 255, 255], [55, 155, 205, 127], [1, 2, 3, 0]].map(inks);
    assert_eq!(mixed, [[255, 255, 255], [0, 255, 255], [27, 77, 102], [0, 0, 0]]);
}

proptest! {
    #[test]
    fn the_transform_is_its_plain_twin(
        coefficients in prop::array::uniform32(prop_oneof![8 => Just(0i16), 4 => -40i16..40, 1 => any::<i16>()]),
        rest in prop::array::uniform32(prop_oneof![20 => Just(0i16), 4 => -9i16..9, 1 => -900i16..900]),
        factors in prop::array::uniform32(1i16..=255),
    ) {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&coefficients);
        block[32..].copy_from_slice(&rest);
        let quant: idct::Quant = std::array::from_fn(|i| factors[i / 2]);
        let (mut ours, mut plain) = ([9; 12 * 8], [9; 12 * 8]);
        idct::block(&block, &quant, &mut ours, 12);
        idct::plain(&block, &quant, &mut plain, 12);
        prop_assert_eq!(ours, plain);
        let mut flat = [0; 64];
        flat[0] = block[0];
        idct::flat(block[0], &quant, &mut ours, 12);
        idct::plain(&flat, &quant, &mut plain, 12);
        prop_assert_eq!(ours, plain);
    }
}

/// Values that no picture has, but a damaged file may: libjpeg's table comes round again.
#[test]
fn the_transform_wraps_where_libjpeg_does() {
    for mean in (-6000..6000).step_by(7) {
        let mut block = [0; 64];
        (block[0], block[1]) = (mean, 1);
        let (mut ours, mut plain) = ([9; 64], [9; 64]);
        idct::block(&block, &[1; 64], &mut ours, 8);
        idct::plain(&block, &[1; 64], &mut plain, 8);
        assert_eq!(ours, plain, "{mean}");
    }
}

#[test]
fn colours_are_their_plain_twin() {
    // Every brightness with every pair of colours on a grid, and rows that do not fill a lane.
    for (blue, red) in (0..=255u8).step_by(5).flat_map(|b| (0..=255u8).step_by(3).map(move |r| (b, r))) {
        let luma: Vec<u8> = (0..=255).collect();
        let luma = &luma[..256 - usize::from(red % 16)];
        let (blue, red) = (vec![blue; luma.len()], vec![red; luma.len()]);
        let (mut ours, mut plain) = (vec![0; luma.len() * 3], vec![0; luma.len() * 3]);
        super::colour::row(luma, &blue, &red, &mut ours);
        super::colour::plain(luma, &blue, &red, &mut plain);
        assert!(ours == plain);
    }
}
