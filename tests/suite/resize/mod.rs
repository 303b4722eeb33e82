//! Promise: a client of any style resizes, or follows, a backend of any style, and what cannot be translated is refused
//! with the right error. One test per cell of client style, backend style and event; [`table`] draws what they found and
//! compares it with the README.

mod backend;
mod behind;
mod cell;
mod client;
mod event;
mod expect;
mod growth;
mod pairs;
mod stock;
mod style;
mod table;
mod terminals;
