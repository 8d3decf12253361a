//! The program `coditect-sync`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    coditect_sync::cli::main()
}
