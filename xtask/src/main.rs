//! `cargo xtask`: the one tool of this repository. Sets a machine up, builds, runs, tests and checks everything.
//!
//! Each subcommand is a module with an `Args` struct and `run(&Args, &Context)`; what they share is here:
//! [`cmd`] runs programs, [`progress`] says what is being done, [`cache`] keeps what was built, keyed by the
//! [`hash`] of what it was built from, [`toolbox`] is the Debian trixie chroot with the image tools.
//! This is not a build system: cargo, make and mkosi are; xtask only decides what to ask of them.

mod apt;
mod bench;
mod built;
mod cache;
mod cmd;
mod context;
mod cpio;
mod dev;
mod examples;
mod fuzz;
mod go;
mod hash;
mod image;
mod java;
mod kernel;
mod lambda;
mod lost;
mod metadata;
mod node;
mod payload;
mod progress;
mod qemu;
mod relay;
mod run;
mod seccomp;
mod setup;
mod test;
mod tidy;
mod toolbox;

use clap::{Parser, Subcommand};
use context::Context;
use std::process::ExitCode;

/// Build, run, test and check Tinderbox.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the Debian packages the build needs and make the tool chroot.
    Setup(setup::Args),
    /// Check what can be checked about the tree without compiling it.
    Tidy(tidy::Args),
    /// Set the machine up, build everything and pass every test.
    Test(test::Args),
    /// Run the fuzz targets.
    Fuzz(fuzz::Args),
    /// Take each rule out of our programs' system call filters and see that a test misses it.
    Seccomp(seccomp::Args),
    /// Take the product's figures.
    Bench(bench::Args),
    /// Build the guest kernel.
    Kernel(kernel::Args),
    /// Build what the appliance carries under /usr/lib/tinderbox: programs, guest kernel and initrd, runtimes.
    Payload(payload::Args),
    /// Build the appliance's images.
    Image(image::Args),
    /// Build everything, boot the appliance in QEMU, create and invoke an example function, keep serving.
    Run(run::Args),
    /// Boot an appliance for a test and keep it while standard input is open.
    #[command(hide = true)]
    Node(node::Args),
    /// Carry connections to a machine; ends with it.
    #[command(hide = true)]
    Relay(relay::Args),
    /// Keep a test host running and change what runs in it, in seconds.
    Dev(dev::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Context::new().and_then(|ctx| match &cli.command {
        Command::Setup(args) => setup::run(args, &ctx),
        Command::Tidy(args) => tidy::run(args, &ctx),
        Command::Test(args) => test::run(args, &ctx),
        Command::Fuzz(args) => fuzz::run(args, &ctx),
        Command::Seccomp(args) => seccomp::run(args, &ctx),
        Command::Bench(args) => bench::run(args, &ctx),
        Command::Kernel(args) => kernel::run(args, &ctx),
        Command::Payload(args) => payload::run(args, &ctx),
        Command::Image(args) => image::run(args, &ctx),
        Command::Run(args) => run::run(args, &ctx),
        Command::Node(args) => node::run(args, &ctx),
        Command::Relay(args) => relay::run(args),
        Command::Dev(args) => dev::run(args, &ctx),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
