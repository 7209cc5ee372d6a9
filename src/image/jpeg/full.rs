//! libjpeg-turbo's C code, for every JPEG there is.
//!
//! It tells errors by calling a function that must not return. Ours unwinds through its frames, which are compiled for
//! that, up to [`decode`]. No other code of this crate talks to C.
#![expect(
    unsafe_code,
    reason = "libjpeg is C: its structures are filled through pointers, all of which live in one call"
)]

use crate::image::decode::{DecodeError, check_size};
use mozjpeg_sys as c;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A decoded picture with as many channels as the file has: 1 grey, 3 RGB, 4 CMYK as it is stored.
pub(super) struct Decoded {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) data: Vec<u8>,
}

/// Decodes any JPEG. Damage that libjpeg only warns of is accepted, as Pillow does; an early end is not.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(bytes)));
    outcome.unwrap_or_else(|thrown| match thrown.downcast::<DecodeError>() {
        Ok(told) => Err(*told),
        Err(panic) => resume_unwind(panic),
    })
}

/// libjpeg's state, and what it points to; freed in any case.
struct Decompress {
    /// On the heap, so that it stays where libjpeg knows it.
    state: Box<c::jpeg_decompress_struct>,
    /// In a place of its own, as the state points there.
    _errors: Box<c::jpeg_error_mgr>,
}

impl Drop for Decompress {
    fn drop(&mut self) {
        // SAFETY: the state was set up by `jpeg_CreateDecompress`.
        unsafe { c::jpeg_destroy_decompress(&mut self.state) }
    }
}

fn run(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    // SAFETY: the state is zeroed as libjpeg asks for, `errors` outlives it, and so do `bytes`, which it only reads.
    let mut jpeg = unsafe {
        let mut errors = Box::new(std::mem::zeroed());
        let mut state: Box<c::jpeg_decompress_struct> = Box::new(std::mem::zeroed());
        state.common.err = c::jpeg_std_error(&mut errors);
        errors.error_exit = Some(fail);
        errors.emit_message = Some(say_nothing);
        c::jpeg_CreateDecompress(&mut *state, c::JPEG_LIB_VERSION, size_of::<c::jpeg_decompress_struct>());
        let mut jpeg = Decompress { state, _errors: errors };
        c::jpeg_mem_src(&mut jpeg.state, bytes.as_ptr(), bytes.len() as c::c_ulong);
        (*jpeg.state.src).fill_input_buffer = Some(end);
        (*jpeg.state.src).skip_input_data = Some(skip);
        c::jpeg_read_header(&mut jpeg.state, 1);
        jpeg
    };
    let state = &mut *jpeg.state;
    let (width, height) = (state.image_width as usize, state.image_height as usize);
    check_size(width as u64, height as u64)?;
    use c::J_COLOR_SPACE::{JCS_CMYK, JCS_GRAYSCALE, JCS_RGB};
    (state.out_color_space, state.dct_method) = match state.num_components {
        1 => (JCS_GRAYSCALE, c::J_DCT_METHOD::JDCT_ISLOW),
        3 => (JCS_RGB, c::J_DCT_METHOD::JDCT_ISLOW),
        4 => (JCS_CMYK, c::J_DCT_METHOD::JDCT_ISLOW),
        count => return Err(DecodeError(format!("a JPEG of {count} channels is neither grey, colour nor CMYK"))),
    };
    let channels = state.num_components as usize;
    let mut data = vec![0; width * height * channels];
    // SAFETY: the header was read; each call writes one row, for which there is room.
    unsafe {
        c::jpeg_start_decompress(state);
        for row in data.chunks_exact_mut(width * channels) {
            let mut row = row.as_mut_ptr();
            c::jpeg_read_scanlines(state, &mut row, 1);
        }
        // Reads on to the end of the picture. Every row is there: like Pillow, we do without the mark of the end, but not
        // with damage before it.
        (*state.src).fill_input_buffer = Some(no_more);
        c::jpeg_finish_decompress(state);
    }
    Ok(Decoded { width, height, channels, data })
}

/// libjpeg's fatal errors.
unsafe extern "C-unwind" fn fail(state: &mut c::jpeg_common_struct) {
    let mut text = [0u8; 80];
    // SAFETY: libjpeg calls this with its error manager in place, whose formatter writes at most 80 bytes to where it is
    // told; that the binding takes the buffer as shared is a slip of its declaration.
    unsafe {
        if let Some(format) = (*state.err).format_message {
            type Format = unsafe extern "C-unwind" fn(&mut c::jpeg_common_struct, *mut u8);
            type Declared = unsafe extern "C-unwind" fn(&mut c::jpeg_common_struct, &[u8; 80]);
            std::mem::transmute::<Declared, Format>(format)(state, text.as_mut_ptr());
        }
    }
    let words = text.split(|byte| *byte == 0).next().unwrap_or_default();
    throw(format!("damaged JPEG: {}", String::from_utf8_lossy(words).to_lowercase()));
}

/// Its warnings and traces.
unsafe extern "C-unwind" fn say_nothing(_: &mut c::jpeg_common_struct, _: c::c_int) {}

/// Called when it wants more than there is.
unsafe extern "C-unwind" fn end(_: &mut c::jpeg_decompress_struct) -> c::boolean {
    throw("the file is cut off: the JPEG data ends too early".into())
}

/// Called instead when it wants more and need not have it: it gives up.
unsafe extern "C-unwind" fn no_more(_: &mut c::jpeg_decompress_struct) -> c::boolean {
    0
}

/// Passes over bytes that it does not want; those that are not there are missed by the next reading, and not before.
unsafe extern "C-unwind" fn skip(state: &mut c::jpeg_decompress_struct, bytes: c::c_long) {
    // SAFETY: the source was set up by `jpeg_mem_src`, and not more is passed over than there is.
    unsafe {
        let source = &mut *state.src;
        let bytes = usize::try_from(bytes).unwrap_or(0).min(source.bytes_in_buffer);
        source.next_input_byte = source.next_input_byte.add(bytes);
        source.bytes_in_buffer -= bytes;
    }
}

/// Leaves libjpeg, without a word from the panic hook.
fn throw(words: String) -> ! {
    resume_unwind(Box::new(DecodeError(words)))
}
