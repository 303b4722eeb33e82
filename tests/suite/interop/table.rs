//! The table of pairs, as it is and as the README shows it.

use std::fmt::Write;

use super::cell::{outcome, unable};
use crate::client::Client;
use crate::peer::Server;
use crate::shown_table::is_in_the_readme;

#[test]
fn the_table_in_the_readme_is_the_table_of_pairs_that_pass() {
    is_in_the_readme("interop", &draw());
}

/// Servers down, clients across; what cannot be is explained below.
fn draw() -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut table = String::from("| server |");
    for client in Client::ALL {
        write!(table, " {} |", client.label()).unwrap();
    }
    write!(table, "\n| --- |{}", " :-: |".repeat(Client::ALL.len())).unwrap();
    for server in Server::ALL {
        write!(table, "\n| {} |", server.label()).unwrap();
        for client in Client::ALL {
            let sign = match (outcome(*client, *server), unable(*client, *server)) {
                (Err(_), _) => "fails".to_owned(),
                (Ok(()), None) => "yes".to_owned(),
                (Ok(()), Some(reason)) => {
                    let known = reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("({})", known + 1)
                }
            };
            write!(table, " {sign} |").unwrap();
        }
    }
    table.push('\n');
    for (index, reason) in reasons.iter().enumerate() {
        write!(table, "\n({}) Not without the gateway either: {reason}.\n", index + 1).unwrap();
    }
    table
}
