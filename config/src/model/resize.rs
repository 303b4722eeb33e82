//! How an export grows and shrinks: `[export.resize]` and `max-size`, checked against each other.
//!
//! Owns which of the keys can stand together and what they are worth where they are absent. What is decided with them
//! is `policy`'s; what the backend can do is found out when it is dialled, not here.

use std::time::Duration;

use nbd_gateway_policy::export::{AutomaticGrowth, ExportPolicy, External, Publish};
use nbd_gateway_policy::offer::Features;
use nbd_gateway_policy::rate::Rate;
use nbd_gateway_policy::types::{Bytes, Granularity, Size};

use crate::raw::resize::{RawDriver, RawOffer, RawPresent, RawResize};
use crate::raw::word::Word;
use crate::units::Interval;

use super::backend::BackendError;
use super::driver::{self, Driver};
use super::section::Section;
use super::tenant;

/// How an export grows and shrinks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resize {
    /// How its backend is resized.
    pub driver: Driver,
    /// What is allowed and what is offered. Its `offer` holds SHRINK and ZEROED with whatever else it holds, for these
    /// follow from the rest; it is [`Features::NONE`] where clients are offered nothing.
    pub policy: ExportPolicy,
    /// How long a lost session that did not opt in may come back to the size it knew; no shrink before that.
    pub shrink_grace: Duration,
    /// How often a backend that cannot tell of its size is asked for it; None: never. Embedded ones never are.
    pub poll: Option<Duration>,
    /// How long the backend has to answer a resize; not zero.
    pub timeout: Duration,
    /// How long a write past the end waits for a rate that holds up the growth that it needs.
    pub growth_wait: Duration,
    /// Notices that the backend may send; beyond that it is polled for `backend_notice_rest`. None: no bound.
    pub backend_notice_rate: Option<Rate>,
    /// How long a backend that sent too many is polled before it is subscribed to again; not zero.
    pub backend_notice_rest: Duration,
}

/// What `[export.resize]` is checked against.
pub(super) struct Facts {
    /// The gateway holds the data itself.
    pub(super) embedded: bool,
    /// Everything that would change data is refused.
    pub(super) read_only: bool,
    /// `size` of the export, as far as it could be read.
    pub(super) size: Option<Size>,
    /// `max-size` of the export, as far as it could be read.
    pub(super) max_size: Option<Size>,
}

/// The least amount that writes grow an export by if the configuration says nothing.
const STEP: u64 = 1 << 30;

/// The most that one write may grow an export by if the configuration says neither that nor `max-size`: sixty-four steps,
/// more than the gaps that a stream of writes leaves, less than a quota. An image with larger holes needs a bound of its own.
const MAX_STEP: u64 = 64 << 30;

/// Notices of a backend in a second if the configuration says nothing: twice what is asked of one that keeps to the interval
/// in its subscription, a tenth of what it takes to cost the gateway anything.
const BACKEND_NOTICES: &str = "100/s";

const DAY: Interval = Interval::from_secs(24 * 3600);

impl Resize {
    /// An export of which the configuration says nothing but what is in `facts`.
    pub(super) fn unsaid(facts: &Facts) -> Self {
        let policy = ExportPolicy {
            max_size: facts.max_size.unwrap_or(Size::MAX),
            step: Bytes(STEP),
            max_step: facts.max_size.is_none().then_some(Bytes(MAX_STEP)),
            read_only: facts.read_only,
            ..ExportPolicy::DEFAULT
        };
        Self {
            driver: if facts.embedded { Driver::Origin } else { Driver::Wire },
            policy,
            shrink_grace: Duration::from_secs(60),
            poll: (!facts.embedded).then_some(Duration::from_secs(5)),
            timeout: Duration::from_secs(30),
            growth_wait: Duration::from_secs(1),
            backend_notice_rate: BACKEND_NOTICES.parse().ok().and_then(|rate| tenant::counted(rate).ok()),
            backend_notice_rest: Duration::from_secs(60),
        }
    }

