//! The command line: commands and their output.
//!
//! A command on a thing is a noun and a verb (`event show`). Frequent commands are one verb (`send`). Answers go to standard
//! output, everything else to standard error. Exit codes: 0 (done), 1 (failed), 2 (wrong usage), 130 (interrupted).

mod answer;
mod as_test;
mod audit;
mod backup;
mod build;
mod card;
mod change;
mod check;
mod client;
mod compare;
mod comparison;
mod delivery;
mod dev;
mod endpoint;
mod event;
mod event_file;
#[cfg(test)]
mod examples;
mod feed;
mod fixture;
mod job;
mod keys;
mod listen;
mod mask;
mod measure;
mod migrate;
mod misuse;
mod node;
mod output;
mod plugin;
mod plugin_test;
mod project;
mod raw;
mod receiver;
mod run;
mod sdk;
mod send;
pub mod serve;
mod source;
mod stats;
mod tail;
mod versions;
mod wait;
mod watch;
mod why;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::{
    client::{Client, Target},
    output::Printer,
};
use crate::api::openapi;

/// The output of `innesco` without arguments.
const HELLO: &str = "\
Innesco: events in, signed webhooks out, your WebAssembly in between.

  innesco dev                         build and serve the plugins of this folder, with a test receiver
  innesco send order.created '{…}'    send an event
  innesco event show evt_…            show everything that happened to an event
  innesco plugin new my-first         create a plugin
  innesco serve                       run the engine in production

All commands:                innesco help
One command, with examples:  innesco help send
";

#[derive(Parser)]
#[command(name = "innesco", version, about = "Events in, signed webhooks out, your WebAssembly in between")]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// Print JSON, one object per line, for scripts
    #[arg(long, global = true, display_order = 991)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Develop plugins: build and serve all crates in plugins/, rebuild on change, print what a test receiver gets
    #[command(before_help = "Example:  innesco dev")]
    Dev(dev::DevArgs),
    /// Send one event, or a file of events
    #[command(before_help = "Example:  innesco send order.created '{\"id\": 7, \"total\": 1500}'")]
    Send(send::SendArgs),
    /// Run a test receiver that verifies and prints webhooks
    #[command(before_help = "Example:  innesco listen --secret whsec_…")]
    Listen(listen::ListenArgs),
    /// Run the engine
    #[command(
        before_help = "Example:  innesco serve --data /var/lib/innesco --plugins /etc/innesco/plugins",
        after_help = serve::MORE_SETTINGS
    )]
    Serve(serve::ServeArgs),
    /// Plugins: create, build, list, push, roll back
    #[command(subcommand, before_help = "Example:  innesco plugin new my-first")]
    Plugin(plugin::PluginCommand),
    /// Events: list, follow, show, replay, cancel
    #[command(subcommand, before_help = "Example:  innesco event show evt_k7q212")]
    Event(event::EventCommand),
    /// Explain why an endpoint did or did not receive an event
    #[command(before_help = "Example:  innesco why evt_k7q212 --endpoint crm")]
    Why(why::WhyArgs),
    /// Runs of plugins on events: list, show, retry, cancel
    #[command(subcommand, before_help = "Example:  innesco run list --state parked")]
    Run(run::RunCommand),
    /// Deliveries: list, show, retry, cancel
    #[command(subcommand, before_help = "Example:  innesco delivery list --state dead")]
    Delivery(delivery::DeliveryCommand),
    /// Endpoints: the receivers of webhooks
    #[command(subcommand, before_help = "Example:  innesco endpoint add crm https://crm.example.com/hook --events 'order.*'")]
    Endpoint(endpoint::EndpointCommand),
    /// Sources: addresses that verify webhooks from third parties
    #[command(subcommand, before_help = "Example:  innesco source add github --preset github")]
    Source(source::SourceCommand),
    /// API keys
    #[command(subcommand, visible_alias = "key", before_help = "Example:  innesco keys create shop --role publish")]
    Keys(keys::KeysCommand),
    /// Print the OpenAPI document that this version serves at /openapi.json
    #[command(before_help = "Example:  innesco openapi > openapi.json")]
    Openapi,
    /// Comparisons of plugin versions
    #[command(subcommand, before_help = "Example:  innesco comparison list")]
    Comparison(comparison::ComparisonCommand),
    /// Background jobs: bulk retries and replays
    #[command(subcommand, before_help = "Example:  innesco job list")]
    Job(job::JobCommand),
    /// Statistics: events, runs, deliveries and latencies over time
    #[command(before_help = "Example:  innesco stats --last 7d --endpoint crm")]
    Stats(stats::StatsArgs),
    /// Nodes: engines that share one Postgres database
    #[command(subcommand, before_help = "Example:  innesco node list")]
    Node(node::NodeCommand),
    /// Audit trail: who changed what, and with which result
    #[command(before_help = "Example:  innesco audit --since 24h --action endpoint.update")]
    Audit(audit::AuditArgs),
    /// Back up the store; the engine may be running
    #[command(before_help = "Example:  innesco backup /backup/innesco-monday.db --data /var/lib/innesco")]
    Backup(backup::BackupArgs),
    /// Verify the data folder of a stopped engine
    #[command(before_help = "Example:  innesco check --data /var/lib/innesco")]
    Check(check::CheckArgs),
    /// Move the store of a stopped engine to Postgres
    #[command(before_help = "Example:  innesco migrate --from /var/lib/innesco --to postgres://innesco@db.example/innesco")]
    Migrate(migrate::MigrateArgs),
    /// Print shell completions
    #[command(before_help = "Example:  innesco completions bash > /etc/bash_completion.d/innesco")]
    Completions { shell: clap_complete::Shell },
}

