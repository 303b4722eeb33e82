//! What every offer keeps, whatever the backend, the policy and the client: over all of them.

use nbd_gateway_policy::export::{AutomaticGrowth, ExportPolicy};
use nbd_gateway_policy::offer::{Features, Negotiated, Now, Offer, PastEnd, offer};
use nbd_gateway_policy::style::{BackendStyle, ClientStyle, Replies};
use nbd_gateway_policy::types::{Bytes, Size};

use crate::fixture::{Disk, backend, backends, granularity, headroom, size};

fn negotiated() -> Vec<Negotiated> {
    let mut all = Vec::new();
    for replies in [Replies::Simple, Replies::Structured, Replies::Extended] {
        for bits in 0..32_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let client = Negotiated {
                replies,
                asks: bit(0),
                automatic: bit(1),
                no_automatic: bit(2),
                polls: bit(3),
                watches: bit(4),
            };
            // Contexts need structured replies (proto.md, NBD_OPT_SET_META_CONTEXT).
            if replies.chunked() || !(client.automatic || client.no_automatic || client.polls || client.watches) {
                all.push(client);
            }
        }
    }
    all
}

/// Every backend, policy and client there is; every subset of what may be offered.
fn every_offer(mut check: impl FnMut(BackendStyle, &ExportPolicy, &Negotiated, Offer)) {
    let now = Now { size: size(128), disk: size(128), headroom: None };
    let automatics =
        [AutomaticGrowth::OptIn, AutomaticGrowth::Always, AutomaticGrowth::Never, AutomaticGrowth::Reconnect];
    for (_, backend) in backends() {
        for automatic in automatics {
            for flags in 0..8 {
                for mask in 0..=Features::ALL.wire() {
                    let policy = ExportPolicy {
                        automatic,
                        shrink: flags & 1 != 0,
                        read_only: flags & 2 != 0,
                        ceiling: flags & 4 != 0,
                        offer: Features::from_wire(mask),
                        ..ExportPolicy::DEFAULT
                    };
                    for client in negotiated() {
                        check(backend, &policy, &client, offer(backend, &policy, &now, &client));
                    }
                }
            }
        }
    }
}

#[test]
fn every_offer_says_only_what_can_be_kept() {
    every_offer(|backend, policy, client, offer| {
        let features = offer.features;
        let context = || format!("{backend:?} {policy:?} {client:?} {offer:?}");
        assert!(policy.offer.has(features), "more than allowed: {}", context());
        assert_eq!(offer.answers, client.asks, "answered only when asked: {}", context());
        assert!(client.asks || features == Features::NONE, "features to one that did not ask: {}", context());
        if client.asks {
            assert_eq!(offer.flag, features.has(Features::EXPLICIT), "bit 9 and EXPLICIT are one: {}", context());
        }
        let chunks = features.has(Features::QUERY) || features.has(Features::NOTIFY);
        assert!(!chunks || client.replies.chunked(), "a chunk where there are none: {}", context());
        let grows = offer.flag || features.has(Features::AUTOMATIC) || offer.past_end != PastEnd::Refuse;
        assert!(!grows || (backend.can_grow() && !policy.read_only), "growth that can't be: {}", context());
        if features.has(Features::SHRINK) {
            assert!(features.has(Features::EXPLICIT) && policy.shrink && backend.can_shrink(), "{}", context());
            assert_eq!(offer.min, Size::ZERO, "{}", context());
        }
        if client.asks && !features.has(Features::SHRINK) {
            assert_eq!(offer.min, size(128), "no shrink is a minimum of the size now: {}", context());
        }
        if client.asks {
            let by_write = offer.past_end == PastEnd::Grow;
            assert_eq!(features.has(Features::AUTOMATIC), by_write, "what is listed is done: {}", context());
        }
        if client.no_automatic {
            assert_eq!(offer.past_end, PastEnd::Refuse, "never grown by a write: {}", context());
        }
        if offer.past_end == PastEnd::GrowAndCut {
            assert_eq!(
                (policy.automatic, client.style()),
                (AutomaticGrowth::Reconnect, ClientStyle::Stock),
                "{}",
                context()
            );
        }
        if offer.ceiling {
            assert!(policy.ceiling && !client.opted_in(), "a ceiling for one that knows better: {}", context());
            assert_eq!((offer.flag, offer.past_end), (false, PastEnd::Grow), "{}", context());
        }
        let contexts = offer.contexts;
        let any = contexts.automatic || contexts.no_automatic || contexts.size || contexts.watch;
        assert!(!any || client.replies.chunked(), "contexts without structured replies: {}", context());
    });
}

