//! A table in the languages that tables are pasted into.

use super::table;

/// Headings and cells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A language for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Markdown,
    /// RFC 4180, with LF.
    Csv,
    /// A `tabular` with the rules of the package booktabs.
    Latex,
}

impl Table {
    /// The table as text, without a final newline.
    pub fn to_form(&self, form: Form) -> String {
        let heads: Vec<&str> = self.heads.iter().map(String::as_str).collect();
        match form {
            Form::Text => table(&heads, &self.rows),
            Form::Markdown => {
                let rule = vec!["---".to_string(); heads.len()];
                let row = |cells: &Vec<String>| format!("| {} |", joined(cells, " | ", markdown));
                self.lines([row(&self.heads), row(&rule)], row)
            }
            Form::Csv => {
                let row = |cells: &Vec<String>| joined(cells, ",", csv);
                self.lines([row(&self.heads)], row)
            }
            Form::Latex => {
                let row = |cells: &Vec<String>| format!("{} \\\\", joined(cells, " & ", latex));
                let open = format!("\\begin{{tabular}}{{{}}}", "l".repeat(heads.len()));
                let head = [open, "\\toprule".into(), row(&self.heads), "\\midrule".into()];
                format!("{}\n\\bottomrule\n\\end{{tabular}}", self.lines(head, row))
            }
        }
    }

    fn lines(&self, head: impl IntoIterator<Item = String>, row: impl Fn(&Vec<String>) -> String) -> String {
        head.into_iter().chain(self.rows.iter().map(row)).collect::<Vec<_>>().join("\n")
    }
}

fn joined(cells: &[String], between: &str, escape: fn(&str) -> String) -> String {
    cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(between)
}

fn markdown(cell: &str) -> String {
    cell.replace('|', "\\|")
}

fn csv(cell: &str) -> String {
    let plain = !cell.contains([',', '"', '\n', '\r']);
    if plain { cell.to_string() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
}

fn latex(cell: &str) -> String {
    let escape = |c: char| match c {
        '&' | '%' | '$' | '#' | '_' | '{' | '}' => format!("\\{c}"),
        '\\' => "\\textbackslash{}".into(),
        '^' => "\\textasciicircum{}".into(),
        '~' => "$\\sim$".into(),
        '±' => "$\\pm$".into(),
        c => c.to_string(),
    };
    cell.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_has_its_own_quotes() {
        let table = Table {
            heads: vec!["what".into(), "n_1".into()],
            rows: vec![vec!["a|b, \"c\"".into(), "0.7 ± 0.1".into()]],
        };
        assert_eq!(table.to_form(Form::Markdown), "| what | n_1 |\n| --- | --- |\n| a\\|b, \"c\" | 0.7 ± 0.1 |");
        assert_eq!(table.to_form(Form::Csv), "what,n_1\n\"a|b, \"\"c\"\"\",0.7 ± 0.1");
        let latex = table.to_form(Form::Latex);
        assert!(
            latex.contains("what & n\\_1 \\\\\n\\midrule\na|b, \"c\" & 0.7 $\\pm$ 0.1 \\\\\n\\bottomrule"),
            "{latex}"
        );
    }
}
