//! What an export goes by, and which of it can change while the export is open.
//!
//! A change is taken whole or not at all. What the backend's connections were made with, and what the clients that are there
//! were told and rely on, can't change under them; the rest can. Sizes that are only the first ones (of a file that is made,
//! of memory, of a window) mean nothing to an export that is open, and change nothing.

use nbd_gateway_config::{Backend, Driver, Resolved};
use nbd_gateway_policy::export::{AutomaticGrowth, ExportPolicy};
use nbd_gateway_policy::types::{Granularity, Size};
use nbd_gateway_proto::ExportFlags;

use crate::target::Facts;

/// How an export is configured, and what that comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub config: Resolved,
    /// What its operator decided about its size, and its backend's own bounds.
    pub policy: ExportPolicy,
}

/// Why an export can't be changed as it is: it has to be closed and opened again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} can't change while it is open", keys.join(", "))]
pub(crate) struct AdjustError {
    /// The keys of `[[export]]` that can't change under its clients; not empty.
    pub keys: Vec<&'static str>,
}

impl Settings {
    /// What a configuration comes to with such a backend.
    pub(super) fn of(config: &Resolved, facts: &Facts) -> Self {
        let mut policy = config.resize.policy.clone();
        policy.read_only |= config.read_only || facts.flags.has(ExportFlags::READ_ONLY);
        policy.granularity = coarser(policy.granularity, facts.minimum_block());
        if let Some(info) = facts.resize {
            policy.granularity = coarser(policy.granularity, info.granularity);
        }
        Self { config: config.clone(), policy }
    }

    /// The size that clients are shown who are shown a ceiling.
    pub(super) fn ceiling(&self) -> Size {
        self.policy.granularity.round_down(self.policy.max_size)
    }

    /// Whether an open export can go from these to `next`.
    pub(super) fn may_become(&self, next: &Self) -> Result<(), AdjustError> {
        let (was, is) = (&self.config, &next.config);
        let (ours, theirs) = (&self.policy, &next.policy);
        let embedded = is.backend.is_embedded();
        let changed = [
            ("tenant", was.tenant != is.tenant),
            ("backend", !same_backend(&was.backend, &is.backend)),
            ("read-only", was.read_only != is.read_only),
            ("lanes", was.lanes != is.lanes),
            ("on-backend-loss", !embedded && was.on_backend_loss != is.on_backend_loss),
            ("fence", !embedded && was.fence != is.fence),
            ("read-ahead", was.read_ahead != is.read_ahead),
            ("dial-timeout", !embedded && was.dial_timeout != is.dial_timeout),
            ("limits.largest-payload", was.limits.largest_payload != is.limits.largest_payload),
            ("resize.driver", !same_driver(&was.resize.driver, &is.resize.driver)),
            ("resize.present", ours.ceiling != theirs.ceiling),
            // Clients that know nothing of sizes were told it as their disk's, and may have written anywhere below it.
            ("max-size", ours.ceiling && theirs.max_size < ours.max_size),
            // They were told to round to it. Every multiple of a coarser one is one of a finer one.
            ("resize.granularity", theirs.granularity > ours.granularity),
            ("resize.exclusive", ours.exclusive != theirs.exclusive),
            ("resize.automatic", !allows(theirs.automatic, ours.automatic)),
            ("resize.offer", ours.offer.without(theirs.offer) != nbd_gateway_policy::offer::Features::NONE),
        ];
        let keys: Vec<_> = changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect();
        if keys.is_empty() { Ok(()) } else { Err(AdjustError { keys }) }
    }
}

/// Whether those who negotiated growth by writes under `old` may keep what they have.
fn allows(new: AutomaticGrowth, old: AutomaticGrowth) -> bool {
    use AutomaticGrowth::{Always, Never, OptIn, Reconnect};
    match (old, new) {
        (Never, _) | (OptIn, OptIn | Always | Reconnect) | (Always, Always) | (Reconnect, Reconnect) => true,
        (OptIn, Never) | (Always, OptIn | Never | Reconnect) | (Reconnect, OptIn | Never | Always) => false,
    }
}

fn same_backend(was: &Backend, is: &Backend) -> bool {
    match (was, is) {
        (Backend::File { path: was, .. }, Backend::File { path: is, .. }) => was == is,
        (Backend::Memory { .. }, Backend::Memory { .. }) => true,
        (was, is) => was == is,
    }
}

fn same_driver(was: &Driver, is: &Driver) -> bool {
    matches!((was, is), (Driver::Window { .. }, Driver::Window { .. })) || was == is
}

