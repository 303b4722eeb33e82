//! The `x-resize:` metadata contexts, for clients that can neither ask for NBD_INFO_RESIZE nor send NBD_CMD_RESIZE.
//!
//! Owns their names. What selecting one means is the session's to keep, and what its extents say is told there.

use core::fmt;

/// What the name of each of them begins with: as a query, it lists all and selects none.
pub const CONTEXT_PREFIX: &str = "x-resize:";

/// One of the contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Context {
    /// Selecting it opts in to growth by writes.
    Automatic,
    /// Selecting it opts out of growth by writes.
    NoAutomatic,
    /// Its flags are the low 32 bits of the size now.
    SizeLow,
    /// Its flags are the high 32 bits of the size now.
    SizeHigh,
    /// Selecting it makes BLOCK_STATUS wait for another size.
    Watch,
}

impl Context {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 5] = [Self::Automatic, Self::NoAutomatic, Self::SizeLow, Self::SizeHigh, Self::Watch];

    /// Its whole name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Automatic => "x-resize:automatic",
            Self::NoAutomatic => "x-resize:no-automatic",
            Self::SizeLow => "x-resize:size-low",
            Self::SizeHigh => "x-resize:size-high",
            Self::Watch => "x-resize:watch",
        }
    }

    /// The context of this name, if it is one of them.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|context| context.name() == name)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
