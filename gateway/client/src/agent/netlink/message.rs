//! What the nbd driver is asked and what it tells, as netlink messages, sans-IO.
//!
//! Owns the numbers of `linux/nbd-netlink.h`. Never puts two things into one message that must be two: a size goes without
//! sockets, because the kernel waits for requests in flight before it takes a size, and those may wait for the socket.

use super::wire::{Builder, Message, attributes, messages, u16_at, u32_at};

/// The control family, whose number is fixed (GENL_ID_CTRL).
const CONTROL: u16 = 0x10;
const CONTROL_VERSION: u8 = 1;
/// CTRL_CMD_GETFAMILY.
const GET_FAMILY: u8 = 3;
/// CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_MCAST_GROUPS.
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
/// CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID.
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;

/// NBD_GENL_VERSION.
const VERSION: u8 = 1;
/// The family's and its multicast group's names, as C strings.
const NAME: &[u8] = b"nbd\0";
const GROUP: &[u8] = b"nbd_mc_group\0";
/// NBD_CMD_CONNECT, _DISCONNECT, _RECONFIGURE, _LINK_DEAD.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const LINK_DEAD: u8 = 4;
/// NBD_ATTR_*.
const INDEX: u16 = 1;
const SIZE: u16 = 2;
const BLOCK_SIZE: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND: u16 = 10;
/// NBD_SOCK_ITEM, NBD_SOCK_FD.
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;

/// The numbers that the kernel gave to the nbd family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Family {
    /// Its messages' type.
    pub(super) id: u16,
    /// The group that LINK_DEAD is told to.
    pub(super) group: u32,
}

/// How long the kernel waits, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Timeouts {
    /// For the answer to a request, before it takes the connection for dead.
    pub(in crate::agent) request: u64,
    /// For another connection in place of a dead one, before requests fail.
    pub(in crate::agent) dead: u64,
}

/// What the driver is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Request {
    /// Attach a device that is free.
    Connect {
        /// In bytes, a multiple of the block size.
        size: u64,
        /// In bytes.
        block_size: u64,
        /// The transmission flags, as the server told them.
        flags: u16,
        /// How long to wait.
        timeouts: Timeouts,
        /// Connections in the transmission phase.
        sockets: Vec<u32>,
    },
    /// Another size, and nothing else.
    Size(u64),
    /// A connection in place of a dead one.
    Socket(u32),
    /// How long to wait.
    Timeouts(Timeouts),
    /// Detach.
    Disconnect,
}

/// The question for the numbers of the nbd family.
pub(super) fn get_family(sequence: u32) -> Vec<u8> {
    let mut builder = Builder::new(CONTROL, GET_FAMILY, CONTROL_VERSION, sequence);
    builder.put(FAMILY_NAME, NAME);
    builder.finish()
}

impl Request {
    /// The message. `backend` is who the device was attached for: what was given at the attach has to be repeated with
    /// each change, or the kernel refuses it.
    pub(super) fn encode(&self, family: Family, index: u32, backend: Option<&str>, sequence: u32) -> Vec<u8> {
        let command = match self {
            Self::Connect { .. } => CONNECT,
            Self::Size(_) | Self::Socket(_) | Self::Timeouts(_) => RECONFIGURE,
            Self::Disconnect => DISCONNECT,
        };
        let mut builder = Builder::new(family.id, command, VERSION, sequence);
        builder.put(INDEX, &index.to_ne_bytes());
        match self {
            Self::Connect { size, block_size, flags, timeouts, sockets } => {
                builder.put(SIZE, &size.to_ne_bytes());
                builder.put(BLOCK_SIZE, &block_size.to_ne_bytes());
                builder.put(SERVER_FLAGS, &u64::from(*flags).to_ne_bytes());
                put_timeouts(&mut builder, *timeouts);
                put_sockets(&mut builder, sockets);
            }
            Self::Size(size) => builder.put(SIZE, &size.to_ne_bytes()),
            Self::Socket(socket) => put_sockets(&mut builder, &[*socket]),
            Self::Timeouts(timeouts) => put_timeouts(&mut builder, *timeouts),
            Self::Disconnect => {}
        }
        if let (Some(backend), false) = (backend, *self == Self::Disconnect) {
            let mut text = backend.as_bytes().to_vec();
            text.push(0);
            builder.put(BACKEND, &text);
        }
        builder.finish()
    }
}

