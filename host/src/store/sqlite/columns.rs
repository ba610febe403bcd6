//! Reading columns that are more than SQLite's own types.

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::clock::Time;

/// A time, if there is one.
pub(super) fn time(row: &SqliteRow, column: &str) -> Result<Option<Time>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Time::from_micros))
}

/// What a column holds as JSON, if it holds anything.
pub(super) fn json_of<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>, sqlx::Error> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| sqlx::Error::Decode(Box::new(e)))).transpose()
}

/// A list of texts.
pub(super) fn texts(row: &SqliteRow, column: &str) -> Result<Vec<String>, sqlx::Error> {
    Ok(json_of(row, column)?.unwrap_or_default())
}
