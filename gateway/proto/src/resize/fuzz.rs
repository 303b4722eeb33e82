//! Reads any bytes as the RESIZE extension.

use super::{MAX_INTERVAL, ResizeInfo, ResizeRequest, Wish};
use crate::request::RequestHeader;
use crate::{Cmd, CmdFlags, Cookie, Framing, Info, MAX_SIZE};

/// Reads `data` as an NBD_INFO_RESIZE and as a request: what is taken is within its bounds and is written back as it was.
pub(super) fn fuzz_resize(data: &[u8]) {
    if let Ok(info) = ResizeInfo::parse(data) {
        assert_eq!([&Info::RESIZE.0.to_be_bytes()[..], &info.to_body()].concat(), data);
        assert!(info.minimum <= info.maximum && info.maximum <= MAX_SIZE && info.granularity.is_power_of_two());
    }
    let Some((flags, rest)) = data.split_first_chunk::<2>() else { return };
    let Some((offset, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((length, _)) = rest.split_first_chunk::<8>() else { return };
    let header = RequestHeader {
        flags: CmdFlags(u16::from_be_bytes(*flags)),
        command: Cmd::RESIZE,
        cookie: Cookie(u64::from_be_bytes(*offset)),
        offset: u64::from_be_bytes(*offset),
        length: u64::from_be_bytes(*length),
    };
    for fua in [false, true] {
        let Ok(request) = ResizeRequest::parse(&header, fua) else { continue };
        assert_eq!(request.header(header.cookie, Framing::Extended), header);
        assert!(fua || !request.durable);
        match request.wish {
            Wish::Size { size } => assert!((1..=MAX_SIZE).contains(&size)),
            Wish::Query => assert_eq!((header.offset, header.length), (0, 0)),
            Wish::Notify { interval, .. } => assert!(interval.as_millis() <= u128::from(MAX_INTERVAL)),
        }
    }
}