fn put_timeouts(builder: &mut Builder, timeouts: Timeouts) {
    builder.put(TIMEOUT, &timeouts.request.to_ne_bytes());
    builder.put(DEAD_CONN_TIMEOUT, &timeouts.dead.to_ne_bytes());
}

fn put_sockets(builder: &mut Builder, sockets: &[u32]) {
    builder.nest(SOCKETS, |list| {
        for socket in sockets {
            list.nest(SOCKET_ITEM, |item| item.put(SOCKET_FD, &socket.to_ne_bytes()));
        }
    });
}

/// The error code of the answer to `sequence` in a datagram, 0 for none; nothing if it holds no such answer.
pub(super) fn answer(datagram: &[u8], sequence: u32) -> Option<i32> {
    messages(datagram).find_map(|message| match message {
        Message::Ack { sequence: of, error } if of == sequence => Some(error),
        _ => None,
    })
}

/// The numbers of the nbd family, if a datagram tells them.
pub(super) fn family(datagram: &[u8]) -> Option<Family> {
    messages(datagram).find_map(|message| match message {
        Message::Generic { family: CONTROL, attributes: inner, .. } => {
            let value = |kind| attributes(inner).find(|(of, _)| *of == kind).map(|(_, value)| value);
            (value(FAMILY_NAME)? == NAME).then_some(())?;
            let group = attributes(value(GROUPS)?).find_map(|(_, one)| {
                let of = |kind| attributes(one).find(|(of, _)| *of == kind).map(|(_, value)| value);
                if of(GROUP_NAME)? == GROUP { u32_at(of(GROUP_ID)?, 0) } else { None }
            });
            Some(Family { id: u16_at(value(FAMILY_ID)?, 0)?, group: group? })
        }
        _ => None,
    })
}

