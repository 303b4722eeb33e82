//! How many connections a listener holds: handshakes and sessions, each with a bound of its own.
//!
//! A connection begins as a handshake, when nobody knows yet whose it is. Silent connections, however many, take no place of
//! a session, and one address takes no more than half of the handshakes. At the bound, the oldest handshake of the address
//! that has most gives way, unless it began within [`GRACE`]: clients that connect all at once are not each other's end. A
//! session has its place from the moment that its handshake is granted until its connection is closed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nbd_gateway_metrics::{ListenerMetrics, Open, RefusedConnection};
use nbd_gateway_net::Peer;
use nbd_gateway_policy::types::TenantId;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long a handshake is safe from those that come later.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Where a connection comes from, as far as one that can have several counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An address; of IPv6 its /64 network, in which a host can have any.
    Address(IpAddr),
    /// A user, by a Unix socket.
    User(u32),
    /// The kernel does not say: it is gone already.
    Unknown,
}

impl Source {
    pub(crate) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Tcp(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Address(IpAddr::V6(Ipv6Addr::from(network)))
            }
            Peer::Tcp(address) => Self::Address(address),
            Peer::Unix { uid, .. } => Self::User(uid),
            Peer::Unknown => Self::Unknown,
        }
    }
}

/// The places of one listening socket.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
    /// Told when a handshake ends.
    freed: Notify,
    /// None: it is not a listener of clients.
    metrics: Option<ListenerMetrics>,
}

#[derive(Debug)]
struct State {
    most_handshakes: usize,
    most_sessions: usize,
    /// By tenant.
    sessions: HashMap<TenantId, usize>,
    next: u64,
    count: usize,
    /// Of each source, the oldest first.
    handshakes: HashMap<Source, BTreeMap<u64, Slot>>,
}

/// A handshake's place.
#[derive(Debug)]
struct Slot {
    since: Instant,
    /// Whether the gateway works for it, and not the client is waited for.
    busy: Arc<AtomicBool>,
    /// Ends it.
    evict: oneshot::Sender<()>,
}

impl Places {
    /// So many of each.
    pub(crate) fn new(most_handshakes: u32, most_sessions: u32, metrics: Option<ListenerMetrics>) -> Arc<Self> {
        let state = State {
            most_handshakes: count(most_handshakes),
            most_sessions: count(most_sessions),
            sessions: HashMap::new(),
            next: 0,
            count: 0,
            handshakes: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), freed: Notify::new(), metrics })
    }

    /// So many of each from now on. Nobody who is there is closed for it.
    pub(crate) fn change(&self, most_handshakes: u32, most_sessions: u32) {
        let mut state = self.state.lock();
        (state.most_handshakes, state.most_sessions) = (count(most_handshakes), count(most_sessions));
    }

    /// A place for a handshake with `peer`, perhaps that of an older one, which ends. None: nobody may be evicted yet.
    pub(crate) fn begin(self: &Arc<Self>, peer: Peer) -> Option<Handshake> {
        let source = Source::of(peer);
        let mut state = self.state.lock();
        let own = state.handshakes.get(&source).map_or(0, BTreeMap::len);
        let now = Instant::now();
        let crowded = if own >= state.most_handshakes.div_ceil(2) {
            Some(source)
        } else if state.count >= state.most_handshakes {
            Some(state.largest()?)
        } else {
            None
        };
        if let Some(crowded) = crowded {
            state.evict(crowded, now)?;
            self.refused(RefusedConnection::Handshakes);
        }
        let (evict, evicted) = oneshot::channel();
        let busy = Arc::new(AtomicBool::new(false));
        let at = state.next;
        state.next = state.next.wrapping_add(1);
        state.count = state.count.saturating_add(1);
        state.handshakes.entry(source).or_default().insert(at, Slot { since: now, busy: Arc::clone(&busy), evict });
        drop(state);
        let open = self.metrics.as_ref().map(|metrics| Open::new(&metrics.handshakes));
        Some(Handshake { places: Arc::clone(self), source, at, busy, evicted: Some(evicted), _open: open })
    }

    /// Ends the oldest handshake of the source that has most, for descriptors are short. Whether there was one
    /// that may be ended.
    pub(crate) fn evict_one(&self) -> bool {
        let mut state = self.state.lock();
        let evicted = state.largest().and_then(|largest| state.evict(largest, Instant::now())).is_some();
        if evicted {
            self.refused(RefusedConnection::Descriptors);
        }
        evicted
    }

    fn refused(&self, reason: RefusedConnection) {
        self.metrics.iter().for_each(|metrics| metrics.refused(reason));
    }

    /// Waits until a handshake has ended since the last call, or one may have become old enough to be evicted. Cancel-safe:
    /// yes.
    pub(crate) async fn freed(&self) {
        // Whoever became old enough since is found at the next look.
        let _ = tokio::time::timeout(GRACE / 20, self.freed.notified()).await;
    }

    /// How many handshakes, and how many sessions, there are.
    #[cfg(test)]
    fn taken(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.count, state.sessions.values().sum())
    }
}

