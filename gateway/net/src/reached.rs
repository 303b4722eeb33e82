//! How far an attempt to reach a server has come, to say what it lacks when its time is over.

use std::fmt::Display;

/// What there has been of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reached {
    /// No connection: its host, or the queue of a server that does not accept, leaves connect(2) without an answer.
    #[default]
    Nothing,
    /// A connection, which the kernel makes whether the server accepts it or not.
    Connection,
    /// Its greeting, or the first bytes of one.
    Greeting,
}

impl Reached {
    /// What it lacked, with what it had for a time.
    pub fn late(self, within: impl Display) -> String {
        match self {
            Self::Nothing => format!("no connection within {within}: is the host up, and is the server accepting?"),
            Self::Connection => format!(
                "connected, but the server sent no greeting within {within}: is it accepting, and does it take one more \
                 connection?"
            ),
            Self::Greeting => format!("the server did not finish the handshake within {within}"),
        }
    }
}
