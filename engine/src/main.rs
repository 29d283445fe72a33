//! The program: see [`innesco::cli`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // The engine starts this program again to compile a plugin file in a separate process.
    if arguments.next().is_some_and(|first| first == innesco::sandbox::CHILD_COMMAND) {
        return innesco::sandbox::run_child(arguments);
    }
    innesco::cli::main()
}
