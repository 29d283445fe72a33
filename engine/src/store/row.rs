//! Reads the rows of either database as values of the domain. A column of the wrong type, or NULL where a value is required, is an
//! error that names the table, the column and the id. Both stores report it in the same way.

use super::{Error, columns::Place};
use crate::domain::time::Timestamp;

/// The column has another type than expected.
pub struct WrongType;

/// A row of either database, read by column number. NULL is `None`.
pub trait Row {
    fn number(&self, column: usize) -> Result<Option<i64>, WrongType>;
    fn text(&self, column: usize) -> Result<Option<&str>, WrongType>;
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, WrongType>;
}

/// Reads the columns of one row.
pub struct Columns<'r, R> {
    row: &'r R,
    pub place: Place,
}

impl<'r, R: Row> Columns<'r, R> {
    /// Reads a row of `table` whose first column is its id.
    pub fn numbered(table: &'static str, row: &'r R) -> Result<Self, Error> {
        let columns = Self::named(table, row);
        let id = columns.number(0, "id")?;
        Ok(Self { row, place: Place { table, id } })
    }

    /// Reads a row of `table`, whose key is a text.
    pub fn named(table: &'static str, row: &'r R) -> Self {
        Self { row, place: Place { table, id: 0 } }
    }

    pub fn id(&self) -> i64 {
        self.place.id
    }

    pub fn optional_number(&self, column: usize, name: &'static str) -> Result<Option<i64>, Error> {
        self.row.number(column).map_err(|_| self.place.corrupt(name))
    }

    pub fn number(&self, column: usize, name: &'static str) -> Result<i64, Error> {
        self.optional_number(column, name)?.ok_or_else(|| self.place.corrupt(name))
    }

    pub fn optional_time(&self, column: usize, name: &'static str) -> Result<Option<Timestamp>, Error> {
        Ok(self.optional_number(column, name)?.map(Timestamp::from_millis))
    }

    pub fn time(&self, column: usize, name: &'static str) -> Result<Timestamp, Error> {
        self.number(column, name).map(Timestamp::from_millis)
    }

    pub fn optional_text(&self, column: usize, name: &'static str) -> Result<Option<&'r str>, Error> {
        self.row.text(column).map_err(|_| self.place.corrupt(name))
    }

    pub fn text(&self, column: usize, name: &'static str) -> Result<&'r str, Error> {
        self.optional_text(column, name)?.ok_or_else(|| self.place.corrupt(name))
    }

    pub fn optional_bytes(&self, column: usize, name: &'static str) -> Result<Option<&'r [u8]>, Error> {
        self.row.bytes(column).map_err(|_| self.place.corrupt(name))
    }

    pub fn bytes(&self, column: usize, name: &'static str) -> Result<&'r [u8], Error> {
        self.row.bytes(column).ok().flatten().ok_or_else(|| self.place.corrupt(name))
    }

    /// Reads a word and parses it.
    pub fn word<T>(&self, column: usize, name: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        parse(self.text(column, name)?).ok_or_else(|| self.place.corrupt(name))
    }
}
