//! What is in a picture: all that is drawn by lot.

use super::canvas::{Canvas, Colour, Figure, Kind, Texture};
use crate::seeded::Stream;

/// What makes the classes, with how often it comes: unevenly, as in life.
const SURFACES: [(&[Texture], &str, f64); 2] =
    [(&[Texture::Plain], "plain", 0.55), (&[Texture::Stripes, Texture::Dots, Texture::Checks], "patterned", 0.45)];
const COLOURS: [(Hue, &str, f64); 3] = [
    (Hue { degrees: [-10.0, 10.0], darkest: 0.55 }, "red", 0.50),
    (Hue { degrees: [210.0, 245.0], darkest: 0.55 }, "blue", 0.30),
    (Hue { degrees: [100.0, 145.0], darkest: 0.45 }, "green", 0.20),
];
const KINDS: [(Kind, &str, f64); 4] = [
    (Kind::Circle, "circle", 0.40),
    (Kind::Square, "square", 0.28),
    (Kind::Triangle, "triangle", 0.19),
    (Kind::Star, "star", 0.13),
];

/// Kinds of the grey shapes that are no class: the labelled ones, and two that never are.
const UNLABELLED: [Kind; 6] = [Kind::Circle, Kind::Square, Kind::Triangle, Kind::Star, Kind::Ring, Kind::Cross];

struct Hue {
    degrees: [f64; 2],
    /// Below this value the colour would look like another one.
    darkest: f64,
}

const TEXTURES: [Texture; 4] = [Texture::Plain, Texture::Stripes, Texture::Dots, Texture::Checks];

/// How often there are one, two, three and four labelled shapes, and their radius as a part of the shorter side.
const CROWDS: [(f64, [f64; 2]); 4] =
    [(0.15, [0.20, 0.34]), (0.33, [0.17, 0.27]), (0.34, [0.15, 0.23]), (0.18, [0.14, 0.20])];

/// Colours along each side of the background's pattern.
const GRID: usize = 5;

/// One picture's content.
pub(super) struct Scene {
    /// In pixels.
    pub(super) width: usize,
    /// In pixels.
    pub(super) height: usize,
    /// Classes of the labelled shapes, ascending.
    pub(super) labels: Vec<u32>,
    background: Vec<Colour>,
    /// From back to front.
    figures: Vec<Figure>,
    light: Colour,
    slope: [f32; 2],
    noise: f32,
}

/// Names of the classes: every kind in every colour with every surface.
pub(super) fn classes() -> Vec<String> {
    let mut names = vec![];
    for (_, kind, _) in KINDS {
        for (_, colour, _) in COLOURS {
            names.extend(SURFACES.map(|(_, surface, _)| format!("{surface} {colour} {kind}")));
        }
    }
    names
}

impl Scene {
    /// Draws a scene; `size` is the usual shorter side in pixels.
    pub(super) fn draw(stream: &mut Stream, size: u32) -> Self {
        let short = f64::from(size) * stream.range(0.8, 1.2);
        let long = short * stream.range(1.0, 4.0 / 3.0);
        let (width, height) = if stream.unit() < 0.5 { (long, short) } else { (short, long) };
        let (width, height) = (width.round() as usize, height.round() as usize);
        let mut lot = Lot { stream, size: [width as f64, height as f64], side: width.min(height) as f64 };

        let background = lot.background();
        let mut figures = lot.clutter();
        let (shapes, labels) = lot.shapes();
        figures.extend(shapes);
        if lot.chance(0.3) {
            figures.push(lot.strip(0.01, 0.02));
        }
        let exposure = lot.within(0.75, 1.15);
        let light = [(); 3].map(|()| exposure * lot.within(0.93, 1.07));
        let slope = [(); 2].map(|()| lot.within(-0.45, 0.45));
        let noise = lot.within(2.0, 12.0);
        Self { width, height, labels, background, figures, light, slope, noise }
    }

    /// Paints the scene: `[height, width, 3]`.
    pub(super) fn render(&self, stream: &mut Stream) -> Vec<u8> {
        let mut canvas = Canvas::new(self.width, self.height, &self.background, GRID);
        for figure in &self.figures {
            canvas.paint(figure);
        }
        canvas.develop(self.light, self.slope, self.noise, stream)
    }
}

