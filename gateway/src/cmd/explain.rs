//! `explain`: what a client may do with an export, and which entry of the configuration says so. Asks nobody but the file.

use std::path::Path;
use std::process::ExitCode;

use nbd_gateway_config::Config;
use nbd_gateway_policy::access::{Certificate, Decision, Entry, Identity, Rule, Verb, Verbs};
use serde::Serialize;

use super::{DONE, FAILED, failed};
use crate::cmd::cli::{Explain, Known};

/// Prints whether it is allowed, and what decides; the exit code says it too.
pub fn run(asked: &Explain) -> ExitCode {
    let config = match &asked.config {
        Some(path) => Config::load(path),
        None => Ok(Config::embedded_default(Path::new("."))),
    };
    let config = match config {
        Ok(config) => config,
        Err(problems) => return super::misused(&problems),
    };
    let identity = match identity(&config, &asked.client) {
        Ok(identity) => identity,
        Err(why) => return super::misused(&format_args!("nbd-gateway: {why}")),
    };
    let answer = explain(&config, &identity, &asked.export, asked.verb);
    if asked.json {
        match serde_json::to_string_pretty(&answer) {
            Ok(text) => println!("{}", nbd_gateway_net::escaped(&text)),
            Err(error) => return failed(&error),
        }
    } else {
        print!("{answer}");
    }
    ExitCode::from(if answer.allowed { DONE } else { FAILED })
}

/// Why a client can't be who it is said to be.
#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error("{0} is given twice: a client has one")]
    Twice(&'static str),
    #[error("there is no listener `{listener}`; there is {}", known.join(", "))]
    NoListener { listener: String, known: Vec<String> },
}

fn identity(config: &Config, known: &[Known]) -> Result<Identity, IdentityError> {
    let mut identity = Identity::default();
    let mut subject = None;
    let mut sans = Vec::new();
    let twice = IdentityError::Twice;
    for fact in known {
        match fact {
            Known::Dn(dn) if subject.is_none() => subject = Some(dn.clone()),
            Known::San(san) => sans.push(san.clone()),
            Known::Address(address) if identity.address.is_none() => identity.address = Some(*address),
            Known::Uid(uid) if identity.uid.is_none() => identity.uid = Some(*uid),
            Known::Gid(gid) if identity.gid.is_none() => identity.gid = Some(*gid),
            Known::Listener(listener) if identity.listener.is_empty() => {
                let known: Vec<String> = config.listeners.iter().map(ToString::to_string).collect();
                if !known.contains(listener) {
                    return Err(IdentityError::NoListener { listener: listener.clone(), known });
                }
                identity.listener.clone_from(listener);
            }
            Known::Dn(_) => return Err(twice("dn")),
            Known::Address(_) => return Err(twice("address")),
            Known::Uid(_) => return Err(twice("uid")),
            Known::Gid(_) => return Err(twice("gid")),
            Known::Listener(_) => return Err(twice("listener")),
        }
    }
    if subject.is_some() || !sans.is_empty() {
        identity.certificate = Some(Certificate { subject: subject.unwrap_or_default(), sans });
    }
    Ok(identity)
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    allowed: bool,
    export: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    verb: &'static str,
    /// All that the client may do by the rule.
    verbs: Vec<&'static str>,
    /// The entry that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The line that it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// How it came to this, a sentence each.
    why: Vec<String>,
}

/// The outcome, and below it how it came to this.
impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{outcome}: {} {:?}", self.verb, self.export)?;
        self.why.iter().try_for_each(|why| writeln!(f, "  {why}"))
    }
}

