//! tmp
pub mod serve;
use clap::Parser;
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    c: C,
}
#[derive(clap::Subcommand)]
enum C {
    Serve(serve::ServeArgs),
}
pub fn main() -> std::process::ExitCode {
    match Cli::parse().c {
        C::Serve(a) => match serve::run(&a) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e:#}");
                std::process::ExitCode::FAILURE
            }
        },
    }
}
