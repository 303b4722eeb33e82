//! All of an export, its lanes and its sessions, suspended at once and resumed from JSON, as another process would.

use std::time::Duration;

use nbd_gateway_policy::types::TenantId;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::Scene;
use crate::handover::state::{Beside, TicketState, carried};
use crate::limits::Place;
use crate::request::Client;
use crate::session::suspend::{ResumedSession, SuspendError, resume, suspend_held};
use nbd_gateway_net::Peer;

/// How long a resize may go on before the export is suspended.
const SETTLES: Duration = Duration::from_secs(30);

/// How often other tasks run before sessions are suspended.
const SETTLED: usize = 4;

impl Scene {
    /// For a session that goes on.
    pub(super) fn place(&self) -> Place {
        let tenant = TenantId::new("t").unwrap();
        self.places.begin(Peer::Unknown).unwrap().session(&tenant, false).unwrap()
    }

    /// Hands the export over to itself; how many sessions went on. None: it is not open, or a resize does not end.
    pub(crate) async fn hand_over(&self) -> Option<usize> {
        let registry = &self.front.registry;
        let export = registry.open_now().pop()?;
        // Not closed while no session has it.
        let lease = registry.open(export.name()).await.ok().filter(|lease| !lease.is_leaving())?;
        let export = lease.export();
        let (coordinator, goes_on) = timeout(SETTLES, export.resizer.rest()).await.ok()??;
        export.core.rest();
        let lanes = export.core.lanes();
        if let Some(lanes) = lanes {
            lanes.stop().await.unwrap();
        }
        // Who has been answered goes on first.
        for _ in 0..SETTLED {
            yield_now().await;
        }
        let (mut suspended, mut held, mut beside) = (Vec::new(), Vec::new(), Beside::default());
        loop {
            let mut sessions = self.front.table.all();
            sessions.sort_by_key(|session| session.id());
            // From here on none of them reads, and no task goes on.
            let ordered: Vec<_> = sessions.drain(..).map(|session| session.suspend().unwrap()).collect();
            held.extend(suspend_held(export, &mut beside));
            let before = suspended.len();
            for session in ordered {
                match session.await {
                    Ok(session) => suspended.push(session),
                    Err(SuspendError::Ended | SuspendError::Io(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            // One that has just come is suspended too.
            if suspended.len() == before {
                break;
            }
        }
        let mut suspended_lanes = lanes.map(|lanes| lanes.suspend().unwrap());
        export.resume(same(&export.suspend()));
        let mut resumed: Vec<ResumedSession> = Vec::new();
        for mut session in suspended {
            session.state = same(&session.state);
            resumed.push(resume(&self.front, self.place(), session).await.unwrap());
        }
        // In another process there would be none.
        while export.core.has_taken() {
            yield_now().await;
        }
        let client = |ticket: &TicketState| {
            let session = resumed.iter().find(|session| session.id() == ticket.session)?;
            let client: std::sync::Arc<dyn Client> = session.client(ticket);
            Some(client)
        };
        if let (Some(lanes), Some(mut suspended)) = (lanes, suspended_lanes.take()) {
            suspended.state = same(&suspended.state);
            lanes.resume(suspended, &client).unwrap();
        }
        export.core.go_on();
        let went_on = resumed.len();
        ResumedSession::start(resumed, same(&held), &beside).unwrap();
        goes_on.send(same(&coordinator)).unwrap();
        Some(went_on)
    }
}

/// The state after its way through JSON, where nothing of it is lost.
fn same<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(state: &T) -> T {
    let came = carried(state);
    assert_eq!(&came, state);
    came
}
