//! Whether the device may have the size that was told: decided here, from numbers alone.
//!
//! The kernel takes any size, even one under a mounted file system, so what it must not be told ends here.

use super::device::SECTOR;

/// What to do about a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The device has it.
    Same,
    /// Tell the kernel this size, which is more.
    Grow(u64),
    /// Tell the kernel this size, which is less: it was ordered.
    Shrink(u64),
    /// Tell the kernel nothing.
    Refuse(Refusal),
}

/// Why a size is not for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is left of it: it is 0, or less than a block.
    Nothing,
    /// It is less, and nobody ordered that.
    Smaller,
}

impl Refusal {
    /// The word for programs.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Nothing => "too-small",
            Self::Smaller => "shrink",
        }
    }

    /// The words for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no device has less than one block",
            Self::Smaller => {
                "what is past the new end would be lost to whoever uses the device; if that is meant, say --allow-shrink"
            }
        }
    }
}

/// What to do when a device of `now` bytes, in blocks of `block` (512 at least), is told to have `told`. What does not
/// fill a block is left out: the kernel has no way to connector it.
pub(super) fn judge(told: u64, now: u64, block: u64, shrink: bool) -> Verdict {
    let size = whole(told, block);
    match size {
        0 => Verdict::Refuse(Refusal::Nothing),
        _ if size == now => Verdict::Same,
        _ if size > now => Verdict::Grow(size),
        _ if shrink => Verdict::Shrink(size),
        _ => Verdict::Refuse(Refusal::Smaller),
    }
}

/// The whole blocks in `size`, in bytes.
pub(super) fn whole(size: u64, block: u64) -> u64 {
    let block = block.max(SECTOR);
    size.saturating_sub(size.checked_rem(block).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_device_only_grows_unless_a_shrink_is_ordered() {
        for (told, shrink, verdict) in [
            (64 * MIB, false, Verdict::Same),
            (65 * MIB, false, Verdict::Grow(65 * MIB)),
            (63 * MIB, false, Verdict::Refuse(Refusal::Smaller)),
            (63 * MIB, true, Verdict::Shrink(63 * MIB)),
            (0, true, Verdict::Refuse(Refusal::Nothing)),
            (511, true, Verdict::Refuse(Refusal::Nothing)),
            // The tail that fills no block is not there for the kernel.
            (64 * MIB + 511, false, Verdict::Same),
            (64 * MIB + 513, false, Verdict::Grow(64 * MIB + 512)),
        ] {
            assert_eq!(judge(told, 64 * MIB, 512, shrink), verdict, "{told}");
        }
        assert_eq!(judge(MIB + 4095, MIB, 4096, false), Verdict::Same);
    }

    proptest! {
        #[test]
        fn the_kernel_is_never_told_nothing_or_a_part_of_a_block_or_less_unasked(
            told in 0..=u64::MAX >> 1, now in 0..=u64::MAX >> 10, power in 9_u32..17, shrink: bool,
        ) {
            let (block, now) = (1 << power, now * 512);
            match judge(told, now, block, shrink) {
                Verdict::Grow(size) => prop_assert!(size > now && size <= told && size % block == 0),
                Verdict::Shrink(size) => prop_assert!(shrink && size > 0 && size < now && size % block == 0),
                Verdict::Same => prop_assert!(now <= told && told - now < block),
                Verdict::Refuse(_) => prop_assert!(told < now.max(block)),
            }
        }
    }
}
