//! `samclip models`: the variants, and the official weight files.

use std::process::ExitCode;

use anyhow::Result;
use samclip_models::variant::Variant;
use samclip_weights::registry;

use super::common::out;

/// Arguments of `samclip models`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Lists the variants and the official files.
pub fn run(args: Args) -> Result<ExitCode> {
    let built_in = |variant: &Variant| *variant == Variant::SamClipNano;
    if args.json {
        let variants: Vec<_> = Variant::ALL
            .iter()
            .map(|(variant, name)| serde_json::json!({ "name": name, "built_in": built_in(variant) }))
            .collect();
        let file = |m: &registry::OfficialModel| {
            serde_json::json!({
                "name": m.name, "variant": m.variant, "url": m.url, "file": m.file, "size": m.size,
                "sha256": m.sha256(), "licence": m.licence, "about": m.about,
            })
        };
        let files: Vec<_> = registry::models().iter().map(file).collect();
        out(&serde_json::json!({ "variants": variants, "files": files }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    out("VARIANT                   WEIGHTS");
    for (variant, name) in &Variant::ALL {
        let official = registry::models().iter().any(|m| m.variant == *name);
        let weights = match (built_in(variant), official) {
            (true, _) => "built in",
            (false, true) => "samclip pull",
            (false, false) => "samclip train",
        };
        out(&format!("{name:25} {weights}"));
    }
    out("");
    out("PULL NAME                 SIZE (MB)  LICENCE       SHA-256           FILE");
    for m in registry::models() {
        let size = m.size.map_or_else(|| "?".to_owned(), |size| (size / 1_000_000).to_string());
        let sha256 = m.sha256().map_or("stated by the hub", |hex| hex.get(..16).unwrap_or(hex));
        out(&format!("{:25} {size:>9}  {:13} {sha256:17} {}", m.name, m.licence, m.file));
    }
    Ok(ExitCode::SUCCESS)
}
