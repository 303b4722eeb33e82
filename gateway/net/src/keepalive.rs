//! TCP keepalive: a connection whose other host has vanished (its power failed, its network was cut) is closed, although
//! nobody says so.
//!
//! The kernel probes a connection that is silent. The other host's kernel answers, whatever its program does: a program that
//! is idle, stopped, or does not read is alive. `TCP_USER_TIMEOUT` is not used: since Linux 5.11 it also closes the connection
//! of a program that does not read, although its host answers each probe.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// For connections that this program makes itself.
pub(crate) const OF_SERVERS: Duration = Duration::from_secs(60);
/// Probes without an answer that close the connection.
const PROBES: u32 = 3;

/// Has the kernel close `socket` when its other host has answered nothing for about `limit`: half of it passes before the
/// first probe. What the kernel does not take it does not take; the connection works without.
pub(crate) fn watch(socket: &impl AsFd, limit: Duration) {
    let silence = whole(limit / 2);
    let between = whole(limit.saturating_sub(silence) / PROBES);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, silence);
    let _ = sockopt::set_tcp_keepintvl(socket, between);
    let _ = sockopt::set_tcp_keepcnt(socket, PROBES);
}

/// The kernel counts in seconds, and takes no zero.
fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_probed_after_half_of_the_time_and_three_times_in_the_other_half() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (limit, silence, between) in [(60, 30, 10), (3, 1, 1), (7, 3, 1), (3600, 1800, 600)] {
            watch(&socket, Duration::from_secs(limit));
            assert!(sockopt::socket_keepalive(&socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(silence), "{limit}");
            assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), Duration::from_secs(between), "{limit}");
            assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 3);
        }
    }
}
