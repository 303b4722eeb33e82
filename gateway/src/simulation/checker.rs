//! Checks what clients were told against what the server executed.
//!
//! Times are steps of the history. An operation ends when its client gets the reply or closes its connection. If an
//! operation ended before another one began, its effect must not appear after the effect of the other one.

use super::disk::{Disk, GARBAGE};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Error,
    /// Its client closed the connection.
    Gone,
}

/// Kinds of operations that change data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Write,
    Zero,
    /// Writes zeroes where the server likes to.
    Trim,
    /// May cut off, or expose as zeroes, everything from its first sector on.
    Resize,
}

/// An operation as its client sees it, on the sectors `from..to`.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) change: Change,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) begun: u64,
    pub(super) ended: Option<(u64, End)>,
    /// Per sector the step of its last execution, 0 for none.
    landed: Vec<u64>,
    fua: bool,
}

impl Operation {
    fn covers(&self, sector: usize) -> bool {
        (self.from..self.to).contains(&sector)
    }

    fn ended_before(&self, step: u64) -> bool {
        self.ended.is_some_and(|(at, _)| at < step)
    }

    fn is_acknowledged(&self) -> bool {
        matches!(self.ended, Some((_, End::Success)))
    }
}

/// What a session knows about lost writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knowledge {
    pub(super) opened: u64,
    /// Step of its last failed FLUSH.
    pub(super) flush_failed: u64,
}

/// The past of one sector.
#[derive(Debug, Default)]
struct Sector {
    /// Steps of changes, and the number of the write that it held from then on.
    held: Vec<(u64, u64)>,
    /// The latest begin of all operations that were executed here.
    newest: u64,
    /// Step of the last shrink that cut it off.
    cut: u64,
    /// Step of the last crash that changed it.
    lost: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Operation number n is at n - 1. Number 0 stands for the initial zeroes.
    operations: Vec<Operation>,
    sectors: Vec<Sector>,
    losses: Vec<u64>,
    /// Step at which the gateway was killed last: it does not know of losses of writes from before.
    pub(super) killed: u64,
}

impl Checker {
    pub(super) fn new(sectors: usize) -> Self {
        let mut new = Self::default();
        new.hold(0, sectors, 0);
        new
    }

    /// Adds sectors with `content`.
    fn hold(&mut self, step: u64, sectors: usize, content: u64) {
        while self.sectors.len() < sectors {
            self.sectors.push(Sector { held: vec![(step, content)], newest: 0, cut: 0, lost: 0 });
        }
    }