impl State {
    /// The source that has most handshakes.
    fn largest(&self) -> Option<Source> {
        self.handshakes.iter().max_by_key(|(_, slots)| slots.len()).map(|(source, _)| *source)
    }

    /// Ends the oldest handshake of `source` that waits for its client; if none does, the oldest.
    fn evict(&mut self, source: Source, now: Instant) -> Option<()> {
        let slots = self.handshakes.get(&source)?;
        let old = |slot: &Slot| now.saturating_duration_since(slot.since) >= GRACE;
        // In the order of age: the first that is too young ends the search.
        let mut aged = slots.iter().take_while(|(_, slot)| old(slot));
        let oldest = *aged.clone().next()?.0;
        let at = aged.find(|(_, slot)| !slot.busy.load(Ordering::Acquire)).map_or(oldest, |(at, _)| *at);
        let slot = self.remove(source, at)?;
        // Its task may have ended meanwhile.
        let _ = slot.evict.send(());
        Some(())
    }

    fn remove(&mut self, source: Source, at: u64) -> Option<Slot> {
        let slots = self.handshakes.get_mut(&source)?;
        let slot = slots.remove(&at)?;
        if slots.is_empty() {
            self.handshakes.remove(&source);
        }
        self.count = self.count.saturating_sub(1);
        Some(slot)
    }
}

/// A handshake's place; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    places: Arc<Places>,
    source: Source,
    at: u64,
    busy: Arc<AtomicBool>,
    evicted: Option<oneshot::Receiver<()>>,
    _open: Option<Open>,
}

impl Handshake {
    /// What ends when its place is another's, and then never again.
    pub(crate) fn evicted(&mut self) -> impl Future<Output = ()> + use<> {
        let evicted = self.evicted.take();
        async move {
            let told = match evicted {
                Some(evicted) => evicted.await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the gateway works for it now. While it does, others give way first.
    pub(crate) fn busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// A session's place, for an export of this tenant. Where there are `others`, an eighth of the places is kept from each.
    ///
    /// # Errors
    /// How many there may be, and are.
    pub(crate) fn session(&self, tenant: &TenantId, others: bool) -> Result<Place, PlaceError> {
        let mut state = self.places.state.lock();
        let most = state.most_sessions;
        let share = if others { most.saturating_sub(most / 8) } else { most };
        let own = state.sessions.get(tenant).copied().unwrap_or(0);
        let all = state.sessions.values().sum::<usize>();
        if all >= most || own >= share {
            self.places.refused(RefusedConnection::Sessions);
            return Err(if all >= most { PlaceError::Sessions(most) } else { PlaceError::OfTenant(share) });
        }
        state.sessions.insert(tenant.clone(), own.saturating_add(1));
        Ok(Place { places: Arc::clone(&self.places), tenant: tenant.clone() })
    }
}

/// Why a listener has no place for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// All are taken.
    #[error("the listener is at sessions-per-listener ({0}); try again when a session has ended")]
    Sessions(usize),
    /// Those that one tenant may have are.
    #[error(
        "its tenant has {0} sessions on this listener, and the rest of sessions-per-listener is kept for other tenants; try again when one has ended"
    )]
    OfTenant(usize),
}

impl Drop for Handshake {
    fn drop(&mut self) {
        drop(self.places.state.lock().remove(self.source, self.at));
        self.places.freed.notify_one();
    }
}

/// A session's place; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        if let Entry::Occupied(mut own) = state.sessions.entry(self.tenant.clone()) {
            *own.get_mut() = own.get().saturating_sub(1);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

