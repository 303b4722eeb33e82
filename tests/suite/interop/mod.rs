//! Promise: any stock client talks through the gateway to any stock server that it can talk to, and nothing is lost on
//! the way. One test per pair; [`table`] draws what they found and compares it with the README.

mod cell;
mod pairs;
mod table;
