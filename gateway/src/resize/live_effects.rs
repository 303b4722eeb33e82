//! A coordinator's real effects: on the backend, the view and the history.

use nbd_gateway_policy::types::{Bytes, Span};
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::plan::{self, Ask};
use nbd_gateway_policy::types::{ByteRange, Size};
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, ExportFlags, MAX_SIZE};

use super::effects::{Answered, Effects};
use super::rules::Rules;
use crate::accounting::history::{Happened, History};
use crate::command;
use crate::driver::{Driver, Order};
use crate::fault::Fault;
use crate::request::{Outcome, Request};
use crate::target::{Core, Lanes, Purpose, Shown, zeroing};

#[derive(Debug)]
pub(crate) struct LiveEffects {
    core: Arc<Core>,
    /// How it is resized beside the wire, if it is.
    driver: Option<Driver>,
    history: History,
    /// How long the backend has to answer.
    timeout: Duration,
    /// An ask that was not answered in time. The task ends when it is answered, or its connection lost.
    given_up: Option<tokio::task::JoinHandle<Outcome>>,
    /// An ask was made, or in doubt at the last look: what handshakes told until then may be the size from before it.
    doubted: bool,
}

impl LiveEffects {
    /// For one export; `doubted`: an earlier opening's ask may still be carried out.
    pub(crate) fn new(
        core: Arc<Core>,
        driver: Option<Driver>,
        history: History,
        timeout: Duration,
        doubted: bool,
    ) -> Self {
        Self { core, driver, history, timeout, given_up: None, doubted }
    }

    /// Has the driver do it.
    async fn drive(&mut self, to: Size) -> Answered {
        let Some(driver) = &self.driver else {
            return Answered::No { errno: Errno::EPERM.0, message: "nothing resizes this backend".to_owned() };
        };
        // The driver keeps the limit itself and says what it was at; this is for one that does not.
        let timeout = self.timeout + command::GRACE + Duration::from_secs(2);
        let order = Order {
            export: self.core.export().clone(),
            tenant: self.core.tenant().clone(),
            from: self.core.disk(),
            to: to.bytes(),
            was: self.core.snapshot(),
            limit: self.timeout,
        };
        let begun = tokio::time::Instant::now();
        match tokio::time::timeout(timeout, driver.resize(&order)).await {
            Ok(Ok(())) => {
                if let Some(lanes) = self.core.lanes().filter(|_| driver.can_fence()) {
                    lanes.late.fenced(begun);
                }
                Answered::Yes
            }
            Ok(Err(fault)) if fault.is_unknown() => Answered::Unknown(fault.message().to_owned()),
            Ok(Err(fault)) => Answered::No { errno: fault.errno().0, message: fault.message().to_owned() },
            Err(_) => Answered::Unknown(format!("the resize was not done within {} (timeout)", Span(timeout))),
        }
    }

    /// A request that is not forgotten when it is not answered in time.
    async fn ask(&mut self, request: Request) -> Result<Outcome, Fault> {
        let (command, timeout) = (request.command, self.timeout);
        let core = Arc::clone(&self.core);
        let mut call = tokio::spawn(async move { core.call(request).await });
        match tokio::time::timeout(timeout, &mut call).await {
            Ok(outcome) => outcome.map_err(|_| Fault::us("the request was lost in the gateway").or_done()),
            Err(_) => {
                self.given_up = Some(call);
                Err(Fault::backend(format!("no answer to {command} within {}", Span(timeout))).or_done())
            }
        }
    }
}

impl Drop for LiveEffects {
    /// Nobody is left to care how it ended; the lane need not wait for the answer.
    fn drop(&mut self) {
        if let Some(call) = self.given_up.take() {
            call.abort();
        }
    }
}

impl Effects for LiveEffects {
    async fn read_size(&mut self) -> Result<u64, Fault> {
        tokio::time::timeout(self.timeout, self.core.read_size(Purpose::Resize)).await.unwrap_or_else(|_| {
            Err(Fault::backend(format!("the backend did not tell its size within {}", Span(self.timeout))))
        })
    }

    async fn size_on_host(&mut self) -> Option<u64> {
        match &self.driver {
            Some(driver) => driver.length(self.timeout).await,
            None => None,
        }
    }

