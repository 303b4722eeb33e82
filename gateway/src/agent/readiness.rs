//! When the service manager is told that the device is there: once, as soon as it has the size that it should.
//!
//! A device that was just attached has the size that its server said then. One that was found attached may be behind, and
//! its connection dead: that one is ready when a size that was told is in force, or was judged and is not for it.

use crate::service::Service;

/// What the manager is still to be told.
pub(super) struct Readiness(Option<Service>);

impl Readiness {
    /// Of a device that `is_new`, just attached, or was found.
    pub(super) fn of(service: Service, is_new: bool) -> Self {
        let mut readiness = Self(Some(service));
        if is_new {
            readiness.is_right();
        }
        readiness
    }

    /// The device has the size that it should. Nobody waits until the manager has heard it.
    pub(super) fn is_right(&mut self) {
        if let Some(service) = self.0.take() {
            tokio::spawn(async move { service.ready().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[tokio::test]
    async fn the_manager_is_told_once_when_the_size_is_right_and_of_a_new_device_at_once() {
        for is_new in [false, true] {
            let name = format!("nbd-gateway-readiness-{}-{is_new}", std::process::id());
            let address = SocketAddr::from_abstract_name(name).unwrap();
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            manager.set_nonblocking(true).unwrap();
            let manager = tokio::net::UnixDatagram::from_std(manager).unwrap();
            let mut bytes = [0; 64];
            let mut readiness = Readiness::of(Service::at(address, None), is_new);
            if !is_new {
                tokio::task::yield_now().await;
                assert!(manager.try_recv(&mut bytes).is_err(), "it may be behind");
                readiness.is_right();
            }
            let length = manager.recv(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..length], b"READY=1\n");
            readiness.is_right();
            tokio::task::yield_now().await;
            assert!(manager.try_recv(&mut bytes).is_err(), "once");
        }
    }
}
