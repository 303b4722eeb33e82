//! What a run takes place in: a gateway, and exports in front of servers of every kind, some of them behind a network that
//! can be cut.

use super::model::Model;
use super::server::{Kind, SECTORS, Server};
use super::wire::Wire;
use crate::gateway::{Gateway, export, token};
use crate::place::Place;
use crate::trouble::Trouble;

/// An export: its name, its server's kind, and whether there is a network between.
pub(super) type Plan = (&'static str, Kind, bool);

pub(super) struct Export {
    pub(super) name: &'static str,
    /// Whether what the server has answered outlives its process.
    pub(super) keeps: bool,
    pub(super) model: Model,
}

pub(super) struct Town {
    pub(super) gateway: Gateway,
    /// In the order of the exports.
    pub(super) servers: Vec<Server>,
    pub(super) wires: Vec<Option<Wire>>,
}

impl Town {
    /// `guard` is every export's `late-write-guard`.
    pub(super) fn build(plans: &[Plan], guard: &str) -> Result<(Self, Vec<Export>), Trouble> {
        let place = Place::fresh()?;
        let address = |name: &str| format!("unix:{}", place.path(name).display());
        let mut tables = format!(
            "[[listener]]\naddress = {:?}\n[admin]\naddress = {:?}\ntoken-file = {:?}\n[limits]\ndrain-timeout = \"2s\"\n\n",
            address("g"),
            address("a"),
            token(&place)?
        );
        let (mut exports, mut servers, mut wires) = (Vec::new(), Vec::new(), Vec::new());
        for (name, kind, through_wire) in plans {
            let server = Server::start(*kind)?;
            let wire = if *through_wire { Some(Wire::start(&server.socket())?) } else { None };
            let uri = wire.as_ref().map_or_else(|| server.uri(), |wire| wire.uri(server.export()));
            let (lanes, keeps) = (if kind.takes_lanes() { 2 } else { 1 }, kind.keeps());
            let more = format!(
                "lanes = {lanes}\ndial-timeout = \"3s\"\nidle-timeout = \"300ms\"\n{guard}\n\
                 on-backend-loss = {{ hold = \"20s\", durable = {keeps} }}\n"
            );
            tables += &export(name, &uri, &more);
            exports.push(Export { name, keeps, model: Model::new(SECTORS) });
            servers.push(server);
            wires.push(wire);
        }
        // Whatever it has to say of what is done to it is expected.
        let gateway = Gateway::start_in(place, &tables)?.expecting_errors();
        Ok((Self { gateway, servers, wires }, exports))
    }
}
