//! One cell: a client of one style and a witness of another on one export, a backend, an event, and what has to be true
//! afterwards. Each cell is run once per run of the suite, whoever asks first.

use std::sync::OnceLock;

use super::backend::{Backend, Rules, Stage};
use super::client::{Client, Hand, MARK, MARK_BYTE, Said};
use super::event::{
    CEILING, Event, GRANULARITY, GROWN, OVER_CEILING, OVER_QUOTA, QUOTA, ROUNDED, SHRUNK, START, UNEVEN,
};
use super::expect::{Unable, unable};
use super::style::Style;
use crate::image::Image;
use crate::scripted::Framing;
use crate::scripted::numbers::errno;
use crate::trouble::{Trouble, ensure};

pub(super) fn outcome(style: Style, backend: Backend, event: Event) -> Result<(), Trouble> {
    const CELLS: usize = Style::ALL.len() * Backend::ALL.len() * Event::ALL.len();
    static OUTCOMES: [OnceLock<Result<(), Trouble>>; CELLS] = [const { OnceLock::new() }; CELLS];
    let index = (style as usize * Backend::ALL.len() + backend as usize) * Event::ALL.len() + event as usize;
    OUTCOMES[index]
        .get_or_init(|| {
            run(style, backend, event)
                .map_err(|trouble| Trouble::new(format!("{style:?} with {backend:?}, {event:?}: {trouble}")))
        })
        .clone()
}

fn run(style: Style, backend: Backend, event: Event) -> Result<(), Trouble> {
    let rules = match event {
        Event::GrowRounded => Rules { granularity: Some(GRANULARITY), ..Rules::default() },
        Event::Shrink => Rules { shrink: true, ..Rules::default() },
        Event::Refused => Rules { max_size: Some(CEILING), quota: Some(QUOTA), ..Rules::default() },
        Event::Grow | Event::SameSize | Event::BehindTheBack => Rules::default(),
    };
    let stage = Stage::start(backend, rules)?;
    let mut scene = Scene::set(stage, style, event)?;
    let unable = unable(style, backend, event);
    let done = match event {
        Event::Grow => scene.grow(GROWN, GROWN, unable),
        Event::GrowRounded => scene.grow(UNEVEN, ROUNDED, unable),
        Event::Shrink => scene.shrink(unable),
        Event::SameSize => scene.same_size(unable),
        Event::Refused => scene.refused(),
        Event::BehindTheBack => scene.behind_the_back(unable),
    };
    match done {
        Ok(()) => scene.close(),
        Err(trouble) => Err(trouble.with(format!("--- the gateway said:\n{}", scene.stage.gateway.log()))),
    }
}

/// Who is there, and what the disk has to hold.
struct Scene {
    stage: Stage,
    asker: Client,
    witness: Client,
    hand: Hand,
    content: Vec<u8>,
    /// How often a native server may have been asked for another size.
    resizes: usize,
}

impl Scene {
    fn set(stage: Stage, style: Style, event: Event) -> Result<Self, Trouble> {
        let mut hand = Hand::enter(&stage)?;
        let content = Image::full(7).bytes()[..START as usize].to_vec();
        hand.write(0, &content)?;
        let asker = Client::enter(&stage, style)?;
        let witness = Client::enter(&stage, witness(style, event))?;
        Ok(Self { stage, asker, witness, hand, content, resizes: 0 })
    }

    fn grow(&mut self, ask: u64, size: u64, unable: Option<Unable>) -> Result<(), Trouble> {
        let said = self.asker.ask(ask)?;
        if let Some(unable) = unable {
            let errno = if self.asker.style.only_writes() { errno::ENOSPC } else { unable.errno() };
            let words = if self.asker.style.only_writes() { "" } else { unable.words() };
            self.is_refused(&said, errno, words)?;
            return self.settled(START);
        }
        self.granted(&said, size)?;
        self.content.resize(size as usize, 0);
        self.marked(ask);
        self.settled(size)
    }

    fn shrink(&mut self, unable: Option<Unable>) -> Result<(), Trouble> {
        let by_hand = self.asker.style.only_writes();
        let grows = self.stage.backend.grows();
        if grows {
            self.grow(GROWN, GROWN, None)?;
            // What must not come back.
            self.hand.write(START, &[0xee; (GROWN - START) as usize])?;
            self.content[START as usize..].fill(0xee);
        }
        let (from, to) = if grows { (GROWN, START) } else { (START, SHRUNK) };
        let said = if by_hand { self.hand.try_resize(to)? } else { self.asker.ask(to)? };
        if let Some(unable) = unable.filter(|unable| *unable != Unable::NoWayToAsk) {
            let words = match unable {
                Unable::FoundOut => "can't shrink before its backend has shown that it can grow",
                // The configuration knows it already.
                Unable::OnlyGrows if self.stage.backend == Backend::ByWrites => "may not shrink",
                _ => unable.words(),
            };
            let framing = if by_hand { Framing::Structured } else { self.asker.style.framing() };
            is_refused(&said, framing, unable.errno(), words)?;
            return self.settled(from);
        }
        if by_hand {
            ensure(said.errno == 0 && said.size == Some(to), || format!("the hand's shrink: {said:?}"))?;
        } else {
            self.granted(&said, to)?;
        }
        self.resizes += 1;
        self.content.truncate(to as usize);
        self.settled(to)?;
        self.grow(GROWN, GROWN, None)
    }

