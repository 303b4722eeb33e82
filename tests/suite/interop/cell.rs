//! One client against one server. Each pair is run once per run of the suite, whoever asks first.

use std::sync::OnceLock;

use crate::client::{Client, Scene, Task, parity};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::route::Route;
use crate::trouble::Trouble;

/// What this client cannot do with this server, gateway or not. The cell then proves that it cannot.
pub(super) const fn unable(client: Client, server: Server) -> Option<&'static str> {
    match (client, server) {
        (Client::NbdinfoMap, Server::NbdkitSimple | Server::Reference) => Some("block status needs structured replies"),
        _ => None,
    }
}

pub(super) fn outcome(client: Client, server: Server) -> Result<(), Trouble> {
    const CELLS: usize = Client::ALL.len() * Server::ALL.len();
    static OUTCOMES: [OnceLock<Result<(), Trouble>>; CELLS] = [const { OnceLock::new() }; CELLS];
    OUTCOMES[client as usize * Server::ALL.len() + server as usize].get_or_init(|| run(client, server)).clone()
}

fn run(client: Client, server: Server) -> Result<(), Trouble> {
    let route = Route::under_test();
    let pair = format!("{} with {} ({route:?})", client.label(), server.label());
    match (unable(client, server), attempt(client, server, route)) {
        (None, outcome) => outcome.map_err(|trouble| Trouble::new(format!("{pair}:")).with(trouble)),
        (Some(_), Err(_)) => Ok(()),
        (Some(reason), Ok(())) => Err(Trouble::new(format!("{pair} works, so it is not true that {reason}"))),
    }
}

fn attempt(client: Client, server: Server, route: Route) -> Result<(), Trouble> {
    let before = Image::sparse(1);
    let mut served = server.start(&before)?;
    let direct = match client.task() {
        Task::Observe(observe) => Some(observe(&Route::Direct.open(&served)?.target)?),
        Task::Work(_) => None,
    };
    let way = route.open(&served)?;
    let scene = Scene { before, writable: server.writable(), place: Place::fresh()? };
    let done = match (client.task(), direct) {
        (Task::Observe(observe), Some(direct)) => observe(&way.target).and_then(|seen| {
            parity::expect_same(&direct, &seen)?;
            Ok(scene.before)
        }),
        (Task::Observe(_), None) => Err(Trouble::new("nothing was observed without the gateway")),
        (Task::Work(work), _) => work(&way.target, &scene),
    };
    let after = match done {
        Ok(after) => after,
        Err(trouble) => {
            return Err(trouble.with(format!("--- the gateway said:\n{}", way.log())));
        }
    };
    way.close()?;
    after.expect_same(&served.content()?, "the disk behind the server")
}
