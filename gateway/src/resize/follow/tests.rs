//! A backend that floods those who subscribe.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nbd_gateway_config::Config;
use nbd_gateway_metrics::{Metrics, ResizeDriver};
use nbd_gateway_policy::rate::Oversize;
use nbd_gateway_policy::style::{BackendStyle, Grows};
use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::{Cookie, ExportFlags, Framing};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::accounting::tenants::TenantAccounts;
use crate::handover::state::carried;
use crate::request::{Finished, Job, Origin, SessionId};
use crate::resize::openers::Openers;
use crate::target::{Facts, Pending, Target, View};

const SIZE: u64 = 4096;

/// Tells its size a thousand times to each who subscribes.
#[derive(Debug)]
struct Flooding {
    facts: Facts,
    standing: Mutex<Vec<Job>>,
    subscriptions: AtomicU32,
}

impl Target for Flooding {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn submit(&self, _origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished) {
        let mut standing = self.standing.lock();
        for job in jobs.drain(..) {
            if (0..1000).all(|_| job.hear(SIZE)) {
                self.subscriptions.fetch_add(1, Ordering::Relaxed);
                standing.push(job);
            } else {
                standing.clear();
                job.finish(Outcome::Resized(SIZE), finished);
            }
        }
    }

    fn ranges_of(&self, _session: SessionId) -> Vec<(Cookie, ByteRange)> {
        Vec::new()
    }

    fn read_size(&self, _purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(SIZE) })
    }

    fn close<'a>(&'a self, _export: &'a ExportName) -> Pending<'a, ()> {
        Box::pin(async {})
    }
}

/// An export in front of it.
struct Scene {
    target: Arc<Flooding>,
    core: Arc<Core>,
    config: Resolved,
}

impl Scene {
    fn new() -> Self {
        let text =
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"e\"\nbackend = \"memory:\"\nsize = 4096\n";
        let config = Config::parse(text, Path::new("config.toml")).unwrap().export_for("e").unwrap();
        let facts = Facts {
            size: SIZE,
            flags: ExportFlags::NONE,
            framing: Framing::Structured,
            contexts: Vec::new(),
            block_sizes: None,
            description: None,
            resize: None,
            style: BackendStyle { grows: Grows::Fixed, tells: Tells::Notify },
        };
        let (standing, subscriptions) = (Mutex::default(), AtomicU32::new(0));
        let target = Arc::new(Flooding { facts, standing, subscriptions });
        let core = Core::new(&config, Arc::<Flooding>::clone(&target), Arc::new(View::new(SIZE)));
        Self { target, core, config }
    }

    /// Follows, and rests for a minute after each flood. Ends with the sender.
    fn follow(&self) -> (Resizer, watch::Sender<bool>, JoinHandle<()>) {
        let (export, tenant) = (self.config.name.clone(), self.config.tenant.clone());
        let openers = Arc::new(Openers::new(Duration::ZERO));
        let (resizer, _) = Resizer::new(export, tenant, openers, Arc::new(TenantAccounts::default()));
        let rate = Rate::new(10, Duration::from_secs(1), 10, Oversize::Refuse).ok();
        let (_, patience) = watch::channel(Patience { poll: Duration::ZERO, rate, rest: Duration::from_secs(60) });
        let metrics = Metrics::new("0").unwrap().resize("e", None, "t", ResizeDriver::Wire);
        let (end, ending) = watch::channel(false);
        let following = follow(Arc::clone(&self.core), resizer.clone(), Tells::Notify, patience, metrics, ending);
        (resizer, end, tokio::spawn(following))
    }

    fn subscriptions(&self) -> u32 {
        self.target.subscriptions.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_floods_is_subscribed_to_again_after_its_rest_and_not_before_also_elsewhere() {
    let scene = Scene::new();
    let (resizer, end, following) = scene.follow();
    sleep(Duration::from_secs(59)).await;
    assert_eq!(scene.subscriptions(), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.subscriptions(), 2);
    sleep(Duration::from_secs(29)).await;
    let (elsewhere, _end, _) = scene.follow();
    elsewhere.resume(carried(&resizer.suspend()));
    end.send_replace(true);
    following.await.unwrap();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(scene.subscriptions(), 2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.subscriptions(), 3);
}