fn explain(config: &Config, identity: &Identity, export: &str, verb: Verb) -> Answer {
    let answer = |allowed, tenant: Option<&str>, decision: &Decision, why| {
        let (rule, line) = match &decision.rule {
            Rule::Entry(entry) => (Some(entry.path.clone()), entry.line),
            Rule::Everyone | Rule::Nothing => (None, None),
        };
        let verbs = decision.verbs.iter().map(Verb::as_str).collect();
        let (tenant, verb) = (tenant.map(str::to_owned), verb.as_str());
        Answer { allowed, export: export.to_owned(), tenant, verb, verbs, rule, line, why }
    };
    let (tenant, resolved) = match (config.owner_of(export), config.export_for(export)) {
        (Some(tenant), Ok(resolved)) => (tenant, resolved),
        (_, Err(why)) => {
            return answer(false, None, &Decision::NOTHING, vec![format!("there is no such export: {why}")]);
        }
        (None, Ok(_)) => return answer(false, None, &Decision::NOTHING, vec!["there is no such export".to_owned()]),
    };
    let decision = config.access().decide(identity, tenant, export);
    let mut why = vec![format!("it belongs to tenant `{tenant}`")];
    match &decision.rule {
        Rule::Everyone => why.push("no tenant has `clients`, so everyone may do everything".to_owned()),
        Rule::Entry(_) | Rule::Nothing => match config.access().of(tenant) {
            None => why.push("this tenant has no `clients`; another has, so nobody may do anything here".to_owned()),
            Some(entries) => {
                for entry in entries {
                    let decides = matches!(&decision.rule, Rule::Entry(first) if **first == **entry);
                    why.push(format!("{entry}: {}", said(entry, identity, export, decides)));
                    if decides {
                        break;
                    }
                }
                if decision.rule == Rule::Nothing {
                    why.push("no entry fits, so nothing is allowed".to_owned());
                }
            }
        },
    }
    let mut allowed = decision.may(verb);
    let own = match verb {
        Verb::List | Verb::Read => None,
        Verb::Write | Verb::Trim | Verb::Resize | Verb::Shrink if resolved.read_only => {
            Some("the export has `read-only = true`, for everyone")
        }
        Verb::Shrink if !resolved.resize.policy.shrink => Some("the export has `resize.shrink = false`, for everyone"),
        Verb::Write | Verb::Trim | Verb::Resize | Verb::Shrink => None,
    };
    if let Some(own) = own {
        allowed = false;
        why.push(own.to_owned());
    }
    answer(allowed, Some(tenant.as_str()), &decision, why)
}

