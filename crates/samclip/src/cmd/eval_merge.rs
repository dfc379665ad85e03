//! `samclip eval merge`: the shards of a run as one report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use samclip_eval::cost::Cost;
use samclip_eval::driver::Job;
use samclip_eval::records::merge;
use samclip_eval::{AnyProtocol, folder};

use super::common::out;

/// Arguments of `samclip eval merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders that `samclip eval --out` wrote
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Folder with the datasets
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA")]
    data: PathBuf,
    /// Where the reports go, a folder for each protocol
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// The record files of every protocol below the folders.
fn record_files(folders: &[PathBuf]) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut found = BTreeMap::<String, Vec<PathBuf>>::new();
    let list = |dir: &Path| std::fs::read_dir(dir).with_context(|| format!("cannot read: {}", dir.display()));
    for folder in folders {
        for protocol in list(folder)? {
            let protocol = protocol?.path();
            if !protocol.is_dir() {
                continue;
            }
            let name = protocol.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for entry in list(&protocol)? {
                let path = entry?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if file.starts_with("records-") && file.ends_with(".jsonl") {
                    found.entry(name.clone()).or_default().push(path);
                }
            }
        }
    }
    found.values_mut().for_each(|files| files.sort());
    match found.is_empty() {
        true => bail!("no records (PROTOCOL/records-*.jsonl) in {}", folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")),
        false => Ok(found),
    }
}

/// What the shards said they cost; a shard that said nothing is left out.
fn costs(files: &[PathBuf]) -> Vec<Cost> {
    let beside = |path: &PathBuf| {
        let name = path.file_name()?.to_string_lossy().replacen("records-", "cost-", 1).replace(".jsonl", ".json");
        serde_json::from_str(&std::fs::read_to_string(path.with_file_name(name)).ok()?).ok()
    };
    files.iter().filter_map(beside).collect()
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut clean = true;
    for (name, files) in record_files(&args.folders)? {
        let (header, records) = merge(&files)?;
        let protocol = AnyProtocol::parse(&header.protocol).map_err(|e| anyhow::anyhow!("{e}: {}", files[0].display()))?;
        let job = Job::open(protocol, &args.data)?;
        if job.len() != header.in_split {
            bail!("{name}: the records are of {} photos, the data has {}", header.in_split, job.len());
        }
        let report = job.report(&header, &records)?;
        let cost = Cost::merged(&records, &costs(&files));
        folder::write(&args.out.join(&name), &job, &report, &cost)?;
        clean &= report.clean();
        out(report.to_markdown().trim_end());
        out(&format!("\nCost: {}\n", cost.line()));
    }
    Ok(ExitCode::from(u8::from(!clean)))
}
