//! The words that every decision is made of, built so that a wrong one can't exist.
//!
//! Owns names ([`TenantId`], [`ExportName`]), sizes ([`Size`], [`Granularity`], [`ByteRange`], [`Bytes`]) and time
//! as decisions see it ([`Moment`]), and how these are written: in sentences ([`Count`], [`Span`]), in tables and in a
//! configuration. It never reads a clock and never parses the units that people write: the config does.

mod moment;
mod name;
mod shown;
mod size;
mod words;

pub use moment::Moment;
pub use name::{ExportName, NameError, TenantId};
pub use shown::{BYTE_UNITS, Count, Span};
pub use size::{ByteRange, Bytes, Granularity, GranularityError, Size, SizeError};
pub use words::Worded;