/// The devices that a datagram says lost a connection, one for each connection.
pub(super) fn dead_links(datagram: &[u8], family: Family) -> impl Iterator<Item = u32> {
    messages(datagram).filter_map(move |message| match message {
        Message::Generic { family: of, command: LINK_DEAD, attributes: inner } if of == family.id => {
            attributes(inner).find(|(kind, _)| *kind == INDEX).and_then(|(_, value)| u32_at(value, 0))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAMILY: Family = Family { id: 0x1f, group: 9 };
    const TIMEOUTS: Timeouts = Timeouts { request: 10, dead: 60 };

    /// Command and attributes of an encoded request.
    fn read(bytes: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
        let Some(Message::Generic { family: 0x1f, command, attributes: inner }) = messages(bytes).next() else {
            panic!("{bytes:?}")
        };
        (command, attributes(inner).map(|(kind, value)| (kind, value.to_vec())).collect())
    }

    fn kinds(request: &Request, backend: Option<&str>) -> (u8, Vec<u16>) {
        let (command, list) = read(&request.encode(FAMILY, 3, backend, 1));
        assert_eq!(list[0], (INDEX, 3_u32.to_ne_bytes().to_vec()));
        (command, list.into_iter().map(|(kind, _)| kind).collect())
    }

    #[test]
    fn a_size_and_a_socket_never_share_a_message() {
        assert_eq!(kinds(&Request::Size(1 << 30), None), (RECONFIGURE, vec![INDEX, SIZE]));
        assert_eq!(kinds(&Request::Size(1 << 30), Some("nbd://h/x")), (RECONFIGURE, vec![INDEX, SIZE, BACKEND]));
        assert_eq!(kinds(&Request::Socket(7), Some("b")), (RECONFIGURE, vec![INDEX, SOCKETS, BACKEND]));
        assert_eq!(kinds(&Request::Timeouts(TIMEOUTS), None), (RECONFIGURE, vec![INDEX, TIMEOUT, DEAD_CONN_TIMEOUT]));
        assert_eq!(kinds(&Request::Disconnect, Some("b")), (DISCONNECT, vec![INDEX]));
    }

    #[test]
    fn an_attach_says_everything_that_the_handshake_said() {
        let request = Request::Connect {
            size: 1 << 30,
            block_size: 4096,
            flags: 0x016d,
            timeouts: TIMEOUTS,
            sockets: vec![5, 6],
        };
        let (command, list) = read(&request.encode(FAMILY, 0, Some("nbd://h/x"), 1));
        assert_eq!(command, CONNECT);
        let value = |kind| list.iter().find(|(of, _)| *of == kind).map(|(_, value)| value.clone()).unwrap();
        assert_eq!(value(SIZE), (1_u64 << 30).to_ne_bytes());
        assert_eq!(value(BLOCK_SIZE), 4096_u64.to_ne_bytes());
        assert_eq!(value(SERVER_FLAGS), 0x016d_u64.to_ne_bytes());
        assert_eq!(
            (value(TIMEOUT), value(DEAD_CONN_TIMEOUT)),
            (10_u64.to_ne_bytes().into(), 60_u64.to_ne_bytes().into())
        );
        assert_eq!(value(BACKEND), b"nbd://h/x\0");
        let sockets: Vec<_> = attributes(&value(SOCKETS))
            .map(|(kind, item)| {
                assert_eq!(kind, SOCKET_ITEM);
                let (kind, fd) = attributes(item).next().unwrap();
                assert_eq!(kind, SOCKET_FD);
                u32_at(fd, 0).unwrap()
            })
            .collect();
        assert_eq!(sockets, [5, 6]);
    }

    /// What the control family says of `nbd`.
    fn told(name: &[u8], group: &[u8]) -> Vec<u8> {
        let mut builder = Builder::new(CONTROL, 1, 2, 4);
        builder.put(FAMILY_NAME, name);
        builder.put(FAMILY_ID, &0x1f_u16.to_ne_bytes());
        builder.nest(GROUPS, |groups| {
            groups.nest(1, |one| {
                one.put(GROUP_ID, &9_u32.to_ne_bytes());
                one.put(GROUP_NAME, group);
            });
        });
        builder.finish()
    }

    #[test]
    fn the_familys_numbers_are_found_by_their_names() {
        assert_eq!(family(&told(NAME, GROUP)), Some(FAMILY));
        assert_eq!(family(&told(b"nbd2\0", GROUP)), None);
        assert_eq!(family(&told(NAME, b"other\0")), None);
        assert_eq!(family(&get_family(1)), None);
    }

    fn dead(family: u16, command: u8, index: u32) -> Vec<u8> {
        let mut builder = Builder::new(family, command, VERSION, 0);
        builder.put(INDEX, &index.to_ne_bytes());
        builder.finish()
    }

    #[test]
    fn each_dead_link_counts_and_nothing_else_does() {
        let mut datagram = dead(0x1f, LINK_DEAD, 2);
        for more in
            [dead(0x1f, LINK_DEAD, 2), dead(0x1e, LINK_DEAD, 3), dead(0x1f, CONNECT, 4), dead(0x1f, LINK_DEAD, 5)]
        {
            datagram.extend(more);
        }
        assert_eq!(dead_links(&datagram, FAMILY).collect::<Vec<_>>(), [2, 2, 5]);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..60, byte: u8) {
            let _ = (answer(&bytes, 1), family(&bytes), dead_links(&bytes, FAMILY).count());
            let mut bent = told(NAME, GROUP);
            if let Some(place) = bent.get_mut(at) {
                *place = byte;
            }
            let _ = (answer(&bent, 1), family(&bent), dead_links(&bent, FAMILY).count());
        }
    }
}
