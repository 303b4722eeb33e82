//! What goes wrong: the gateway and its servers are killed or stopped at any moment, and the disk under the ledger fails.
//! What is broken is healed again after a while.

use std::thread;
use std::time::{Duration, Instant};

use super::diary::Diary;
use super::dice::Dice;
use super::town::Town;
use crate::trouble::Trouble;

/// What is wrong with a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hurt {
    Killed,
    Stopped,
}

impl Hurt {
    /// Killed so often in a hundred times.
    pub(crate) fn thrown(dice: &mut Dice, killed: u64) -> Self {
        if dice.chance(killed) { Self::Killed } else { Self::Stopped }
    }

    /// For the diary, before what it happens to.
    pub(crate) const fn how(self) -> &'static str {
        match self {
            Self::Killed => "kill -9 of",
            Self::Stopped => "SIGSTOP to",
        }
    }
}

/// What is to be made good, and when.
#[derive(Default)]
pub(super) struct Storm {
    servers: Vec<(usize, Hurt, Instant)>,
    /// Until when nothing can be written.
    full: Option<Instant>,
    /// How often the gateway was killed.
    pub(super) kills: u32,
}

impl Storm {
    /// Blows for a while.
    pub(super) fn blow(
        &mut self,
        town: &mut Town,
        diary: &Diary,
        dice: &mut Dice,
        end: Instant,
    ) -> Result<(), Trouble> {
        while Instant::now() < end {
            diary.check()?;
            self.heal(town, diary, Instant::now())?;
            self.hurt(town, diary, dice)?;
            thread::park_timeout(Duration::from_millis(20 + dice.below(400)));
        }
        Ok(())
    }

    fn hurt(&mut self, town: &mut Town, diary: &Diary, dice: &mut Dice) -> Result<(), Trouble> {
        match dice.below(10) {
            0..=2 => {
                diary.note("storm", "kill -9 of the gateway");
                town.gateway.kill()?;
                self.full = None;
                self.kills += 1;
                if dice.chance(30) {
                    thread::park_timeout(Duration::from_millis(dice.below(300)));
                }
                town.gateway.start_again()?;
                diary.note("storm", "the gateway runs again");
            }
            3 => {
                diary.note("storm", "SIGTERM to the gateway");
                town.gateway.ask_to_end();
                town.gateway.await_end_whatever_it_logged()?;
                self.full = None;
                town.gateway.start_again()?;
                diary.note("storm", "the gateway runs again");
            }
            4 | 5 if self.full.is_none() => {
                diary.note("storm", "nothing can be written");
                town.gateway.may_write(Some(dice.below(3) * 4096 + 1))?;
                self.full = Some(Instant::now() + Duration::from_millis(dice.below(2000)));
            }
            _ => {
                // The second gateway has the most to lose.
                let last = town.servers.len() - 1;
                let index = if dice.chance(35) { last } else { dice.index(last) };
                if self.servers.iter().any(|(hurt, ..)| *hurt == index) {
                    return Ok(());
                }
                let hurt = Hurt::thrown(dice, 60);
                let server = &mut town.servers[index];
                match hurt {
                    Hurt::Killed => server.kill()?,
                    Hurt::Stopped => server.pause(true)?,
                }
                diary.note("storm", &format!("{} {} {index}", hurt.how(), server.label()));
                self.servers.push((index, hurt, Instant::now() + Duration::from_millis(dice.below(4000))));
            }
        }
        Ok(())
    }

    /// Makes everything good, once nobody does anything any more.
    pub(super) fn end(&mut self, town: &mut Town, diary: &Diary) -> Result<(), Trouble> {
        self.heal(town, diary, Instant::now() + Duration::from_secs(3600))?;
        for server in &town.servers {
            if server.revive()? {
                diary.note("storm", &format!("{} was gone", server.label()));
            }
        }
        Ok(())
    }

    /// Makes good what is due.
    pub(super) fn heal(&mut self, town: &mut Town, diary: &Diary, now: Instant) -> Result<(), Trouble> {
        if self.full.is_some_and(|until| until <= now) {
            town.gateway.may_write(None)?;
            self.full = None;
            diary.note("storm", "everything can be written");
        }
        for (index, hurt, _) in self.servers.extract_if(.., |(_, _, until)| *until <= now) {
            let server = &mut town.servers[index];
            match hurt {
                Hurt::Killed => server.heal()?,
                Hurt::Stopped => server.pause(false)?,
            }
            diary.note("storm", &format!("{} {index} runs again", server.label()));
        }
        Ok(())
    }
}
