//! The disk of the scripted server: each sector has the number of the write that it comes from, cached and durable.

/// Bytes of a sector. All requests of clients are multiples of it.
pub(super) const SECTOR: u64 = 512;
/// Content of a sector that a grow exposes unzeroed. No client may read it.
pub(super) const GARBAGE: u64 = u64::MAX;

/// Per sector the number of a write, 0 for zeroes.
#[derive(Debug)]
pub(super) struct Disk {
    cached: Vec<u64>,
    durable: Vec<u64>,
}

impl Disk {
    pub(super) fn new(sectors: usize) -> Self {
        Self { cached: vec![0; sectors], durable: vec![0; sectors] }
    }

    pub(super) fn sectors(&self) -> usize {
        self.cached.len()
    }

    pub(super) fn size(&self) -> u64 {
        self.cached.len() as u64 * SECTOR
    }

    pub(super) fn get(&self, sector: usize) -> u64 {
        self.cached[sector]
    }

    pub(super) fn durable(&self, sector: usize) -> u64 {
        self.durable[sector]
    }

    pub(super) fn set(&mut self, sector: usize, by: u64, durable: bool) {
        self.cached[sector] = by;
        if durable {
            self.durable[sector] = by;
        }
    }

    pub(super) fn flush(&mut self) {
        self.durable.clone_from(&self.cached);
    }

    /// Loses the cache, except the sectors for which `kept` returns true.
    pub(super) fn lose(&mut self, mut kept: impl FnMut() -> bool) {
        for (cached, durable) in self.cached.iter_mut().zip(&mut self.durable) {
            if *cached != *durable && kept() {
                *durable = *cached;
            }
            *cached = *durable;
        }
    }

    /// Changes the size, which is durable at once. New sectors have `content`.
    pub(super) fn resize(&mut self, sectors: usize, content: u64) {
        self.cached.resize(sectors, content);
        self.durable.resize(sectors, content);
    }
}

/// The bytes that write `by` has for a sector.
pub(super) fn bytes_of(by: u64, sector: usize) -> [u8; 512] {
    let mut bytes = [0; 512];
    if by != 0 {
        let (low, high) = (by.to_be_bytes(), (sector as u64).to_be_bytes());
        bytes.chunks_exact_mut(16).for_each(|chunk| {
            chunk[..8].copy_from_slice(&low);
            chunk[8..].copy_from_slice(&high);
        });
    }
    bytes
}

/// The number of the write that has these bytes for this sector; none, if they are mixed or belong elsewhere.
pub(super) fn writer_of(bytes: &[u8], sector: usize) -> Option<u64> {
    let by = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == bytes_of(by, sector)).then_some(by)
}
