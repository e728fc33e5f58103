//! The command line of mount helpers, as mount(8) and umount(8) call them:
//! `mount.fuse.nexus NAME DIR [-sfnv] [-o OPTIONS] [-t TYPE] [-N NAMESPACE]` and
//! `umount.fuse.nexus DIR [-flnrv] [-t TYPE] [-N NAMESPACE]`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What mount(8) wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountCall {
    /// Volume, by name or path.
    pub name: PathBuf,
    /// Mount point.
    pub target: PathBuf,
    /// Options, comma-separated.
    pub options: String,
    /// Only pretend (`mount --fake`).
    pub fake: bool,
    /// Ignore options that are not known (`mount -s`).
    pub sloppy: bool,
    /// Tell what is done.
    pub verbose: bool,
}

/// What umount(8) wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UmountCall {
    /// Mount point.
    pub target: PathBuf,
    /// Detach now.
    pub lazy: bool,
    /// If it can't be unmounted, make it read-only.
    pub read_only: bool,
}

/// Words and flags of a helper's command line.
struct Parsed {
    words: Vec<OsString>,
    flags: Vec<char>,
    options: Vec<String>,
}

impl MountCall {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<MountCall, String> {
        const USAGE: &str = "usage: mount.fuse.nexus NAME DIR [-sfnv] [-o OPTIONS]";
        let parsed = parse(args, "sfnvr", "otN").map_err(|problem| format!("{problem}\n{USAGE}"))?;
        let [name, target] = <[OsString; 2]>::try_from(parsed.words).map_err(|_| USAGE.to_owned())?;
        let flag = |letter| parsed.flags.contains(&letter);
        let mut options = parsed.options;
        if flag('r') {
            options.push("ro".to_owned());
        }
        Ok(MountCall {
            name: name.into(),
            target: target.into(),
            options: options.join(","),
            fake: flag('f'),
            sloppy: flag('s'),
            verbose: flag('v'),
        })
    }
}

impl UmountCall {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<UmountCall, String> {
        const USAGE: &str = "usage: umount.fuse.nexus DIR [-flnrv]";
        let parsed = parse(args, "flnrv", "tN").map_err(|problem| format!("{problem}\n{USAGE}"))?;
        let [target] = <[OsString; 1]>::try_from(parsed.words).map_err(|_| USAGE.to_owned())?;
        let flag = |letter| parsed.flags.contains(&letter);
        Ok(UmountCall { target: target.into(), lazy: flag('l'), read_only: flag('r') })
    }
}

/// Splits words from flags: `plain` ones stand alone, possibly in one word; those in
/// `valued` take the rest of their word or the next one, of which only `-o`'s are kept.
fn parse(args: impl Iterator<Item = OsString>, plain: &str, valued: &str) -> Result<Parsed, String> {
    let mut args = args;
    let mut parsed = Parsed { words: Vec::new(), flags: Vec::new(), options: Vec::new() };
    let mut only_words = false;
    while let Some(arg) = args.next() {
        let text = arg.to_str().filter(|text| !only_words && text.len() > 1 && text.starts_with('-'));
        let Some(letters) = text.map(|text| text.trim_start_matches('-')) else {
            parsed.words.push(arg);
            continue;
        };
        if arg == OsStr::new("--") {
            only_words = true;
            continue;
        }
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            if plain.contains(letter) {
                parsed.flags.push(letter);
            } else if valued.contains(letter) {
                let value = match rest.as_str() {
                    "" => args.next().ok_or_else(|| format!("-{letter} needs a value"))?,
                    attached => attached.into(),
                };
                if letter == 'o' {
                    parsed.options.push(value.into_string().map_err(|_| "options must be UTF-8".to_owned())?);
                }
                break;
            } else {
                return Err(format!("-{letter} is no flag of this helper"));
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = OsString> {
        line.split(' ').map(OsString::from).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn mount_calls_are_read_as_mount_8_makes_them() {
        let call = MountCall {
            name: "photos".into(),
            target: "/mnt/photos".into(),
            options: "rw,noatime".to_owned(),
            fake: false,
            sloppy: false,
            verbose: false,
        };
        for line in [
            "photos /mnt/photos -o rw,noatime",
            "photos /mnt/photos -o rw -o noatime -t fuse.nexus",
            "photos /mnt/photos -n -orw,noatime -N /proc/1/ns/mnt",
            "-o rw,noatime -- photos /mnt/photos",
        ] {
            assert_eq!(MountCall::parse(words(line)).unwrap(), call, "{line}");
        }
        let all = MountCall::parse(words("a b -sfnv -r")).unwrap();
        assert!(all.fake && all.sloppy && all.verbose);
        assert_eq!(all.options, "ro");
        for line in ["photos", "a b c", "a b -x", "a b -o", ""] {
            let error = MountCall::parse(words(line)).unwrap_err();
            assert!(error.contains("usage: mount.fuse.nexus NAME DIR"), "{line}: {error}");
        }
    }

    #[test]
    fn umount_calls_are_read_as_umount_8_makes_them() {
        let call = UmountCall::parse(words("/mnt/photos -lnr -t fuse.nexus")).unwrap();
        assert_eq!(call, UmountCall { target: "/mnt/photos".into(), lazy: true, read_only: true });
        assert!(UmountCall::parse(words("a b")).unwrap_err().contains("usage"));
    }
}
