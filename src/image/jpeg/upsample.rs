//! A channel with half the samples to full rows, with libjpeg's smooth filter: three parts of the nearer sample, one of
//! the farther.

use super::quick::Plane;

/// `width` samples of row `y` of the picture, from `left` on.
pub(super) fn row<'a>(plane: &'a Plane, y: usize, left: usize, width: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    let samples = plane.stride.min(plane.width - plane.left);
    let line = |y: usize| &plane.data[(y - plane.top) * plane.stride..][..samples];
    let (near, far) = match plane.is_half_down {
        false => (line(y), None),
        true => {
            let near = y / 2;
            let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(plane.height - 1) };
            (line(near), Some(line(far)))
        }
    };
    let left = left - plane.left * if plane.is_half_across { 2 } else { 1 };
    match (plane.is_half_across, far) {
        (false, None) => return &near[left..left + width],
        (false, Some(far)) => between(near, far, 1 + (y % 2) as u16, buffer),
        (true, None) => {
            let sums = near.iter().map(|near| u16::from(*near));
            twice::<2>(&sums.collect::<Vec<_>>(), [1, 2], buffer);
        }
        (true, Some(far)) => {
            let sums = near.iter().zip(far).map(|(near, far)| 3 * u16::from(*near) + u16::from(*far));
            twice::<4>(&sums.collect::<Vec<_>>(), [8, 7], buffer);
        }
    }
    &buffer[left..left + width]
}

/// A row between two.
fn between(near: &[u8], far: &[u8], bias: u16, out: &mut Vec<u8>) {
    out.clear();
    out.extend(near.iter().zip(far).map(|(near, far)| ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8));
}

/// Two samples for each of at least three: the left one leans to the left neighbour, the right one to the right.
fn twice<const DROP: u32>(sums: &[u16], [left, right]: [u16; 2], out: &mut Vec<u8>) {
    let last = sums.len() - 1;
    out.resize(sums.len() * 2, 0);
    for (around, pair) in sums.windows(3).zip(out[2..].as_chunks_mut::<2>().0) {
        pair[0] = ((3 * around[1] + around[0] + left) >> DROP) as u8;
        pair[1] = ((3 * around[1] + around[2] + right) >> DROP) as u8;
    }
    // Beyond the edge lies the sample at the edge; alone, it is rounded as libjpeg does.
    let edge = |sum: u16, bias: u16| ((4 * sum + bias) >> DROP) as u8;
    (out[0], out[1]) = (edge(sums[0], left), ((3 * sums[0] + sums[1] + right) >> DROP) as u8);
    out[last * 2] = ((3 * sums[last] + sums[last - 1] + left) >> DROP) as u8;
    out[last * 2 + 1] = edge(sums[last], right);
}
