//! Tables that fit a terminal: columns as wide as what is in them, and where that is too wide, the columns that hold names
//! give way, the widest first. Anywhere but on a terminal nothing is cut and nothing is coloured.

use std::io::IsTerminal;

use super::shown::{columns, length};

/// The least that a column of names is cut to.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// Where a table is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Columns; none: as many as are needed.
    pub(super) width: Option<usize>,
    /// Whether it knows colours.
    pub(super) colours: bool,
}

impl Terminal {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Self { width: None, colours: false };
        }
        let width = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|w| *w > 0);
        // https://no-color.org: set, and not empty.
        let colours = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        Self { width, colours }
    }
}

/// What a cell says besides its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// Nothing.
    #[default]
    Plain,
    Heading,
    /// It needs a look.
    Warning,
    /// It needs somebody now.
    Alert,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::Plain }
    }
}

impl Cell {
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// How a column lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// Names: to the left, cut where there is no room.
    Name,
    /// Words: to the left, never cut.
    Word,
    /// Numbers: to the right, never cut.
    Number,
}

struct Column<'a, T> {
    lies: Lies,
    title: &'static str,
    cell: Box<dyn Fn(&T) -> Cell + 'a>,
}

/// A table with a row for each thing of a list, and columns that say what stands in them.
pub(super) struct Table<'a, T> {
    list: &'a [T],
    columns: Vec<Column<'a, T>>,
}

impl<'a, T> Table<'a, T> {
    /// Without columns yet.
    pub(super) fn of(list: &'a [T]) -> Self {
        Self { list, columns: Vec::new() }
    }

    /// Adds a column of names.
    pub(super) fn name<C: Into<Cell>>(self, title: &'static str, cell: impl Fn(&T) -> C + 'a) -> Self {
        self.with(Lies::Name, title, cell)
    }

    /// Adds a column of words.
    pub(super) fn word<C: Into<Cell>>(self, title: &'static str, cell: impl Fn(&T) -> C + 'a) -> Self {
        self.with(Lies::Word, title, cell)
    }

    /// Adds a column of numbers.
    pub(super) fn number<C: Into<Cell>>(self, title: &'static str, cell: impl Fn(&T) -> C + 'a) -> Self {
        self.with(Lies::Number, title, cell)
    }

    fn with<C: Into<Cell>>(mut self, lies: Lies, title: &'static str, cell: impl Fn(&T) -> C + 'a) -> Self {
        self.columns.push(Column { lies, title, cell: Box::new(move |thing| cell(thing).into()) });
        self
    }

    /// Its lines.
    pub(super) fn render(&self, terminal: Terminal) -> String {
        let columns = &self.columns;
        let mut rows: Vec<Vec<Cell>> =
            vec![columns.iter().map(|column| Cell::styled(column.title, Style::Heading)).collect()];
        rows.extend(self.list.iter().map(|thing| columns.iter().map(|column| (column.cell)(thing)).collect()));
        let mut widths = vec![0; columns.len()];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = length(&cell.text).max(*width);
            }
        }
        if let Some(most) = terminal.width {
            narrow(columns, &mut widths, most);
        }
        let mut text = String::new();
        for row in &rows {
            // Blanks are written before what comes next, so that no line ends in them.
            let mut owed = 0;
            for ((column, width), cell) in columns.iter().zip(&widths).zip(row) {
                let cut = cut(&cell.text, *width);
                let pad = width.saturating_sub(length(&cut));
                let (before, after) = if column.lies == Lies::Number { (pad, 0) } else { (0, pad) };
                text.push_str(&" ".repeat(owed + before));
                text.push_str(&painted(&cut, cell.style, terminal.colours));
                owed = after + GAP;
            }
            text.push('\n');
        }
        text
    }
}

/// Appends what is to be said below a table, a line each.
pub(super) fn note_below(text: &mut String, notes: impl Iterator<Item = String>) {
    for (at, note) in notes.enumerate() {
        text.push_str(if at == 0 { "\n" } else { "" });
        text.push_str(&note);
        text.push('\n');
    }
}

/// A text in the colours of its style.
pub(super) fn painted(text: &str, style: Style, colours: bool) -> String {
    let code = match style {
        Style::Heading => "1",
        Style::Warning => "33",
        Style::Alert => "31",
        Style::Plain => return text.to_owned(),
    };
    if colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Takes from the widest column of names until all fits, or none can give.
fn narrow<T>(columns: &[Column<'_, T>], widths: &mut [usize], most: usize) {
    let gaps = GAP * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > most {
        let names = columns.iter().zip(widths.iter_mut()).filter(|(column, _)| column.lies == Lies::Name);
        match names.map(|(_, width)| width).max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            Some(_) | None => return,
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let (mut kept, mut taken) = (String::new(), 1);
    for c in text.chars() {
        taken += columns(c);
        if taken > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAPER: Terminal = Terminal { width: None, colours: false };

    fn table_of(names: &[&str], terminal: Terminal) -> String {
        Table::of(names)
            .name("NAME", |name| *name)
            .number("SIZE", |_| "10GiB")
            .word("STATE", |_| "ready")
            .render(terminal)
    }

    #[test]
    fn numbers_lie_to_the_right_and_no_line_ends_in_blanks() {
        let table = table_of(&["a", "a-longer-name"], PAPER);
        assert_eq!(
            table,
            "NAME            SIZE  STATE\n\
             a              10GiB  ready\n\
             a-longer-name  10GiB  ready\n"
        );
    }

    #[test]
    fn where_there_is_no_room_names_give_way() {
        let terminal = Terminal { width: Some(24), colours: false };
        let table = table_of(&["images/a-very-long-name"], terminal);
        assert_eq!(table, "NAME         SIZE  STATE\nimages/a-…  10GiB  ready\n");
        let narrow = Terminal { width: Some(3), colours: false };
        assert!(table_of(&["images/a-very-long-name"], narrow).contains("images/…  10GiB"));
    }

    #[test]
    fn colours_are_for_terminals_and_cost_no_width() {
        let alert = |_: &&str| Cell::styled("quarantined", Style::Alert);
        let columns = Table::of(&["a"]).name("NAME", |name| *name).number("SIZE", |_| "1B").word("STATE", alert);
        let table = columns.render(Terminal { width: Some(80), colours: true });
        assert!(table.ends_with("a       1B  \x1b[31mquarantined\x1b[0m\n"), "{table:?}");
        assert!(!columns.render(PAPER).contains('\x1b'));
    }

    #[test]
    fn what_takes_two_columns_of_a_terminal_is_counted_as_two() {
        let table = table_of(&["仮想ディスク", "e\u{301}te\u{301}"], PAPER);
        assert_eq!(
            table,
            "NAME           SIZE  STATE\n\
             仮想ディスク  10GiB  ready\n\
             e\u{301}te\u{301}           10GiB  ready\n"
        );
        let terminal = Terminal { width: Some(24), colours: false };
        assert_eq!(table_of(&["仮想ディスク"], terminal), "NAME         SIZE  STATE\n仮想ディ…   10GiB  ready\n");
    }

    proptest! {
        #[test]
        fn a_table_fits_wherever_its_numbers_do(names in prop::collection::vec("\\PC{0,60}", 0..5), width in 26_usize..200) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let table = table_of(&names, Terminal { width: Some(width), colours: false });
            for line in table.lines() {
                prop_assert!(length(line) <= width, "{line}");
            }
        }
    }
}