/// What one entry has to do with it.
fn said(entry: &Entry, identity: &Identity, export: &str, decides: bool) -> String {
    if decides {
        let conditions: Vec<String> = entry.conditions.iter().map(ToString::to_string).collect();
        let who = if conditions.is_empty() { "everyone".to_owned() } else { conditions.join(", ") };
        let verbs = if entry.verbs == Verbs::ALL { "everything".to_owned() } else { entry.verbs.to_string() };
        return format!("fits ({who}), and allows {verbs}");
    }
    match entry.conditions.iter().find(|condition| !condition.holds(identity)) {
        Some(condition) => format!("does not fit: {condition}"),
        None if !entry.covers(export) => "fits, and is about other exports".to_owned(),
        // Only the first that fits is told, and that one decides.
        None => "fits".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "unix:/run/g"

[[tenant]]
name = "blue"
clients = [
  { dn = "CN=blue-*" },
  { address = "10.1.0.0/16", exports = ["golden"], verbs = ["list", "read"] },
  { address = "10.1.0.0/16", listener = "127.0.0.1:0" },
]

[[tenant]]
name = "red"

[[export]]
name = "vm1"
tenant = "blue"
backend = "memory:"
size = "1MiB"

[[export]]
name = "golden"
tenant = "blue"
backend = "memory:"
size = "1MiB"
read-only = true

[[export]]
name = "red/*"
tenant = "red"
backend = "file:disks/{}"
"#;

    fn told(known: &[&str], export: &str, verb: &str) -> String {
        let config = Config::parse(CONFIG, Path::new("x")).unwrap();
        let known: Vec<Known> = known.iter().map(|known| known.parse().unwrap()).collect();
        let identity = identity(&config, &known).unwrap();
        explain(&config, &identity, export, verb.parse().unwrap()).to_string()
    }

    #[test]
    fn the_entry_that_decides_is_told_and_why_those_before_it_did_not() {
        let tcp = "listener=127.0.0.1:0";
        for (known, export, verb, expected) in [
            (
                &["dn=CN=blue-1,O=Acme"][..],
                "vm1",
                "resize",
                "allowed: resize \"vm1\"\n  it belongs to tenant `blue`\n  \
                 tenant[0].clients[0] (line 11): fits (dn = \"CN=blue-*\"), and allows everything\n",
            ),
            (
                &["address=10.1.2.3"],
                "golden",
                "write",
                "denied: write \"golden\"\n  it belongs to tenant `blue`\n  \
                 tenant[0].clients[0] (line 11): does not fit: dn = \"CN=blue-*\"\n  \
                 tenant[0].clients[1] (line 12): fits (address = \"10.1.0.0/16\"), and allows list read\n  \
                 the export has `read-only = true`, for everyone\n",
            ),
            (
                &["address=10.1.2.3", tcp],
                "vm1",
                "shrink",
                "denied: shrink \"vm1\"\n  it belongs to tenant `blue`\n  \
                 tenant[0].clients[0] (line 11): does not fit: dn = \"CN=blue-*\"\n  \
                 tenant[0].clients[1] (line 12): fits, and is about other exports\n  \
                 tenant[0].clients[2] (line 13): fits (address = \"10.1.0.0/16\", listener = \"127.0.0.1:0\"), and allows everything\n  \
                 the export has `resize.shrink = false`, for everyone\n",
            ),
            (
                &["uid=0", "gid=0"],
                "vm1",
                "list",
                "denied: list \"vm1\"\n  it belongs to tenant `blue`\n  \
                 tenant[0].clients[0] (line 11): does not fit: dn = \"CN=blue-*\"\n  \
                 tenant[0].clients[1] (line 12): does not fit: address = \"10.1.0.0/16\"\n  \
                 tenant[0].clients[2] (line 13): does not fit: address = \"10.1.0.0/16\"\n  \
                 no entry fits, so nothing is allowed\n",
            ),
            (
                &[],
                "red/a",
                "list",
                "denied: list \"red/a\"\n  it belongs to tenant `red`\n  \
                 this tenant has no `clients`; another has, so nobody may do anything here\n",
            ),
            (
                &[],
                "vm2",
                "list",
                "denied: list \"vm2\"\n  there is no such export: no export has that name and no template fits it\n",
            ),
        ] {
            assert_eq!(told(known, export, verb), expected);
        }
    }

    #[test]
    fn a_client_that_nobody_is_can_not_be_asked_about() {
        let config = Config::parse(CONFIG, Path::new("x")).unwrap();
        let why = |known: &[&str]| {
            let known: Vec<Known> = known.iter().map(|known| known.parse().unwrap()).collect();
            identity(&config, &known).unwrap_err().to_string()
        };
        assert_eq!(why(&["uid=1", "uid=2"]), "uid is given twice: a client has one");
        assert_eq!(why(&["listener=unix:/x"]), "there is no listener `unix:/x`; there is 127.0.0.1:0, unix:/run/g");
        let several = ["san=dns:a", "san=dns:b"].map(|known| known.parse().unwrap());
        assert_eq!(identity(&config, &several).unwrap().certificate.unwrap().sans.len(), 2);
    }

    #[test]
    fn without_rules_everyone_may_do_everything() {
        let config = Config::embedded_default(Path::new("."));
        let answer = explain(&config, &Identity::default(), "demo", Verb::Resize);
        assert!(answer.allowed && answer.rule.is_none());
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json.get("why").unwrap().as_array().unwrap().len(), 2);
        assert_eq!(json.get("tenant").unwrap(), "demo");
    }
}
