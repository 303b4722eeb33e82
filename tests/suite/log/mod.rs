//! Promise: the log costs nobody anything. Nobody waits for it to be written, and no client, server or stranger fills it.

mod flood;
mod stuck;
