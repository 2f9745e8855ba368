//! The command: wires the agent and ends with its exit status.

use std::process::ExitCode;

use clap::Parser;
use k8s_bootstrap::{
    adapters::logging,
    cli::{CertificatesCommand, Cli, Command, EtcdCommand},
    commands,
    error::{Error, Result},
    simulate::Size,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    // Clients without an explicit provider use the process's default; a second call is refused.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::failed("cannot start the runtime").because(&cause));
    match runtime.and_then(|runtime| runtime.block_on(carry_out(cli.command))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.kind().exit_code().into()
        }
    }
}

async fn carry_out(command: Command) -> Result<()> {
    match command {
        Command::Run => commands::run().await,
        Command::Install => commands::install().await,
        Command::Plan { json } => commands::plan(json).await,
        Command::Status { json, watch } => commands::status(json, watch).await,
        Command::Kubeconfig { server } => commands::kubeconfig(server).await,
        Command::CheckConfig { file, defaults } => {
            commands::check_config(file.as_deref(), defaults)
        }
        Command::UserData { role, agent } => commands::user_data(&agent, role),
        Command::Cloudformation(arguments) => commands::cloudformation(&arguments),
        Command::Artifacts { config, arch } => commands::artifacts(config.as_deref(), &arch),
        Command::Images { config } => commands::images(config.as_deref()).await,
        Command::Bundle {
            config,
            arch,
            output,
        } => commands::bundle(config.as_deref(), &arch, &output).await,
        Command::CredentialProvider => commands::credential_provider().await,
        Command::Version => commands::version(),
        Command::Reset { yes } => commands::reset(yes).await,
        Command::Certificates {
            command: None,
            json,
        } => commands::certificates::list(json).await,
        Command::Certificates {
            command: Some(CertificatesCommand::Renew { all }),
            ..
        } => commands::certificates::renew(all).await,
        Command::Etcd(EtcdCommand::Members { json }) => commands::etcd::members(json).await,
        Command::Etcd(EtcdCommand::Snapshot { to }) => commands::etcd::snapshot(to).await,
        Command::Etcd(EtcdCommand::Restore {
            from,
            yes,
            force,
            rebuild_record,
        }) => commands::restore::restore(&from, yes, force, rebuild_record).await,
        Command::Etcd(EtcdCommand::Verify { from, json }) => {
            commands::verify::verify(&from, json).await
        }
        Command::Simulate {
            control_planes,
            workers,
            seed,
            seeds,
            trace,
            json,
        } => {
            let size = Size {
                control_planes: control_planes.into(),
                workers: workers.into(),
            };
            commands::simulate(size, seed..seed.saturating_add(seeds.into()), trace, json)
        }
    }
}
