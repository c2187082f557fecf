//! Stub.
/// Entry of the `ferry` command.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
