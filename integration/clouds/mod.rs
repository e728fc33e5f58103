//! Volumes in Google Cloud Storage and in Azure, as far as servers here can stand in for them: the
//! suite of stores, a volume that comes back with nothing cached, stores added to a mounted volume,
//! and what is said when bucket or key are wrong.

mod emulator;

use std::fs;
use std::time::Duration;

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};
use crate::tree;

use emulator::{Cloud, Emulator};

/// How long deleted content may stay in the bucket while it is collected.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for cloud in [Cloud::Azure, Cloud::Gcs] {
        let name = |what: &str| format!("{}: {what}", cloud.scheme());
        cases.extend([
            Case::new(name("holds what a store promises"), move |lab| conforms(lab, cloud)),
            Case::new(name("a volume comes back from its bucket"), move |lab| comes_back(lab, cloud)),
            Case::new(name("what is wrong is told"), move |lab| refusals(lab, cloud)),
            Case::new(name("an emptied bucket deletes nothing here"), move |lab| emptied(lab, cloud)),
        ]);
    }
    cases.push(Case::new("a mounted volume gets a store of each", both));
    cases
}

fn conforms(lab: &Lab, cloud: Cloud) -> Check {
    let scratch = Scratch::new(&lab.scratch, "clouds")?;
    let server = Emulator::start(lab, cloud, &scratch)?;
    let program = lab.binary.with_file_name("examples").join("conform");
    ensure!(program.exists(), "{} is not there: cargo build --workspace --example conform", program.display());
    let said = server.lend_tool(Tool::new(program)).args([server.url("suite"), server.endpoint()]).ok()?;
    ensure!(said.trim_end().ends_with("one daemon: passed"), "it said {said}");
    let left: Vec<_> = server.objects("suite")?.into_iter().map(|(name, _)| name).collect();
    ensure!(left == ["suite/NEXUS"], "left behind: {left:?}");
    // The same from the command line.
    let test = server.lend_tool(Tool::new(&lab.binary)).args(["store", "test", &server.url("probe")]);
    let said = test.args(["--endpoint", &server.endpoint()]).ok()?;
    ensure!(said.contains("store only what is not there") && said.contains("in parts"), "store test said {said}");
    ensure!(server.objects("probe")?.is_empty(), "store test left something there");
    Ok(())
}

fn comes_back(lab: &Lab, cloud: Cloud) -> Check {
    let scratch = Scratch::new(&lab.scratch, "clouds")?;
    let server = Emulator::start(lab, cloud, &scratch)?;
    let mut mount = server.lend(lab.mount_on(&scratch.path().join("data"), &scratch)?).with_arguments(&[
        "--store",
        &server.url("volume"),
        "--endpoint",
        &server.endpoint(),
    ]);
    mount.start()?;
    let point = mount.point().to_owned();
    Tool::shell(
        "mkdir -p a/b; for i in $(seq 100); do head -c $((i * 97)) /dev/zero | tr '\\0' \"$((i % 10))\" > a/b/$i; \
         done; ln -s b a/l; ln a/b/7 a/hard; truncate -s 5M a/sparse; setfattr -n user.x -v y a/b/1",
    )
    .within(&point)
    .ok()?;
    let large = Random::new(lab.seed).bytes(50 << 20);
    fs::write(point.join("large"), &large)?;
    let before = tree::read(&point)?;
    mount.program().arg("flush").arg(&point).ok()?;
    ensure!(stored(&server, "volume")? > 50 << 20, "it is not in the bucket");

    empty_cache(&mut mount, "cache")?;
    ensure!(fs::read(point.join("large"))? == large, "large is not what was written, with seed {}", lab.seed);
    ensure!(tree::read(&point)? == before, "the tree has changed");
    mount.program().arg("scrub").arg(&point).ok()?;

    fs::remove_file(point.join("large"))?;
    wait_until("the bucket holds little more than what is kept", PATIENCE, || {
        mount.program().arg("gc").arg(&point).ok()?;
        Ok(stored(&server, "volume")? < 8 << 20)
    })?;
    empty_cache(&mut mount, "cache")?;
    for name in ["a/b/100", "a/b/1"] {
        ensure!(!fs::read(point.join(name)).during(name)?.is_empty(), "{name} is empty");
    }
    finish(mount)
}

