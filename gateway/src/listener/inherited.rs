//! Sockets handed over by a service manager: LISTEN_FDS and LISTEN_FDNAMES, as sd_listen_fds_with_names(3) has them.
//!
//! Owns their names, and checks each descriptor before it is used. Their backlog is the service manager's.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use listenfd::ListenFd;
use nbd_gateway_net::Listening;
use rustix::net::sockopt::socket_acceptconn;
use tokio::net::{TcpListener, UnixListener};

use super::BindError;

/// The first of the descriptors that are handed over.
const FIRST: usize = 3;
/// The name of a descriptor that nobody named.
const UNNAMED: &str = "unknown";

/// A socket that was handed over. It is the service manager's too, so its queue takes clients whether it is listened at or
/// not.
#[derive(Debug)]
enum Handed {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Handed {
    /// To accept from; it can be had again later.
    fn listening(&self) -> io::Result<Listening> {
        match self {
            Self::Tcp(tcp) => {
                let tcp = tcp.try_clone()?;
                tcp.set_nonblocking(true)?;
                Ok(Listening::Tcp(TcpListener::from_std(tcp)?))
            }
            Self::Unix(unix) => {
                let unix = unix.try_clone()?;
                unix.set_nonblocking(true)?;
                Ok(Listening::Unix(UnixListener::from_std(unix)?))
            }
        }
    }

    fn listens(&self) -> bool {
        let listens = match self {
            Self::Tcp(tcp) => socket_acceptconn(tcp.as_fd()),
            Self::Unix(unix) => socket_acceptconn(unix.as_fd()),
        };
        listens.unwrap_or(false)
    }
}

/// Sockets handed over by a service manager; read once, at the start, and kept to the end: a listener that was taken out of
/// the configuration can come back.
pub(crate) struct Inherited {
    names: Vec<String>,
    fds: ListenFd,
    handed: HashMap<String, Vec<Handed>>,
}

impl Inherited {
    /// What the environment says.
    pub(crate) fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let fds = ListenFd::from_env();
        Self { names: named(&names, fds.len()), fds, handed: HashMap::new() }
    }

    /// All sockets of this name: those of one `.socket` unit share theirs. At least one.
    pub(super) fn take(&mut self, name: &str) -> Result<Vec<Listening>, BindError> {
        for (at, _) in self.names.iter().enumerate().filter(|(_, n)| *n == name) {
            let handed = match self.fds.take_tcp_listener(at) {
                // It was taken before.
                Ok(None) => continue,
                Ok(Some(tcp)) => Some(Handed::Tcp(tcp)),
                Err(_) => self.fds.take_unix_listener(at).ok().flatten().map(Handed::Unix),
            };
            match handed.filter(Handed::listens) {
                Some(handed) => self.handed.entry(name.to_owned()).or_default().push(handed),
                None => return Err(BindError::NotListening { name: name.to_owned(), descriptor: FIRST + at }),
            }
        }
        let handed = self.handed.get(name).map(Vec::as_slice).unwrap_or_default();
        if handed.is_empty() {
            return Err(BindError::NoSuchName { name: name.to_owned(), given: self.given() });
        }
        let failed = |error| BindError::Bind { address: format!("systemd:{name}"), error };
        handed.iter().map(Handed::listening).collect::<io::Result<_>>().map_err(failed)
    }

    fn given(&self) -> String {
        let given = self.names.join(", ");
        if given.is_empty() { "none".to_owned() } else { given }
    }
}

/// One name for each descriptor. A service manager that names none leaves all of them `unknown`, as
/// sd_listen_fds_with_names(3) calls them.
fn named(names: &str, count: usize) -> Vec<String> {
    let names: Vec<&str> = names.split(':').collect();
    let name = |at: usize| names.get(at).copied().filter(|name| !name.is_empty()).unwrap_or(UNNAMED).to_owned();
    (0..count).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_without_a_name_are_called_unknown() {
        assert_eq!(named("", 2), ["unknown", "unknown"]);
        assert_eq!(named("a:b", 2), ["a", "b"]);
        assert_eq!(named("a::c", 3), ["a", "unknown", "c"]);
        assert_eq!(named("a", 2), ["a", "unknown"]);
        assert_eq!(named("a:b:c", 1), ["a"], "a name without a descriptor is none");
        assert!(named("a", 0).is_empty());
    }
}
