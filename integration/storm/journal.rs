//! What a client did in its folder, written down before and after each call, and held against
//! what is there afterwards.

use std::collections::BTreeMap;
use std::fmt;

use crate::failure::{Check, ensure, fail};
use crate::random::Random;

/// What a file holds: the first bytes of a stream that its seed gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Which stream.
    pub seed: u64,
    /// How much of it, in bytes.
    pub len: usize,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        Random::new(self.seed).bytes(self.len)
    }
}

/// The files of a folder.
pub type Files = BTreeMap<String, Content>;

/// A call that changes the folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Makes the folder itself.
    Begin,
    /// Makes a file and writes it.
    Create(String, Content),
    /// Writes more of its stream to a file, up to this length.
    Append(String, usize),
    /// Cuts a file.
    Cut(String, usize),
    /// Writes another stream over a whole file, through a map.
    Map(String, u64),
    /// Renames, replacing what is there.
    Rename(String, String),
    /// Removes.
    Unlink(String),
}

impl Action {
    /// Does it to `files`.
    pub fn apply(&self, files: &mut Files) {
        match self {
            Action::Begin => {}
            Action::Create(name, content) => drop(files.insert(name.clone(), *content)),
            Action::Append(name, len) | Action::Cut(name, len) => {
                if let Some(content) = files.get_mut(name) {
                    content.len = *len;
                }
            }
            Action::Map(name, seed) => {
                if let Some(content) = files.get_mut(name) {
                    content.seed = *seed;
                }
            }
            Action::Rename(from, to) => {
                if let Some(content) = files.remove(from) {
                    files.insert(to.clone(), content);
                }
            }
            Action::Unlink(name) => drop(files.remove(name)),
        }
    }

    /// The file whose content it changes bit by bit, so that half of it may have been done.
    fn in_parts(&self) -> Option<&str> {
        match self {
            Action::Create(name, _) | Action::Append(name, _) | Action::Map(name, _) => Some(name),
            _ => None,
        }
    }

    fn parse(line: &str) -> Option<Action> {
        let mut words = line.split(' ');
        let (verb, name) = (words.next()?, words.next().map(str::to_owned));
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(match verb {
            "begin" => Action::Begin,
            "create" => Action::Create(name?, Content { seed: number()?, len: number()? as usize }),
            "append" => Action::Append(name?, number()? as usize),
            "cut" => Action::Cut(name?, number()? as usize),
            "map" => Action::Map(name?, number()?),
            "rename" => Action::Rename(name?, words.next()?.to_owned()),
            "unlink" => Action::Unlink(name?),
            _ => return None,
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Begin => f.write_str("begin"),
            Action::Create(name, Content { seed, len }) => write!(f, "create {name} {seed} {len}"),
            Action::Append(name, len) => write!(f, "append {name} {len}"),
            Action::Cut(name, len) => write!(f, "cut {name} {len}"),
            Action::Map(name, seed) => write!(f, "map {name} {seed}"),
            Action::Rename(from, to) => write!(f, "rename {from} {to}"),
            Action::Unlink(name) => write!(f, "unlink {name}"),
        }
    }
}

/// How a client came to its end, as far as it could say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Last {
    /// It did not say.
    Silence,
    /// It was told to stop.
    Stopped,
    /// A call failed, with this number.
    Error(i32, String),
    /// It saw what can't be.
    Wrong(String),
}

/// A journal, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    /// Whether the folder was made.
    pub begun: bool,
    /// The files after all that was acknowledged.
    pub files: Files,
    /// What was begun and not acknowledged.
    pub pending: Option<Action>,
    /// How it ended.
    pub last: Last,
}

impl Journal {
    /// A line that tells of a call's beginning.
    pub fn begins(action: &Action) -> String {
        format!("> {action}\n")
    }

    /// The line that tells that it was acknowledged.
    pub const DONE: &str = "<\n";

    /// The line that tells of the client's end.
    pub fn ends(last: &Last) -> String {
        let one_line = |text: &str| text.replace('\n', " ");
        match last {
            Last::Silence => String::new(),
            Last::Stopped => "stopped\n".to_owned(),
            Last::Error(errno, what) => format!("error {errno} {}\n", one_line(what)),
            Last::Wrong(what) => format!("wrong {}\n", one_line(what)),
        }
    }

    /// Reads one. A last line without its end was never written, as far as the client knew.
    pub fn parse(text: &str) -> Check<Journal> {
        let mut journal = Journal { begun: false, files: Files::new(), pending: None, last: Last::Silence };
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        for line in whole.lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            match kind {
                ">" => journal.pending = Some(Action::parse(rest).ok_or(format!("{line:?} in a journal")).or_fail()?),
                "<" => match journal.pending.take() {
                    Some(action) => {
                        journal.begun = true;
                        action.apply(&mut journal.files);
                    }
                    None => fail!("a journal acknowledges what did not begin"),
                },
                "stopped" => journal.last = Last::Stopped,
                "error" => {
                    let (number, what) = rest.split_once(' ').unwrap_or((rest, ""));
                    journal.last = Last::Error(number.parse()?, what.to_owned());
                }
                "wrong" => journal.last = Last::Wrong(rest.to_owned()),
                _ => fail!("{line:?} in a journal"),
            }
        }
        Ok(journal)
    }

    /// Holds what was found in the folder (`None`: there is none) against it.
    pub fn judge(&self, found: Option<&BTreeMap<String, Vec<u8>>>) -> Check {
        let Some(found) = found else {
            ensure!(!self.begun, "the folder is gone");
            return Ok(());
        };
        let mut after = self.files.clone();
        if let Some(action) = &self.pending {
            action.apply(&mut after);
        }
        let Some(before_differs) = difference(&self.files, found, None) else { return Ok(()) };
        if difference(&after, found, None).is_none() {
            return Ok(());
        }
        if let Some(name) = self.pending.as_ref().and_then(Action::in_parts)
            && difference(&after, found, Some(name)).is_none()
            && let Some(bytes) = found.get(name)
        {
            return partly(self.files.get(name), after.get(name), bytes);
        }
        fail!("{before_differs}; under way was {:?}", self.pending)
    }
}

