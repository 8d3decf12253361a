//! The program `coditect-server`.

fn main() -> std::process::ExitCode {
    coditect_server::cli::main()
}
