//! Charts as SVG, for light and dark pages.

use std::fmt::Write as _;

use super::figures::whole;

/// The width of every chart.
pub const WIDTH: f64 = 960.0;

const STYLE: &str = "
    .page { fill: #ffffff; stroke: #d0d7de; }
    .head { fill: #1f2328; font-size: 19px; font-weight: 600; }
    .name { fill: #1f2328; font-size: 15px; font-weight: 600; }
    .text { fill: #424a53; font-size: 13px; }
    .mid { text-anchor: middle; }
    .end { text-anchor: end; }
    .grid { stroke: #d0d7de; }
    .axis { stroke: #57606a; }
    .spread { stroke: #1f2328; stroke-width: 1.6; fill: none; }
    .s0 { fill: #0969da; } .s1 { fill: #9a6700; }
    .p0 { fill: #0969da; } .p1 { fill: #1a7f37; } .p2 { fill: #8250df; }
    .p3 { fill: #cf222e; } .p4 { fill: #6e7781; } .p5 { fill: #d8dee4; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d; }
      .head, .name { fill: #f0f6fc; }
      .text { fill: #c9d1d9; }
      .grid { stroke: #30363d; }
      .axis { stroke: #8b949e; }
      .spread { stroke: #f0f6fc; }
      .s0 { fill: #4493f8; } .s1 { fill: #d29922; }
      .p0 { fill: #4493f8; } .p1 { fill: #3fb950; } .p2 { fill: #ab7df8; }
      .p3 { fill: #f85149; } .p4 { fill: #8b949e; } .p5 { fill: #2a313c; }
    }
";

/// An axis from zero to a round number at or above the largest value.
pub struct Scale {
    step: f64,
    steps: u32,
    pixels: f64,
}

impl Scale {
    /// For values up to `most` on this many pixels.
    pub fn to(most: f64, pixels: f64) -> Self {
        let step = tick(most);
        let mut steps = 1;
        while step * f64::from(steps) < most {
            steps += 1;
        }
        Self {
            step,
            steps,
            pixels,
        }
    }

    /// The pixels of a value.
    pub fn length(&self, value: f64) -> f64 {
        value / (self.step * f64::from(self.steps)) * self.pixels
    }

    /// Grid of this height, numbers and unit below it; returns where the axis ends.
    pub fn draw(
        &self,
        drawing: &mut Drawing,
        zero: f64,
        (top, height): (f64, f64),
        unit: &str,
    ) -> f64 {
        let bottom = top + height;
        for index in 0..=self.steps {
            let value = self.step * f64::from(index);
            let x = zero + self.length(value);
            drawing.line(x, top, x, bottom, "grid");
            let number = if self.step < 1.0 {
                // As many decimals as the step has.
                let decimals = format!("{}", self.step).len().saturating_sub(2);
                format!("{value:.decimals$}")
            } else {
                whole(value)
            };
            drawing.text(x, bottom + 16.0, "text mid", &number);
        }
        drawing.text(zero + self.pixels / 2.0, bottom + 34.0, "text mid", unit);
        bottom
    }
}

/// The distance between an axis's numbers: 1, 2 or 5 times a power of ten, for at most five of
/// them.
fn tick(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let fits = |times: &f64| times * power * 5.0 >= most;
    let times = [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0);
    // Ten to a negative power is not exact; its shortest decimal is.
    format!("{:.9}", times * power).parse().unwrap_or(power)
}

/// An SVG drawing.
#[derive(Default)]
pub struct Drawing {
    /// Its elements, as SVG text.
    pub body: String,
}

impl Drawing {
    /// Words at a place.
    pub fn text(&mut self, x: f64, y: f64, class: &str, words: &str) {
        let words = escaped(words);
        let _ = writeln!(
            self.body,
            "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
        );
    }

    /// A bar from its upper left corner; `title` is shown while the pointer is on it.
    pub fn bar(
        &mut self,
        (x, y): (f64, f64),
        (length, height): (f64, f64),
        class: &str,
        title: &str,
    ) {
        let _ = writeln!(
            self.body,
            "  <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{height}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    /// A line from one point to another.
    pub fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "  <line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// The whole page; `title` is for readers who cannot see the drawing.
    pub fn page(&self, height: f64, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-labelledby=\"title\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n  \
             <title id=\"title\">{}</title>\n  \
             <style>{STYLE}  </style>\n  \
             <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n{}</svg>\n",
            escaped(title),
            WIDTH - 1.0,
            height - 1.0,
            self.body
        )
    }
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number_and_has_at_most_five_steps() {
        for (most, step, steps) in [
            (4100.0, 1000.0, 5),
            (3000.0, 1000.0, 3),
            (0.31, 0.1, 4),
            (5.0, 1.0, 5),
            (5.1, 2.0, 3),
            (0.0, 1.0, 1),
        ] {
            let scale = Scale::to(most, 100.0);
            assert_eq!((scale.step, scale.steps), (step, steps), "{most}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let scale = Scale::to(4000.0, 760.0);
        assert_eq!(scale.length(4000.0), 760.0);
        assert_eq!(scale.length(1000.0), 760.0 / 4.0);
    }
}
