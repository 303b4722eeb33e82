//! The export that the tests speak of, and short ways to say sizes.

use nbd_gateway_policy::export::ExportPolicy;
use nbd_gateway_policy::plan::{Others, Plan, Situation, Standing, Wish, plan};
use nbd_gateway_policy::quota::Headroom;
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::{BackendStyle, ClientStyle, Grows, Proof, Replies, Tells};
use nbd_gateway_policy::types::{Bytes, ExportName, Granularity, Size, TenantId};

pub(crate) fn size(bytes: u64) -> Size {
    Size::new(bytes).unwrap()
}

pub(crate) fn granularity(bytes: u64) -> Granularity {
    Granularity::new(bytes).unwrap()
}

pub(crate) fn headroom(left: u64, quota: u64) -> Option<Headroom> {
    Some(Headroom { left: Bytes(left), quota: Bytes(quota) })
}

/// Every backend style there is, by a name for tables.
pub(crate) fn backends() -> Vec<(&'static str, BackendStyle)> {
    let explicit = |replies, proof, tells| BackendStyle { grows: Grows::Explicit { replies, proof }, tells };
    let automatic = |proof, tells| BackendStyle { grows: Grows::Automatic { proof }, tells };
    let (simple, structured) = (Replies::Simple, Replies::Structured);
    vec![
        ("explicit simple, claimed", explicit(simple, Proof::Claimed, Tells::SecondHandshake)),
        ("explicit simple, read back", explicit(simple, Proof::ReadBack, Tells::SecondHandshake)),
        ("explicit simple, opted in", explicit(simple, Proof::OptedIn, Tells::SecondHandshake)),
        ("explicit structured, polled", explicit(structured, Proof::OptedIn, Tells::Query)),
        ("explicit structured, notifies", explicit(structured, Proof::OptedIn, Tells::Notify)),
        ("automatic, claimed", automatic(Proof::Claimed, Tells::SecondHandshake)),
        ("automatic, opted in", automatic(Proof::OptedIn, Tells::Query)),
        ("origin", BackendStyle { grows: Grows::Embedded, tells: Tells::Itself }),
        ("window", BackendStyle { grows: Grows::Window, tells: Tells::SecondHandshake }),
        ("driver", BackendStyle { grows: Grows::Driver { aside: false }, tells: Tells::SecondHandshake }),
        ("driver, lanes aside", BackendStyle { grows: Grows::Driver { aside: true }, tells: Tells::SecondHandshake }),
        ("fixed", BackendStyle { grows: Grows::Fixed, tells: Tells::SecondHandshake }),
    ]
}

pub(crate) fn backend(name: &str) -> BackendStyle {
    backends().into_iter().find(|(known, _)| *known == name).expect("a backend of the fixture").1
}

/// An export that a test can bend before it looks at a situation.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    name: ExportName,
    tenant: TenantId,
    pub(crate) policy: ExportPolicy,
    pub(crate) size: Size,
    pub(crate) disk: Size,
    pub(crate) backend: BackendStyle,
    pub(crate) zeroed_by_backend: bool,
    pub(crate) headroom: Option<Headroom>,
    pub(crate) others: Others,
    pub(crate) standing: Standing,
    pub(crate) unrecorded: bool,
    pub(crate) stream: Bytes,
}

impl Disk {
    /// `vm7` of tenant `blue`: 128 bytes in granules of 16, at most 1024, may shrink; nothing in its way.
    pub(crate) fn behind(backend: BackendStyle) -> Self {
        let window = backend.grows == Grows::Window;
        Self {
            name: ExportName::new("vm7").unwrap(),
            tenant: TenantId::new("blue").unwrap(),
            policy: ExportPolicy {
                shrink: true,
                max_size: size(1024),
                granularity: granularity(16),
                ..ExportPolicy::DEFAULT
            },
            size: size(128),
            disk: size(if window { 768 } else { 128 }),
            backend,
            zeroed_by_backend: false,
            headroom: None,
            others: Others::default(),
            standing: Standing::Ready,
            unrecorded: false,
            stream: Bytes(0),
        }
    }

    pub(crate) fn situation(&self) -> Situation<'_> {
        Situation {
            export: &self.name,
            tenant: &self.tenant,
            policy: &self.policy,
            size: self.size,
            disk: self.disk,
            backend: self.backend,
            zeroed_by_backend: self.zeroed_by_backend,
            headroom: self.headroom,
            others: self.others,
            standing: self.standing,
            unrecorded: self.unrecorded,
            stream: self.stream,
        }
    }

    pub(crate) fn plan(&self, wish: Wish) -> Plan {
        plan(&self.situation(), &wish)
    }

    /// What becomes of a wish that is refused.
    pub(crate) fn refusal(&self, wish: Wish) -> Reason {
        match self.plan(wish) {
            Plan::Refuse(refusal) => refusal.reason,
            other => panic!("{wish:?} was not refused: {other:?}"),
        }
    }
}

/// A client that was told the size which it compares with.
pub(crate) fn explicit(client: ClientStyle, told: u64, target: u64) -> Wish {
    Wish::Explicit { client, told: size(told), target }
}

/// A table of blocks: equal ones are printed once, under all their names, in the order of the first.
#[derive(Default)]
pub(crate) struct Blocks(Vec<(Vec<String>, String)>);

impl Blocks {
    pub(crate) fn add(&mut self, name: String, block: String) {
        match self.0.iter_mut().find(|(_, known)| *known == block) {
            Some((names, _)) => names.push(name),
            None => self.0.push((vec![name], block)),
        }
    }

    pub(crate) fn printed(&self) -> String {
        self.0.iter().map(|(names, block)| format!("{}\n{block}\n", names.join("\n"))).collect()
    }

    /// Compares with the table that is kept, and prints the whole one where they differ.
    pub(crate) fn compare(&self, kept: &str, file: &str) {
        let now = self.printed();
        let differs = now.lines().zip(kept.lines()).position(|(now, kept)| now != kept);
        let line = differs.unwrap_or_else(|| now.lines().count().min(kept.lines().count())) + 1;
        assert!(now == kept, "{file} differs from line {line}; the whole table now:\n{now}");
    }
}
