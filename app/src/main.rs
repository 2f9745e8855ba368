//! The program: settings, logs, one runtime, an exit status.

use std::process::ExitCode;

use visits::{serve::serve, settings::Settings};

fn main() -> ExitCode {
    let settings = match Settings::read(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("cannot start the runtime: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(serve(settings));
    // A DNS lookup of Redis that hangs in the C library must not keep the process alive.
    runtime.shutdown_background();
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
