//! Openings that come to nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use nbd_gateway_config::Config;
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::Pool;
use nbd_gateway_policy::style::{BackendStyle, Grows, Tells};
use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::{Cookie, ExportFlags, Framing};

use super::super::Registry;
use super::*;
use crate::accounting::cache::LedgerCache;
use crate::fault::Fault;
use crate::request::{Finished, Job, Origin, SessionId};
use crate::shards::Shards;
use crate::target::{Facts, Pending, Purpose};

/// A target of a size, which counts how often it is closed.
#[derive(Debug)]
struct Idle {
    facts: Facts,
    closed: AtomicU32,
}

impl Idle {
    fn new(size: u64) -> Arc<Self> {
        let facts = Facts {
            size,
            flags: ExportFlags::NONE,
            framing: Framing::Simple,
            contexts: Vec::new(),
            block_sizes: None,
            description: None,
            resize: None,
            style: BackendStyle { grows: Grows::Window, tells: Tells::SecondHandshake },
        };
        Arc::new(Self { facts, closed: AtomicU32::new(0) })
    }
}

impl Target for Idle {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn submit(&self, _origin: Origin, jobs: &mut Vec<Job>, _finished: &mut Finished) {
        jobs.clear();
    }

    fn ranges_of(&self, _session: SessionId) -> Vec<(Cookie, ByteRange)> {
        Vec::new()
    }

    fn read_size(&self, _purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(self.facts.size) })
    }

    fn close<'a>(&'a self, _export: &'a ExportName) -> Pending<'a, ()> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {})
    }
}

#[tokio::test]
async fn an_opening_that_fails_after_its_target_was_opened_closes_the_target_once() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"e\"\nsize = \"2MiB\"\n\
                backend = \"nbd+unix:///?socket=/nonexistent/socket\"\n[export.resize]\ndriver = \"window\"\n";
    let config = Arc::new(Config::parse(text, Path::new("config.toml")).unwrap());
    let (metrics, notes) = (Arc::new(Metrics::new("0").unwrap()), Arc::new(LedgerCache::in_memory().unwrap()));
    let registry =
        Registry::new(Arc::clone(&config), Arc::new(Pool::new(1)), Shards::here(), metrics, notes, Arc::new(()));
    let (config, shared) = (config.export_for("e").unwrap(), &registry.shared);
    // More than an export can have; less than its window; enough.
    for (size, fails) in [(u64::MAX, true), (1 << 20, true), (4 << 20, false)] {
        let target = Idle::new(size);
        let (resizer, acts) = Resizer::new(
            config.name.clone(),
            config.tenant.clone(),
            shared.known_openers.of(&config.name, config.resize.shrink_grace),
            Arc::clone(&shared.accounts),
        );
        let opening = Opening {
            config: &config,
            shared,
            target: Arc::<Idle>::clone(&target),
            view: Arc::new(View::new(size)),
            driver: None,
            resizer,
            acts,
        };
        assert_eq!(opening.measured().await.is_err(), fails, "{size}");
        assert_eq!(target.closed.load(Ordering::Relaxed), u32::from(fails), "{size}");
    }
}
