//! The command line: what people type, and what they read.
//!
//! Noun then verb for things, bare verbs for what one does all day. Answers go to standard output, everything else to standard
//! error; exit codes are 0 (done), 1 (it failed), 2 (used wrongly), 130 (interrupted).

mod build;
mod client;
mod delivery;
mod dev;
mod endpoint;
mod event;
mod keys;
mod listen;
mod output;
mod plugin;
mod send;
pub mod serve;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use self::{client::Target, output::Printer};

/// What `innesco` alone prints.
const HELLO: &str = "\
Innesco: events in, signed webhooks out, your WebAssembly in between.

  innesco dev                        build the plugins here, serve them, and a receiver beside it
  innesco send order.created '{…}'   send an event
  innesco plugin new my-first        begin a plugin
  innesco event show evt_…           everything that happened to an event
  innesco serve                      the engine, for real

  innesco help                       every command;  innesco help CMD  one of them, with an example
";

#[derive(Parser)]
#[command(
    name = "innesco",
    version,
    about = "Events in, signed webhooks out, your WebAssembly in between",
    disable_help_subcommand = false
)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// One JSON object per line, for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Build every plugin under plugins/, serve them, and rebuild on change; with a receiver wired up
    #[command(before_help = "example:  innesco dev")]
    Dev(dev::DevArgs),
    /// Send an event
    #[command(before_help = "example:  innesco send order.created '{\"id\": 7, \"total\": 1500}'")]
    Send(send::SendArgs),
    /// Receive webhooks: verify and print each
    #[command(before_help = "example:  innesco listen --secret whsec_…")]
    Listen(listen::ListenArgs),
    /// The engine
    #[command(before_help = "example:  innesco serve --data /var/lib/innesco --plugins /etc/innesco/plugins")]
    Serve(serve::ServeArgs),
    /// Plugins: begin one, build it, see which serve
    #[command(subcommand, before_help = "example:  innesco plugin new my-first")]
    Plugin(plugin::PluginCommand),
    /// Events: list, explain, replay
    #[command(subcommand, before_help = "example:  innesco event show evt_k7q212")]
    Event(event::EventCommand),
    /// Deliveries: list, explain, retry, cancel
    #[command(subcommand, before_help = "example:  innesco delivery list --state dead")]
    Delivery(delivery::DeliveryCommand),
    /// Endpoints: where webhooks go
    #[command(subcommand, before_help = "example:  innesco endpoint add crm https://crm.example.com/hook --events 'order.*'")]
    Endpoint(endpoint::EndpointCommand),
    /// Keys of the API
    #[command(subcommand, before_help = "example:  innesco keys create shop --role publish")]
    Keys(keys::KeysCommand),
    /// Completions for a shell
    #[command(before_help = "example:  innesco completions bash > /etc/bash_completion.d/innesco")]
    Completions { shell: clap_complete::Shell },
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Which cryptography TLS uses has to be said once; it fails only where it was said before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let used_rightly = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing can be said where nothing can be written.
            let _ = error.print();
            return if used_rightly { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let Some(command) = cli.command else {
        anstream::print!("{HELLO}");
        return ExitCode::SUCCESS;
    };
    match run(command, &cli.target, &Printer::new(cli.json)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has left: there is nothing more to do.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            anstream::eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, target: &Target, out: &Printer) -> anyhow::Result<()> {
    let asking = |work: &dyn Fn(&client::Client) -> anyhow::Result<()>| work(&client::Client::find(target)?);
    match command {
        Command::Dev(args) => dev::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Send(args) => asking(&|client| send::run(&args, client, out)),
        Command::Plugin(command) => plugin::run(&command, target, out),
        Command::Event(command) => asking(&|client| event::run(&command, client, out)),
        Command::Delivery(command) => asking(&|client| delivery::run(&command, client, out)),
        Command::Endpoint(command) => asking(&|client| endpoint::run(&command, client, out)),
        Command::Keys(command) => asking(&|client| keys::run(&command, client, out)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "innesco", &mut io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn hello_is_ten_lines() {
        assert_eq!(HELLO.lines().count(), 9);
    }
}
