//! Being sure that a server is over what it received on lost connections.
//!
//! Owns the proofs: which process is behind a socket ([`Server`](crate::lane::Server)), an act after which nothing from an earlier connection is
//! carried out ([`Fence`]), and a time that is long enough ([`Keeper`]); and what a later process has to know of it
//! ([`Marks`]). What is held back meanwhile is [`LateWrites`](crate::lane::LateWrites)' to decide.
//!
//! | fence | what it does | other clients of that server |
//! |---|---|---|
//! | `driver = "qmp"` | takes the export off by `block-export-del`, mode hard; when it is gone, it is put back | are cut off |
//! | `driver = "restart"` | its command restarts the server | are cut off |
//! | `fence = [...]` | a program of the operator's | as the program does |

mod keeper;
mod marks;

use nbd_gateway_config as config;
use nbd_gateway_config::Resolved;

pub(crate) use keeper::{Keeper, use_fence};
pub(crate) use marks::Marks;

use crate::driver::{Driver, Order, Restart};
use crate::fault::Fault;

/// An act after which a server carries out nothing that it received over an earlier connection.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    driver: Driver,
    order: Order,
}

impl Fence {
    /// The export's, if it has one; `order` tells which export it is, and what it was when it was opened.
    pub(crate) fn of(config: &Resolved, driver: Option<&Driver>, order: Order) -> Option<Self> {
        let driver = match &config.fence {
            config::Fence::Off => return None,
            // As the program that restarts a server; it is never asked to resize.
            config::Fence::Command(words) => Driver::Restart(Restart { file: None, words: words.clone() }),
            config::Fence::Driver => driver.filter(|driver| driver.can_fence())?.clone(),
        };
        Some(Self { driver, order })
    }

    /// Uses it. An error says why it is not sure that the server is over anything. Cancel-safe: dropped, a program is ended,
    /// and an export that was taken off is put back.
    async fn cut(&self) -> Result<(), Fault> {
        self.driver.fence(&self.order).await
    }
}
