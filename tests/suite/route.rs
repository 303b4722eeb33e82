//! The way from a client to a server: straight, or through the gateway. Clients see a [`Target`] and cannot tell.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::gateway::Gateway;
use crate::peer::Served;
use crate::trouble::Trouble;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Direct,
    Gateway,
}

impl Route {
    /// The gateway, unless whoever runs the suite wants to see the peers alone.
    pub(crate) fn under_test() -> Self {
        if std::env::var_os("NBD_SUITE_ROUTE").is_some_and(|route| route == "direct") {
            Self::Direct
        } else {
            Self::Gateway
        }
    }

    pub(crate) fn open(self, served: &Served) -> Result<Way, Trouble> {
        let export = served.export;
        match self {
            Self::Direct => {
                let target = Target { export, socket: served.socket.clone(), tcp: None };
                Ok(Way { target, gateway: None })
            }
            Self::Gateway => {
                let gateway = Gateway::in_front_of(served)?;
                let target = Target { export, socket: gateway.socket().to_owned(), tcp: Some(gateway.tcp()) };
                Ok(Way { target, gateway: Some(gateway) })
            }
        }
    }
}

pub(crate) struct Way {
    pub(crate) target: Target,
    gateway: Option<Gateway>,
}

impl Way {
    /// Closes it; a gateway must end by itself, with success and no complaint.
    pub(crate) fn close(self) -> Result<(), Trouble> {
        self.gateway.map_or(Ok(()), Gateway::end)
    }

    /// What the gateway logged, for the reader of a failure.
    pub(crate) fn log(&self) -> String {
        self.gateway.as_ref().map(Gateway::log).unwrap_or_default()
    }
}

/// What a client is pointed at.
pub(crate) struct Target {
    pub(crate) export: &'static str,
    pub(crate) socket: PathBuf,
    tcp: Option<SocketAddr>,
}

impl Target {
    /// Over the Unix socket.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    /// Over TCP where there is a TCP listener.
    pub(crate) fn tcp_uri(&self) -> String {
        self.tcp.map_or_else(|| self.uri(), |address| format!("nbd://{address}/{}", self.export))
    }

    pub(crate) const fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }
}
