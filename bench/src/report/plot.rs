//! Plots, each as SVG and as PNG.
//!
//! Colours are Okabe and Ito's, which colour-blind people tell apart; shapes and dashes differ too.

mod chart;
mod lines;
mod overhead;
mod peers;

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::FontStyle;

use crate::measure::Bar;
use crate::samples::Samples;

/// A PNG's pixels; an SVG scales.
const SIZE: (u32, u32) = (1200, 720);
/// Okabe and Ito's colours, without the yellow that white swallows.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Draws everything that there are samples of.
///
/// # Errors
/// A file cannot be written.
pub(super) fn all(samples: &Samples, bars: &[Bar], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    // A process may register a font once only; a second time does no harm.
    let font: &'static [u8] = dejavu::sans::regular();
    let bold: &'static [u8] = dejavu::sans::bold();
    let register = |style, bytes| plotters::style::register_font("sans-serif", style, bytes);
    register(FontStyle::Normal, font).map_err(|_| anyhow!("an invalid font"))?;
    register(FontStyle::Bold, bold).map_err(|_| anyhow!("an invalid font"))?;
    if let Some(groups) = overhead::of(samples) {
        draw(folder, "overhead", &groups)?;
    }
    if let Some(groups) = peers::of(samples) {
        draw(folder, "peers", &groups)?;
    }
    for plot in lines::all(samples, bars) {
        draw(folder, plot.name, &plot)?;
    }
    Ok(())
}

/// Something to draw.
trait Plot {
    /// Draws it on an empty area.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, plotters::coord::Shift>) -> Result<()>
    where
        B::ErrorType: 'static;
}

fn draw(folder: &Path, name: &str, plot: &impl Plot) -> Result<()> {
    let file = |extension| folder.join(name).with_extension(extension);
    let (png, svg) = (file("png"), file("svg"));
    let area = BitMapBackend::new(&png, SIZE).into_drawing_area();
    plot.draw(&area)?;
    area.present()?;
    let area = SVGBackend::new(&svg, SIZE).into_drawing_area();
    plot.draw(&area)?;
    Ok(area.present()?)
}
