//! The `samclip` binary: typed arguments, one library call, one printer.
//!
//! Only this crate reads the command line and writes to stdout and stderr: data goes to stdout, everything
//! else to stderr. Exit codes: 0 ok, 1 negative finding, 2 error.

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod cmd;

#[global_allocator]
static MEMORY: samclip_kernels::HugePages = samclip_kernels::HugePages;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if !matches!(cli.command, cli::Command::Serve(_)) {
        cli::init_tracing(cli.verbose);
    }
    if let Some(found) = samclip_kernels::isa::unknown_choice() {
        eprintln!("error: SAMCLIP_ISA: expected amx, avx512bf16, avx512, avx2 or portable, found `{found}`");
        return ExitCode::from(2);
    }
    if samclip_kernels::isa::amx_refused() {
        eprintln!("note: the system refuses AMX to this process; products take AVX-512");
    }
    match cli.command.run(cli.verbose) {
        Ok(code) => code,
        Err(error) => {
            cmd::common::print_error(&error);
            ExitCode::from(2)
        }
    }
}