fn refusals(lab: &Lab, cloud: Cloud) -> Check {
    let scratch = Scratch::new(&lab.scratch, "clouds")?;
    let server = Emulator::start(lab, cloud, &scratch)?;
    let (scheme, url) = (cloud.scheme(), server.url("volume"));
    let refused = |url: &str, variables: &[(&str, String)], says: &str| -> Check {
        let data = scratch.path().join("refused");
        let point = scratch.path().join("point");
        let mount = Tool::new(&lab.binary).arg("mount").arg(&point).arg("--data").arg(&data);
        let test = Tool::new(&lab.binary).args(["store", "test"]);
        for tool in [mount.args(["--store", url]), test.arg(url)] {
            let tool = tool.args(["--endpoint", &server.endpoint()]);
            let ended = variables.iter().fold(tool, |tool, (name, value)| tool.env(name, value)).run()?;
            let said = format!("{}{}", ended.out, ended.err);
            ensure!(ended.code != 0 && said.contains(says), "{url}: {} {said}, not {says:?}", ended.code);
            let secrets = variables.iter().filter(|(name, _)| name.ends_with("KEY"));
            ensure!(secrets.into_iter().all(|(_, value)| !said.contains(value)), "a key is told: {said}");
        }
        ensure!(!data.exists(), "{url}: a data folder was made");
        Ok(())
    };
    let missing = if cloud == Cloud::Gcs { "there is no such bucket" } else { "there is no such container" };
    refused(&format!("{scheme}://elsewhere/volume"), &server.credentials(), missing)?;
    refused(&url, &server.false_credentials()?, "the credentials are refused")?;
    match cloud {
        Cloud::Gcs => {
            let nowhere = [("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere".to_owned())];
            refused(&url, &nowhere, "GOOGLE_APPLICATION_CREDENTIALS names a file that can't be used")?;
        }
        Cloud::Azure => {
            let name = ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1".to_owned());
            refused(&url, &[], "set AZURE_STORAGE_ACCOUNT_NAME")?;
            let no_key = ("AZURE_STORAGE_ACCOUNT_KEY", "nothing like it".to_owned());
            refused(&url, &[name, no_key], "AZURE_STORAGE_ACCOUNT_KEY is no key")?;
        }
    }
    ensure!(server.objects("volume")?.is_empty(), "something was written");
    Ok(())
}

/// What is missing in a bucket that lost its mark is not taken for deleted.
fn emptied(lab: &Lab, cloud: Cloud) -> Check {
    let scratch = Scratch::new(&lab.scratch, "clouds")?;
    let server = Emulator::start(lab, cloud, &scratch)?;
    let mut mount = server.lend(lab.mount_on(&scratch.path().join("data"), &scratch)?).with_arguments(&[
        "--store",
        &server.url("volume"),
        "--endpoint",
        &server.endpoint(),
    ]);
    mount.start()?;
    fs::write(mount.point().join("file"), vec![7; 1 << 20])?;
    mount.program().arg("flush").arg(mount.point()).ok()?;
    mount.stop()?;
    mount.start()?;
    mount.stop()?;
    for (name, _) in server.objects("volume")? {
        server.delete(&name)?;
    }
    let said = mount.program().arg("fsck").arg("--deep").arg(mount.data()).run()?;
    ensure!(said.code != 0, "fsck found nothing: {}", said.out);
    match mount.start() {
        Ok(()) => fail!("it was mounted"),
        Err(stop) => ensure!(stop.reason().contains("somebody has emptied it"), "{stop:?}"),
    }
    Ok(())
}

fn both(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "clouds")?;
    let servers = [Emulator::start(lab, Cloud::Gcs, &scratch)?, Emulator::start(lab, Cloud::Azure, &scratch)?];
    let mut mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
    mount = servers.iter().fold(mount, |mount, server| server.lend(mount));
    mount.start()?;
    let point = mount.point().to_owned();
    let nexus = |arguments: &[&str]| mount.program().args(arguments).arg("--mount").arg(&point).ok();
    for (server, name) in servers.iter().zip(["google", "azure"]) {
        nexus(&["store", "add", name, &server.url("more"), "--endpoint", &server.endpoint()])?;
        fs::create_dir(point.join(name))?;
        mount.program().arg("place").arg(point.join(name)).arg(name).ok()?;
    }
    let listed = nexus(&["store", "ls"])?;
    ensure!(listed.contains("gs://bucket/more") && listed.contains("az://bucket/more"), "store ls said {listed}");
    let contents: Vec<Vec<u8>> = (0..3).map(|i| Random::new(lab.seed + i).bytes((9 << 20) + i as usize)).collect();
    let names = ["google/file", "azure/file", "here"];
    for (name, content) in names.iter().zip(&contents) {
        let path = point.join(name);
        fs::write(&path, content)?;
        // Waits until it is in the cloud.
        fs::File::open(&path)?.sync_all().during(format!("fsync of {name}"))?;
    }
    for server in &servers {
        ensure!(stored(server, "more")? >= 9 << 20, "fsync did not wait for {}", server.url("more"));
    }
    mount.program().arg("place").arg(point.join("google")).arg("azure").ok()?;
    mount.program().arg("migrate").arg(point.join("google")).arg("azure").ok()?;
    mount.program().arg("flush").arg(&point).ok()?;
    wait_until("what moved is gone from where it was", PATIENCE, || {
        mount.program().arg("gc").arg(&point).ok()?;
        Ok(stored(&servers[0], "more")? == 0)
    })?;
    nexus(&["store", "rm", "google"])?;
    empty_cache(&mut mount, "cache.2")?;
    for (name, content) in names.iter().zip(&contents) {
        ensure!(fs::read(point.join(name))? == *content, "{name} is not what was written, with seed {}", lab.seed);
    }
    finish(mount)
}

/// Bytes of blobs in the bucket.
fn stored(server: &Emulator, prefix: &str) -> Check<u64> {
    Ok(server.objects(&format!("{prefix}/blobs"))?.iter().map(|(_, len)| len).sum())
}

/// Unmounts, forgets what is cached, mounts again.
fn empty_cache(mount: &mut Mount, cache: &str) -> Check {
    mount.stop()?;
    mount.fsck()?;
    fs::remove_dir_all(mount.data().join(cache)).during("forgetting the cache")?;
    mount.start()
}

fn finish(mut mount: Mount) -> Check {
    mount.stop()?;
    mount.check_log()?;
    mount.fsck()
}