    /// Nothing of it.
    fn off(read_only: bool) -> Self {
        let facts = Facts { embedded: true, read_only, size: None, max_size: None };
        let mut resize = Self::unsaid(&facts);
        resize.driver = Driver::None;
        resize.policy.automatic = AutomaticGrowth::Never;
        resize.policy.offer = Features::NONE;
        resize
    }

    /// The same for the name in which `*` matched `matched`.
    pub(super) fn fill(&self, matched: &str) -> Result<Self, BackendError> {
        Ok(Self { driver: self.driver.fill(matched)?, ..self.clone() })
    }

    /// Reads `[export.resize]` of the export that `section` is.
    pub(super) fn read(raw: &RawResize, facts: &Facts, section: &mut Section<'_>) -> Self {
        if raw.driver == Some(RawDriver::None) {
            section.inner("resize").note_stated(|key| (key != "driver").then_some(NOTHING_TO_RESIZE));
            if facts.max_size.is_some() {
                section.note_with("max-size", NOTHING_TO_RESIZE, None);
            }
            return Self::off(facts.read_only);
        }
        let unsaid = Self::unsaid(facts);
        let mut inner = section.inner("resize");
        let driver = driver(raw, facts, &mut inner);
        let ceiling = ceiling(raw, facts, &mut inner);
        let policy = ExportPolicy { ceiling, ..policy(raw, &driver, &unsaid.policy, &mut inner) };
        check_publish(raw, &driver, &mut inner);
        let backend_notice_rate =
            tenant::count_rate("backend-notice-rate", raw.backend_notice_rate.as_ref(), &mut inner);
        let moment = Interval::from_millis(1);
        let zero = Interval::from_millis(0);
        let mut time = |key, text: Option<&str>, range| inner.interval(key, text, range);
        let poll = match raw.poll.as_deref() {
            Some("off") => None,
            text => time("poll", text, zero..=DAY).or(unsaid.poll).filter(|poll| !poll.is_zero() && !facts.embedded),
        };
        let resize = Self {
            driver,
            shrink_grace: time("shrink-grace", raw.shrink_grace.as_deref(), zero..=DAY).unwrap_or(unsaid.shrink_grace),
            poll,
            timeout: time("timeout", raw.timeout.as_deref(), moment..=Interval::from_secs(3600))
                .unwrap_or(unsaid.timeout),
            growth_wait: time("growth-wait", raw.growth_wait.as_deref(), zero..=Interval::from_secs(600))
                .unwrap_or(unsaid.growth_wait),
            backend_notice_rate: backend_notice_rate.or(unsaid.backend_notice_rate),
            backend_notice_rest: time("backend-notice-rest", raw.backend_notice_rest.as_deref(), moment..=DAY)
                .unwrap_or(unsaid.backend_notice_rest),
            policy,
        };
        resize.check_sizes(facts, section);
        resize
    }

