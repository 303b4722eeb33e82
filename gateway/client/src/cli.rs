//! The command line of `client` and `agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use nbd_gateway_config::{Interval, NbdUri, NewSize, bytes};
use nbd_gateway_policy::types::Bytes;

/// How a command ended, as every command's help states it.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  it failed; why is on standard error
  2  the command line or the configuration is wrong";

/// What the client can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ClientCommand {
    /// Show what the server says about an export: its size, what it can do, its block sizes
    #[command(after_help = EXIT_CODES)]
    Info(Ask),
    /// Show the size of an export, in bytes
    ///
    /// Asks on the open connection if the server can be asked so (NBD_CMD_RESIZE with QUERY); if not, the size is what
    /// the handshake told. Which of them it was is on standard error.
    #[command(after_help = EXIT_CODES)]
    Size(Ask),
    /// NewSize the size of an export, then ask what it is now
    ///
    /// Takes the way that the server offers: NBD_CMD_RESIZE; or, if the export grows by itself when it is written to past
    /// its end, zeroes written at the new end, and nowhere else. Which of them it was is on standard error. A server may
    /// round the size up, and may say so or not: what is printed is the size that it has afterwards.
    #[command(after_help = EXIT_CODES)]
    Resize(Resize),
    /// Print the size of an export, then a line for each new size
    ///
    /// Takes the best way that the server offers: it tells (NBD_CMD_RESIZE with NOTIFY), it is asked on the open
    /// connection (QUERY), it answers once the size is another (the context x-resize:watch), or, with any server, one
    /// new connection after another. Which of them it is comes first, on standard error. Ends when the server does.
    #[command(after_help = EXIT_CODES)]
    Watch(Watch),
    /// Read from an export, to standard output or to a file
    #[command(after_help = EXIT_CODES)]
    Read(Read),
    /// Write to an export, from standard input or from a file
    ///
    /// Writes all that there is to read, then asks the server to make it durable (FLUSH) if it can. Nothing is written
    /// past the end of the export, unless --grow says so and the server lets writes grow it.
    #[command(after_help = EXIT_CODES)]
    Write(Write),
}

impl ClientCommand {
    /// The export's URI.
    pub fn uri_mut(&mut self) -> &mut NbdUri {
        match self {
            Self::Info(ask) | Self::Size(ask) => &mut ask.uri,
            Self::Resize(resize) => &mut resize.uri,
            Self::Watch(watch) => &mut watch.uri,
            Self::Read(read) => &mut read.uri,
            Self::Write(write) => &mut write.uri,
        }
    }
}

/// What the agent does.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Agent {
    /// The export, like nbd://10.0.0.5/vm1
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// The nbd device, like /dev/nbd0
    #[arg(long, value_name = "DEVICE")]
    pub device: PathBuf,
    /// Take the device on as it is attached, whoever attached it and for whatever; never attach it
    #[arg(long)]
    pub follow: bool,
    /// How many connections to attach the device with, if the server allows more than one
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "follow",
        value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: u8,
    /// How long the kernel waits for an answer before it takes the connection for dead, in whole seconds
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub timeout: Interval,
    /// How long requests wait for another connection before they fail, in whole seconds
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub dead_timeout: Interval,
    /// How often to ask a server that cannot tell of sizes by itself
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub poll: Interval,
    /// Also make the device smaller when the export is: what is past the new end is lost to whoever uses it
    #[arg(long)]
    pub allow_shrink: bool,
    /// Detach the device at the end, unless it is in use
    #[arg(long)]
    pub detach: bool,
    /// Serve metrics over HTTP, like 127.0.0.1:9810
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// Print JSON, one object a line, for programs; sizes are whole numbers, in bytes
    #[arg(long)]
    pub json: bool,
}

/// Which export to ask about.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Ask {
    /// The export, like nbd://127.0.0.1/demo
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// Print JSON, for programs; sizes are whole numbers, in bytes
    #[arg(long)]
    pub json: bool,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Read {
    /// The export, like nbd://127.0.0.1/demo
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// Where to start, in bytes or like 1GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "0")]
    pub offset: Bytes,
    /// How much to read, in bytes or like 64KiB; to the end of the export if absent
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub length: Option<Bytes>,
    /// The file to write to, which is made or overwritten; standard output if absent
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Write {
    /// The export, like nbd://127.0.0.1/demo
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// Where to start, in bytes or like 1GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "0")]
    pub offset: Bytes,
    /// The file to read from; standard input if absent
    #[arg(long, short, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Grow the export where the input reaches past its end, if the server offers that
    #[arg(long)]
    pub grow: bool,
}

/// What to resize.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Resize {
    /// The export, like nbd://127.0.0.1/demo
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// The new size, in bytes or like 10GiB; or how much more, like +1GiB
    #[arg(value_name = "SIZE", allow_hyphen_values = true)]
    pub size: NewSize,
    /// Have the server make the new size durable before it answers
    #[arg(long)]
    pub durable: bool,
    /// Print JSON, for programs; sizes are whole numbers, in bytes
    #[arg(long)]
    pub json: bool,
}

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Watch {
    /// The export, like nbd://127.0.0.1/demo
    #[arg(value_name = "URI")]
    pub uri: NbdUri,
    /// The least time between two lines, and between two questions if the server has to be asked
    #[arg(long, value_name = "TIME", default_value = "250ms")]
    pub interval: Interval,
    /// End after so many lines; the first one is the size now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Print JSON, one object a line, for programs; sizes are whole numbers, in bytes
    #[arg(long)]
    pub json: bool,
}
