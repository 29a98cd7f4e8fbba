//! Columns for a terminal, as wide as what stands in them.

/// Rows of cells as lines, the columns aligned and two spaces apart.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["id", "level", "rule"], ["1a", "4", "admin"], ["2b", "2", "not_found_enumeration"]];
        let text = table(&rows.map(|row| row.map(str::to_owned)));
        assert_eq!(text, "id  level  rule\n1a  4      admin\n2b  2      not_found_enumeration\n");
    }
}
