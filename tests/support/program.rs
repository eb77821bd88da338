//! The program under test.

/// Path of the program: the one that was built with the tests, or the one that `PODKEEPER_TEST_PROGRAM` names when
/// they are compiled.
pub(crate) const PROGRAM: &str = match option_env!("PODKEEPER_TEST_PROGRAM") {
    Some(program) => program,
    None => env!("CARGO_BIN_EXE_podkeeper"),
};