    fn same_size(&mut self, unable: Option<Unable>) -> Result<(), Trouble> {
        let said = self.asker.ask(START)?;
        if let Some(unable) = unable {
            self.is_refused(&said, unable.errno(), unable.words())?;
        } else {
            ensure(said.errno == 0, || format!("the size that it has: {said:?}"))?;
            self.marked(START);
        }
        ensure(self.stage.gateway.metric("nbd_gateway_export_generation", &[])? == 0.0, || {
            "the size has changed".into()
        })?;
        self.settled(START)
    }

    fn refused(&mut self) -> Result<(), Trouble> {
        let grows = self.stage.backend.grows() || self.stage.backend == Backend::DraftLiar;
        let words = |words: &'static str| if grows { words } else { "" };
        if self.asker.style.only_writes() {
            for (end, words) in [(OVER_QUOTA, words("left of")), (OVER_CEILING, words("max-size"))] {
                // Not even the part before the old end is written.
                let said = self.asker.write(START - MARK, end - START + MARK)?;
                self.is_refused(&said, errno::ENOSPC, words)?;
            }
        } else {
            let errno = |errno| if grows { errno } else { errno::EINVAL };
            for (to, errno, words) in [
                (OVER_QUOTA, errno(errno::ENOSPC), words("left of")),
                (OVER_CEILING, errno(errno::ENOSPC), words("max-size")),
                (SHRUNK, errno(errno::EPERM), words("may not shrink")),
            ] {
                let said = self.asker.ask(to)?;
                self.is_refused(&said, errno, words)?;
            }
        }
        self.settled(START)
    }

    fn behind_the_back(&mut self, unable: Option<Unable>) -> Result<(), Trouble> {
        let meddled = self.stage.meddle(&mut self.hand, GROWN);
        if unable.is_some() {
            ensure(meddled.is_err(), || "somebody could change the size after all".into())?;
            return self.settled(START);
        }
        meddled?;
        self.asker.comes_to_know(GROWN)?;
        self.content.resize(GROWN as usize, 0);
        self.settled(GROWN)
    }

    /// The answer to a wish that came true.
    fn granted(&mut self, said: &Said, size: u64) -> Result<(), Trouble> {
        ensure(said.errno == 0, || format!("refused: {said:?}"))?;
        let style = self.asker.style;
        let told = style.opts_in() && style.framing() != Framing::Simple && !style.only_writes();
        ensure(said.size == told.then_some(size), || format!("the answer was {said:?}, and the size is {size}"))?;
        self.resizes += 1;
        Ok(())
    }

    fn is_refused(&self, said: &Said, errno: u32, words: &str) -> Result<(), Trouble> {
        if self.asker.style == Style::Libnbd {
            // libnbd keeps the sentence to itself.
            return ensure(said.errno == errno, || format!("error {errno} was due: {said:?}"));
        }
        is_refused(said, self.asker.style.framing(), errno, words)
    }

    /// A client that grows by writing has written what it grew for.
    fn marked(&mut self, end: u64) {
        if self.asker.style.only_writes() {
            self.content[(end - MARK) as usize..end as usize].fill(MARK_BYTE);
        }
    }

    /// Everybody knows the size, the backend has it, and the bytes are what they have to be.
    fn settled(&mut self, size: u64) -> Result<(), Trouble> {
        self.asker.knows(size)?;
        self.witness.knows(size)?;
        let behind = self.stage.size()?;
        ensure(behind == size, || format!("the backend has {behind} bytes, not {size}"))?;
        self.hand.expect(&self.content[..size as usize])?;
        if let Some(disk) = self.stage.disk()? {
            ensure(disk == self.content[..size as usize], || "the disk itself holds other bytes".into())?;
        }
        if let Some(seen) = self.stage.resizes_seen() {
            ensure(seen <= self.resizes.max(1), || format!("the backend was asked {seen} times for a size"))?;
        }
        Ok(())
    }

    fn close(self) -> Result<(), Trouble> {
        self.asker.leave()?;
        self.witness.leave()?;
        self.hand.leave()?;
        self.stage.end()
    }
}

fn is_refused(said: &Said, framing: Framing, errno: u32, words: &str) -> Result<(), Trouble> {
    ensure(said.errno == errno, || format!("error {errno} was due: {said:?}"))?;
    let fits = match &said.sentence {
        None => framing == Framing::Simple,
        Some(sentence) => sentence.len() > 10 && sentence.contains(words),
    };
    ensure(fits, || format!("a sentence with {words:?} was due: {said:?}"))
}

/// Another style, by turns. A shrink cannot be under one that did not opt in.
fn witness(style: Style, event: Event) -> Style {
    let count = Style::ALL.len();
    let first = style as usize + 1 + event as usize;
    let turns = (0..count).map(|turn| Style::ALL[(first + turn) % count]);
    let mut fit = turns.filter(|other| *other != style && (event != Event::Shrink || other.opts_in()));
    fit.next().expect("there are many styles")
}
