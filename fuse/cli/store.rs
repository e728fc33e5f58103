//! `nexus-fuse store`: trying out a bucket.

use std::fmt::Write;
use std::process::ExitCode;

use nexus::cloud::{ProbeStep, probe};
use nexus::config::CloudPlace;

use super::args::StoreTestArgs;

/// Tries a bucket, prints what came of it, and answers the exit status: 0 if all of it works.
pub fn test(args: &StoreTestArgs) -> Result<ExitCode, String> {
    let place = CloudPlace { url: args.url.clone(), endpoint: args.endpoint.clone(), region: args.region.clone() };
    let steps = probe(&place).map_err(|error| error.to_string())?;
    print!("{}", describe(&steps));
    if steps.iter().all(|step| step.outcome.is_ok()) {
        println!("{} can hold a volume", args.url);
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{} can't hold a volume as it is", args.url))
}

fn describe(steps: &[ProbeStep]) -> String {
    let width = steps.iter().map(|step| step.what.len()).max().unwrap_or(0);
    let mut out = String::new();
    for step in steps {
        let _ = match &step.outcome {
            Ok(how) => writeln!(out, "ok      {:width$}  {how}", step.what),
            Err(why) => writeln!(out, "FAILED  {:width$}  {why}", step.what),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_a_line() {
        let steps = [
            ProbeStep { what: "list", outcome: Ok("1.5 ms".to_owned()) },
            ProbeStep { what: "store", outcome: Err("access is denied".to_owned()) },
        ];
        assert_eq!(describe(&steps), "ok      list   1.5 ms\nFAILED  store  access is denied\n");
    }
}
