//! Backend style x policy of growth x client: what is offered, printed and compared with the table kept beside it.

use nbd_gateway_policy::export::{AutomaticGrowth, ExportPolicy, Publish};
use nbd_gateway_policy::offer::{Negotiated, Now, Offer, PastEnd, offer};
use nbd_gateway_policy::style::Replies;

use crate::fixture::{Blocks, Disk, backends};

/// Every kind of client, by a name for the table.
fn clients() -> Vec<(&'static str, Negotiated)> {
    let simple = Negotiated::nothing(Replies::Simple);
    let structured = Negotiated::nothing(Replies::Structured);
    let asks = Negotiated { asks: true, ..structured };
    vec![
        ("kernel", simple),
        ("explicit, simple", Negotiated { asks: true, ..simple }),
        ("stock", structured),
        ("stock, selects automatic", Negotiated { automatic: true, ..structured }),
        ("stock, selects watch", Negotiated { watches: true, ..structured }),
        ("stock, selects no-automatic", Negotiated { no_automatic: true, ..structured }),
        ("explicit, structured", asks),
        ("explicit, extended", Negotiated { replies: Replies::Extended, ..asks }),
        ("explicit, selects no-automatic", Negotiated { no_automatic: true, ..asks }),
    ]
}

/// `EAQNSZ` for the features, `-` where one is not; then bit 9; then what a write past the end does; then the contexts.
fn cell(offer: &Offer) -> String {
    let features = if offer.answers { offer.features.to_string() } else { "no info".to_owned() };
    let flag = if offer.flag { "bit 9" } else { "-" };
    let past_end = match offer.past_end {
        PastEnd::Grow if offer.ceiling => "ceiling",
        PastEnd::Grow => "grows",
        PastEnd::GrowAndCut => "grows, cut",
        PastEnd::Refuse => "refused",
    };
    let contexts = [
        (offer.contexts.automatic, "automatic"),
        (offer.contexts.no_automatic, "no-automatic"),
        (offer.contexts.size, "size"),
        (offer.contexts.watch, "watch"),
    ];
    let contexts: Vec<_> = contexts.into_iter().filter_map(|(there, name)| there.then_some(name)).collect();
    let (min, max) = (offer.min.bytes(), offer.max.bytes());
    format!("{features:<8}{flag:<6}{past_end:<11}{min}..{max:<6}{}", contexts.join(" ")).trim_end().to_owned()
}

fn table() -> Blocks {
    let mut table = Blocks::default();
    let policies = [
        ("automatic = opt-in", AutomaticGrowth::OptIn, false, Publish::Auto),
        ("automatic = always", AutomaticGrowth::Always, false, Publish::Auto),
        ("automatic = never", AutomaticGrowth::Never, false, Publish::Auto),
        ("automatic = reconnect", AutomaticGrowth::Reconnect, false, Publish::Auto),
        ("present = ceiling", AutomaticGrowth::OptIn, true, Publish::Auto),
        ("publish = manual", AutomaticGrowth::Always, false, Publish::Manual),
        ("publish = never", AutomaticGrowth::Always, false, Publish::Never),
    ];
    for (policy_name, automatic, ceiling, publish) in policies {
        for (name, backend) in backends() {
            let disk = Disk::behind(backend);
            let now = Now { size: disk.size, disk: disk.disk, headroom: None };
            let policy = ExportPolicy { automatic, ceiling, publish, ..disk.policy };
            let lines: String = clients()
                .into_iter()
                .map(|(client, told)| format!("    {client:<32}{}\n", cell(&offer(backend, &policy, &now, &told))))
                .collect();
            table.add(format!("{policy_name}; {name}"), lines);
        }
    }
    table
}

#[test]
fn every_cell_of_the_offer_table_is_as_written_down() {
    table().compare(include_str!("offer_table.txt"), "offer_table.txt");
}