#[test]
fn extended_headers_are_offered_what_structured_replies_are() {
    let (now, policy) = (Now { size: size(1), disk: size(1), headroom: None }, ExportPolicy::DEFAULT);
    for (_, backend) in backends() {
        for client in negotiated().into_iter().filter(|client| client.replies == Replies::Structured) {
            let extended = Negotiated { replies: Replies::Extended, ..client };
            assert_eq!(offer(backend, &policy, &now, &client), offer(backend, &policy, &now, &extended));
            assert_eq!(client.style(), extended.style());
        }
    }
}

#[test]
fn the_maximum_is_what_quota_and_ceiling_leave() {
    let mut disk = Disk::behind(backend("origin"));
    let client = Negotiated { asks: true, ..Negotiated::nothing(Replies::Simple) };
    let most = |disk: &Disk| {
        let now = Now { size: disk.size, disk: disk.disk, headroom: disk.headroom };
        offer(disk.backend, &disk.policy, &now, &client).max
    };
    assert_eq!(most(&disk), size(1024));
    disk.headroom = headroom(100, 228);
    assert_eq!(most(&disk), size(224), "a multiple of the granularity");
    disk.headroom = headroom(0, 10);
    assert_eq!(most(&disk), size(128), "at the least, the size now");
    disk.size = size(130);
    disk.disk = size(130);
    assert_eq!(most(&disk), size(130), "even where that is no multiple");
    disk.headroom = headroom(u64::MAX, u64::MAX);
    assert_eq!(most(&disk), size(1024));
    disk.policy.max_size = Size::MAX;
    assert_eq!(most(&disk), Size::MAX, "no bound known is told exactly, whatever the granularity");
    disk.headroom = headroom(16, 1000);
    disk.disk = size(256);
    assert_eq!(most(&disk), size(272), "hidden bytes are counted already");
    disk.policy.read_only = true;
    assert_eq!(most(&disk), size(130));
}

#[test]
fn the_minimum_is_a_multiple_and_never_more_than_the_size_now() {
    let mut disk = Disk::behind(backend("origin"));
    let client = Negotiated { asks: true, ..Negotiated::nothing(Replies::Simple) };
    for (min, told) in [(0, 0), (1, 16), (64, 64), (127, 128), (500, 128), (Size::MAX.bytes(), 128)] {
        disk.policy.min_size = size(min);
        let now = Now { size: disk.size, disk: disk.disk, headroom: None };
        assert_eq!(offer(disk.backend, &disk.policy, &now, &client).min, size(told), "min-size {min}");
    }
    assert_eq!(disk.policy.granularity, granularity(16));
    assert_eq!(disk.policy.step, Bytes(0));
}

#[test]
fn styles_follow_from_what_was_negotiated() {
    let (simple, structured) = (Negotiated::nothing(Replies::Simple), Negotiated::nothing(Replies::Structured));
    let asks = Negotiated { asks: true, ..structured };
    let table = [
        (simple, ClientStyle::Kernel),
        (Negotiated { asks: true, ..simple }, ClientStyle::ExplicitSimple),
        (structured, ClientStyle::Stock),
        (Negotiated { no_automatic: true, ..structured }, ClientStyle::Stock),
        (Negotiated { automatic: true, ..structured }, ClientStyle::Automatic),
        (Negotiated { automatic: true, ..asks }, ClientStyle::ExplicitStructured),
        (Negotiated { polls: true, ..structured }, ClientStyle::ExplicitStructured),
        (Negotiated { watches: true, ..structured }, ClientStyle::ExplicitStructured),
        (asks, ClientStyle::ExplicitStructured),
    ];
    for (client, style) in table {
        assert_eq!(client.style(), style, "{client:?}");
    }
}
