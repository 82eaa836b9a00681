//! What all plots have in common.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Text sizes, pixels.
pub(super) const TITLE: u32 = 28;
pub(super) const LABEL: u32 = 20;
pub(super) const TICK: u32 = 18;

/// White, with a title and a line below it; returns what is left.
pub(super) fn canvas<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    subtitle: &str,
) -> Result<DrawingArea<B, Shift>>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font();
    area.draw(&Text::new(title.to_owned(), (24, 14), font(TITLE).style(FontStyle::Bold)))?;
    let grey = font(TICK).color(&RGBColor(80, 80, 80));
    area.draw(&Text::new(subtitle.to_owned(), (24, 50), grey))?;
    let (width, height) = area.dim_in_pixel();
    let below = height.checked_sub(80).ok_or_else(|| anyhow!("no room for a plot"))?;
    Ok(area.clone().shrink((0, 80), (width, below)))
}