/// The error for wrong usage. The exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

fn wrong(text: impl Into<String>) -> anyhow::Error {
    Wrong(text.into()).into()
}

/// Commands that work on this machine and call no engine, by their words.
const LOCAL: [&[&str]; 10] = [
    &["dev"],
    &["listen"],
    &["serve"],
    &["openapi"],
    &["backup"],
    &["check"],
    &["migrate"],
    &["completions"],
    &["plugin", "new"],
    &["plugin", "build"],
];

/// Returns the command line. Local commands do not show the options that select an engine.
fn command_line() -> clap::Command {
    fn hide(command: clap::Command, path: &[&str], options: &[clap::Arg]) -> clap::Command {
        match path {
            // An option on the command itself overrides the global option with the same id, so it can be hidden here.
            [] => command.args(options),
            [first, rest @ ..] => command.mut_subcommand(*first, |inner| hide(inner, rest, options)),
        }
    }
    let command = Cli::command();
    let is_of_calls = |argument: &&clap::Arg| ["engine_url", "engine_key", "verbose"].contains(&argument.get_id().as_str());
    let options: Vec<clap::Arg> =
        command.get_arguments().filter(is_of_calls).map(|argument| argument.clone().hide(true)).collect();
    LOCAL.into_iter().fold(command, |command, path| hide(command, path, &options))
}

/// If the command calls no engine, refuses options that select an engine.
fn refuse_target(matches: &clap::ArgMatches, target: &Target) -> anyhow::Result<()> {
    let Some(flag) = target.flag() else { return Ok(()) };
    let mut words = Vec::new();
    let mut inner = matches.subcommand();
    while let Some((word, matches)) = inner {
        words.push(word);
        inner = matches.subcommand();
    }
    match LOCAL.contains(&words.as_slice()) {
        true => Err(wrong(format!("innesco {} calls no engine, so it has no option {flag}", words.join(" ")))),
        false => Ok(()),
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // The provider of TLS cryptography is installed once. This fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ExitCode::from(start(std::env::args_os()))
}

fn start(arguments: impl Iterator<Item = OsString>) -> u8 {
    let parsed = command_line()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            match misuse::sentence(&error) {
                Some(sentence) => output::tell!("{sentence}"),
                // An error here means that standard error itself cannot be written, so it is ignored.
                None => drop(error.print()),
            }
            return 2;
        }
        Err(help) => {
            let _ = help.print();
            return 0;
        }
    };
    let done = match cli.command {
        None => output::print(HELLO).map_err(Into::into),
        Some(command) => refuse_target(&matches, &cli.target).and_then(|()| run(command, &cli.target, &Printer::new(cli.json))),
    };
    match done {
        Ok(()) => 0,
        // The reader of standard output has closed it: nothing remains to be done.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => 0,
        Err(error) => {
            output::tell!("{error:#}");
            if error.is::<Wrong>() { 2 } else { 1 }
        }
    }
}

fn run(command: Command, target: &Target, out: &Printer) -> anyhow::Result<()> {
    match command {
        Command::Dev(args) => dev::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Listen(args) => listen::run(&args, out),
        Command::Send(args) => send::run(&args, || Client::find(target), out),
        Command::Plugin(command) => plugin::run(&command, || Client::find(target), out),
        Command::Event(command) => event::run(&command, &Client::find(target)?, out),
        Command::Why(args) => why::run(&args, &Client::find(target)?, out),
        Command::Run(command) => run::run(&command, &Client::find(target)?, out),
        Command::Delivery(command) => delivery::run(&command, &Client::find(target)?, out),
        Command::Endpoint(command) => endpoint::run(&command, &Client::find(target)?, out),
        Command::Source(command) => source::run(&command, &Client::find(target)?, out),
        Command::Keys(command) => keys::run(&command, &Client::find(target)?, out),
        Command::Openapi => Ok(output::print(openapi::text())?),
        Command::Comparison(command) => comparison::run(&command, &Client::find(target)?, out),
        Command::Stats(args) => stats::run(&args, &Client::find(target)?, out),
        Command::Job(command) => job::run(&command, &Client::find(target)?, out),
        Command::Node(command) => node::run(&command, &Client::find(target)?, out),
        Command::Audit(args) => audit::run(&args, &Client::find(target)?, out),
        Command::Backup(args) => backup::run(&args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Migrate(args) => migrate::run(&args, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "innesco", &mut script);
            Ok(output::print(&String::from_utf8_lossy(&script))?)
        }
    }
}

