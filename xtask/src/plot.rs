//! A small plot with logarithmic axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// A name and its points, in order.
pub type Series<'a> = (&'a str, Vec<(f64, f64)>);

/// Lines through the points of each series; every value must be positive.
pub fn log_log(x_label: &str, y_label: &str, series: &[Series]) -> String {
    let all: Vec<(f64, f64)> = series.iter().flat_map(|(_, points)| points.iter().copied()).collect();
    let (x, y) = (Axis::over(all.iter().map(|p| p.0)), Axis::over(all.iter().map(|p| p.1)));
    let at = |&(a, b): &(f64, f64)| {
        (MARGIN + x.place(a) * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - y.place(b) * (HEIGHT - 2.0 * MARGIN))
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, colour: &str, words: &str| {
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
        );
    };
    text(WIDTH / 2.0, HEIGHT - 12.0, "middle", "black", x_label);
    text(12.0, 24.0, "start", "black", y_label);
    for side in unique(all.iter().map(|p| p.0)) {
        text(at(&(side, y.low)).0, HEIGHT - MARGIN + 18.0, "middle", "black", &format!("{side}"));
    }
    for (i, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        text(MARGIN + 10.0, MARGIN + 16.0 * i as f64, "start", colour, name);
        for point in points {
            let (px, py) = at(point);
            text(px, py - 8.0, "middle", colour, &format!("{:.3}", point.1));
        }
    }
    for (i, (_, points)) in series.iter().enumerate() {
        let places: Vec<String> = points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let colour = COLOURS[i % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            places.join(" ")
        );
    }
    svg + "</svg>\n"
}

struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        Self { low: values.clone().fold(f64::INFINITY, f64::min), high: values.fold(0.0, f64::max) }
    }

    /// 0 at the low end, 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        if self.high > self.low { (value / self.low).ln() / (self.high / self.low).ln() } else { 0.5 }
    }
}

fn unique(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}
