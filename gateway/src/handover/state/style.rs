//! How a backend grows and tells: policy's types, word by word.

use nbd_gateway_policy::style::{BackendStyle, Grows, Proof, Replies, Tells};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "BackendStyle")]
pub(super) struct BackendState {
    #[serde(with = "GrowsState")]
    grows: Grows,
    #[serde(with = "TellsState")]
    tells: Tells,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Grows", rename_all = "kebab-case")]
enum GrowsState {
    Explicit {
        #[serde(with = "RepliesState")]
        replies: Replies,
        #[serde(with = "ProofState")]
        proof: Proof,
    },
    Automatic {
        #[serde(with = "ProofState")]
        proof: Proof,
    },
    Embedded,
    Window,
    Driver {
        aside: bool,
    },
    Fixed,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Replies", rename_all = "kebab-case")]
enum RepliesState {
    Simple,
    Structured,
    Extended,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Proof", rename_all = "kebab-case")]
enum ProofState {
    OptedIn,
    ReadBack,
    Claimed,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Tells", rename_all = "kebab-case")]
enum TellsState {
    Notify,
    Query,
    SecondHandshake,
    Itself,
}
