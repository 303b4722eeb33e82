//! The command line: the commands, their arguments and their help. Never runs any of them.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use nbd_gateway_client::cli::{Agent, ClientCommand, EXIT_CODES};

mod bound;
mod explain;
mod operator;

pub use bound::Bound;
pub use explain::{Explain, Known, UnknownFact};
pub use operator::{Admin, Events, Exports, LedgerCommand, List, Order, Publish, Quota, Reconcile, Settle};

/// A gateway for NBD, the network block device protocol.
///
/// Clients connect to it as to any NBD server; many of them share few connections to the servers behind it. Start it
/// without a configuration to try it: `nbd-gateway serve`.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "nbd-gateway", version, max_term_width = 100, propagate_version = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the gateway until it is told to end (SIGTERM or SIGINT)
    ///
    /// Without a configuration it serves one disk, `nbd://127.0.0.1/demo`, to this host only: a sparse file of 1 GiB,
    /// which may grow to 4 GiB, in `nbd-gateway-data/` under the current directory. An operator's token is made anew there at
    /// each start. It prints commands to try.
    Serve {
        /// The configuration file (TOML)
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Read a configuration as `serve` would, and tell everything that is wrong with it
    ///
    /// It looks at the file alone: no address is bound, no server is asked. Each problem comes with its line, its key
    /// and an example.
    Check {
        /// The configuration file (TOML)
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask an NBD server, read from it, write to it, change the size of its exports
    ///
    /// Speaks to any NBD server, not only to this gateway. A server's export is named by an NBD URI:
    /// `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`; with TLS, `nbds://` and `nbds+unix://`.
    Client {
        /// What to do with the export.
        #[command(subcommand)]
        command: ClientCommand,
        /// For nbds:// URIs: the directory of ca-cert.pem, and of client-cert.pem and client-key.pem if the server asks
        /// who connects
        #[arg(long, value_name = "DIR", global = true)]
        tls_certificates: Option<PathBuf>,
    },
    /// Tell whether a client may do something with an export, and which entry of the configuration decides that
    ///
    /// Reads the configuration alone; no gateway has to run. Exit code 0 is allowed, 1 is denied.
    Explain(Explain),
    /// Show the exports that a running gateway has open: size, backend, state, clients
    ///
    /// With the name of one, all that there is to know of it, and its last resizes.
    Exports(Exports),
    /// Show the tenants of a running gateway: what they may use, and what they do use
    Tenants(List),
    /// Show the clients that are connected to a running gateway
    Sessions(List),
    /// Show what has become of sizes, newest last: who wished for what, what was done or refused and why
    ///
    /// The ledger keeps the newest 100 000, over restarts too. Of the refusals of one export, one a second is kept.
    Events(Events),
    /// Change the size of a running gateway's export, as its operator
    ///
    /// Waits for the outcome. Quota, max-size and `shrink` hold for an operator too; rates do not. An export that nobody
    /// uses is opened for it.
    ///
    /// With --adopt nothing is asked of the backend: the gateway takes it for what it is. So an export is brought back
    /// whose backend came back smaller; what was beyond is lost, and clients that cannot learn of that have to be closed
    /// first.
    Resize(Order),
    /// Show clients all that a backend has, where `publish` or `external` is "manual"
    Publish(Publish),
    /// Give a tenant of a running gateway another quota
    ///
    /// At once, and it is kept over restarts. It holds until the configuration says another quota for the tenant than it
    /// does now: what is written there later wins, so write it there too. Less than the tenant uses is allowed: nothing
    /// shrinks, and nothing of it grows.
    Quota(Quota),
    /// Look after the ledger of a running gateway: what counts against the quotas
    Ledger {
        /// What to do with it.
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Have a running gateway read its configuration file anew, as SIGHUP does: all of it, or nothing
    ///
    /// Prints what has changed, a line each. Clients of what has not changed do not notice. If anything in the file is wrong,
    /// can't be had, or needs a restart, everything stays as it was, and every reason is told.
    Reload(List),
    /// Let a running gateway end as SIGTERM does: no new clients, what was admitted is finished
    Drain(List),
    /// Make an export a disk of this host's kernel, whose size follows the export's
    ///
    /// Needs root and the kernel's nbd module (`modprobe nbd`). Attaches the device if it is free. If it is attached
    /// already for the same URI, by an agent that has ended, goes on with it. Then tells the kernel each larger size, and
    /// replaces its connection whenever that is lost. Prints a line for each thing done. On SIGTERM or Ctrl-C it ends, and
    /// the device stays attached, so that a mounted disk stays mounted: start it again soon, or detach with --detach.
    Agent(Agent),
    /// Print the JSON schema of the configuration, for editors
    Schema,
    /// Print a script that completes these commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a manual page, in roff
    Man {
        /// Which: of the commands, or of the configuration
        #[arg(value_enum, default_value = "nbd-gateway", value_name = "PAGE")]
        page: Page,
    },
}

/// The whole command line: each command states the exit codes below its help.
#[must_use]
pub fn command() -> clap::Command {
    fn stating(command: clap::Command) -> clap::Command {
        command.after_help(EXIT_CODES).mut_subcommands(stating)
    }
    stating(Cli::command())
}

/// A manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// The commands (section 1).
    #[value(name = "nbd-gateway")]
    Commands,
    /// The configuration (section 5).
    #[value(name = "nbd-gateway.toml")]
    Configuration,
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use nbd_gateway_client::cli::{Ask, Read, Resize, Watch, Write};
    use nbd_gateway_config::{Interval, NbdUri, NewSize, When};
    use nbd_gateway_policy::access::Verb;
    use nbd_gateway_policy::types::Bytes;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    fn fault(line: &str) -> String {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn commands_are_read_as_they_are_documented() {
        let uri: NbdUri = "nbd://h/x".parse().unwrap();
        let file = |name: &str| Some(PathBuf::from(name));
        let client = |command| Command::Client { command, tls_certificates: None };
        let admin = || Admin { url: "http://127.0.0.1:9809".to_owned(), token_file: None, json: false };
        for (line, command) in [
            ("nbd-gateway serve", Command::Serve { config: None }),
            ("nbd-gateway serve --config a.toml", Command::Serve { config: file("a.toml") }),
            ("nbd-gateway check --config a.toml", Command::Check { config: "a.toml".into() }),
            (
                "nbd-gateway explain --config a.toml --as uid=7 --as gid=8 vm1 shrink",
                Command::Explain(Explain {
                    config: file("a.toml"),
                    client: vec![Known::Uid(7), Known::Gid(8)],
                    json: false,
                    export: "vm1".to_owned(),
                    verb: Verb::Shrink,
                }),
            ),
            (
                "nbd-gateway agent --device /dev/nbd0 nbd://h/x",
                Command::Agent(Agent {
                    uri: uri.clone(),
                    device: "/dev/nbd0".into(),
                    follow: false,
                    connections: 1,
                    timeout: Interval::from_secs(10),
                    dead_timeout: Interval::from_secs(60),
                    poll: Interval::from_secs(5),
                    allow_shrink: false,
                    detach: false,
                    metrics: None,
                    json: false,
                }),
            ),
            ("nbd-gateway schema", Command::Schema),
            ("nbd-gateway man", Command::Man { page: Page::Commands }),
            ("nbd-gateway man nbd-gateway.toml", Command::Man { page: Page::Configuration }),
            ("nbd-gateway exports", Command::Exports(Exports { name: None, admin: admin() })),
            (
                "nbd-gateway exports a/b --json",
                Command::Exports(Exports { name: Some("a/b".to_owned()), admin: Admin { json: true, ..admin() } }),
            ),
            ("nbd-gateway tenants", Command::Tenants(List { admin: admin() })),
            (
                "nbd-gateway sessions --admin unix:/a",
                Command::Sessions(List { admin: Admin { url: "unix:/a".to_owned(), ..admin() } }),
            ),
            (
                "nbd-gateway events",
                Command::Events(Events {
                    export: None,
                    tenant: None,
                    kind: None,
                    after: None,
                    before: None,
                    limit: 100,
                    follow: false,
                    admin: admin(),
                }),
            ),
            (
                "nbd-gateway events --export a --tenant t --kind refused --after 10m --limit 5 --follow",
                Command::Events(Events {
                    export: Some("a".to_owned()),
                    tenant: Some("t".to_owned()),
                    kind: Some("refused".to_owned()),
                    after: Some(When::Ago(Interval::from_secs(600))),
                    before: None,
                    limit: 5,
                    follow: true,
                    admin: admin(),
                }),
            ),
            (
                "nbd-gateway resize a +1GiB --token-file t",
                Command::Resize(Order {
                    name: "a".to_owned(),
                    size: NewSize::By(Bytes(1 << 30)),
                    adopt: false,
                    admin: Admin { token_file: file("t"), ..admin() },
                }),
            ),
            (
                "nbd-gateway resize a 3GiB --adopt",
                Command::Resize(Order {
                    name: "a".to_owned(),
                    size: NewSize::To(Bytes(3 << 30)),
                    adopt: true,
                    admin: admin(),
                }),
            ),
            ("nbd-gateway publish a", Command::Publish(Publish { name: "a".to_owned(), admin: admin() })),
            (
                "nbd-gateway quota blue 2TiB",
                Command::Quota(Quota {
                    name: "blue".to_owned(),
                    quota: Bound::At(Bytes(2048 << 30)),
                    soft: None,
                    admin: admin(),
                }),
            ),
            (
                "nbd-gateway quota blue none --soft none",
                Command::Quota(Quota {
                    name: "blue".to_owned(),
                    quota: Bound::None,
                    soft: Some(Bound::None),
                    admin: admin(),
                }),
            ),
            (
                "nbd-gateway ledger reconcile --apply",
                Command::Ledger {
                    command: LedgerCommand::Reconcile(Reconcile { dry_run: false, apply: true, admin: admin() }),
                },
            ),
            (
                "nbd-gateway ledger settle a --keep",
                Command::Ledger {
                    command: LedgerCommand::Settle(Settle {
                        name: "a".to_owned(),
                        zero: false,
                        keep: true,
                        admin: admin(),
                    }),
                },
            ),
            ("nbd-gateway drain", Command::Drain(List { admin: admin() })),
            ("nbd-gateway completions bash", Command::Completions { shell: Shell::Bash }),
            ("nbd-gateway client info nbd://h/x", client(ClientCommand::Info(Ask { uri: uri.clone(), json: false }))),
            (
                "nbd-gateway client size --json nbd://h/x",
                client(ClientCommand::Size(Ask { uri: uri.clone(), json: true })),
            ),
            (
                "nbd-gateway client read nbd://h/x --offset 1MiB --length 512 --output f",
                client(ClientCommand::Read(Read {
                    uri: uri.clone(),
                    offset: Bytes(1 << 20),
                    length: Some(Bytes(512)),
                    output: file("f"),
                })),
            ),
            (
                "nbd-gateway client write nbd://h/x --input f",
                client(ClientCommand::Write(Write {
                    uri: uri.clone(),
                    offset: Bytes(0),
                    input: file("f"),
                    grow: false,
                })),
            ),
            (
                "nbd-gateway client write nbd://h/x --grow",
                client(ClientCommand::Write(Write { uri: uri.clone(), offset: Bytes(0), input: None, grow: true })),
            ),
            (
                "nbd-gateway client resize nbd://h/x +1GiB --durable --json",
                client(ClientCommand::Resize(Resize {
                    uri: uri.clone(),
                    size: NewSize::By(Bytes(1 << 30)),
                    durable: true,
                    json: true,
                })),
            ),
            (
                "nbd-gateway client watch nbd://h/x",
                client(ClientCommand::Watch(Watch {
                    uri: uri.clone(),
                    interval: Interval::from_millis(250),
                    count: None,
                    json: false,
                })),
            ),
            (
                "nbd-gateway client watch nbd://h/x --interval 2s --count 3 --json",
                client(ClientCommand::Watch(Watch {
                    uri,
                    interval: Interval::from_secs(2),
                    count: Some(3),
                    json: true,
                })),
            ),
        ] {
            assert_eq!(parse(line).unwrap_or_else(|error| panic!("{line}: {error}")), command);
        }
    }

    #[test]
    fn certificates_are_told_before_or_after_any_client_command() {
        for line in ["client --tls-certificates /pki info nbds://h/x", "client info nbds://h/x --tls-certificates /pki"]
        {
            match parse(&format!("nbd-gateway {line}")).unwrap() {
                Command::Client { mut command, tls_certificates } => {
                    assert_eq!(tls_certificates, Some("/pki".into()));
                    assert!(command.uri_mut().tls().is_some());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn bad_usage_says_what_is_wrong_and_exits_with_2() {
        assert!(fault("nbd-gateway check").contains("--config <FILE>"));
        assert!(fault("nbd-gateway client info nbds://me@h/x").contains("pre-shared keys"));
        assert!(fault("nbd-gateway client size h:10809").contains("`h:10809` is not an NBD URI"));
        assert!(fault("nbd-gateway client read nbd://h/x --offset 1G").contains("`1G` could mean two things"));
        assert!(fault("nbd-gateway client resize nbd://h/x 10G").contains("`10G` could mean two things"));
        assert!(fault("nbd-gateway client resize nbd://h/x 0").contains("`0` is out of range"));
        for line in ["client resize nbd://h/x -64MiB", "resize vm -64MiB"] {
            assert!(fault(&format!("nbd-gateway {line}")).contains("`-64MiB` is no size: give the size"), "{line}");
        }
        assert!(parse("nbd-gateway client resize nbd://h/x --json 1GiB --durable").is_ok());
        assert!(parse("nbd-gateway resize vm --adopt 1GiB").is_ok());
        assert!(parse("nbd-gateway resize vm 1GiB --adopt").is_ok());
        assert!(fault("nbd-gateway resize vm --frob").contains("--frob"));
        assert!(fault("nbd-gateway client watch nbd://h/x --interval 2").contains("`2` has no unit"));
        assert!(fault("nbd-gateway client watch nbd://h/x --count 0").contains("0 is not in 1.."));
        assert!(fault("nbd-gateway explain vm1 delete").contains("`delete` is no verb"));
        assert!(fault("nbd-gateway explain --as root vm1 read").contains("`root` says nothing of a client"));
        assert!(fault("nbd-gateway agent nbd://h/x").contains("--device <DEVICE>"));
        assert!(
            fault("nbd-gateway agent --device /dev/nbd0 --connections 17 nbd://h/x").contains("17 is not in 1..=16")
        );
        assert!(fault("nbd-gateway ledger reconcile").contains("<--dry-run|--apply>"));
        assert!(fault("nbd-gateway ledger reconcile --dry-run --apply").contains("cannot be used with"));
        assert!(fault("nbd-gateway serv").contains("'serve'"));
    }

    #[test]
    fn every_command_and_argument_has_help_and_every_command_states_the_exit_codes() {
        fn walk(command: &clap::Command, count: &mut usize) {
            *count += 1;
            assert!(command.get_about().is_some(), "{}", command.get_name());
            assert!(
                command.get_after_help().is_some_and(|text| text.to_string() == EXIT_CODES),
                "{}",
                command.get_name()
            );
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(|inner| walk(inner, count));
        }
        let mut count = 0;
        walk(&command(), &mut count);
        assert_eq!(count, 27);
    }

    #[test]
    fn help_and_version_are_no_failures() {
        let error = parse("nbd-gateway --version").unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayVersion, 0));
        assert_eq!(error.to_string(), format!("nbd-gateway {}\n", env!("CARGO_PKG_VERSION")));
        for line in ["nbd-gateway --help", "nbd-gateway client read --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0);
        }
        assert_eq!(Shell::value_variants().len(), 5);
    }
}