/// Draws by lot for a picture of the given size.
struct Lot<'a> {
    stream: &'a mut Stream,
    /// Width and height, in pixels.
    size: [f64; 2],
    /// The shorter one.
    side: f64,
}

impl Lot<'_> {
    /// The labelled shapes, inside the centre square that a crop keeps, and their classes.
    fn shapes(&mut self) -> (Vec<Figure>, Vec<u32>) {
        let count = self.weighted(&CROWDS.map(|(often, _)| often));
        let radii = CROWDS[count].1;
        let (mut figures, mut labels) = (Vec::<Figure>::new(), vec![]);
        for _ in 0..=count {
            let kind = self.weighted(&KINDS.map(|(_, _, often)| often));
            let colour = self.weighted(&COLOURS.map(|(_, _, often)| often));
            let surface = self.weighted(&SURFACES.map(|(_, _, often)| often));
            let textures = SURFACES[surface].0;
            let texture = textures[self.below(textures.len())];
            let radius = self.side * self.range(radii[0], radii[1]);
            let centre = self.place(radius, &figures);
            let tone = self.tone(&COLOURS[colour].0);
            figures.push(Figure { texture, ..self.figure(KINDS[kind].0, tone, centre, radius) });
            labels.push(((kind * COLOURS.len() + colour) * SURFACES.len() + surface) as u32);
        }
        labels.sort_unstable();
        labels.dedup();
        (figures, labels)
    }

    /// The first of some random places where a shape hides little of the others; else the best of them.
    fn place(&mut self, radius: f64, others: &[Figure]) -> [f64; 2] {
        const TRIES: usize = 24;
        let (mut best, mut most) = ([0.0; 2], f64::NEG_INFINITY);
        for _ in 0..TRIES {
            let spare = self.side / 2.0 - 0.75 * radius;
            let centre = self.size.map(|length| length / 2.0 + spare * self.range(-1.0, 1.0));
            let nearest = others.iter().map(|other| {
                let [dx, dy] = [0, 1].map(|axis| centre[axis] - f64::from(other.centre[axis]));
                dx.hypot(dy) / (radius + f64::from(other.radii[0].max(other.radii[1])))
            });
            let room = nearest.fold(f64::INFINITY, f64::min);
            if room > most {
                (best, most) = (centre, room);
            }
            if room > 0.8 {
                break;
            }
        }
        best
    }

    /// A figure with everything that says nothing about its class drawn by lot.
    fn figure(&mut self, kind: Kind, tone: Colour, centre: [f64; 2], radius: f64) -> Figure {
        let squash = self.range(0.78, 1.0);
        let deeper = self.within(0.55, 0.75);
        let paler = self.within(0.25, 0.5);
        let second = match self.chance(0.5) {
            true => tone.map(|channel| channel * deeper),
            false => tone.map(|channel| channel + (1.0 - channel) * paler),
        };
        Figure {
            kind,
            texture: TEXTURES[self.weighted(&[0.4, 0.2, 0.2, 0.2])],
            tones: [tone, second],
            centre: centre.map(|c| c as f32),
            radii: [radius as f32, (radius * squash) as f32],
            turn: self.within(0.0, std::f32::consts::TAU),
            pitch: self.within(1.2, 2.4),
            shade: [(); 2].map(|()| self.within(-0.25, 0.25)),
        }
    }

    /// Pale smears, strips, and shapes without a colour: things that are no class.
    fn clutter(&mut self) -> Vec<Figure> {
        let mut figures = vec![];
        for _ in 0..2 + self.below(4) {
            let (radius, centre, grey) = (self.side * self.range(0.08, 0.35), self.anywhere(), self.grey(0.2));
            let mut smear = self.figure(Kind::Circle, grey, centre, radius);
            smear.radii[1] *= self.within(0.2, 0.8);
            figures.push(smear);
        }
        for _ in 0..self.below(4) {
            figures.push(self.strip(0.01, 0.05));
        }
        for _ in 0..self.below(3) {
            let kind = UNLABELLED[self.below(UNLABELLED.len())];
            let (radius, centre, grey) = (self.side * self.range(0.1, 0.22), self.anywhere(), self.grey(0.08));
            figures.push(self.figure(kind, grey, centre, radius));
        }
        figures
    }

    /// A long thin bar; its half-width is a part of the shorter side.
    fn strip(&mut self, thinnest: f64, thickest: f64) -> Figure {
        let (length, centre, grey) = (self.side * self.range(0.3, 0.9), self.anywhere(), self.grey(0.15));
        let mut strip = self.figure(Kind::Square, grey, centre, length);
        strip.radii[1] = (self.side * self.range(thinnest, thickest)) as f32;
        strip.texture = Texture::Plain;
        strip
    }

    fn background(&mut self) -> Vec<Colour> {
        let base = self.grey(0.25);
        let contrast = self.within(0.05, 0.25);
        (0..GRID * GRID)
            .map(|_| {
                let step = self.within(-contrast, contrast);
                base.map(|channel| (channel + step + self.within(-0.04, 0.04)).clamp(0.0, 1.0))
            })
            .collect()
    }

    /// A tone of a class's colour.
    fn tone(&mut self, hue: &Hue) -> Colour {
        let degrees = self.range(hue.degrees[0], hue.degrees[1]);
        let (saturation, value) = (self.range(0.6, 1.0), self.range(hue.darkest, 1.0));
        from_hsv(degrees, saturation, value)
    }

    /// Grey, or so pale that it is no colour.
    fn grey(&mut self, most_saturated: f64) -> Colour {
        let (degrees, saturation) = (self.range(0.0, 360.0), self.range(0.0, most_saturated));
        from_hsv(degrees, saturation, self.stream.range(0.1, 0.95))
    }

    fn anywhere(&mut self) -> [f64; 2] {
        self.size.map(|length| self.stream.range(0.0, length))
    }

    fn range(&mut self, low: f64, high: f64) -> f64 {
        self.stream.range(low, high)
    }

    fn within(&mut self, low: f32, high: f32) -> f32 {
        self.stream.range(low.into(), high.into()) as f32
    }

    fn chance(&mut self, often: f64) -> bool {
        self.stream.unit() < often
    }

    fn below(&mut self, n: usize) -> usize {
        self.stream.below(n)
    }

    /// A position, drawn as often as its weight says; the weights sum to 1.
    fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.stream.unit();
        for (position, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return position;
            }
        }
        // The weights' sum was a rounding error short of 1.
        weights.len() - 1
    }
}