    pub(super) fn operation(&self, number: u64) -> Option<&Operation> {
        self.operations.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// Adds an operation. Returns its number.
    pub(super) fn begin(&mut self, step: u64, change: Change, from: usize, to: usize, fua: bool) -> u64 {
        let landed = if change == Change::Write { vec![0; to - from] } else { Vec::new() };
        self.operations.push(Operation { change, from, to, begun: step, ended: None, landed, fua });
        self.operations.len() as u64
    }

    /// A client got a reply, or closed its connection.
    pub(super) fn end(&mut self, step: u64, number: u64, end: End, disk: &Disk) -> Result<(), String> {
        let Some(operation) = self.operations.get_mut(number as usize - 1) else { return Ok(()) };
        operation.ended = Some((step, end));
        if end != End::Success {
            return Ok(());
        }
        let operation = operation.clone();
        for sector in operation.from..operation.to.min(self.sectors.len()) {
            match operation.change {
                Change::Write if operation.landed[sector - operation.from] == 0 => {
                    return Err(format!("write {number} was acknowledged, and never reached sector {sector}"));
                }
                Change::Zero if !self.held_between(sector, operation.begun, 0) => {
                    return Err(format!("zeroes {number} were acknowledged, and never reached sector {sector}"));
                }
                Change::Write if operation.fua => self.is_durable(number, sector, disk, "had FUA, was acknowledged")?,
                Change::Write | Change::Zero | Change::Trim | Change::Resize => {}
            }
        }
        Ok(())
    }

    /// Whether the sector held `what` at any time from `since` on.
    fn held_between(&self, sector: usize, since: u64, what: u64) -> bool {
        let held = &self.sectors[sector].held;
        let first = held.iter().rposition(|(from, _)| *from <= since).unwrap_or(0);
        held[first..].iter().any(|(_, by)| *by == what)
    }

    /// The server replaces `was` by `by`, for a request that it received at `received`.
    pub(super) fn land(&mut self, step: u64, received: u64, sector: usize, by: u64, was: u64) -> Result<(), String> {
        let (newest, begun) = (self.sectors[sector].newest, self.judge(received, sector, was, by)?);
        if by != 0
            && let Some(operation) = self.operations.get_mut(by as usize - 1)
        {
            operation.landed[sector - operation.from] = step;
        }
        self.sectors[sector].newest = newest.max(begun);
        if was != by {
            self.sectors[sector].held.push((step, by));
        }
        Ok(())
    }

    /// The begin of the operation, if its execution is allowed.
    fn judge(&self, received: u64, sector: usize, was: u64, by: u64) -> Result<u64, String> {
        let Sector { held, newest, lost, .. } = &self.sectors[sector];
        if by == was {
            return Ok(0);
        }
        if by == 0 {
            // Zeroes have no number: one operation that allows them is enough.
            let zeroes = self.operations.iter().filter(|it| it.change != Change::Write && it.covers(sector));
            let may = zeroes.filter(|it| !it.ended_before(*newest)).map(|it| it.begun).min();
            return may.or((was == GARBAGE).then_some(0)).ok_or_else(|| {
                format!(
                    "zeroes landed in sector {sector} over write {was}, and all that there are ended before that began"
                )
            });
        }
        let Some(operation) = self.operation(by) else {
            return Err(format!("sector {sector} was written by nobody: {by:#x}"));
        };
        if !operation.covers(sector) {
            return Err(format!("write {by} landed in sector {sector}, which is not its own"));
        }
        if operation.ended_before(*newest) {
            return Err(format!("write {by} landed in sector {sector} over {was}, which began after it had ended"));
        }
        // A crash may have undone `was` already.
        let mut before = held.iter().rev().take_while(|(at, _)| at >= lost);
        let acknowledged = |was: &Operation| was.is_acknowledged() && was.ended_before(received);
        if self.operation(was).is_some_and(acknowledged) && before.any(|(_, held)| *held == by) {
            return Err(format!("a second copy of write {by} undid {was} in sector {sector}, which was acknowledged"));
        }
        Ok(operation.begun)
    }

    /// The server crashed and lost its cache.
    pub(super) fn lost(&mut self, step: u64, disk: &Disk) {
        self.losses.push(step);
        for (at, sector) in self.sectors.iter_mut().enumerate().take(disk.sectors()) {
            if sector.held.last().is_some_and(|(_, by)| *by != disk.get(at)) {
                sector.held.push((step, disk.get(at)));
                sector.lost = step;
            }
        }
    }

    /// The size changed from `before` to `after` sectors. New ones have `content`.
    pub(super) fn resized(&mut self, step: u64, before: usize, after: usize, content: u64) {
        let known = self.sectors.len();
        self.hold(step, after, content);
        self.sectors.iter_mut().take(before).skip(after).for_each(|sector| sector.cut = step);
        self.sectors
            .iter_mut()
            .take(known.min(after))
            .skip(before)
            .for_each(|sector| sector.held.push((step, content)));
    }

    /// A READ that began at `since` returned this.
    pub(super) fn read(&self, since: u64, sector: usize, by: Option<u64>) -> Result<(), String> {
        match by {
            None => Err(format!("mixed or misplaced data was read from sector {sector}")),
            Some(GARBAGE) => Err(format!("unzeroed data was read from sector {sector}")),
            Some(by) if sector >= self.sectors.len() || !self.held_between(sector, since, by) => {
                Err(format!("{by} was read from sector {sector}, which did not hold it then"))
            }
            Some(_) => Ok(()),
        }
    }

    /// A FLUSH that began at `since` succeeded.
    pub(super) fn flushed(&self, since: u64, knowledge: Knowledge, disk: &Disk) -> Result<(), String> {
        for (at, operation) in self.operations.iter().enumerate() {
            let acknowledged = operation.is_acknowledged() && operation.ended_before(since);
            if operation.change != Change::Write || !acknowledged {
                continue;
            }
            for sector in operation.from..operation.to.min(disk.sectors()) {
                let landed = operation.landed[sector - operation.from];
                // The session was told that it may be lost, or began after the loss.
                let told = landed < knowledge.flush_failed
                    || self.losses.iter().any(|loss| (landed..=knowledge.opened).contains(loss))
                    || operation.ended_before(self.killed) && self.losses.iter().any(|loss| *loss >= landed);
                if !told {
                    self.is_durable(at as u64 + 1, sector, disk, "was acknowledged before a FLUSH that was")?;
                }
            }
        }
        Ok(())
    }

    fn is_durable(&self, number: u64, sector: usize, disk: &Disk, why: &str) -> Result<(), String> {
        let Some(operation) = self.operation(number) else { return Ok(()) };
        if sector >= disk.sectors() || self.sectors[sector].cut > operation.begun {
            return Ok(());
        }
        let durable = disk.durable(sector);
        let not_older = |it: &Operation| it.covers(sector) && !it.ended_before(operation.begun);
        let kept = match durable {
            0 => self.operations.iter().any(|it| it.change != Change::Write && not_older(it)),
            by => self.operation(by).is_some_and(not_older),
        };
        match kept {
            true => Ok(()),
            false => Err(format!("write {number} {why}, and sector {sector} durably holds {durable}")),
        }
    }
}
