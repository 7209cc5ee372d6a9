//! Channels to RGB, by libjpeg's fixed-point formulas.

/// A row of brightness to a row of pixels.
pub(super) fn grey(luma: &[u8], out: &mut [u8]) {
    for (pixel, grey) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
        *pixel = [*grey; 3];
    }
}

/// A row of brightness, blueness and redness to a row of pixels.
pub(super) fn row(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if super::fast::colours(luma, blue, red, out) {
        return;
    }
    plain(luma, blue, red, out);
}

pub(super) fn plain(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) {
    for (((pixel, y), cb), cr) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma).zip(blue).zip(red) {
        *pixel = rgb(*y, *cb, *cr);
    }
}

/// One pixel: R = Y + 1.402 Cr, G = Y - 0.34414 Cb - 0.71414 Cr, B = Y + 1.772 Cb, with 16 fractional bits.
#[inline(always)]
pub(super) fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + HALF) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
