//! From a configuration file to types that cannot be built wrong.
//!
//! Owns the shapes of the file (private), what is checked about them (every problem is told at once, with the key's path,
//! what is wrong and an example), NBD URIs, and the units that people write. Never opens a socket,
//! never looks at a disk or a backend: `nbd-gateway check` says the same on every host.

mod model;
mod names;
mod new_size;
mod problem;
mod raw;
pub mod reference;
mod schema;
mod shape;
mod units;
mod uri;

pub use model::{
    AdminAddress, Arrivals, Backend, Change, Changes, Config, Crowd, Driver, Export, Fence, Hook, How, IoRates,
    KeyChange, LimitOverrides, Limits, ListenAddress, Listener, ListenerTls, Log, LogFormat, LogLevel, NoExport,
    OnBackendLoss, Qmp, Rates, Resize, Resolved, Tenant, Thing, Way,
};
pub use nbd_gateway_policy::types::{ExportName, NameError, TenantId};
pub use new_size::{NewSize, NewSizeFault};
pub use problem::{Problem, Problems};

pub use schema::schema;
pub use units::{Interval, Moment, Per, Rate, SizeRate, UnitError, When, bytes};
pub use uri::{Endpoint, Host, NbdUri, UriError, UriTls};