/// Hue in degrees, saturation and value from 0 to 1.
fn from_hsv(degrees: f64, saturation: f64, value: f64) -> Colour {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + degrees / 60.0).rem_euclid(6.0);
        (value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)) as f32
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::stream;

    #[test]
    fn hues_are_where_they_belong() {
        assert_eq!(from_hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        assert_eq!(from_hsv(60.0, 1.0, 1.0), [1.0, 1.0, 0.0]);
        assert_eq!(from_hsv(120.0, 1.0, 0.5), [0.0, 0.5, 0.0]);
        assert_eq!(from_hsv(240.0, 0.5, 1.0), [0.5, 0.5, 1.0]);
    }

    #[test]
    fn weights_are_kept() {
        let mut stream = stream(1, "weights", &[]);
        let mut lot = Lot { stream: &mut stream, size: [1.0; 2], side: 1.0 };
        let drawn: Vec<usize> = (0..10_000).map(|_| lot.weighted(&[0.5, 0.3, 0.2])).collect();
        for (position, expected) in [5000, 3000, 2000].into_iter().enumerate() {
            let count = drawn.iter().filter(|d| **d == position).count();
            assert!(count.abs_diff(expected) < 200, "{position}: {count}");
        }
    }

    #[test]
    fn labels_name_what_is_painted_last() {
        assert_eq!(classes().len(), 24);
        assert_eq!(classes()[13], "patterned red triangle");
        for number in 0..50 {
            let scene = Scene::draw(&mut stream(1, "scene", &[number]), 64);
            assert!(scene.labels.iter().all(|label| (*label as usize) < 24));
            assert_eq!(scene.render(&mut stream(2, "noise", &[])).len(), scene.width * scene.height * 3);
        }
    }
}