fn count(most: u32) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(handshakes: u32, sessions: u32) -> Arc<Places> {
        let metrics = nbd_gateway_metrics::Metrics::new("0").unwrap();
        Places::new(handshakes, sessions, Some(metrics.listener("l")))
    }

    fn from(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    fn is_evicted(handshake: &mut Handshake) -> bool {
        let mut told = std::pin::pin!(handshake.evicted());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        told.as_mut().poll(&mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_of_one_address_leave_half_of_the_handshakes_to_others() {
        let places = places(8, 1);
        let mut silent: Vec<_> = (0..4).map(|_| places.begin(from("192.0.2.1")).unwrap()).collect();
        assert!(places.begin(from("192.0.2.1")).is_none(), "none of them is old enough to give way");
        let mut others: Vec<_> = (2..6).map(|n| places.begin(from(&format!("192.0.2.{n}"))).unwrap()).collect();
        assert!(places.begin(from("192.0.2.6")).is_none(), "all places are taken by young ones");
        tokio::time::advance(GRACE).await;
        let _sixth = places.begin(from("192.0.2.6")).unwrap();
        let _again = places.begin(from("192.0.2.1")).unwrap();
        let evicted: Vec<_> = silent.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false], "the oldest of who has most");
        assert!(!others.iter_mut().any(is_evicted));
        assert_eq!(places.taken().0, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_gateway_gives_way_after_those_that_wait_for_their_client() {
        let places = places(4, 1);
        let mut two = [places.begin(from("192.0.2.1")).unwrap(), places.begin(from("192.0.2.1")).unwrap()];
        two[0].busy(true);
        tokio::time::advance(GRACE).await;
        let _third = places.begin(from("192.0.2.1")).unwrap();
        assert_eq!([is_evicted(&mut two[0]), is_evicted(&mut two[1])], [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_and_a_user_count_as_one() {
        let places = places(4, 1);
        let user = |pid| Peer::Unix { pid: Some(pid), uid: 1000, gid: 1000 };
        let _taken = [from("2001:db8::1"), from("2001:db8::2"), user(1), user(2)].map(|p| places.begin(p).unwrap());
        tokio::time::advance(GRACE / 2).await;
        for peer in [from("2001:db8::3"), user(3), from("2001:db8:0:1::1")] {
            assert!(places.begin(peer).is_none());
        }
        places.change(6, 1);
        assert!(places.begin(from("2001:db8:0:1::1")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn places_of_sessions_are_counted_apart_and_fewer_are_fewer_at_once() {
        let places = places(8, 3);
        let handshake = places.begin(from("192.0.2.1")).unwrap();
        let session = || handshake.session(&TenantId::default(), false);
        let mut held: Vec<_> = (0..3).map(|_| session().unwrap()).collect();
        assert_eq!(session().unwrap_err(), PlaceError::Sessions(3));
        places.change(8, 1);
        held.truncate(1);
        assert_eq!(session().unwrap_err(), PlaceError::Sessions(1), "one is there, and one may be");
        places.change(8, 2);
        held.push(session().unwrap());
        drop(handshake);
        assert_eq!(places.taken(), (0, 2), "a handshake that has ended leaves its sessions");
        drop(held);
        assert_eq!(places.taken(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_leaves_an_eighth_of_the_sessions_to_others() {
        let places = places(8, 16);
        let handshake = places.begin(from("192.0.2.1")).unwrap();
        let [blue, green] = ["blue", "green"].map(|name| TenantId::new(name).unwrap());
        let mut held: Vec<_> = (0..14).map(|_| handshake.session(&blue, true).unwrap()).collect();
        assert_eq!(handshake.session(&blue, true).unwrap_err(), PlaceError::OfTenant(14));
        held.extend((0..2).map(|_| handshake.session(&green, true).unwrap()));
        assert_eq!(handshake.session(&green, true).unwrap_err(), PlaceError::Sessions(16));
        held.remove(0);
        handshake.session(&blue, true).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_ends_lets_the_next_one_in_at_once() {
        let places = places(2, 1);
        let first = places.begin(from("192.0.2.1")).unwrap();
        assert!(places.begin(from("192.0.2.1")).is_none());
        let began = Instant::now();
        drop(first);
        places.freed().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(places.begin(from("192.0.2.1")).is_some());
    }
}
