//! What goes wrong: connections to servers are cut and held back, the gateway and servers are killed and stopped. All of
//! it is made good after a while that stays below the guard.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::town::{Export, Town};
use super::wire::Cut;
use crate::chaos::diary::Diary;
use crate::chaos::dice::Dice;
use crate::chaos::storm::Hurt;
use crate::trouble::Trouble;

/// The longest time for which bytes are held back or a server is stopped, in milliseconds.
pub(super) const LONGEST: u64 = 500;

/// What may go wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Connections to servers are cut, nothing else.
    Cuts,
    Everything,
}

#[derive(Default)]
pub(super) struct Storm {
    /// Which server, and until when.
    servers: Vec<(usize, Hurt, Instant)>,
    /// Connections cut.
    pub(super) cuts: usize,
    /// How often the gateway was killed.
    pub(super) gateway_kills: u32,
    /// How often a server was.
    pub(super) server_kills: u32,
}

impl Storm {
    pub(super) fn blow(
        &mut self,
        weather: Weather,
        (town, exports): (&mut Town, &[Export]),
        diary: &Diary,
        dice: &mut Dice,
        end: Instant,
    ) -> Result<(), Trouble> {
        while Instant::now() < end {
            diary.check()?;
            self.heal(town, diary, Instant::now())?;
            match dice.below(100) {
                _ if weather == Weather::Cuts => self.cut(town, diary, dice),
                0..60 => self.cut(town, diary, dice),
                60..68 => self.end_gateway(town, exports, diary, dice)?,
                68..73 => {
                    diary.note("storm", "SIGSTOP to the gateway");
                    town.gateway.signal(Signal::STOP);
                    thread::park_timeout(Duration::from_millis(dice.below(2 * LONGEST)));
                    town.gateway.signal(Signal::CONT);
                    diary.note("storm", "the gateway goes on");
                }
                _ => self.hurt(town, diary, dice)?,
            }
            thread::park_timeout(Duration::from_millis(20 + dice.below(400)));
        }
        Ok(())
    }

    /// Now and then what the gateway has sent is held back first, and arrives beside the next connection.
    fn cut(&mut self, town: &Town, diary: &Diary, dice: &mut Dice) {
        let wires: Vec<_> = town.wires.iter().enumerate().filter_map(|(at, wire)| Some((at, wire.as_ref()?))).collect();
        let (index, wire) = wires[dice.index(wires.len())];
        let cut = [Cut::Both, Cut::Gateway, Cut::Gateway, Cut::Server][dice.index(4)];
        if dice.chance(40) {
            let time = Duration::from_millis(1 + dice.below(LONGEST));
            diary.note("storm", &format!("the network to server {index} is held back for {time:?}"));
            wire.hold(time);
            thread::park_timeout(Duration::from_millis(dice.below(100)));
            if dice.chance(20) {
                return;
            }
        }
        let count = wire.cut(cut);
        diary.note("storm", &format!("{cut:?} cut off on {count} connections to server {index}"));
        self.cuts += count;
    }

    fn end_gateway(
        &mut self,
        town: &mut Town,
        exports: &[Export],
        diary: &Diary,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        if dice.chance(80) {
            diary.note("storm", "kill -9 of the gateway");
            town.gateway.kill()?;
            self.gateway_kills += 1;
        } else {
            diary.note("storm", "SIGTERM to the gateway");
            town.gateway.ask_to_end();
            town.gateway.await_end_whatever_it_logged()?;
        }
        exports.iter().for_each(|export| export.model.gateway_ended());
        town.gateway.start_again()?;
        diary.note("storm", "the gateway runs again");
        Ok(())
    }

    fn hurt(&mut self, town: &mut Town, diary: &Diary, dice: &mut Dice) -> Result<(), Trouble> {
        let index = dice.index(town.servers.len());
        let server = &mut town.servers[index];
        if !server.can_be_hurt() || self.servers.iter().any(|(hurt, ..)| *hurt == index) {
            return Ok(());
        }
        let hurt = Hurt::thrown(dice, 50);
        match hurt {
            Hurt::Killed => {
                server.kill()?;
                self.server_kills += 1;
            }
            Hurt::Stopped => server.pause(true),
        }
        diary.note("storm", &format!("{} server {index}, {:?}", hurt.how(), server.kind));
        self.servers.push((index, hurt, Instant::now() + Duration::from_millis(dice.below(LONGEST))));
        Ok(())
    }

    /// Makes good what is due.
    pub(super) fn heal(&mut self, town: &mut Town, diary: &Diary, now: Instant) -> Result<(), Trouble> {
        for (index, hurt, _) in self.servers.extract_if(.., |(_, _, until)| *until <= now) {
            let server = &mut town.servers[index];
            match hurt {
                Hurt::Killed => server.start_again()?,
                Hurt::Stopped => server.pause(false),
            }
            diary.note("storm", &format!("server {index} runs again"));
        }
        Ok(())
    }
}