/// The first difference between what should be there and what is, other than in `but`.
fn difference(expected: &Files, found: &BTreeMap<String, Vec<u8>>, but: Option<&str>) -> Option<String> {
    for name in expected.keys().chain(found.keys()).filter(|name| Some(name.as_str()) != but) {
        match (expected.get(name), found.get(name)) {
            (Some(_), None) => return Some(format!("{name} is gone")),
            (None, Some(_)) => return Some(format!("{name} is there, and should not")),
            (Some(content), Some(bytes)) => {
                let wanted = content.bytes();
                if wanted != *bytes {
                    let at =
                        wanted.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(wanted.len().min(bytes.len()));
                    return Some(format!(
                        "{name} has {} bytes where {} belong, and differs at {at}",
                        bytes.len(),
                        wanted.len()
                    ));
                }
            }
            (None, None) => {}
        }
    }
    None
}

/// Each byte must be what it was or what it was to become.
fn partly(before: Option<&Content>, after: Option<&Content>, bytes: &[u8]) -> Check {
    let (before, after) = (before.map(|c| c.bytes()).unwrap_or_default(), after.map(|c| c.bytes()).unwrap_or_default());
    ensure!(
        (before.len()..=after.len().max(before.len())).contains(&bytes.len()),
        "a half-written file has {} bytes",
        bytes.len()
    );
    for (at, byte) in bytes.iter().enumerate() {
        let is_known = before.get(at) == Some(byte) || after.get(at) == Some(byte);
        ensure!(is_known, "byte {at} of a half-written file is neither the old one nor the new one");
    }
    Ok(())
}

/// A plain sentence as a failure.
trait OrFail<T> {
    fn or_fail(self) -> Check<T>;
}

impl<T> OrFail<T> for Result<T, String> {
    fn or_fail(self) -> Check<T> {
        self.map_err(crate::failure::Stop::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, Content)]) -> BTreeMap<String, Vec<u8>> {
        files.iter().map(|(name, content)| ((*name).to_owned(), content.bytes())).collect()
    }

    const A: Content = Content { seed: 1, len: 100 };
    const B: Content = Content { seed: 2, len: 100 };

    fn journal(lines: &str) -> Journal {
        Journal::parse(lines).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let all = [
            Action::Begin,
            Action::Create("a".into(), A),
            Action::Append("a".into(), 150),
            Action::Cut("a".into(), 5),
            Action::Map("a".into(), 9),
            Action::Rename("a".into(), "b".into()),
            Action::Unlink("b".into()),
        ];
        for action in all {
            assert_eq!(journal(&Journal::begins(&action)).pending, Some(action));
        }
        for last in [Last::Stopped, Last::Error(107, "read a".into()), Last::Wrong("x y".into())] {
            assert_eq!(journal(&Journal::ends(&last)).last, last);
        }
        assert_eq!(journal("> begin\n<\n> create a 1 1").pending, None, "a line without its end");
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let done = journal("> begin\n<\n> create a 1 100\n<\n> create b 2 100\n<\n> unlink b\n<\n");
        assert_eq!(done.judge(Some(&found(&[("a", A)]))), Ok(()));
        for bad in [vec![], vec![("a", B)], vec![("a", A), ("b", B)], vec![("a", Content { len: 99, ..A })]] {
            assert!(done.judge(Some(&found(&bad))).is_err(), "{bad:?}");
        }
        assert!(done.judge(None).is_err());
        assert_eq!(journal("> begin\n").judge(None), Ok(()));
    }

    #[test]
    fn what_was_under_way_may_be_there() {
        let half = journal("> begin\n<\n> create a 1 100\n");
        for (fine, files) in [
            (true, vec![]),
            (true, vec![("a", Content { len: 30, ..A })]),
            (true, vec![("a", A)]),
            (false, vec![("a", Content { len: 30, ..B })]),
            (false, vec![("b", A)]),
        ] {
            assert_eq!(half.judge(Some(&found(&files))).is_ok(), fine, "{files:?}");
        }
        let moving = journal("> begin\n<\n> create a 1 100\n<\n> create b 2 100\n<\n> rename a b\n");
        assert_eq!(moving.judge(Some(&found(&[("b", A)]))), Ok(()));
        assert_eq!(moving.judge(Some(&found(&[("a", A), ("b", B)]))), Ok(()));
        assert!(moving.judge(Some(&found(&[("a", A), ("b", A)]))).is_err());
        let mapping = journal("> begin\n<\n> create a 1 100\n<\n> map a 2\n");
        let mut mixed = found(&[("a", A)]);
        mixed.get_mut("a").unwrap()[..50].copy_from_slice(&B.bytes()[..50]);
        assert_eq!(mapping.judge(Some(&mixed)), Ok(()));
        mixed.get_mut("a").unwrap()[7] ^= 1;
        assert!(mapping.judge(Some(&mixed)).is_err());
    }
}
