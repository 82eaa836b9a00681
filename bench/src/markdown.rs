//! Tables that are aligned in a terminal and are tables in Markdown as well.

use std::fmt;

/// A table: the first row is its head, columns of numbers are aligned to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).to_vec()] }
    }

    /// A table with as many columns as come.
    #[must_use]
    pub fn of(head: Vec<String>) -> Self {
        Self { rows: vec![head] }
    }

    /// Adds a row of as many cells.
    pub fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let body = || self.rows.iter().skip(1);
        let facts: Vec<(usize, bool)> = (0..columns)
            .map(|column| {
                let width = self.rows.iter().map(|row| cell(row, column).chars().count()).max();
                let number = |text: String| {
                    text.starts_with(|c: char| c.is_ascii_digit() || "+-−~".contains(c))
                };
                let right = body().any(|row| number(cell(row, column)))
                    && body().all(|row| number(cell(row, column)) || cell(row, column).is_empty());
                (width.unwrap_or(0).max(3), right)
            })
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, (width, right)) in facts.iter().enumerate() {
                let text = cell(row, column);
                if *right {
                    write!(f, "| {text:>width$} ")?;
                } else {
                    write!(f, "| {text:<width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (width, right) in &facts {
                    let end = if *right { ":" } else { "-" };
                    write!(f, "| {}{end} ", "-".repeat(width - 1))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let mut table = Table::new(["name", "ns"]);
        table.row(["a".into(), "1".into()]);
        table.row(["long name".into(), "1000".into()]);
        let text = "| name      |   ns |\n| --------- | ---: |\n| a         |    1 |\n\
                    | long name | 1000 |\n";
        assert_eq!(table.to_string(), text);
    }
}
