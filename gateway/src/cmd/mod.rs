//! The program's commands, each in a room of its own. They print, and end with one clear line if they fail.

pub mod client;
