//! Waiting until content is in its store: of a part of a volume, of all of it, and for less long
//! than it takes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use super::Far;
use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::mount::signal;
use crate::report::Case;
use crate::tool::{Tool, wait_until};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a flush of a directory waits for what is below it", below),
        Case::new("a flush can be cut short, and sending goes on", cut_short),
        Case::new("whoever waits for a silent server can be killed", killed),
    ]
}

/// Bytes of a file that are only here.
fn only_here(far: &Far, name: &str) -> Check<u64> {
    let path = far.mount.point().join(name);
    let said = Tool::new("getfattr").args(["--only-values", "-n", "nexus.pending"]).arg(path).ok()?;
    Ok(said.trim().parse()?)
}

/// Whether a process has a handler for SIGINT.
fn takes_interrupts(pid: u32) -> Check<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    Ok(u64::from_str_radix(caught.trim(), 16)? & 1 << (Signal::INT.as_raw() - 1) != 0)
}

fn below(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let point = far.mount.point().to_owned();
    fs::create_dir_all(point.join("dir/sub"))?;
    // Nothing is sent by itself before it was counted.
    far.server.signal(Signal::STOP)?;
    let wanted = far.file("dir/sub/wanted", 40 << 20)?;
    let mut command = Command::new(&lab.binary);
    let command = command.arg("flush").arg(point.join("dir")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn()?;
    let mut lines = BufReader::new(process.stderr.take().ok_or_else(|| Stop::Failed("no stderr".to_owned()))?);
    let mut first = String::new();
    lines.read_line(&mut first)?;
    far.server.signal(Signal::CONT)?;
    let mut rest = String::new();
    lines.read_to_string(&mut rest)?;
    let ended = process.wait()?;
    ensure!(ended.success(), "flush ended with {ended}: {first}{rest}");
    ensure!(first == "0 B of 40 MiB sent\n" && rest.ends_with("40 MiB of 40 MiB sent\n"), "it said {first}{rest}");
    ensure!(only_here(&far, "dir/sub/wanted")? == 0, "a part of the file is only here");
    // What is elsewhere is not waited for, and could not be sent.
    far.server.signal(Signal::STOP)?;
    let other = far.file("other", 3 << 20)?;
    let flush = |path: &str| Tool::new(&lab.binary).arg("flush").arg(point.join(path)).run();
    let done = flush("dir")?;
    ensure!(done.code == 0 && done.out.contains("nothing of"), "flush said {:?} {:?}", done.out, done.err);
    ensure!(only_here(&far, "other")? == 3 << 20, "the other file is there, though the server is suspended");
    far.server.signal(Signal::CONT)?;
    let done = flush("other")?;
    ensure!(done.code == 0 && only_here(&far, "other")? == 0, "flush said {:?}", done.err);
    let nothing = flush("nobody")?;
    ensure!(nothing.code == 1 && nothing.err.contains("neither a mount point"), "flush said {:?}", nothing.err);
    // The mount point is everything.
    fs::write(point.join("last"), "last")?;
    let done = flush("")?;
    ensure!(done.code == 0 && far.counter(lab, "waiting_bytes")? == 0, "flush said {:?}", done.err);
    far.remount_empty()?;
    far.expect("dir/sub/wanted", &wanted)?;
    far.expect("other", &other)?;
    far.finish()
}

fn cut_short(lab: &Lab) -> Check {
    let far = Far::new(lab, "store")?;
    far.file("large", 20 << 20)?;
    far.server.signal(Signal::STOP)?;
    for path in ["large", ""] {
        let target = far.mount.point().join(path);
        let mut flush = Command::new(&lab.binary);
        let flush = flush.arg("flush").arg(&target).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        wait_until("flush takes signals", super::PROMPT, || takes_interrupts(flush.id()))?;
        signal(flush.id(), Signal::INT)?;
        let done = flush.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(130), "it ended with {}: {said}", done.status);
        ensure!(said.contains("not waiting any more") && said.contains("goes on sending"), "it said {said:?}");
    }
    far.server.signal(Signal::CONT)?;
    wait_until("what was flushed arrives by itself", super::PATIENCE, || Ok(far.counter(lab, "waiting_bytes")? == 0))?;
    far.finish()
}

/// Programs that read from a silent server, or wait until it has what they wrote, end by Ctrl-C and SIGKILL at
/// once, not when the request has been given up; what they left goes on.
fn killed(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let sent = far.file("sent", 4 << 20)?;
    far.flush(lab)?;
    far.remount_empty()?;
    far.server.signal(Signal::STOP)?;
    let programs: [(&str, &[&str]); 3] = [
        // Neither catches SIGINT, as dd does; and what reads with O_DIRECT, the kernel has wait for its answer.
        ("head", &["-c", "4096", "sent"]),
        ("tail", &["-c", "65536", "sent"]),
        ("dd", &["if=/dev/zero", "of=new", "bs=64k", "count=1", "conv=fsync"]),
    ];
    for (program, arguments) in programs {
        for ends in [Signal::INT, Signal::KILL] {
            let mut command = Command::new(program);
            let command = command.args(arguments).current_dir(far.mount.point());
            let mut waits = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // In the kernel, and there for long enough to be at the request that does not come back.
            let sleeps = || -> Check<bool> {
                let status = fs::read_to_string(format!("/proc/{}/syscall", waits.id()))?;
                Ok(["0 ", "74 ", "75 "].iter().any(|call| status.starts_with(call)))
            };
            wait_until("the program waits", super::PROMPT, sleeps)?;
            let began = Instant::now();
            signal(waits.id(), ends)?;
            wait_until("the program has ended", super::PROMPT, || Ok(waits.try_wait()?.is_some()))
                .during(format!("{program} {arguments:?} and {ends:?}"))?;
            println!("        {arguments:?} ended {:?} after {ends:?}", began.elapsed());
        }
    }
    far.server.signal(Signal::CONT)?;
    far.expect("sent", &sent)?;
    far.flush(lab)?;
    far.expect("new", &vec![0; 64 << 10])?;
    far.finish()
}