    /// What the sizes of an export have to be to each other. A size that could not be read is not there, so it is not told twice.
    fn check_sizes(&self, facts: &Facts, section: &mut Section<'_>) {
        let ExportPolicy { granularity, min_size, max_size, step, max_step, .. } = self.policy;
        let (least, size) = (Bytes::from(min_size), facts.size.map(Bytes::from));
        let bound = Some(max_size).filter(|max_size| *max_size != Size::MAX).map(Bytes::from);
        let split = |size: &Bytes| !granularity.divides(*size);
        let grain = Bytes(granularity.bytes()).written();
        let uneven = |size: Bytes| format!("{} is not a multiple of granularity ({grain})", size.written());
        for (key, size) in [("size", size), ("max-size", bound)] {
            if let Some(size) = size.filter(split) {
                section.note(key, uneven(size));
            }
        }
        let mut inner = section.inner("resize");
        for (key, size) in [("min-size", Some(least)), ("step", Some(step)), ("max-step", max_step)] {
            if let Some(size) = size.filter(split) {
                inner.note(key, uneven(size));
            }
        }
        if let Some(most) = max_step.filter(|most| step > *most) {
            let (step, most) = (step.written(), most.written());
            inner.note(
                "step",
                format_args!("step ({step}) is more than max-step ({most}), so no write could grow by it"),
            );
        }
        if let Some(bound) = bound.filter(|bound| least > *bound) {
            let (least, bound) = (least.written(), bound.written());
            inner.note("min-size", format_args!("min-size ({least}) is more than max-size ({bound})"));
        }
        if let Some(size) = size.filter(|size| *size < least) {
            let (size, least) = (size.written(), least.written());
            section.note("size", format_args!("size ({size}) is less than min-size ({least}) of [export.resize]"));
        }
        if let (Some(size), Some(bound)) = (size, bound)
            && size > bound
        {
            let (size, bound) = (size.written(), bound.written());
            section.note("size", format_args!("size ({size}) is more than max-size ({bound})"));
        }
    }
}

/// What is said of a key that only a backend with connections has a use for.
pub(super) const NOTHING_FOR_EMBEDDED: &str = "this does nothing for a file: or memory: backend: leave it out";

/// What `offer` can have, and what it stands for.
pub(super) const OFFERS: [(RawOffer, &str, Features); 4] = [
    (RawOffer::Explicit, "explicit", Features::EXPLICIT),
    (RawOffer::Automatic, "automatic", Features::AUTOMATIC),
    (RawOffer::Query, "query", Features::QUERY),
    (RawOffer::Notify, "notify", Features::NOTIFY),
];

const NOTHING_TO_RESIZE: &str = r#"this does nothing where driver = "none": leave it out"#;

