//! The command line of podkeeper: read it, do what it says, and turn the outcome into an exit code.
//! 0 is success, 1 a failure with its reason on standard error, 2 a command line that makes no sense;
//! `exec` has the exit code of its command.

use std::process::ExitCode;

use podkeeper::cli::complain;

fn main() -> ExitCode {
    match podkeeper::cli::main() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("podkeeper: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
