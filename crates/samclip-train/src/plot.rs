//! Small plots as SVG: the loss curve of a run, and one figure against another.

use crate::error::TrainError;
use crate::run_log::Line;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Name of the loss curve in the run directory.
pub const CURVE_FILE: &str = "loss.svg";

const SIZE: (u32, u32) = (800, 480);
const FONT: (&str, i32) = ("sans-serif", 14);

/// Range of the values, a little wider; never empty.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let margin = ((high - low) * 0.05).max(1e-6);
    low - margin..high + margin
}

/// The weighted sum of all terms at each line of the log, and its running mean.
pub fn loss_curve(title: &str, lines: &[Line]) -> Result<String, TrainError> {
    let points: Vec<(f64, f64)> =
        lines.iter().filter(|l| l.loss.is_finite()).map(|l| (l.step as f64, f64::from(l.loss))).collect();
    if points.is_empty() {
        return Ok(String::new());
    }
    let mut mean = points[0].1;
    let smooth: Vec<(f64, f64)> = points
        .iter()
        .map(|&(step, loss)| {
            mean += 0.1 * (loss - mean);
            (step, mean)
        })
        .collect();
    let mut svg = String::new();
    curve(&mut svg, title, &points, &smooth).map_err(|e| TrainError::Invalid(format!("loss curve: {e}")))?;
    Ok(svg)
}

fn curve(
    svg: &mut String,
    title: &str,
    points: &[(f64, f64)],
    smooth: &[(f64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(range(points.iter().map(|p| p.0)), range(points.iter().map(|p| p.1)))?;
    chart.configure_mesh().x_desc("steps").y_desc("loss").label_style(FONT).draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), &RGBColor(170, 200, 225)))?;
    chart.draw_series(LineSeries::new(smooth.iter().copied(), RGBColor(0, 114, 178).stroke_width(2)))?;
    root.present()?;
    Ok(())
}

/// Points with their names in a plane.
pub fn scatter(title: &str, axes: [&str; 2], points: &[(String, f64, f64)]) -> Result<String, TrainError> {
    let mut svg = String::new();
    if !points.is_empty() {
        plane(&mut svg, title, axes, points).map_err(|e| TrainError::Invalid(format!("plot: {e}")))?;
    }
    Ok(svg)
}

fn plane(
    svg: &mut String,
    title: &str,
    [x, y]: [&str; 2],
    points: &[(String, f64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(range(points.iter().map(|p| p.1)), range(points.iter().map(|p| p.2)))?;
    chart.configure_mesh().x_desc(x).y_desc(y).label_style(FONT).draw()?;
    let dot = |(_, x, y): &(String, f64, f64)| Circle::new((*x, *y), 4, RGBColor(213, 94, 0).filled());
    chart.draw_series(points.iter().map(dot))?;
    // Points at one place share their label.
    let mut labels: Vec<(String, f64, f64)> = Vec::new();
    for (name, x, y) in points {
        match labels.iter_mut().find(|p| (p.1, p.2) == (*x, *y)) {
            Some(same) => same.0 += &format!(", {name}"),
            None => labels.push((name.clone(), *x, *y)),
        }
    }
    let middle = f64::midpoint(chart.x_range().start, chart.x_range().end);
    chart.draw_series(labels.into_iter().map(|(name, x, y)| {
        // Names of points on the right stand on their left, inside the plot.
        let (side, shift) = if x > middle { (HPos::Right, -7) } else { (HPos::Left, 7) };
        let style = TextStyle::from(FONT.into_font()).pos(Pos::new(side, VPos::Top));
        EmptyElement::at((x, y)) + Text::new(name, (shift, -6), style)
    }))?;
    root.present()?;
    Ok(())
}

/// Writes the loss curve of a run directory.
pub fn write_curve(run: &Path, title: &str, lines: &[Line]) -> Result<(), TrainError> {
    let svg = loss_curve(title, lines)?;
    match svg.is_empty() {
        true => Ok(()),
        false => crate::export::write_atomic(&run.join(CURVE_FILE), svg.as_bytes()),
    }
}