fn coarser(policy: Granularity, backend: u64) -> Granularity {
    match Granularity::new(backend) {
        Ok(other) if other.bytes() > policy.bytes() => other,
        _ => policy,
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_config::Config;

    use super::*;

    const NBD: &str = "backend = \"nbd://127.0.0.1/x\"\n";
    const CEILING: &str =
        "backend = \"nbd://127.0.0.1/x\"\nmax-size = \"8GiB\"\n[export.resize]\npresent = \"ceiling\"\n";

    fn settings(keys: &str) -> Settings {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n[[tenant]]\nname = \"u\"\n\
             [[export]]\nname = \"e\"\n{}{keys}\n",
            if keys.contains("tenant =") { "" } else { "tenant = \"t\"\n" }
        );
        let config = Config::parse(&text, std::path::Path::new("config.toml")).unwrap_or_else(|why| panic!("{why}"));
        let config = config.export_for("e").unwrap();
        Settings { policy: config.resize.policy.clone(), config }
    }

    fn keys(was: &str, is: &str) -> Vec<&'static str> {
        settings(was).may_become(&settings(is)).err().map_or_else(Vec::new, |needs| needs.keys)
    }

    #[test]
    fn what_nobody_was_told_changes_while_it_is_open() {
        let resize = "[export.resize]\n";
        for keys_of in [
            "max-size = \"1GiB\"",
            "description = \"d\"\nidle-timeout = \"1s\"\nlate-write-guard = \"1s\"",
            "limits = { session-requests = 1, session-bytes = \"64MiB\", io = { iops = \"1/s\" }, notice-rate = \"1/s\" }",
            "[[export.notify]]\nhttp = \"http://127.0.0.1/\"",
            &format!(
                "{resize}shrink = true\nshrink-grace = \"1s\"\nmin-size = \"1MiB\"\nstep = \"1MiB\"\nmax-step = \"2MiB\""
            ),
            &format!("{resize}over-quota = \"clamp\"\ngrowth-wait = \"0s\"\ntimeout = \"1s\"\nexternal = \"ignore\""),
            &format!("{resize}publish = \"manual\"\npoll = \"1s\"\nbackend-notice-rate = \"1/s\""),
        ] {
            let with = format!("{NBD}{keys_of}");
            assert_ne!(settings(NBD), settings(&with), "{keys_of}");
            assert_eq!((keys(NBD, &with), keys(&with, NBD)), (vec![], vec![]), "{keys_of}");
        }
    }

    #[test]
    fn what_connections_were_made_with_or_clients_were_told_is_named() {
        for (keys_of, key) in [
            ("tenant = \"u\"", "tenant"),
            ("read-only = true", "read-only"),
            ("lanes = 2", "lanes"),
            ("on-backend-loss = \"error\"", "on-backend-loss"),
            ("fence = [\"/bin/fence\"]", "fence"),
            ("dial-timeout = \"1s\"", "dial-timeout"),
            ("limits = { largest-payload = \"1MiB\" }", "limits.largest-payload"),
            ("[export.resize]\ndriver = \"file\"\npath = \"/x\"", "resize.driver"),
            ("[export.resize]\nexclusive = true", "resize.exclusive"),
        ] {
            let with = format!("{NBD}{keys_of}");
            assert_eq!((keys(NBD, &with), keys(&with, NBD)), (vec![key], vec![key]), "{keys_of}");
        }
        assert_eq!(keys(NBD, "backend = \"nbd://127.0.0.1/y\"\n"), ["backend"]);
        let alone = "[export.resize]\nexclusive = true";
        let ahead = format!("{NBD}read-ahead = \"1MiB\"\n{alone}");
        assert_eq!(keys(&format!("{NBD}{alone}"), &ahead), ["read-ahead"]);
        assert_eq!(keys(NBD, CEILING), ["resize.present"]);
        assert_eq!(keys(CEILING, NBD), ["resize.present"]);
    }

    #[test]
    fn what_is_opened_further_changes_and_what_is_closed_further_does_not() {
        for (less, more, key) in [
            (CEILING.to_owned(), CEILING.replace("8GiB", "9GiB"), "max-size"),
            (format!("{NBD}[export.resize]\ngranularity = 4096"), NBD.to_owned(), "resize.granularity"),
            (format!("{NBD}[export.resize]\noffer = [\"query\"]"), NBD.to_owned(), "resize.offer"),
            (format!("{NBD}[export.resize]\nautomatic = \"never\""), NBD.to_owned(), "resize.automatic"),
            (NBD.to_owned(), format!("{NBD}[export.resize]\nautomatic = \"always\""), "resize.automatic"),
        ] {
            assert_eq!(keys(&less, &more), Vec::<&str>::new(), "{less} {more}");
            assert_eq!(keys(&more, &less), [key], "{more} {less}");
        }
    }

    #[test]
    fn a_first_size_means_nothing_to_what_is_open() {
        for (was, is) in [
            ("backend = \"memory:\"\nsize = \"1MiB\"", "backend = \"memory:\"\nsize = \"2MiB\""),
            ("backend = \"file:/x\"\nsize = \"1MiB\"", "backend = \"file:/x\"\nsize = \"2MiB\""),
            (
                "backend = \"nbd://127.0.0.1/x\"\nsize = \"1MiB\"\n[export.resize]\ndriver = \"window\"",
                "backend = \"nbd://127.0.0.1/x\"\nsize = \"2MiB\"\n[export.resize]\ndriver = \"window\"",
            ),
        ] {
            assert_eq!(keys(was, is), Vec::<&str>::new(), "{was}");
        }
        assert_eq!(keys("backend = \"file:/x\"", "backend = \"file:/y\""), ["backend"]);
    }
}
