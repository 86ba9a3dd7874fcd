//! A picture of the JSON that `cargo xtask bench log` writes: a panel per measurement, a bar per engine.

use crate::rival::Failure;
use plotters::prelude::*;
use serde_json::Value;
use std::path::Path;

const WIDTH: u32 = 1100;
const BAR: i32 = 18;
const TITLE: i32 = 34;
const LABELS: i32 = 190;
const NUMBERS: i32 = 210;

/// Draws `json` into `svg`.
pub(crate) fn plot(json: &Path, svg: &Path) -> Result<(), Failure> {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    let cases = all["cases"].as_array().ok_or("no cases")?;
    let heights: Vec<i32> = cases.iter().map(height).collect();
    let total = heights.iter().sum::<i32>() + 20;
    let root = SVGBackend::new(svg, (WIDTH, total as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut top = 10;
    for (case, height) in cases.iter().zip(heights) {
        panel(&root, case, top)?;
        top += height;
    }
    root.present()?;
    Ok(())
}

fn rows(case: &Value) -> &[Value] {
    case["engines"].as_array().map_or(&[], Vec::as_slice)
}

fn height(case: &Value) -> i32 {
    TITLE + BAR * rows(case).len() as i32 + 12
}

fn panel<DB: DrawingBackend>(
    root: &DrawingArea<DB, plotters::coord::Shift>,
    case: &Value,
    top: i32,
) -> Result<(), Failure>
where
    DB::ErrorType: 'static,
{
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let unit = case["unit"].as_str().unwrap_or("");
    let title = format!("{} ({unit})", case["name"].as_str().unwrap_or(""));
    let draw = |what: &str, at: (i32, i32), size: i32| {
        root.draw(&Text::new(what.to_owned(), at, text(size)))
            .map_err(|error| error.to_string())
    };
    draw(&title, (10, top + 8), 16)?;
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(0.0);
    let largest = rows(case)
        .iter()
        .map(|row| number(row, "max"))
        .fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH as i32 - LABELS - NUMBERS);
    for (at, row) in rows(case).iter().enumerate() {
        let y = top + TITLE + BAR * at as i32;
        let x = |value: f64| LABELS + (value / largest * room) as i32;
        let name = row["name"].as_str().unwrap_or("");
        let color = match name {
            "Esker" => RGBColor(0xd9, 0x5f, 0x02),
            _ if name.starts_with("floor") => RGBColor(0xbb, 0xbb, 0xbb),
            _ => RGBColor(0x37, 0x6c, 0xa5),
        };
        let median = number(row, "median");
        let (least, most) = (number(row, "min"), number(row, "max"));
        draw(name, (10, y + 2), 13)?;
        root.draw(&Rectangle::new(
            [(LABELS, y + 2), (x(median).max(LABELS + 1), y + BAR - 3)],
            color.filled(),
        ))
        .map_err(|error| error.to_string())?;
        // The spread of the rounds.
        root.draw(&PathElement::new(
            vec![(x(least), y + BAR / 2), (x(most), y + BAR / 2)],
            BLACK,
        ))
        .map_err(|error| error.to_string())?;
        draw(
            &format!("{} ({} - {})", short(median), short(least), short(most)),
            (WIDTH as i32 - NUMBERS + 10, y + 2),
            13,
        )?;
    }
    Ok(())
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
