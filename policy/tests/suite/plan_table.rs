//! Client style x backend style x what happens: every cell, printed and compared with the table that is kept beside it.

use nbd_gateway_policy::plan::{Ask, Lanes, Plan, Quarantine, Wish};
use nbd_gateway_policy::refusal::Asked;
use nbd_gateway_policy::style::ClientStyle;

use crate::fixture::{Blocks, Disk, backends, explicit};

fn cell(plan: &Plan, asked: Asked) -> String {
    match plan {
        Plan::Nothing { size } => format!("= {}", size.bytes()),
        Plan::Grow(grow) => {
            let zero = if grow.zero.is_some() { ", zero" } else { "" };
            let reread = if grow.reread { "re-read, " } else { "" };
            format!("{reread}{}{zero}{} -> {}", ask(grow.ask), lanes(grow.lanes), grow.to.bytes())
        }
        Plan::Shrink(shrink) => {
            let reread = if shrink.reread { "re-read, " } else { "" };
            format!("drain, {reread}{}{} -> {}", ask(shrink.ask), lanes(shrink.lanes), shrink.to.bytes())
        }
        Plan::Adopt(adopt) => {
            let count = adopt.count.map_or(String::new(), |size| format!("count {}, ", size.bytes()));
            let show = adopt.publish.map_or("the same".to_owned(), |size| size.bytes().to_string());
            format!("{count}show {show}{}", lanes(adopt.lanes))
        }
        Plan::Quarantine(Quarantine::Smaller { .. }) => "quarantine: smaller".to_owned(),
        Plan::Quarantine(Quarantine::Impossible { .. }) => "quarantine: impossible".to_owned(),
        Plan::Refuse(refusal) => format!("{} {}", refusal.reason.errno(asked).wire(), refusal.reason.label()),
    }
}

fn ask(ask: Ask) -> &'static str {
    match ask {
        Ask::Nothing => "move the view",
        Ask::ExplicitResize(_) => "RESIZE",
        Ask::ZeroWriteLastGranule { .. } => "WRITE_ZEROES",
        Ask::ResizeEmbedded(_) => "set length",
        Ask::Driver(_) => "driver",
    }
}

fn lanes(lanes: Lanes) -> &'static str {
    match lanes {
        Lanes::Keep => "",
        Lanes::RehandshakeOthers => ", others again",
        Lanes::ReplaceAfter => ", lanes anew",
        Lanes::DropBefore => ", lanes dropped first",
    }
}

/// Grows by a write if that is all that the client can do.
fn grow(client: ClientStyle, target: u64) -> (Wish, Asked) {
    match client {
        ClientStyle::Automatic => (Wish::Automatic { end: target }, Asked::Write),
        ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Stock | ClientStyle::Kernel => {
            (explicit(client, 128, target), Asked::Resize)
        }
    }
}

fn table() -> Blocks {
    let mut table = Blocks::default();
    for (name, backend) in backends() {
        for client in ClientStyle::ALL {
            let disk = Disk::behind(backend);
            let rows = [
                ("grow to 256", grow(client, 256)),
                ("grow to 250, rounded", grow(client, 250)),
                ("shrink to 64", (explicit(client, 128, 64), Asked::Resize)),
                ("the same size", (explicit(client, 128, 128), Asked::Resize)),
                ("grow over the ceiling", grow(client, 1025)),
                ("told 512, asks for 256", (explicit(client, 512, 256), Asked::Resize)),
                ("the backend grew to 900", (Wish::Backend { size: 900 }, Asked::Resize)),
                ("the backend shrank to 64", (Wish::Backend { size: 64 }, Asked::Resize)),
            ];
            let lines = rows.map(|(what, (wish, asked))| format!("    {what:<26}{}\n", cell(&disk.plan(wish), asked)));
            table.add(format!("{client:?} in front of {name}"), lines.concat());
        }
    }
    table
}

#[test]
fn every_cell_of_the_plan_table_is_as_written_down() {
    table().compare(include_str!("plan_table.txt"), "plan_table.txt");
}