/// Parses these words as the arguments of a command.
#[cfg(test)]
fn typed<A: clap::Args>(words: &[&str]) -> A {
    let command = A::augment_args(clap::Command::new("test"));
    let matches = command.try_get_matches_from(["test"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
    A::from_arg_matches(&matches).expect("clap has checked them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn hello_is_short_and_names_only_commands_that_exist() {
        assert_eq!(HELLO.lines().count(), 10);
        for line in HELLO.lines().filter(|line| line.starts_with("  innesco ")) {
            let words: Vec<&str> = line.split("   ").next().unwrap().split_whitespace().collect();
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    /// Lists the help of every command that is not a group.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name());
            found.push((path.clone(), inner.clone().render_help().to_string()));
            leaves(inner, &path, found);
        }
    }

    #[test]
    fn every_help_opens_with_an_example_of_itself() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "innesco", &mut found);
        assert!(found.len() > 25, "{}", found.len());
        for (path, help) in found {
            let first = help.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("Example:  {path}")), "help of {path} begins with {first:?}");
        }
    }

    #[test]
    fn help_of_send_reads_well() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("send").unwrap().render_help().to_string();
        let head: Vec<&str> = help.lines().take(6).collect();
        assert_eq!(
            head,
            [
                "Example:  innesco send order.created '{\"id\": 7, \"total\": 1500}'",
                "",
                "Send one event, or a file of events",
                "",
                "Usage: send [OPTIONS] [TYPE] [DATA]",
                "",
            ]
        );
    }

    /// If an argument of a command has the id of a global one, clap fills each from the other. The key would then be sent to an
    /// unintended address.
    #[test]
    fn no_argument_has_the_id_of_a_global_one() {
        fn check(command: &clap::Command, globals: &[String], path: &str) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                assert!(!globals.contains(&argument.get_id().to_string()), "{path} has its own {}", argument.get_id());
            }
            command.get_subcommands().for_each(|inner| check(inner, globals, &format!("{path} {}", inner.get_name())));
        }
        let command = Cli::command();
        let globals: Vec<String> = command
            .get_arguments()
            .filter(|argument| argument.is_global_set())
            .map(|argument| argument.get_id().to_string())
            .collect();
        assert_eq!(globals.len(), 4, "{globals:?}");
        check(&command, &globals, "innesco");

        let line = ["innesco", "endpoint", "add", "crm", "https://crm.example/hook"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert_eq!(cli.target.flag(), None);
    }

    #[test]
    fn own_options_come_first_and_local_commands_select_no_engine() {
        let help = |path: &[&str]| {
            let mut command = command_line();
            command.build();
            let command = path.iter().fold(&mut command, |command, word| command.find_subcommand_mut(word).unwrap());
            command.render_help().to_string()
        };
        let list = help(&["event", "list"]);
        let place = |text: &str| list.find(text).unwrap_or_else(|| panic!("{text}: {list}"));
        assert!(place("--limit") < place("--verbose") && place("--verbose") < place("--json"), "{list}");
        assert!(list.contains("--url") && list.contains("--key"), "{list}");
        for path in LOCAL {
            let help = help(path);
            assert!(!help.contains("--url <") && !help.contains("--key <") && !help.contains("--verbose"), "{path:?}: {help}");
        }
        let refused = |line: &str| {
            let matches = command_line().try_get_matches_from(line.split(' ')).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            refuse_target(&matches, &cli.target).err().map(|error| error.to_string())
        };
        assert_eq!(
            refused("innesco plugin new x --key k").as_deref(),
            Some("innesco plugin new calls no engine, so it has no option --key")
        );
        assert!(refused("innesco serve --url http://x").is_some());
        assert_eq!(refused("innesco plugin list --url http://x"), None);
        assert_eq!(refused("innesco key list --url http://x"), None);
    }

    #[test]
    fn exit_codes() {
        let start = |line: &str| start(line.split(' ').map(OsString::from));
        assert_eq!(start("innesco"), 0);
        assert_eq!(start("innesco --version"), 0);
        assert_eq!(start("innesco openapi"), 0);
        assert_eq!(start("innesco sned"), 2);
        assert_eq!(start("innesco send --url nowhere --key k order.created {}"), 2);
        assert_eq!(start("innesco endpoint list --url http://127.0.0.1:1 --key k"), 1);
    }
}
