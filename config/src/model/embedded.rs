//! What `serve` runs without a configuration: one growing disk, at once and on this host only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;

use nbd_gateway_policy::access::Access;
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::types::{Bytes, ExportName, Size, TenantId};

use crate::uri::DEFAULT_PORT;

use super::address::{AdminAddress, ListenAddress};
use super::backend::{Backend, Target};
use super::export::{DIAL_TIMEOUT, Entry, Exports, Fence, IDLE_TIMEOUT, LATE_WRITE_GUARD, Name, OnBackendLoss};
use super::limits::Limits;
use super::place::Reserved;
use super::resize::{Facts, Resize};
use super::tenant::{Crowd, Rates, Tenant};
use super::tls::Listener;
use super::{Config, Log};

/// The state directory if nothing else is said.
pub(super) const STATE: &str = "nbd-gateway-data";

/// The file of the operator's token in it. Only `serve` without a configuration writes it.
const TOKEN: &str = "token";

/// What the tenant and the export of the embedded default are called.
const DEMO: &str = "demo";

/// Where the admin interface is if nothing else is said.
pub(super) fn admin() -> AdminAddress {
    AdminAddress::Tcp(loopback(9809))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Config {
    /// The configuration of a gateway that was given none: clients at 127.0.0.1:10809, the admin interface at
    /// 127.0.0.1:9809, and one export, `demo` of the tenant `demo`: a sparse file of 1 GiB, made when it is first
    /// needed, at `nbd-gateway-data/demo.img` under `cwd`. It may grow to 4 GiB, the tenant's quota, so that a newcomer can
    /// see a resize refused. The operator's token is to be in `token` beside it. There is no default export `""`: the URI
    /// to try is `nbd://127.0.0.1/demo`.
    pub fn embedded_default(cwd: &Path) -> Self {
        let state = cwd.join(STATE);
        // Both are names, so the defaults never take their place; nothing here may be able to end the process.
        let tenant = TenantId::new(DEMO).unwrap_or_default();
        let name = ExportName::new(DEMO).unwrap_or_default();
        let limits = Limits::default();
        let (size, most) = (Size::ZERO.plus(Bytes(1 << 30)), Size::ZERO.plus(Bytes(4 << 30)));
        let facts = Facts { embedded: true, read_only: false, size: Some(size), max_size: Some(most) };
        let allowance = TenantLimits { quota: Some(most.into()), ..TenantLimits::NONE };
        let backend = Backend::File { path: state.join("demo.img"), size: Some(size), beneath: None };
        let demo = Entry {
            name: Name::Exact(name),
            template: None,
            tenant: tenant.clone(),
            backend: Target::Fixed(backend),
            description: Some("the demo disk of nbd-gateway".to_owned()),
            read_only: false,
            lanes: NonZeroUsize::MIN,
            on_backend_loss: OnBackendLoss::default(),
            late_write_guard: LATE_WRITE_GUARD,
            fence: Fence::default(),
            read_ahead: None,
            dial_timeout: DIAL_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            resize: Resize::unsaid(&facts),
            notify: Vec::new(),
            limits,
        };
        Self {
            listeners: vec![Listener::plain(ListenAddress::Tcp(loopback(DEFAULT_PORT)))],
            admin: Some(admin()),
            token_file: Some(state.join(TOKEN)),
            state,
            limits,
            log: Log::default(),
            threads: None,
            access: Access::default(),
            tenants: vec![Tenant { id: tenant, limits, allowance, rates: Rates::default(), crowd: Crowd::default() }],
            exports: Exports::new([demo]),
            // No client makes up a name.
            reserved: Reserved::default(),
        }
    }
}
