//! The bytes of one sector: which sector it is, which write they come from, and nothing else. A sector that holds anything
//! else was torn, misplaced or damaged.

/// The unit in which clients write, in bytes. No kernel and no server tears it by itself.
pub(super) const SECTOR: usize = 512;

/// The first word of a written sector.
const MAGIC: u64 = 0x6475_7261_6269_6c65;

/// What a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Zeroes,
    /// The bytes of this write.
    Written(u64),
    /// Neither.
    Damaged,
}

/// The bytes that write number `sequence` puts into this sector.
pub(super) fn encode(sector: u64, sequence: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let mut word = sector ^ sequence.rotate_left(32);
    for (index, slot) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => MAGIC,
            1 => sector,
            2 => sequence,
            _ => {
                // Every word depends on the header, so the whole sector is its own checksum.
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                word
            }
        };
        slot.copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Which write this sector comes from.
pub(super) fn decode(sector: u64, bytes: &[u8]) -> Content {
    if bytes.iter().all(|byte| *byte == 0) {
        return Content::Zeroes;
    }
    let sequence = bytes.get(16..24).and_then(|word| word.try_into().ok()).map_or(0, u64::from_be_bytes);
    if bytes == encode(sector, sequence) { Content::Written(sequence) } else { Content::Damaged }
}

#[test]
fn a_sector_tells_which_write_it_comes_from_and_whether_it_is_whole() {
    let mut bytes = encode(7, 42);
    assert_eq!(decode(7, &bytes), Content::Written(42));
    assert_eq!(decode(8, &bytes), Content::Damaged, "misplaced");
    bytes[300..].copy_from_slice(&encode(7, 41)[300..]);
    assert_eq!(decode(7, &bytes), Content::Damaged, "torn");
    assert_eq!(decode(7, &[0; SECTOR]), Content::Zeroes);
}
