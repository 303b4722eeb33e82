//! One table of the file while it is read: values in, checked values or a problem out.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use nbd_gateway_policy::types::Bytes;

use crate::problem::{Report, key_path};
use crate::raw::RawSize;
use crate::schema;
use crate::units::{self, Interval};

/// A table and the report that its problems go to.
pub(super) struct Section<'a> {
    path: String,
    report: &'a mut Report,
}

impl<'a> Section<'a> {
    /// The table at `path`; empty is the top.
    pub(super) fn new(path: impl Into<String>, report: &'a mut Report) -> Self {
        Self { path: path.into(), report }
    }

    /// The table `key` inside this one.
    pub(super) fn inner(&mut self, key: &str) -> Section<'_> {
        Section { path: key_path(&self.path, key), report: self.report }
    }

    /// The entry of the list `key` inside this one.
    pub(super) fn entry(&mut self, key: &str, index: usize) -> Section<'_> {
        Section { path: format!("{}[{index}]", key_path(&self.path, key)), report: self.report }
    }

    /// Its own path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The line that it stands on, from 1.
    pub(super) fn line(&self) -> Option<usize> {
        self.report.position(&self.path).map(|(line, _)| line)
    }

    /// Notes at each key that is written here what is wrong with that, if anything is.
    pub(super) fn note_stated<D: fmt::Display>(&mut self, wrong: impl Fn(&str) -> Option<D>) {
        for key in self.report.stated(&self.path) {
            wrong(&key).into_iter().for_each(|what| self.note_with(&key, what, None));
        }
    }

    /// Whether nothing is wrong in it so far.
    pub(super) fn is_clean(&self) -> bool {
        self.report.is_clean(&self.path)
    }

    /// Something is wrong with all of it.
    pub(super) fn note_here(&mut self, what: impl fmt::Display, example: &str) {
        self.report.note_with(&self.path, what, Some(example.to_owned()));
    }

    /// Something is wrong with `key`; the example is the schema's.
    pub(super) fn note(&mut self, key: &str, what: impl fmt::Display) {
        self.report.note(&key_path(&self.path, key), what);
    }

    /// Something is wrong with `key`.
    pub(super) fn note_with<'e>(&mut self, key: &str, what: impl fmt::Display, example: impl Into<Option<&'e str>>) {
        self.report.note_with(&key_path(&self.path, key), what, example.into().map(str::to_owned));
    }

    /// `key` is missing, unless it was there and has its own problem; the example is the schema's.
    pub(super) fn missing(&mut self, key: &str, what: impl fmt::Display) {
        let path = key_path(&self.path, key);
        self.report.missing(&path, what, schema::example(&path));
    }

    /// `key` is missing, unless it was there and has its own problem.
    pub(super) fn missing_with(&mut self, key: &str, what: impl fmt::Display, example: &str) {
        self.report.missing(&key_path(&self.path, key), what, Some(example.to_owned()));
    }

    /// The value, or the problem that it is missing.
    pub(super) fn required<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.missing(key, "this key is missing");
        }
        value
    }

    /// The value, or the problem with it.
    pub(super) fn accept<T, E: fmt::Display>(&mut self, key: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|what| self.note(key, what)).ok()
    }

    /// A whole number in a range.
    pub(super) fn count(&mut self, key: &str, value: Option<i64>, range: RangeInclusive<u32>) -> Option<u32> {
        let value = value?;
        let fits = u32::try_from(value).ok().filter(|number| range.contains(number));
        if fits.is_none() {
            self.note(key, format_args!("{value} is not from {} to {}", range.start(), range.end()));
        }
        fits
    }

    /// A size, in bytes.
    pub(super) fn size(&mut self, key: &str, value: Option<&RawSize>) -> Option<u64> {
        match value? {
            RawSize::Text(text) => self.accept(key, units::bytes(text)).map(|bytes| bytes.0),
            RawSize::Bytes(bytes) => {
                self.accept(key, u64::try_from(*bytes).map_err(|_| format!("{bytes} is negative")))
            }
        }
    }

    /// A size in a range, in bytes.
    pub(super) fn size_in<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        value: Option<&RawSize>,
        range: RangeInclusive<u64>,
    ) -> Option<T> {
        let size = self.size(key, value)?;
        let fits = if range.contains(&size) { T::try_from(size).ok() } else { None };
        if fits.is_none() {
            let [size, least, most] = [size, *range.start(), *range.end()].map(|bytes| Bytes(bytes).written());
            self.note(key, format_args!("{size} is not from {least} to {most}"));
        }
        fits
    }

    /// A time in a range.
    pub(super) fn interval(
        &mut self,
        key: &str,
        value: Option<&str>,
        range: RangeInclusive<Interval>,
    ) -> Option<Duration> {
        let interval = self.accept(key, value?.parse::<Interval>())?;
        if range.contains(&interval) {
            return Some(interval.duration());
        }
        self.note(key, format_args!("{interval} is not from {} to {}", range.start(), range.end()));
        None
    }
}
