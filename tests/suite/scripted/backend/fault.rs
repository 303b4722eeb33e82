//! What a backend can do wrong: each misbehaviour has a name, and this is the list of them.

/// One misbehaviour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The greeting ends after so many bytes.
    GreetingCutAt(usize),
    /// The greeting is not NBD's.
    GreetingWrong,
    /// No greeting at all, and no close: qemu-nbd does so with one client too many.
    GreetingNever,
    /// No answer to any option.
    OptionsUnanswered,
    /// Options that a client can do without are refused with this kind of error.
    ExtrasRefused(u32),
    /// The connection ends where the answer to an option was due that a client can do without.
    ExtrasHungUpOn,
    /// The replies to GO end after so many bytes.
    GoCutAt(usize),
    /// An option reply without its magic number.
    OptionReplyWrong,
    /// A reply for an option that was not sent.
    OptionReplyForAnother,
    /// An option reply that claims 2^32-1 bytes.
    OptionReplyEndless,
    /// GO is acknowledged, and no size was told.
    GoWithoutSize,
    /// The size comes in fewer bytes than it has.
    GoWithShortInfo,
    /// A size of 2^64-1 bytes.
    GoWithHugeSize,
    /// A minimum block that is no power of two.
    BlockSizeOdd,
    /// GO is refused with words.
    GoRefused,
    /// The connection ends where a reply was due.
    ReplyNever,
    /// A reply ends after so many bytes.
    ReplyCutAt(usize),
    /// A reply without its magic number.
    ReplyWrong,
    /// A reply to a request that was never sent.
    CookieUnknown,
    /// Every reply twice.
    ReplyTwice,
    /// Requests of this command come back with ESHUTDOWN, others are answered, and the connection stays open: nbdkit does
    /// so when it is told to end.
    ShuttingDown(u16),
    /// The same, but other requests are never answered.
    ShuttingDownSilently(u16),
    /// More data than was asked for.
    ReplyLonger,
    /// A chunk that claims 2^32-1 bytes.
    ChunkEndless,
    /// Data before the request's range.
    ChunkBefore,
    /// Data after the request's range.
    ChunkAfter,
    /// The same range twice.
    ChunksOverlap,
    /// Half of the data, and done.
    ChunkMissing,
    /// A data chunk too short to say its offset.
    ChunkShort,
    /// A hole of no bytes.
    HoleEmpty,
    /// A chunk of a kind that nobody knows.
    ChunkUnknown,
    /// A simple reply to a READ where structured ones were agreed.
    ReplySimple,
    /// A structured reply where none were agreed.
    ReplyStructured,
    /// An error whose message is 60,000 bytes long.
    ErrorLong,
    /// An error whose message is longer than its chunk.
    ErrorTorn,
    /// An error with the number 0.
    ErrorZero,
    /// Extents of a context that was never agreed.
    StatusForeign,
    /// An extent of no bytes.
    StatusEmpty,
    /// Half an extent.
    StatusTorn,
    /// The extents of one context twice.
    StatusTwice,
    /// No extents, and done.
    StatusMissing,
    /// Extents of 512 bytes each: a very fragmented disk.
    StatusShredded,
    /// READs are answered in pieces of 512 bytes each, data and holes in turn.
    DataShredded,
    /// Chunks that say nothing new, without end: holes that overlap, errors, extents of a context that nobody selected.
    ChunksEndless,
    /// One request is answered, then the connection ends.
    AnswersOnce,
    /// Every request fails, with a sentence of 4096 bytes.
    ErrorWordy,
    /// A resize is answered by success, and the size is this one.
    ResizeOther(u64),
    /// A resize is answered by success with the size asked for, and nothing has changed.
    ResizeUnchanged,
    /// A resize is answered by success with a size of 2^63 bytes, and nothing has changed.
    ResizeHuge,
    /// A resize is done, and answered by a RESIZE chunk of five bytes.
    ResizeTorn,
    /// A resize is neither done nor answered before the test says so.
    ResizeLate,
    /// A NOTIFY is refused, although it is offered.
    NoticeRefused,
    /// A NOTIFY is answered by a notice each fifth of a millisecond, until it is replaced.
    NoticeFlood,
}