fn driver(raw: &RawResize, facts: &Facts, section: &mut Section<'_>) -> Driver {
    if !facts.embedded {
        return driver::read(raw, facts.size, section);
    }
    if raw.driver.is_some_and(|driver| driver != RawDriver::None) {
        let what =
            "the gateway resizes a file: or memory: backend itself: leave this out, or write `none` to switch that off";
        section.note_with("driver", what, r#"driver = "none""#);
    }
    section.note_stated(|key| {
        let idle = matches!(key, "poll" | "external" | "exclusive" | "backend-notice-rate" | "backend-notice-rest");
        (idle || driver::OWN.contains(&key)).then_some(NOTHING_FOR_EMBEDDED)
    });
    Driver::Origin
}

/// Whether clients that know nothing of it are shown the ceiling.
fn ceiling(raw: &RawResize, facts: &Facts, section: &mut Section<'_>) -> bool {
    if raw.present != Some(RawPresent::Ceiling) {
        return false;
    }
    if facts.max_size.is_none() {
        section.note("present", "the ceiling is `max-size` of the export, and it has none: write one");
    }
    if facts.read_only {
        section.note("present", "a read-only export does not grow: leave this out");
    }
    if raw.shrink == Some(true) {
        section.note("present", "what is shown as the ceiling cannot shrink: leave out `shrink` or this");
    }
    if raw.automatic == Some(Word(AutomaticGrowth::Never)) {
        section.note("present", "behind a ceiling writes grow the export: leave out `automatic` or this");
    }
    if matches!(raw.publish, Some(Word(Publish::Manual | Publish::Never))) {
        section.note("present", "who is shown the ceiling has nothing more to be shown: leave out `publish` or this");
    }
    if matches!(raw.external, Some(Word(External::Ignore | External::Manual))) {
        section.note(
            "present",
            "what is not shown reads as zeroes below a ceiling, and would not stay so: leave out `external` or this",
        );
    }
    true
}

/// What cannot stand beside a size that clients see later.
fn check_publish(raw: &RawResize, driver: &Driver, section: &mut Section<'_>) {
    if !matches!(raw.publish, Some(Word(Publish::Manual | Publish::Never))) {
        return;
    }
    if matches!(driver, Driver::Window { .. }) {
        let what = "a window is what clients see of its disk, so there is nothing to publish later: leave this out";
        section.note_with("publish", what, r#"publish = "auto""#);
    }
    if matches!(
        raw.automatic,
        Some(Word(AutomaticGrowth::OptIn | AutomaticGrowth::Always | AutomaticGrowth::Reconnect))
    ) {
        let what =
            "writes do not grow an export whose sizes are published by somebody else: leave this out, or `publish`";
        section.note_with("automatic", what, r#"automatic = "never""#);
    }
}

fn policy(raw: &RawResize, driver: &Driver, unsaid: &ExportPolicy, section: &mut Section<'_>) -> ExportPolicy {
    let granularity = section.size("granularity", raw.granularity.as_ref());
    let granularity = granularity
        .and_then(|bytes| section.accept("granularity", Granularity::new(bytes)))
        .unwrap_or(unsaid.granularity);
    let largest = Size::MAX.bytes();
    let max_step: Option<Bytes> = section.size_in("max-step", raw.max_step.as_ref(), 1..=largest);
    let step: Option<Bytes> = section.size_in("step", raw.step.as_ref(), 0..=largest);
    // What nobody wrote cannot be wrong: it gives way to what somebody did.
    let most = unsaid.max_step.map(|most| most.max(step.unwrap_or(Bytes(0))).max(Bytes(granularity.bytes())));
    let stated = max_step.is_some();
    let max_step = if raw.max_step.is_some() { max_step } else { most };
    let fitting =
        Bytes(unsaid.step.0.max(granularity.bytes())).min(max_step.filter(|_| stated).unwrap_or(Bytes(u64::MAX)));
    let min_size = section.size_in("min-size", raw.min_size.as_ref(), 0..=largest);
    if raw.shrink == Some(true) && *driver == Driver::Automatic {
        let what = "a backend that grows by writes never shrinks: leave this out";
        section.note_with("shrink", what, "shrink = false");
    }
    ExportPolicy {
        automatic: raw.automatic.map_or(unsaid.automatic, |word| word.0),
        shrink: raw.shrink.unwrap_or(unsaid.shrink),
        over_quota: raw.over_quota.map_or(unsaid.over_quota, |word| word.0),
        external: raw.external.map_or(unsaid.external, |word| word.0),
        publish: raw.publish.map_or(unsaid.publish, |word| word.0),
        min_size: min_size.unwrap_or(unsaid.min_size),
        granularity,
        step: step.unwrap_or(fitting),
        max_step,
        exclusive: raw.exclusive.unwrap_or(unsaid.exclusive),
        offer: raw.offer.as_deref().map_or(unsaid.offer, |offer| features(offer, raw.automatic, section)),
        ..unsaid.clone()
    }
}

/// The list as a mask. What follows from the others is in it as soon as there are others.
fn features(offer: &[RawOffer], automatic: Option<Word<AutomaticGrowth>>, section: &mut Section<'_>) -> Features {
    let mut features = Features::NONE;
    for (offered, word, feature) in OFFERS {
        match offer.iter().filter(|other| **other == offered).count() {
            0 => continue,
            1 => {}
            _ => section.note("offer", format_args!("`{word}` stands twice")),
        }
        features = features.with(feature).with(Features::SHRINK).with(Features::ZEROED);
    }
    match (features.has(Features::AUTOMATIC), automatic) {
        (true, Some(Word(AutomaticGrowth::Never))) => {
            section.note("offer", r#"`automatic` cannot be offered where automatic = "never": leave out one of them"#);
        }
        (false, Some(Word(AutomaticGrowth::OptIn | AutomaticGrowth::Always | AutomaticGrowth::Reconnect))) => {
            let what = "this does nothing where `offer` has no `automatic`: put it there, or say never";
            section.note_with("automatic", what, r#"automatic = "never""#);
        }
        _ => {}
    }
    features
}
