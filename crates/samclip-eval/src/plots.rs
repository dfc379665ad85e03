//! Curves as SVG.

use crate::summary::Curve;
use plotters::prelude::*;

const SIZE: (u32, u32) = (640, 420);
const FONT: (&str, i32) = ("sans-serif", 14);

/// The plot of a curve; empty without points.
///
/// # Errors
/// What the plotting crate reports.
pub fn svg(title: &str, curve: &Curve) -> Result<String, String> {
    let mut out = String::new();
    if !curve.points.is_empty() {
        draw(&mut out, title, curve).map_err(|e| format!("plot {}: {e}", curve.name))?;
    }
    Ok(out)
}

fn draw(out: &mut String, title: &str, curve: &Curve) -> Result<(), Box<dyn std::error::Error>> {
    let (low, high) = curve.points.iter().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let root = SVGBackend::with_string(out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(low..high.max(low + 1e-6), 0.0..1.0)?;
    chart.configure_mesh().x_desc(&curve.x).y_desc(&curve.y).label_style(FONT).draw()?;
    chart.draw_series(LineSeries::new(curve.points.iter().copied(), RGBColor(0, 114, 178).stroke_width(2)))?;
    root.present()?;
    Ok(())
}
