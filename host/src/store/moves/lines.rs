//! Rows on their way from the file to the database: a list of values for each column, so that a whole batch is one
//! statement.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite};

use crate::clock::Time;
use crate::store::postgres;

/// What a column holds, in the file and in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Int,
    Real,
    /// 0 or 1 in the file.
    Flag,
    /// Microseconds since 1970 in the file.
    Time,
    Bytes,
    /// Text in the file, as the following.
    Uuid,
    /// A document that the database keeps to the letter.
    Document,
    /// One that it looks into.
    Searched,
    /// One that it puts into its own order, to find out what a memory adds to another.
    Details,
    /// A list of texts.
    Texts,
    /// Lists of words, to be searched.
    Words,
}

impl Holds {
    /// The type of a parameter that holds many.
    const fn parameter(self) -> &'static str {
        match self {
            Self::Int => "bigint[]",
            Self::Real => "double precision[]",
            Self::Flag => "boolean[]",
            Self::Time => "timestamptz[]",
            Self::Bytes => "bytea[]",
            _ => "text[]",
        }
    }

    /// One of them, as the column has it.
    fn value(self, name: &str) -> String {
        match self {
            Self::Uuid => format!("v.{name}::uuid"),
            Self::Document => format!("v.{name}::json"),
            Self::Searched => format!("v.{name}::jsonb"),
            Self::Details => format!("portreeve.memory_details(v.{name}::json, NULL)::json"),
            Self::Texts => format!("ARRAY(SELECT json_array_elements_text(v.{name}::json))"),
            Self::Words => format!("portreeve.memory_words(v.{name}::jsonb)"),
            _ => format!("v.{name}"),
        }
    }
}

/// A column: its name, which is the same in both, and what it holds.
pub(super) type Column = (&'static str, Holds);

/// The statement that writes lines of these columns. Every name in it is one of this program's.
pub(super) fn insert<'a>(table: &str, columns: impl Iterator<Item = &'a Column>) -> String {
    let (mut names, mut values, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (name, holds)) in columns.enumerate() {
        names.push(*name);
        values.push(holds.value(name));
        parameters.push(format!("${}::{}", n.saturating_add(1), holds.parameter()));
    }
    let (names, values, parameters) = (names.join(", "), values.join(", "), parameters.join(", "));
    format!(
        "INSERT INTO portreeve.{table} (workspace, {names}) OVERRIDING SYSTEM VALUE
         SELECT portreeve.current_workspace(), {values} FROM unnest({parameters}) AS v ({names})"
    )
}

/// The values of one column.
#[derive(Debug)]
pub(super) enum Values {
    Texts(Vec<Option<String>>),
    Ints(Vec<Option<i64>>),
    Reals(Vec<Option<f64>>),
    Flags(Vec<Option<bool>>),
    Times(Vec<Option<Time>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Values {
    pub(super) const fn of(holds: Holds) -> Self {
        match holds {
            Holds::Int => Self::Ints(Vec::new()),
            Holds::Real => Self::Reals(Vec::new()),
            Holds::Flag => Self::Flags(Vec::new()),
            Holds::Time => Self::Times(Vec::new()),
            Holds::Bytes => Self::Bytes(Vec::new()),
            _ => Self::Texts(Vec::new()),
        }
    }

    /// Adds what a row of the file has in a column; about how many bytes it is.
    pub(super) fn read(&mut self, row: &SqliteRow, name: &str) -> Result<usize, sqlx::Error> {
        match self {
            Self::Texts(values) => put(values, row, name, String::len),
            Self::Ints(values) => put(values, row, name, |_| 8),
            Self::Reals(values) => put(values, row, name, |_| 8),
            Self::Flags(values) => put(values, row, name, |_| 1),
            Self::Bytes(values) => put(values, row, name, Vec::len),
            Self::Times(values) => {
                values.push(row.try_get::<Option<i64>, _>(name)?.map(Time::from_micros));
                Ok(8)
            }
        }
    }

    pub(super) fn bind<'q>(self, query: postgres::Args<'q>) -> postgres::Args<'q> {
        match self {
            Self::Texts(values) => query.bind(values),
            Self::Ints(values) => query.bind(values),
            Self::Reals(values) => query.bind(values),
            Self::Flags(values) => query.bind(values),
            Self::Times(values) => query.bind(values),
            Self::Bytes(values) => query.bind(values),
        }
    }
}

fn put<'r, T>(
    values: &mut Vec<Option<T>>,
    row: &'r SqliteRow,
    name: &str,
    size: impl Fn(&T) -> usize,
) -> Result<usize, sqlx::Error>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    let value: Option<T> = row.try_get(name)?;
    let bytes = value.as_ref().map_or(0, size);
    values.push(value);
    Ok(bytes)
}
