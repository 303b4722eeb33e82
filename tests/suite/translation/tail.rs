//! Promise: nothing is shown that can't be had: of a disk that ends inside one of its server's blocks, whole blocks.

use std::fs;

use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_as_it_is;
use crate::place::Place;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// Its last bytes were shown, and every request for them failed.
#[test]
fn of_a_disk_that_ends_inside_a_block_whole_blocks_are_shown_and_the_rest_is_told() -> Result<(), Trouble> {
    for (size, minimum) in [((1_u64 << 20) + 512, 4096_u64), ((1 << 20) + 4096, 65536), ((1 << 20) + 1, 512)] {
        let place = Place::fresh()?;
        let file = place.path("disk");
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        fs::write(&file, &bytes)?;
        let (file, minimum_key) = (file.display().to_string(), format!("blocksize-minimum={minimum}"));
        let more = ["blocksize-preferred=64K", "blocksize-maximum=1M", "blocksize-error-policy=error"];
        let plugin = [&["file", &file, &minimum_key][..], &more].concat();
        let served = nbdkit_as_it_is(&["--filter=blocksize-policy"], &plugin)?;
        let gateway = Gateway::start(&export("vm", &served.uri(), ""))?.expecting_warnings();
        let (mut client, opened) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
        assert_eq!(opened.size, size / minimum * minimum);
        let (from, to) = (opened.size as usize - 300, opened.size as usize);
        ensure(client.read(from as u64, 300)? == bytes[from..to], || "other bytes".into())?;
        client.write(opened.size - 1, b"Q")?.success()?;
        client.leave()?;
        let after = fs::read(&file)?;
        ensure(after.len() as u64 == size && after[to - 1] == b'Q' && after[to..] == bytes[to..], || {
            "the tail".into()
        })?;
        ensure(gateway.log_tail(50).contains("whole blocks are shown"), || gateway.log_tail(50))?;
        gateway.end()?;
    }
    Ok(())
}