    async fn ask(&mut self, ask: Ask) -> Answered {
        if let Some(lanes) = self.core.lanes() {
            lanes.forget_handshake_size();
        }
        // What a handshake tells before the answer may be the size from before it too.
        self.doubted = true;
        let outcome = match ask {
            Ask::Nothing => return Answered::Yes,
            Ask::ResizeEmbedded(size) => {
                return match self.core.set_size(size.bytes()).await {
                    Ok(_) => Answered::Yes,
                    Err(why) => {
                        tracing::warn!(export = self.core.name(), %why, "the disk was not resized");
                        Answered::No { errno: why.errno().0, message: why.to_string() }
                    }
                };
            }
            Ask::ExplicitResize(size) => {
                LiveEffects::ask(self, Request::new(Cmd::RESIZE, CmdFlags::NONE, size.bytes(), 0)).await
            }
            Ask::ZeroWriteLastGranule { offset, len } => {
                let length = u64::from(len);
                let zeroes = if self.core.facts().flags.has(ExportFlags::SEND_WRITE_ZEROES) {
                    Request::new(Cmd::WRITE_ZEROES, CmdFlags::NONE, offset.bytes(), length)
                } else {
                    let payload = vec![0; usize::try_from(len).unwrap_or(0)].into();
                    Request::write(CmdFlags::NONE, offset.bytes(), payload)
                };
                LiveEffects::ask(self, zeroes).await
            }
            Ask::Driver(size) => return self.drive(size).await,
        };
        match outcome {
            Ok(Outcome::Done) => Answered::Yes,
            Ok(Outcome::Resized(size)) if (1..=MAX_SIZE).contains(&size) => Answered::Yes,
            Ok(Outcome::Resized(size)) => {
                Answered::Unknown(format!("the backend says that the size is now {}", Bytes(size)))
            }
            Ok(Outcome::Failed(failure)) => {
                Answered::No { errno: failure.errno.0, message: failure.message.into_owned() }
            }
            Ok(Outcome::Found(_) | Outcome::Status(_)) => Answered::Unknown("an answer to another command".to_owned()),
            Err(why) => Answered::Unknown(why.message().to_owned()),
        }
    }

    fn in_doubt(&mut self) -> bool {
        self.given_up.take_if(|call| call.is_finished());
        let lanes = self.core.lanes();
        let in_doubt = self.given_up.is_some() || lanes.is_some_and(|lanes| lanes.late.has_resize());
        if std::mem::replace(&mut self.doubted, in_doubt) && !in_doubt {
            lanes.inspect(|lanes| lanes.forget_handshake_size());
        }
        in_doubt
    }

    fn confirmed(&mut self) {
        // The task goes on until it is answered; nobody waits for it.
        self.given_up = None;
        if let Some(lanes) = self.core.lanes() {
            lanes.late.resize_confirmed();
        }
    }

    async fn size_from_handshake(&mut self) -> Option<u64> {
        // Not before: it would wait for the ask, and what comes meanwhile for it.
        if !self.doubted && self.single_connection() && self.core.lanes()?.size_from_handshake().is_none() {
            self.renew(plan::Lanes::ReplaceAfter).await;
        }
        self.core.lanes()?.size_from_handshake()
    }

    async fn zero(&mut self, range: ByteRange) -> Result<(), Fault> {
        zeroing::zero(&self.core, range, self.timeout).await
    }

    fn single_connection(&self) -> bool {
        self.core.lanes().is_some_and(Lanes::single_connection)
    }

    async fn drop_lanes(&mut self) -> bool {
        let Some(lanes) = self.core.lanes() else { return true };
        let gone = tokio::time::timeout(self.timeout, lanes.step_aside()).await.is_ok();
        if !gone {
            let timeout = self.timeout;
            tracing::warn!(
                export = self.core.name(),
                ?timeout,
                "the backend did not answer what was in flight in time; its connections stay"
            );
            self.renew(plan::Lanes::DropBefore).await;
        }
        gone
    }

    async fn renew(&mut self, lanes: plan::Lanes) {
        // A lane that is not through yet sends nothing before it is: what needs the new size waits for it.
        let Some(all) = self.core.lanes() else { return };
        if tokio::time::timeout(self.timeout, all.renew(lanes)).await.is_err() {
            tracing::warn!(export = self.core.name(), timeout = ?self.timeout, "the backend's connections are not back yet");
        }
    }

    fn lower_end(&mut self, end: Size) {
        self.core.lower_end(end.bytes());
    }

    async fn drain(&mut self, end: Size, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.core.drained_beyond(end.bytes())).await.is_ok()
    }

    fn publish(&mut self, shown: Shown) {
        self.core.view().publish(shown);
    }

    fn apply_rules(&mut self, rules: &Rules) {
        self.timeout = rules.timeout;
    }

    fn log_event(&mut self, happened: Happened) {
        self.history.tell(happened);
    }
}
