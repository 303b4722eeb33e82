//! Label values: closed sets, so that no client can make a series.

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }
        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// Their texts, in the same order.
            pub const TEXTS: &'static [&'static str] = &[$($text),*];
            /// The label's text.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
            /// Its place in [`ALL`](Self::ALL).
            pub(crate) fn index(self) -> usize {
                Self::ALL.iter().position(|v| *v == self).unwrap_or(0)
            }
        }
    };
}

labels! {
    /// A command of the transmission phase.
    Command {
        /// NBD_CMD_READ
        Read => "read",
        /// NBD_CMD_WRITE
        Write => "write",
        /// NBD_CMD_FLUSH
        Flush => "flush",
        /// NBD_CMD_TRIM
        Trim => "trim",
        /// NBD_CMD_CACHE
        Cache => "cache",
        /// NBD_CMD_WRITE_ZEROES
        WriteZeroes => "write_zeroes",
        /// NBD_CMD_BLOCK_STATUS
        BlockStatus => "block_status",
        /// Everything else.
        Other => "other",
    }
}

labels! {
    /// How a request ended.
    Outcome {
        /// Success.
        Ok => "ok",
        /// EPERM
        Eperm => "eperm",
        /// EIO
        Eio => "eio",
        /// ENOMEM
        Enomem => "enomem",
        /// EINVAL
        Einval => "einval",
        /// ENOSPC
        Enospc => "enospc",
        /// ESHUTDOWN
        Eshutdown => "eshutdown",
        /// ENOTSUP, EOVERFLOW
        Unsupported => "unsupported",
    }
}

labels! {
    /// Which way payload bytes went, seen from the client.
    Direction {
        /// To the client.
        Read => "read",
        /// From the client.
        Write => "write",
    }
}

labels! {
    /// Why a client's connection was closed, or refused, before its session began.
    RefusedConnection {
        /// It was the oldest handshake, and another client came.
        Handshakes => "handshakes",
        /// The listener has as many sessions as it may have.
        Sessions => "sessions",
        /// The process has too few descriptors left.
        Descriptors => "descriptors",
    }
}

labels! {
    /// Why a backend connection was made anew.
    LossReason {
        /// The connection was lost, whoever closed it.
        Lost => "lost",
    }
}

labels! {
    /// Who wished for a resize, and how it is told of it.
    ResizeStyle {
        /// NBD_CMD_RESIZE, simple replies.
        Simple => "simple",
        /// NBD_CMD_RESIZE, structured replies or extended headers.
        Structured => "structured",
        /// A write past the end.
        Automatic => "automatic",
        /// An operator.
        Operator => "operator",
        /// The backend, by itself.
        Backend => "backend",
    }
}

labels! {
    /// How a resize ended.
    ResizeResult {
        /// Done.
        Ok => "ok",
        /// Refused.
        Refused => "refused",
        /// The backend's size can't be: the export is quarantined.
        Quarantined => "quarantined",
        /// Nobody knows whether the backend did it.
        Unsettled => "unsettled",
    }
}

labels! {
    /// What resizes a backend.
    ResizeDriver {
        /// The gateway: its own file or memory.
        Origin => "origin",
        /// NBD_CMD_RESIZE.
        Wire => "wire",
        /// Writes past the end.
        Automatic => "automatic",
        /// Nothing: more of it is shown.
        Window => "window",
        /// Its file's length.
        File => "file",
        /// QMP.
        Qmp => "qmp",
        /// A restart.
        Restart => "restart",
        /// A program.
        Exec => "exec",
        /// Nothing.
        None => "none",
    }
}

labels! {
    /// How somebody beside the clients is told of a size.
    HookWay {
        /// A qemu, by QMP.
        Qmp => "qmp",
        /// A URL.
        Http => "http",
        /// A program.
        Exec => "exec",
    }
}

labels! {
    /// How an attempt to tell somebody ended.
    HookResult {
        /// It was heard.
        Ok => "ok",
        /// It was not, or nobody knows; there is another attempt.
        Failed => "failed",
    }
}

labels! {
    /// What came of a size that an agent was told.
    AgentResize {
        /// The device has it.
        Ok => "ok",
        /// It is none for this device.
        Refused => "refused",
        /// The kernel did not take it.
        Failed => "failed",
    }
}

labels! {
    /// What came of an agent's attempt to replace a dead connection.
    AgentReconnect {
        /// The device has another.
        Ok => "ok",
        /// The server gave none that fits, or the kernel did not take it.
        Failed => "failed",
    }
}
