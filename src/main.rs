//! The command line of podkeeper.
fn main() {}
